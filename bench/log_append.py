"""Measure how fast a coordinator takes in logs: `LogService.append` to real PostgreSQL and real files.

Run: `python bench/log_append.py`. Prints megabytes and appends per second for several sizes of append, with
one and with four attempts at once, and beside it a plain write, sync and rename of the same files.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.jobs import Claim
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.services.logs import LogService
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.migrate import migrate
from services.log_fixtures import Rows, piece

SIZES = {200: 400, 16 * 1024: 300, 256 * 1024: 150, 1024 * 1024: 100, 4 * 1024 * 1024: 40}
"""Bytes of an append, and how many are made."""


async def append_all(service: LogService, claim: Claim, part: bytes, count: int) -> None:
    """Append ``part`` so many times."""
    offset = 0
    for _ in range(count):
        offset = await service.append(claim, offset, part, piece(part))


def write_plainly(folder: Path, part: bytes, count: int) -> float:
    """Return the seconds that the same bytes take as files written, synced and renamed."""
    folder.mkdir()
    began = time.perf_counter()
    for number in range(count):
        with (folder / "part").open("wb") as file:
            file.write(part)
            file.flush()
            os.fsync(file.fileno())
        (folder / "part").rename(folder / str(number))
    return time.perf_counter() - began


async def measure(database: Database, folder: Path) -> None:
    """Print one line for every size."""

    async def make_user(*_: Role, username: str | None = None, kind: TokenKind = TokenKind.USER) -> Principal:
        user_id = str(uuid.uuid4())
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO users (user_id, username) VALUES (%s, %s)", [user_id, username or user_id]
            )
        return Principal(user_id, user_id, kind, frozenset())

    rows = Rows(database, make_user)
    service = LogService(database, FilesystemObjectStore(folder / "objects"), Bell(database))
    print(f"{'bytes':>9} {'attempts':>8} {'MB/s':>8} {'appends/s':>10} {'plain files MB/s':>17}")
    for size, count in SIZES.items():
        part = os.urandom(size)
        for attempts in (1, 4):
            claims = [await rows.running() for _ in range(attempts)]
            each = count // attempts
            began = time.perf_counter()
            await asyncio.gather(*(append_all(service, claim, part, each) for claim in claims))
            seconds = time.perf_counter() - began
            plain = await asyncio.to_thread(write_plainly, folder / uuid.uuid4().hex, part, each * attempts)
            megabytes = size * each * attempts / 1e6
            print(
                f"{size:>9} {attempts:>8} {megabytes / seconds:>8.1f} {each * attempts / seconds:>10.0f}"
                f" {megabytes / plain:>17.1f}",
                flush=True,
            )


async def main() -> None:
    """Measure on a durable server of our own."""
    folder = Path(tempfile.mkdtemp(prefix="reactorcide-bench-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "pg")
    await server.start()
    try:
        await migrate(server.dsn)
        database = await Database.open(server.dsn)
        await measure(database, folder)
        await database.close()
    finally:
        await server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    asyncio.run(main())
