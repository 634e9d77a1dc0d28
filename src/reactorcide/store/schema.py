"""The schema as a whole, for readers and for a test that it is what the migrations make.

After a new migration write it anew: ``python -m reactorcide.store.schema``.
"""

import asyncio
import re
import tempfile
from pathlib import Path

from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.migrate import migrate
from reactorcide.store.postgres_programs import find_programs, find_runner

SCHEMA_FILE = Path(__file__).with_name("schema.sql")
_HEAD = (
    "-- What the migrations make. Written by `python -m reactorcide.store.schema`; not edited by hand.\n\n"
)
_UNWANTED = re.compile(r"(--.*|\\(un)?restrict .*|SET .*;|SELECT pg_catalog\.set_config.*;)?\s*")


async def dump_schema(dsn: str) -> str:
    """Return the schema of ``dsn`` as SQL, free of what depends on the server's or pg_dump's version."""
    dump = find_programs(None, find_runner()).path("pg_dump")
    process = await asyncio.create_subprocess_exec(
        dump, "--schema-only", "--no-owner", "--no-privileges", dsn, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"pg_dump ended with {process.returncode}")
    lines = [line for line in output.decode().splitlines() if not _UNWANTED.fullmatch(line)]
    statements = re.split(r"(?<=;)\n", "\n".join(lines))
    return _HEAD + "\n\n".join(statements) + "\n"


async def write_schema(scratch: Path) -> None:
    """Bring `schema.sql` to what the migrations make on a new server, which is kept in ``scratch``."""
    server = EmbeddedPostgres(scratch / "pg", is_durable=False)
    await server.start()
    try:
        await migrate(server.dsn)
        SCHEMA_FILE.write_text(await dump_schema(server.dsn))
    finally:
        await server.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="reactorcide-schema-") as folder:
        # PostgreSQL may have to run as another user than we do.
        Path(folder).chmod(0o711)
        asyncio.run(write_schema(Path(folder)))
