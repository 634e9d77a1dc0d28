"""The shipping of a log that the test writes, at a slow pace, by a clock that goes when told."""

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from worker_fixtures import until

from fixture_types import MakeUser
from job_desk import JobDesk
from reactorcide.domain.jobs import Claim
from reactorcide.domain.workers import WorkerIdentity, WorkerReport
from reactorcide.objects.measured import MeasuredStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.log_pace import LogPace
from reactorcide.services.log_reading import LogChunk, LogReader
from reactorcide.services.logs import LogService
from reactorcide.services.recent_chunks import RecentChunks
from reactorcide.store.database import Database
from reactorcide.worker.gateway.direct import DirectGateway
from reactorcide.worker.shipping import LogShipper
from reactorcide.worker.spool import AttemptSpool, Spool, SpoolReader

PACE = LogPace(unwatched=timedelta(seconds=5), watched=timedelta(seconds=0.3))


class SteppedTime:
    """Time that passes when told, and only while who goes by it has nothing else to do."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._passed = asyncio.Event()
        self._waited_for: tuple[asyncio.Event, float] | None = None

    def clock(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self._waited_for = (event, self.now + seconds)
        try:
            while not self._is_over():
                self._passed.clear()
                news = [asyncio.create_task(happening.wait()) for happening in (event, self._passed)]
                await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
                for task in news:
                    task.cancel()
        finally:
            self._waited_for = None
        return event.is_set()

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, once all that is to be done now is done, and wait until that is so again."""
        await self.settle()
        self.now += seconds
        self._passed.set()
        await self.settle()

    async def settle(self) -> None:
        """Wait until there is nothing to do but to wait."""
        await until(lambda: self._waited_for is not None and not self._is_over())

    def _is_over(self) -> bool:
        if self._waited_for is None:
            return True
        event, until_then = self._waited_for
        return event.is_set() or self.now >= until_then


class GatedStore(MemoryObjectStore):
    """A store whose puts wait while the gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reached = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        self.is_reached.set()
        assert self.gate.wait(30)
        return super().put(key, data, create_only=create_only)


class Shipment:
    """A started attempt whose spool the test writes, and the shipping of it at `PACE`."""

    claim: Claim
    spool: AttemptSpool
    shipper: LogShipper

    def __init__(self, database: Database, desk: JobDesk) -> None:
        self.made: list[str] = []
        self.time = SteppedTime()
        self.gated = GatedStore()
        self.store = MeasuredStore(self.gated, lambda operation, *_: self.made.append(operation))
        recent = RecentChunks()
        self.logs = LogService(database, self.store, desk.bell, pace=PACE, recent=recent)
        self.reader = LogReader(database, self.store, desk.bell, pace=PACE, recent=recent)
        self.desk = desk
        # Of a direct gateway only what claims and appends is asked here.
        self.gateway = DirectGateway(desk.attempts, self.logs, None, None)  # type: ignore[arg-type]

    @property
    def calls(self) -> Counter[str]:
        """How often the store was asked for what."""
        return Counter(self.made)

    async def submit(self) -> str:
        """Register a worker and submit a job, which `start` claims and starts."""
        identity = WorkerIdentity("by hand", str(uuid.uuid4()), ("reactorcide-jobs",), 1, "0", "none")
        self.worker_id = (await self.gateway.register(identity, [])).worker_id
        # From now on its ear is open.
        await self._orders(timedelta())
        return (await self.desk.submit()).job_id

    async def start(self, folder: Path) -> None:
        (self.claim,) = await self.gateway.claim(self.worker_id, 1, timedelta(seconds=5))
        await self.gateway.start(self.claim)
        self.spool = Spool(folder).create(self.claim)
        reader, time = SpoolReader(self.spool), self.time
        self.shipper = LogShipper(self.gateway, self.claim, reader, clock=time.clock, wait=time.wait)

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
        """Make the heartbeat of a worker, and tell what it brings."""
        (order,) = await self.desk.attempts.heartbeat(
            self.claim.worker_id, [self.claim], WorkerReport(draining=False)
        )
        return order.is_watched

    async def obey_bell(self) -> None:
        """Do what a worker does that a ring has woken: beat, and hurry where somebody follows."""
        async with asyncio.timeout(20):
            while True:
                assert await self._orders(timedelta(seconds=20))
                if await self.is_told_watched():
                    self.shipper.hurry()
                    return

    async def _orders(self, wait: timedelta) -> bool:
        return await self.desk.attempts.wait_for_orders(self.worker_id, wait)

    def new_reader(self, database: Database) -> LogReader:
        """Return what reads in another process, which appended nothing."""
        return LogReader(database, self.store, self.desk.bell, pace=PACE)


@pytest.fixture
async def shipment(database: Database, make_user: MakeUser, tmp_path: Path) -> AsyncIterator[Shipment]:
    made = Shipment(database, JobDesk(database, await make_user()))
    await made.submit()
    await made.start(tmp_path / "spool")
    async with shipping(made):
        yield made


@asynccontextmanager
async def shipping(shipment: Shipment) -> AsyncIterator[None]:
    task = asyncio.create_task(shipment.shipper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def followed(reader: LogReader, job_id: str) -> AsyncIterator["asyncio.Queue[bytes]"]:
    """Follow the log, and yield what comes."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow() -> None:
        async for news in reader.follow(job_id):
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
