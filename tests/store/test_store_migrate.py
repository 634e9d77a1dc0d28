"""Bringing a database to the schema, once and unharmed by races."""

import asyncio
import tempfile
from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from reactorcide.domain.errors import Misconfigured, Unavailable
from reactorcide.store.migrate import load_migrations, migrate, pending
from reactorcide.store.schema import SCHEMA_FILE, dump_schema

NAMES = [migration.name for migration in load_migrations()]


@pytest.fixture
def empty(make_database: Callable[..., str]) -> str:
    """A database without a schema."""
    return make_database("template0")


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [int(name[:6]) for name in NAMES] == list(range(1, len(NAMES) + 1))


async def test_a_new_database_gets_every_migration_in_order(empty: str) -> None:
    before = await pending(empty)

    applied = await migrate(empty)

    assert before == applied == NAMES
    assert await pending(empty) == []


async def test_a_migrated_database_gets_none_again(dsn: str) -> None:
    assert await migrate(dsn) == []


async def test_processes_that_race_apply_each_migration_once(empty: str) -> None:
    applied = await asyncio.gather(*(migrate(empty) for _ in range(4)))

    assert sorted(map(len, applied)) == [0, 0, 0, len(NAMES)]


async def test_an_edited_migration_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE schema_migrations SET sha256 = sha256('another text')")

    with pytest.raises(Misconfigured, match="edited"):
        await migrate(dsn)
    with pytest.raises(Misconfigured, match="edited"):
        await pending(dsn)


async def test_a_database_of_a_newer_program_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES ('999999_later.sql', sha256('x'))")

    with pytest.raises(Misconfigured, match="999999_later"):
        await migrate(dsn)


async def test_a_migration_that_cannot_be_applied_leaves_nothing_behind(empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE TABLE jobs (mine int)")

    with pytest.raises(Misconfigured, match=NAMES[0]):
        await migrate(empty)

    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT to_regclass('users')").fetchone() == (None,)


async def test_a_server_out_of_reach_is_unavailable() -> None:
    with tempfile.TemporaryDirectory() as nowhere, pytest.raises(Unavailable):
        await migrate(f"postgresql:///x?host={nowhere}")


async def test_a_malformed_dsn_is_refused_without_being_shown() -> None:
    with pytest.raises(Misconfigured) as refused:
        await migrate("postgres//user:hunter2@host")

    assert "hunter2" not in str(refused.value)


async def test_a_user_who_may_not_make_tables_is_told_so(empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("DROP ROLE IF EXISTS weak")
        connection.execute("CREATE ROLE weak LOGIN")

    with pytest.raises(Misconfigured, match="permission denied"):
        await migrate(make_conninfo(empty, user="weak"))


async def test_the_committed_schema_is_what_the_migrations_make(dsn: str) -> None:
    assert await dump_schema(dsn) == SCHEMA_FILE.read_text()
