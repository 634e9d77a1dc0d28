"""The database of this program: the server named by DB_URI, else our own, embedded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reactorcide.config import Settings
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.worker.cancelling import cancel_tasks

DATABASE_FOLDER = "pg"


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """Yield where the database is; an embedded one is kept running until the block is left.

    Raises:
        Misconfigured: the embedded server cannot be started; the text says what to do.
    """
    if settings.db_uri is not None:
        yield settings.db_uri
        return
    server = EmbeddedPostgres(settings.data_dir / DATABASE_FOLDER, pg_bin=settings.pg_bin)
    await server.start()
    keeping = asyncio.create_task(server.keep_running())
    try:
        yield server.dsn
    finally:
        await cancel_tasks({keeping})
        await server.stop()
