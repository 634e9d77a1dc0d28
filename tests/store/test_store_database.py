"""Transactions on a real server, and what callers see while it is slow, silent or away."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from reactorcide.domain.errors import Conflict, Misconfigured, Unavailable
from reactorcide.store.database import Database, Transaction
from reactorcide.store.embedded import EmbeddedPostgres


@pytest.fixture
async def table(database: Database) -> Database:
    """A database with a table `numbers`."""
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE numbers (n int PRIMARY KEY)")
    return database


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """A server of this test's own, for stopping and starting."""
    folder = tmp_path_factory.mktemp("server")
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "pg", is_durable=False)
    await server.start()
    yield server
    await server.stop()


async def numbers(database: Database) -> list[int]:
    return [row["n"] for row in await database.read("SELECT n FROM numbers ORDER BY n")]


async def backend_of(tx: Transaction) -> int:
    row = await (await tx.execute("SELECT pg_backend_pid() AS pid")).fetchone()
    assert row is not None
    return row["pid"]


class TestTransaction:
    async def test_it_is_committed_at_the_end_of_its_block(self, table: Database) -> None:
        async with table.transaction() as tx:
            await tx.execute("INSERT INTO numbers VALUES (1)")

        assert await numbers(table) == [1]

    async def test_an_exception_undoes_it_and_goes_on(self, table: Database) -> None:
        async def refuse(tx: Transaction) -> None:
            await tx.execute("INSERT INTO numbers VALUES (1)")
            raise Conflict("no")

        with pytest.raises(Conflict):
            await table.run(refuse)

        assert await numbers(table) == []

    async def test_an_error_passed_over_is_not_taken_for_a_commit(self, table: Database) -> None:
        async def pass_over(tx: Transaction) -> None:
            await tx.execute("INSERT INTO numbers VALUES (1)")
            with pytest.raises(psycopg.errors.UniqueViolation):
                await tx.execute("INSERT INTO numbers VALUES (1)")

        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await table.run(pass_over)

        assert await numbers(table) == []

    async def test_a_cancelled_one_is_undone_and_its_connection_used_again(self, dsn: str) -> None:
        database = await Database.open(dsn, size=2)
        begun = asyncio.Event()

        async def work(tx: Transaction) -> None:
            await tx.execute("CREATE TABLE left_behind ()")
            begun.set()
            await tx.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(database.run(work))
        await begun.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        found = await database.read("SELECT to_regclass('left_behind') AS it")
        assert found == [{"it": None}]
        await database.close()

    async def test_ids_are_text_times_are_utc_and_json_is_decoded(self, database: Database) -> None:
        rows = await database.read(
            "SELECT gen_random_uuid() AS id, ARRAY[gen_random_uuid()] AS ids, now() AS at,"
            " jsonb_build_object('a', ARRAY[1]) AS j"
        )

        (row,) = rows
        assert isinstance(row["id"], str)
        assert isinstance(row["ids"][0], str)
        assert str(row["at"].tzinfo) == "UTC"
        assert row["j"] == {"a": [1]}

    async def test_a_bug_is_not_taken_for_an_outage(self, database: Database) -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.read("SELECT * FROM nowhere")

    async def test_a_malformed_dsn_is_the_operators_to_mend_and_is_not_shown(self) -> None:
        with pytest.raises(Misconfigured) as refused:
            await Database.open("postgres//user:hunter2@host")

        assert "hunter2" not in str(refused.value)


class TestRetries:
    async def test_a_deadlock_is_tried_again(self, table: Database) -> None:
        async with table.transaction() as tx:
            await tx.execute("INSERT INTO numbers VALUES (1), (2)")
        both_hold = asyncio.Barrier(2)
        tries = 0

        async def work(first: int, second: int) -> None:
            async def in_order(tx: Transaction) -> None:
                nonlocal tries
                tries += 1
                await tx.execute("SELECT FROM numbers WHERE n = %s FOR UPDATE", [first])
                if tries <= 2:
                    await both_hold.wait()
                await tx.execute("SELECT FROM numbers WHERE n = %s FOR UPDATE", [second])

            await table.run(in_order)

        await asyncio.gather(work(1, 2), work(2, 1))

        assert tries == 3

    async def test_what_fails_every_time_is_given_up(self, database: Database) -> None:
        tries = 0

        async def work(tx: Transaction) -> None:
            nonlocal tries
            tries += 1
            await tx.execute("DO $$ BEGIN RAISE serialization_failure; END $$")

        with pytest.raises(Unavailable):
            await database.run(work)

        assert tries == 4


