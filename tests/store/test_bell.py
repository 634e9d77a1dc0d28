"""The bell: who listens is woken, in this process and in others."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest

from reactorcide.store.bell import Bell, Ear, _pack
from reactorcide.store.database import Database

LONG, NOT_AT_ALL = timedelta(seconds=20), timedelta()


@pytest.fixture
async def bells(database: Database) -> AsyncIterator[tuple[Bell, Bell]]:
    """Two processes' bells, both connected."""
    pair = Bell(database), Bell(database)
    for bell in pair:
        with bell.listen("connected") as ear:
            await bell.start()
            # Whoever listens is woken once when the line stands.
            assert await ear.wait(LONG)
    yield pair
    for bell in pair:
        await bell.stop()


async def test_a_ring_wakes_who_listens_to_its_topic_in_this_process(database: Database) -> None:
    bell = Bell(database)
    with bell.listen("job:1", "job:2") as ear, bell.listen("job:3") as other:
        bell.ring("job:2")

        assert await ear.wait(NOT_AT_ALL + LONG)
        assert not await other.wait(NOT_AT_ALL)


async def test_a_ring_before_the_wait_is_kept_once(database: Database) -> None:
    bell = Bell(database)
    with bell.listen("job:1") as ear:
        bell.ring("job:1")
        bell.ring("job:1")

        assert await ear.wait(LONG)
        assert not await ear.wait(NOT_AT_ALL)


async def test_a_ring_wakes_other_processes(bells: tuple[Bell, Bell]) -> None:
    here, there = bells
    with there.listen("queue:build") as ear:
        here.ring("queue:build", "job:1")

        assert await ear.wait(LONG)


async def test_thousands_of_rings_at_once_all_arrive(bells: tuple[Bell, Bell]) -> None:
    here, there = bells
    topics = [f"job:{number:036d}" for number in range(3_000)]
    with there.listen(topics[0]) as first, there.listen(topics[-1]) as last:
        here.ring(*topics)

        assert await first.wait(LONG)
        assert await last.wait(LONG)


async def test_a_cut_line_is_mended_and_everybody_looks_once(
    bells: tuple[Bell, Bell], database: Database
) -> None:
    here, there = bells
    with there.listen("queue:build") as ear:
        await _cut_listeners(database)
        assert await ear.wait(LONG)

        await _ring_until_heard(here, ear)


async def _cut_listeners(database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as line:
        await line.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        )


async def _ring_until_heard(bell: Bell, ear: Ear) -> None:
    async with asyncio.timeout(20):
        bell.ring("queue:build")
        while not await ear.wait(timedelta(seconds=1)):
            bell.ring("queue:build")


async def test_a_bell_whose_database_is_away_still_rings_here_and_stops(tmp_path: object) -> None:
    away = await Database.open(f"host={tmp_path} dbname=none")
    bell = Bell(away)
    await bell.start()
    with bell.listen("job:1") as ear:
        bell.ring("job:1")

        assert await ear.wait(LONG)
    await asyncio.wait_for(bell.stop(), 5)
    await away.close()


def test_payloads_stay_below_the_limit_of_the_database_and_lose_nothing() -> None:
    topics = {f"job:{number:036d}" for number in range(1_000)}

    payloads = list(_pack("me", topics))

    assert max(map(len, payloads)) < 8_000
    assert {topic for payload in payloads for topic in payload.split(" ")[1:]} == topics
    assert {payload.split(" ")[0] for payload in payloads} == {"me"}
