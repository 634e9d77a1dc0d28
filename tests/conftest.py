"""What most tests stand on: a real PostgreSQL, a database of one's own for each test, and its users."""

import asyncio
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from fixture_types import MakeUser
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.store.database import Database
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.migrate import migrate

TEMPLATE = "reactorcide_template"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and everything under test would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a server of this test process, its template database migrated."""
    folder = Path(tempfile.mkdtemp(prefix="reactorcide-tests-"))
    # PostgreSQL may have to run as another user than we do.
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "pg", is_durable=False)
    asyncio.run(server.start())
    try:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        asyncio.run(migrate(make_conninfo(server.dsn, dbname=TEMPLATE)))
        yield server.dsn
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def make_database(postgres: str) -> Iterator[Callable[..., str]]:
    """Make a database and return its DSN; migrated unless ``template`` says otherwise."""
    with psycopg.connect(postgres, autocommit=True) as connection:

        def make(template: str = TEMPLATE) -> str:
            name = f"test_{uuid.uuid4().hex}"
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
            return make_conninfo(postgres, dbname=name)

        yield make


@pytest.fixture
def dsn(make_database: Callable[..., str], postgres: str) -> Iterator[str]:
    """A migrated database of this test's own."""
    own = make_database()
    yield own
    with psycopg.connect(postgres, autocommit=True) as connection:
        name = psycopg.conninfo.conninfo_to_dict(own)["dbname"]
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """The test's database, open."""
    opened = await Database.open(dsn)
    yield opened
    await opened.close()


@pytest.fixture
def make_user(database: Database) -> MakeUser:
    """Make users; see `MakeUser`."""

    async def make(*roles: Role, username: str | None = None, kind: TokenKind = TokenKind.USER) -> Principal:
        user_id, token_id = str(uuid.uuid4()), str(uuid.uuid4())
        granted = frozenset(roles) or frozenset({Role.USER})
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO users (user_id, username, roles) VALUES (%s, %s, %s)",
                [user_id, username or f"user-{user_id}", sorted(granted)],
            )
            await tx.execute(
                "INSERT INTO api_tokens (token_id, user_id, token_hash, name, kind)"
                " VALUES (%s, %s, sha256(%s), 'test', %s)",
                [token_id, user_id, token_id.encode(), kind],
            )
        return Principal(user_id, token_id, kind, granted)

    return make
