"""Brings a database to the schema of this program: numbered SQL files, each applied once and never edited."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources

import psycopg
import structlog

from reactorcide.domain.errors import Misconfigured, Unavailable
from reactorcide.store.database import check_dsn
from reactorcide.store.postgres_programs import OLDEST_MAJOR

_LOCK = 0x72656163746F72
"""Key of the advisory lock that one migrating process holds at a time."""
_LOCK_WAIT = "60s"

CREATE_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        name       text PRIMARY KEY,
        sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
TABLE_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
LIST_APPLIED = "SELECT name, sha256 FROM schema_migrations"
LIST_WEAK = """
    SELECT name FROM pg_settings
     WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name
"""
RECORD = "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)"

log = structlog.get_logger()


@dataclass(frozen=True)
class Migration:
    """One numbered SQL file of the package."""

    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        """What must never change once the file was applied anywhere."""
        return hashlib.sha256(self.sql.encode()).digest()


def load_migrations() -> list[Migration]:
    """Return the package's migrations in their order."""
    folder = resources.files("reactorcide.store").joinpath("migrations")
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return [Migration(entry.name, entry.read_text("utf-8")) for entry in sorted(found, key=lambda e: e.name)]


async def migrate(dsn: str) -> list[str]:
    """Apply what is missing, each file in a transaction of its own, and return the names applied.

    Processes that race wait for the first and then find nothing to do.

    Raises:
        Misconfigured: an applied file was edited or is unknown here, a file cannot be applied, or the
            server is too old.
        Unavailable: the database is out of reach.
    """
    applied: list[str] = []
    async with _connect(dsn) as connection:
        await connection.execute(f"SET lock_timeout = '{_LOCK_WAIT}'")
        await connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        await connection.execute(CREATE_TABLE)
        for migration in await _missing(connection):
            await _apply(connection, migration)
            applied.append(migration.name)
    return applied


async def pending(dsn: str) -> list[str]:
    """Return the names of the migrations that ``dsn`` still lacks. Errors are those of `migrate`."""
    async with _connect(dsn) as connection:
        cursor = await connection.execute(TABLE_EXISTS)
        if await cursor.fetchone() != (True,):
            return [migration.name for migration in load_migrations()]
        return [migration.name for migration in await _missing(connection)]


async def weak_settings(dsn: str) -> list[str]:
    """Return the settings by which the server may forget, in a power cut, what it has committed.

    Errors are those of `migrate`.
    """
    async with _connect(dsn) as connection:
        return [name for (name,) in await (await connection.execute(LIST_WEAK)).fetchall()]


@asynccontextmanager
async def _connect(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Connect, and turn the driver's errors into ours."""
    check_dsn(dsn)
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=2
        ) as connection:
            if connection.info.server_version < OLDEST_MAJOR * 10_000:
                raise Misconfigured(f"the database must be PostgreSQL {OLDEST_MAJOR} or newer")
            yield connection
    except psycopg.OperationalError as error:
        log.warning("database.lost", detail=str(error))
        raise Unavailable("database") from error
    except psycopg.Error as error:
        raise Misconfigured(f"the database cannot be migrated: {error}") from error


async def _missing(connection: psycopg.AsyncConnection) -> list[Migration]:
    cursor = await connection.execute(LIST_APPLIED)
    applied = {name: bytes(digest) for name, digest in await cursor.fetchall()}
    known = load_migrations()
    if unknown := sorted(applied.keys() - {migration.name for migration in known}):
        raise Misconfigured(
            f"the database was migrated by a newer program: {', '.join(unknown)} is unknown here; "
            "run that version, or restore a backup from before"
        )
    for migration in known:
        if migration.name in applied and applied[migration.name] != migration.sha256:
            raise Misconfigured(f"{migration.name} was edited after it had been applied to this database")
    return [migration for migration in known if migration.name not in applied]


async def _apply(connection: psycopg.AsyncConnection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(RECORD, [migration.name, migration.sha256])
    except (psycopg.ProgrammingError, psycopg.IntegrityError, psycopg.DataError) as error:
        raise Misconfigured(f"{migration.name} cannot be applied: {error}") from error
    log.info("migration.applied", name=migration.name)
