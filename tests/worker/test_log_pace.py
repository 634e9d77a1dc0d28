"""How soon the log of a job comes: seldom while nobody follows it, soon while somebody does."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from worker_fixtures import Coordinator, coordinator, settings, until, worker_of

from fixture_types import MakeUser
from job_desk import JobDesk
from reactorcide.config import Settings, load_settings
from reactorcide.domain.jobs import Claim
from reactorcide.domain.workers import WorkerIdentity, WorkerReport
from reactorcide.objects.measured import MeasuredStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.log_chunks import make_chunk
from reactorcide.services.log_pace import LogPace
from reactorcide.services.log_reading import LogChunk, LogReader
from reactorcide.services.logs import LogService
from reactorcide.services.recent_chunks import RecentChunks
from reactorcide.store.database import Database
from reactorcide.wiring.objects import log_pace
from reactorcide.worker.gateway.direct import DirectGateway
from reactorcide.worker.shipping import MAX_BATCH_BYTES, LogShipper
from reactorcide.worker.spool import AttemptSpool, Spool, SpoolReader

__all__ = ["coordinator", "settings"]

SLOW = LogPace(unwatched=timedelta(minutes=1), watched=timedelta(seconds=0.2))


class Shipment:
    """A started attempt whose spool the test writes, and the shipping of it at the slow pace."""

    claim: Claim
    spool: AttemptSpool
    shipper: LogShipper

    def __init__(self, database: Database, desk: JobDesk) -> None:
        self.calls: Counter[str] = Counter()
        self.store = MeasuredStore(MemoryObjectStore(), lambda operation, *_: self.calls.update([operation]))
        self.recent = RecentChunks()
        self.logs = LogService(database, self.store, desk.bell, pace=SLOW, recent=self.recent)
        self.reader = LogReader(database, self.store, desk.bell, pace=SLOW, recent=self.recent)
        self.desk = desk
        # Of a direct gateway only what claims and appends is asked here.
        self.gateway = DirectGateway(desk.attempts, self.logs, None, None)  # type: ignore[arg-type]

    async def start(self, folder: Path) -> None:
        identity = WorkerIdentity("by hand", str(uuid.uuid4()), ("reactorcide-jobs",), 1, "0", "none")
        registration = await self.gateway.register(identity, [])
        await self.desk.submit()
        (self.claim,) = await self.gateway.claim(registration.worker_id, 1, timedelta(seconds=5))
        await self.gateway.start(self.claim)
        self.spool = Spool(folder).create(self.claim)
        self.shipper = LogShipper(self.gateway, self.claim, SpoolReader(self.spool))

    def print(self, data: bytes) -> None:
        with (self.spool.path / "log").open("ab") as log, (self.spool.path / "index").open("a") as index:
            log.write(data)
            log.flush()
            index.write(f"1700000000000 o {len(data)}\n")
        self.shipper.hint()

    async def length(self) -> int:
        return (await self.reader.find(self.claim.job_id)).length

    async def until_stored(self, length: int) -> None:
        async def is_stored() -> bool:
            return await self.length() == length

        await until(is_stored)

    async def is_told_watched(self) -> bool:
        (order,) = await self.desk.attempts.heartbeat(
            self.claim.worker_id, [self.claim], WorkerReport(draining=False)
        )
        return order.is_watched


@pytest.fixture
async def shipment(database: Database, make_user: MakeUser, tmp_path: Path) -> AsyncIterator[Shipment]:
    made = Shipment(database, JobDesk(database, await make_user()))
    await made.start(tmp_path / "spool")
    shipping = asyncio.create_task(made.shipper.run())
    yield made
    shipping.cancel()
    await asyncio.wait({shipping})


@asynccontextmanager
async def followed(shipment: Shipment) -> AsyncIterator[asyncio.Queue[bytes]]:
    """Follow the log, and yield what comes."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow() -> None:
        async for news in shipment.reader.follow(shipment.claim.job_id):
            if isinstance(news, LogChunk):
                heard.put_nowait(news.data)

    following = asyncio.create_task(follow())
    try:
        yield heard
    finally:
        following.cancel()
        await asyncio.wait({following})


async def hear(heard: "asyncio.Queue[bytes]", text: bytes) -> None:
    """Wait until ``text`` is among what is heard."""
    told = b""
    async with asyncio.timeout(20):
        while text not in told:
            told += await heard.get()


