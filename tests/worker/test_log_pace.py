"""How soon the log of a job comes: seldom while nobody follows it, soon while somebody does."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from shipments import PACE, Shipment, followed, hear, shipment, shipping
from worker_fixtures import Coordinator, coordinator, settings, until, worker_of

from fixture_types import MakeUser
from job_desk import JobDesk
from reactorcide import protocol
from reactorcide.config import Settings, load_settings
from reactorcide.services.log_reading import LogChunk
from reactorcide.store.database import Database
from reactorcide.wiring.objects import log_pace
from reactorcide.worker.shipping import LOOK_SECONDS, MAX_BATCH_BYTES

__all__ = ["coordinator", "settings", "shipment"]

UNWATCHED = PACE.unwatched.total_seconds()
WATCHED = PACE.watched.total_seconds()


async def test_the_first_bytes_go_at_once_and_the_next_are_gathered(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)

    for _ in range(5):
        shipment.print(b"line\n")
    await shipment.time.pass_by(UNWATCHED - 0.1)
    before = await shipment.length()
    await shipment.time.pass_by(0.2)

    assert before == 6
    assert await shipment.length() == 31
    assert shipment.calls["put"] == 2


@pytest.mark.parametrize("line_bytes", [50, 30_000])
async def test_a_log_that_nobody_follows_costs_a_put_in_five_seconds_and_nothing_else(
    shipment: Shipment, line_bytes: int
) -> None:
    line, steps, step_seconds = b"x" * line_bytes, 120, 0.5

    for _ in range(steps):
        shipment.print(line)
        await shipment.time.pass_by(step_seconds)

    asked = shipment.calls
    assert asked["put"] <= 1 + steps * step_seconds / UNWATCHED
    assert not asked.keys() - {"put", "delete"}
    assert await shipment.length() >= (steps - UNWATCHED / step_seconds) * line_bytes


async def test_what_fills_a_batch_goes_at_once(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    await shipment.time.settle()

    shipment.print(b"x" * MAX_BATCH_BYTES)
    await shipment.time.pass_by(LOOK_SECONDS)

    assert await shipment.length() == 6 + MAX_BATCH_BYTES


async def test_a_backlog_goes_without_a_pause_but_for_its_rest(shipment: Shipment) -> None:
    for _ in range(5):
        shipment.print(b"x" * MAX_BATCH_BYTES)
    shipment.print(b"rest\n")

    await shipment.until_stored(5 * MAX_BATCH_BYTES)
    await shipment.time.pass_by(UNWATCHED)

    assert await shipment.length() == 5 * MAX_BATCH_BYTES + 5


async def test_the_end_brings_what_was_gathered(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    await shipment.time.settle()
    shipment.print(b"last\n")

    shipment.shipper.end()

    await shipment.until_stored(11)


async def test_a_wish_brings_what_was_gathered(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    await shipment.time.settle()
    shipment.print(b"second\n")

    shipment.shipper.hurry()

    await shipment.until_stored(13)


async def test_a_wish_that_comes_while_an_append_is_under_way_is_not_lost(shipment: Shipment) -> None:
    shipment.gated.gate.clear()
    shipment.print(b"first\n")
    await asyncio.to_thread(shipment.gated.is_reached.wait, 20)
    shipment.shipper.hurry()
    shipment.gated.gate.set()
    await shipment.until_stored(6)

    shipment.print(b"second\n")

    await shipment.until_stored(13)


async def test_while_somebody_follows_each_line_comes_soon(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    async with followed(shipment.reader, shipment.claim.job_id) as heard:
        await hear(heard, b"first")
        await shipment.obey_bell()

        for number in range(5):
            shipment.print(b"line %d\n" % number)
            await shipment.time.pass_by(WATCHED)
            await hear(heard, b"line %d" % number)


async def test_who_follows_before_the_job_is_claimed_sees_each_line_soon(
    database: Database, make_user: MakeUser, tmp_path: Path
) -> None:
    shipment = Shipment(database, JobDesk(database, await make_user()))
    job_id = await shipment.submit()
    async with followed(shipment.reader, job_id) as heard:
        await shipment.start(tmp_path / "spool")
        async with shipping(shipment):
            await shipment.obey_bell()

            for number in range(5):
                shipment.print(b"line %d\n" % number)
                await shipment.time.pass_by(WATCHED)
                await hear(heard, b"line %d" % number)


async def test_a_worker_is_told_that_nobody_follows(shipment: Shipment) -> None:
    assert not await shipment.is_told_watched()


async def test_followers_beside_the_writer_ask_the_store_for_nothing(shipment: Shipment) -> None:
    async with AsyncExitStack() as followers:
        job_id = shipment.claim.job_id
        heard = [await followers.enter_async_context(followed(shipment.reader, job_id)) for _ in range(5)]
        for number in range(5):
            shipment.print(b"line %d\n" % number)
            shipment.shipper.hurry()
            for one in heard:
                await hear(one, b"line %d" % number)

    assert not shipment.calls.keys() - {"put", "delete"}


async def test_followers_elsewhere_cost_one_listing_and_one_read_a_growth(
    shipment: Shipment, database: Database
) -> None:
    elsewhere = shipment.new_reader(database)
    async with AsyncExitStack() as followers:
        job_id = shipment.claim.job_id
        heard = [await followers.enter_async_context(followed(elsewhere, job_id)) for _ in range(20)]
        for number in range(5):
            shipment.print(b"line %d\n" % number)
            shipment.shipper.hurry()
            for one in heard:
                await hear(one, b"line %d" % number)

    asked = shipment.calls
    assert (asked["read"], asked["list"]) == (5, 5)


@pytest.mark.parametrize(
    ("given", "unwatched", "watched"),
    [
        ({}, 0.1, 0.1),
        ({"OBJECT_STORE_TYPE": "s3"}, 5, 0.3),
        ({"OBJECT_STORE_TYPE": "gcs", "LOG_FLUSH": "20"}, 20, 0.3),
        ({"OBJECT_STORE_TYPE": "s3", "LOG_FLUSH": "0"}, 0.3, 0.3),
        ({"LOG_FLUSH": "3"}, 3, 0.1),
    ],
)
def test_the_pace_goes_by_what_a_put_costs(given: dict[str, str], unwatched: float, watched: float) -> None:
    pace = log_pace(load_settings(given).settings)

    assert (pace.unwatched.total_seconds(), pace.watched.total_seconds()) == (unwatched, watched)


def test_coordinators_of_before_told_no_pace_and_no_followers() -> None:
    claim = b'{"job_id":"a","attempt":1,"lease_id":"b"}'

    answer = msgspec.json.decode(b'{"length":7}', type=protocol.LogAnswer)
    entry = msgspec.json.decode(b'{"claim":%b,"order":"go_on"}' % claim, type=protocol.OrderEntry)

    assert (answer.length, answer.pause_seconds) == (7, 0.1)
    assert not entry.is_watched


class TestWholeWorker:
    """A real worker whose coordinator wants logs once a minute."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, log_flush=timedelta(seconds=60), heartbeat=timedelta(seconds=2))

    async def test_a_line_is_seen_soon_after_somebody_begins_to_follow(
        self, coordinator: Coordinator
    ) -> None:
        spool = coordinator.data_dir / "spool"

        def printed() -> bytes:
            return b"".join(log.read_bytes() for log in spool.glob("*/log"))

        async with worker_of(coordinator.core):
            job_id = await coordinator.submit("n=0; while sleep 0.1; do echo line $n.; n=$((n+1)); done")
            await coordinator.printed(job_id, b"line 0.")
            unwatched = await coordinator.log(job_id)
            await until(lambda: printed().count(b"\n") > unwatched.count(b"\n") + 2)
            late = printed().split(b"\n")[-2]

            heard = b""
            async with asyncio.timeout(15):
                async for news in coordinator.core.log_reader.follow(job_id):
                    heard += news.data if isinstance(news, LogChunk) else b""
                    if late in heard:
                        break
            await coordinator.core.jobs.cancel(coordinator.caller, job_id, force=True)
            await coordinator.ended(job_id)

        assert late not in unwatched

    async def test_the_log_is_whole_at_the_end(self, coordinator: Coordinator) -> None:
        async with worker_of(coordinator.core):
            job_id = await coordinator.submit("for n in 1 2 3 4 5; do echo $n; sleep 0.1; done")
            await coordinator.ended(job_id)
            await coordinator.printed(job_id, b"1\n2\n3\n4\n5\n")
