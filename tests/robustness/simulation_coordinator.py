"""A coordinator of the simulation: the product's own services, over a database and a store that fail."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from job_desk import POLICY
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.workers import Timing
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import StoreUnavailable
from reactorcide.observability.metrics import Metrics
from reactorcide.queue.database import DatabaseQueue
from reactorcide.services.attempts import AttemptService
from reactorcide.services.jobs import JobService
from reactorcide.services.logs import LogService
from reactorcide.services.maintenance import Maintenance
from reactorcide.services.tally import JobTally
from reactorcide.services.vault import Vault
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database, Parameters, Row, Transaction
from robustness.simulation_world import Call, Vanished, World

T = TypeVar("T")

TIMING = Timing(
    lease=timedelta(seconds=15),
    heartbeat=timedelta(seconds=5),
    start_deadline=timedelta(seconds=8),
    lost_after=timedelta(seconds=30),
    reap_interval=timedelta(seconds=4),
    cancel_grace=timedelta(seconds=4),
)
_SEALED_EVERY = 4


class Faults:
    """What fails now for one coordinator, or for all that share it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_database_down = False
        self.is_store_down = False
        self.doubt = 0.0
        """Of each transaction: that its commit's answer is lost."""


class FaultyDatabase(Database):
    """A real database that is out of reach now and then, sometimes after it has committed.

    Each call is told the simulated time first.
    """

    faults: Faults
    dies_after: int | None = None
    """After so many more transactions, before or after their commit, the coordinator dies."""
    is_dead = False

    async def run(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        self._begin()
        result = await super().run(work, urgent=urgent)
        self._end()
        return result

    async def read(self, statement: str, parameters: Parameters = None, *, urgent: bool = False) -> list[Row]:
        self._begin()
        return await super().read(statement, parameters, urgent=urgent)

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[Transaction]:
        self._begin()
        async with super().transaction(urgent=urgent) as tx:
            yield tx
        self._end()

    def _begin(self) -> None:
        self.faults.world.clock.tell()
        if self.is_dead or self.faults.is_database_down:
            raise Unavailable("database")
        self._come_nearer_to_death()

    def _end(self) -> None:
        self._come_nearer_to_death()
        if self.faults.doubt and self.faults.world.random.random() < self.faults.doubt:
            raise Unavailable("database")

    def _come_nearer_to_death(self) -> None:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.is_dead = True
                raise Unavailable("database")


class FaultyStore(MemoryObjectStore):
    """A store that is out of reach when told."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        self._check()
        return super().put(key, data, create_only=create_only)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        self._check()
        return super().read(key, start=start, length=length)

    def delete(self, key: str) -> None:
        self._check()
        super().delete(key)

    def _check(self) -> None:
        if self._faults.is_store_down:
            raise StoreUnavailable("the store is down")


class Coordinator:
    """One process of `serve`, which may die, stop and come back with nothing but what was stored."""

    def __init__(self, world: World, name: str, database: FaultyDatabase, store: FaultyStore) -> None:
        self.name = name
        self.is_up = False
        self._world = world
        self._database = database
        self._store = store
        self._boots = 0
        self.is_frozen = False
        self.held_back: list[Callable[[], Awaitable[None]]] = []
        self._rounds = 0

    async def boot(self) -> None:
        """Begin anew. The services are those that `wiring` composes, but for the bell's wire."""
        self._boots += 1
        self._database.is_dead, self._database.dies_after = False, None
        bell = Bell(self._database)
        queue = DatabaseQueue(self._database, bell)
        vault = Vault(bytes(range(32)))
        tally = JobTally(self._database, Metrics())
        self.jobs = JobService(self._database, queue, bell, vault, POLICY, tally=tally)
        self.attempts = AttemptService(self._database, queue, bell, vault, TIMING, tally=tally)
        self.logs = LogService(self._database, self._store, bell)
        self._maintenance = Maintenance(
            self._database,
            bell,
            queue,
            TIMING,
            [self._look_after_logs],
            tally=tally,
            monotonic=self._world.clock,
        )
        self.is_up = True
        self._world.note(self.name, f"boots for the {self._boots}. time")
        self._next_round(self._boots)

    def crash(self) -> None:
        self.is_up = False
        self.held_back.clear()
        self._world.note(self.name, "dies")

    def die_after(self, transactions: int) -> None:
        self._database.dies_after = transactions

    def die_never(self) -> None:
        self._database.dies_after = None

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        """Go on, and serve what has come meanwhile, whoever still waits for it."""
        self.is_frozen = False
        held_back, self.held_back = self.held_back, []
        for action in held_back:
            self._world.after(0.0, action)

    async def serve(self, call: Call) -> Any:
        if not self.is_up:
            raise Unavailable("coordinator")
        try:
            return await call.make(self)
        finally:
            if self._database.is_dead:
                self.crash()
                raise Vanished

    def _next_round(self, boot: int) -> None:
        seconds = TIMING.reap_interval.total_seconds() * self._world.random.uniform(1.0, 1.1)
        self._world.after(seconds, lambda: self._do_round(boot))

    async def _do_round(self, boot: int) -> None:
        if not self.is_up or boot != self._boots:
            return
        if not self.is_frozen:
            await self._maintenance.run_round()
            if self._database.is_dead:
                self.crash()
                return
        self._next_round(boot)

    async def _look_after_logs(self) -> None:
        self._rounds += 1
        if self._rounds % _SEALED_EVERY == 0:
            await self.logs.seal_due()
            await self.logs.purge_due()