class TestBusy:
    async def test_db_07_a_full_pool_is_unavailable_within_2_seconds_and_the_urgent_still_pass(
        self, dsn: str
    ) -> None:
        database = await Database.open(dsn, size=3)
        async with database.transaction(), database.transaction():
            started = time.monotonic()

            with pytest.raises(Unavailable):
                await database.read("SELECT 1")
            seconds = time.monotonic() - started
            urgent = await database.read("SELECT 1 AS one", urgent=True)

        assert seconds < 2
        assert urgent == [{"one": 1}]
        assert await database.read("SELECT 1 AS one") == [{"one": 1}]
        await database.close()

    async def test_a_lock_not_had_in_time_is_unavailable(self, table: Database) -> None:
        async def lock(tx: Transaction) -> None:
            await tx.execute("SET LOCAL lock_timeout = '50ms'")
            await tx.execute("LOCK TABLE numbers")

        async with table.transaction() as holder:
            await lock(holder)

            with pytest.raises(Unavailable):
                await table.run(lock)


class TestOutage:
    async def test_db_01_a_stopped_server_is_unavailable_within_2_seconds_and_its_return_is_noticed(
        self, server: EmbeddedPostgres
    ) -> None:
        database = await Database.open(server.dsn)
        assert await database.read("SELECT 1 AS one") == [{"one": 1}]
        await server.stop()

        for urgent in (False, True):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await database.run(backend_of, urgent=urgent)
            assert time.monotonic() - started < 2
        await server.start()

        returned = time.monotonic()
        while time.monotonic() - returned < 5:
            try:
                rows = await database.read("SELECT 1 AS one")
                break
            except Unavailable:
                continue
        assert rows == [{"one": 1}]
        await database.close()

    async def test_db_01_connections_that_died_unused_cost_no_request(self, server: EmbeddedPostgres) -> None:
        database = await Database.open(server.dsn, size=6)
        meeting = asyncio.Barrier(4)

        async def work(tx: Transaction) -> None:
            await meeting.wait()

        await asyncio.gather(*(database.run(work) for _ in range(4)))
        await server.stop()
        await server.start()

        await asyncio.gather(*(database.run(work) for _ in range(4)))

        await database.close()

    async def test_a_server_that_is_not_there_yet_is_used_once_it_is(self, tmp_path_factory) -> None:
        folder = tmp_path_factory.mktemp("later")
        folder.chmod(0o711)
        server = EmbeddedPostgres(folder / "pg", is_durable=False)
        await server.start()
        await server.stop()
        database = await Database.open(server.dsn)
        with pytest.raises(Unavailable):
            await database.read("SELECT 1")

        await server.start()

        assert await database.read("SELECT 1 AS one") == [{"one": 1}]
        await database.close()
        await server.stop()

    async def test_a_connection_cut_in_a_transaction_is_unavailable(self, database: Database) -> None:
        async def work(tx: Transaction) -> None:
            await database.read("SELECT pg_terminate_backend(%s)", [await backend_of(tx)])
            await tx.execute("SELECT 1")

        with pytest.raises(Unavailable):
            await database.run(work)

        assert await database.read("SELECT 1 AS one") == [{"one": 1}]

    async def test_db_03_a_silent_connection_is_given_up_within_2_seconds_before_a_transaction(
        self, dsn: str
    ) -> None:
        database = await Database.open(dsn, size=2)
        async with database.transaction() as tx:
            pid = await backend_of(tx)
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(Unavailable):
                await database.read("SELECT 1")
            seconds = time.monotonic() - started
            rows = await database.read("SELECT 1 AS one")
        finally:
            os.kill(pid, signal.SIGCONT)

        assert seconds < 2
        assert rows == [{"one": 1}]
        await database.close()

    async def test_db_03_a_silent_connection_is_given_up_in_a_transaction(self, database: Database) -> None:
        async def work(tx: Transaction) -> None:
            pid = await backend_of(tx)
            os.kill(pid, signal.SIGSTOP)
            try:
                await tx.execute("SELECT 1")
            finally:
                os.kill(pid, signal.SIGCONT)

        started = time.monotonic()

        with pytest.raises(Unavailable):
            await database.run(work)

        assert time.monotonic() - started < 6