async def test_the_first_bytes_go_at_once_and_the_next_are_gathered(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    puts = shipment.calls["put"]

    for _ in range(20):
        shipment.print(b"line\n")
        await asyncio.sleep(0.05)

    assert shipment.calls["put"] == puts == 1
    assert await shipment.length() == 6


async def test_what_fills_a_batch_goes_at_once(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)

    shipment.print(b"x" * MAX_BATCH_BYTES)

    await shipment.until_stored(6 + MAX_BATCH_BYTES)


async def test_the_end_brings_what_was_gathered(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    shipment.print(b"last\n")

    shipment.shipper.end()

    await shipment.until_stored(11)


async def test_a_wish_brings_what_was_gathered(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    shipment.print(b"second\n")

    shipment.shipper.hurry()

    await shipment.until_stored(13)


async def test_while_somebody_follows_each_line_comes_soon(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    async with followed(shipment) as heard:
        await hear(heard, b"first")
        await until(shipment.is_told_watched)
        shipment.shipper.hurry()

        for number in range(5):
            shipment.print(b"line %d\n" % number)
            await hear(heard, b"line %d" % number)


async def test_who_holds_the_attempt_is_woken_when_somebody_begins_to_follow(shipment: Shipment) -> None:
    waiting = asyncio.create_task(
        shipment.desk.attempts.wait_for_orders(shipment.claim.worker_id, timedelta(seconds=20))
    )
    await asyncio.sleep(0)

    async with followed(shipment):
        assert await waiting
        assert await shipment.is_told_watched()


async def test_a_worker_is_told_that_nobody_follows(shipment: Shipment) -> None:
    assert not await shipment.is_told_watched()


async def test_many_followers_say_so_once(shipment: Shipment, database: Database) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    async with followed(shipment) as one, followed(shipment) as other:
        await hear(one, b"first")
        await hear(other, b"first")
        async with database.transaction() as tx:
            cursor = await tx.execute("SELECT log_watched_until > now() AS is_watched FROM attempts")
            rows = await cursor.fetchall()

    assert [row["is_watched"] for row in rows] == [True]
    assert list(shipment.reader._watched_at) == [shipment.claim.job_id]


async def test_followers_beside_the_writer_ask_the_store_for_nothing(shipment: Shipment) -> None:
    shipment.print(b"first\n")
    await shipment.until_stored(6)
    before = Counter(shipment.calls)
    async with followed(shipment) as heard:
        await hear(heard, b"first")
        for number in range(5):
            shipment.print(b"line %d\n" % number)
            shipment.shipper.hurry()
            await hear(heard, b"line %d" % number)

    asked = Counter(shipment.calls) - before
    assert (asked["read"], asked["list"], asked["size"]) == (0, 0, 0)


async def test_a_follower_elsewhere_reads_what_was_stored(shipment: Shipment, database: Database) -> None:
    shipment.reader = LogReader(database, shipment.store, shipment.desk.bell, pace=SLOW)
    shipment.print(b"first\n")

    async with followed(shipment) as heard:
        await hear(heard, b"first")


@pytest.mark.parametrize(
    ("given", "unwatched", "watched"),
    [
        ({}, 0.1, 0.1),
        ({"OBJECT_STORE_TYPE": "s3"}, 5, 0.4),
        ({"OBJECT_STORE_TYPE": "gcs", "LOG_FLUSH": "20"}, 20, 0.4),
        ({"OBJECT_STORE_TYPE": "s3", "LOG_FLUSH": "0"}, 0.4, 0.4),
        ({"LOG_FLUSH": "3"}, 3, 0.1),
    ],
)
def test_the_pace_goes_by_what_a_put_costs(given: dict[str, str], unwatched: float, watched: float) -> None:
    pace = log_pace(load_settings(given).settings)

    assert (pace.unwatched.total_seconds(), pace.watched.total_seconds()) == (unwatched, watched)


class TestWholeWorker:
    """A real worker whose coordinator wants logs once an hour."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, log_flush=timedelta(seconds=60), heartbeat=timedelta(seconds=2))

    async def test_a_line_is_seen_soon_after_somebody_begins_to_follow(
        self, coordinator: Coordinator
    ) -> None:
        async with worker_of(coordinator.core):
            job_id = await coordinator.submit("echo first; sleep 0.5; echo second; read forever </dev/zero")
            await coordinator.printed(job_id, b"first")
            await asyncio.sleep(1)
            unwatched = await coordinator.log(job_id)

            heard = b""
            async with asyncio.timeout(15):
                async for news in coordinator.core.log_reader.follow(job_id):
                    heard += news.data if isinstance(news, LogChunk) else b""
                    if b"second" in heard:
                        break
            await coordinator.core.jobs.cancel(coordinator.caller, job_id, force=True)
            await coordinator.ended(job_id)

        assert b"second" not in unwatched

    async def test_the_log_is_whole_at_the_end(self, coordinator: Coordinator) -> None:
        async with worker_of(coordinator.core):
            job_id = await coordinator.submit("for n in 1 2 3 4 5; do echo $n; sleep 0.1; done")
            await coordinator.ended(job_id)
            await coordinator.printed(job_id, b"1\n2\n3\n4\n5\n")


def test_the_last_chunks_are_kept_within_a_bound() -> None:
    recent = RecentChunks(most_bytes=100)
    for job in ("a", "b"):
        for start in (0, 30, 60):
            recent.keep(job, 1, *make_chunk(job, 1, start, b"%d" % (start // 30) * 30, b""))

    assert recent.read("a", 1, 0, 30) is None
    assert recent.read("b", 1, 10, 90) == b"0" * 20
    assert recent.read("b", 1, 59, 61) == b"1"
    assert recent.read("b", 1, 90, 91) is None
    assert recent.read("b", 2, 0, 1) is None
    assert recent._size <= 100


def test_a_longer_last_chunk_takes_the_place_of_the_shorter() -> None:
    recent = RecentChunks()
    recent.keep("a", 1, *make_chunk("a", 1, 0, b"one", b"index"))
    recent.keep("a", 1, *make_chunk("a", 1, 0, b"one two", b"longer index"))

    assert recent.read("a", 1, 0, 7) == b"one two"
    assert recent._size == len(b"one twolonger index")


def test_the_index_is_left_out_of_what_is_read() -> None:
    recent = RecentChunks()
    recent.keep("a", 1, *make_chunk("a", 1, 0, b"one", b"1 o 3\n"))

    assert recent.read("a", 1, 1, 100) == b"ne"
