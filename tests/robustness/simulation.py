"""C16: a deterministic simulation of two coordinators, three workers, their clients and a bad world.

The services, the database and its statements are the product's; workers, network, time and trouble are
models. One thread does one thing after the other in an order that the seed alone determines.

    python tests/robustness/simulation.py --seeds 1-1000 --ticks 120

runs many seeds and prints how many a second; of one that fails it prints the story of the job concerned.
"""

import argparse
import asyncio
import hashlib
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    # This folder has modules whose names others have too; ours are found from the one above.
    sys.path[0] = str(Path(__file__).parents[1])

import structlog

from job_desk import request
from job_laws import JobFacts, LawBook
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.errors import Conflict, NotFound, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.status import JobStatus
from reactorcide.services.jobs import IdempotencyKey
from reactorcide.store.database import Database
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.migrate import migrate
from robustness.simulation_clock import SimulatedClock
from robustness.simulation_coordinator import TIMING, Coordinator, Faults, FaultyDatabase, FaultyStore
from robustness.simulation_ledger import Broken, Ledger
from robustness.simulation_nemesis import Nemesis
from robustness.simulation_worker import Host
from robustness.simulation_world import Call, Process, Script, Sleep, World

JOBS = 14
STUCK = TIMING.lost_after.total_seconds() + TIMING.reap_interval.total_seconds() + 2.0
BACKLOG = 240.0
"""So long after STUCK even a job that fails twice, and its turn after others, has ended."""
SEALING = 700.0
"""A log that nobody promised is waited for ten minutes."""
_CHECKED_EVERY = 10.0
_UNHEARD_OF = {"chore.failed", "log.bytes_missed", "log.digest_mismatched", "dispatch.crashed"}
_SURVEY = "SELECT key, job_id FROM idempotency"


class Stage:
    """What simulations share: a server's database under a simulated clock, and connections to it."""

    def __init__(self, dsn: str) -> None:
        self.clock = SimulatedClock(dsn)
        self._dsn = dsn
        self._runner = asyncio.Runner(loop_factory=self.clock.make_loop)
        self._plain = self._runner.run(Database.open(dsn, size=2))
        self._faulty = [self._runner.run(FaultyDatabase.open(dsn, size=2)) for _ in range(2)]

    def run(self, seed: int, ticks: int) -> World:
        """Run one seed, ``ticks`` seconds of trouble and then the healing.

        Raises:
            Broken, AssertionError: with the world in its ``world``. What nobody expected is Broken too.
        """
        self.clock.restart()
        # The jitter of the product is drawn from here.
        state = random.getstate()
        random.seed(seed)
        world = World(seed, self.clock)
        simulation = Simulation(world, self._plain, self._faulty)  # type: ignore[arg-type]
        try:
            with structlog.testing.capture_logs() as said:
                self._runner.run(simulation.run(float(ticks)))
            odd = [line for line in said if line["event"] in _UNHEARD_OF]
            assert not odd, f"said by the product: {odd[0]}"
        except AssertionError as error:
            error.world = world  # type: ignore[attr-defined]
            raise
        except Exception as error:
            broken = Broken(getattr(error, "job_id", ""), f"nobody expected {error!r}")
            broken.world = world  # type: ignore[attr-defined]
            raise broken from error
        finally:
            random.setstate(state)
        return world

    def close(self) -> None:
        for database in (self._plain, *self._faulty):
            self._runner.run(database.close())
        self._runner.close()
        self.clock.close()


class Simulation:
    """One seed."""

    def __init__(self, world: World, plain: Database, faulty: list[FaultyDatabase]) -> None:
        self._world = world
        self._random = world.random
        self._database = plain
        self._laws = LawBook(plain)
        self._ledger = Ledger(world)
        self._faults = Faults(world)
        self._store = FaultyStore(self._faults)
        for database in faulty:
            database.faults = self._faults
        self._coordinators = [
            Coordinator(world, f"coordinator-{number}", database, self._store)
            for number, database in enumerate(faulty, start=1)
        ]
        world.coordinators.extend(self._coordinators)
        self._hosts = [Host(world, self._ledger, f"worker-{number}") for number in (1, 2, 3)]
        self._user = self._make_principal()
        self._open_clients = 0
        self._jobs: dict[str, JobFacts] = {}

    async def run(self, ticks: float) -> None:
        await self._insert_user()
        for coordinator in self._coordinators:
            await coordinator.boot()
        for host in self._hosts:
            host.boot()
        for number in range(JOBS):
            self._open_clients += 1
            Process(self._world, "client").spawn(self._be_client(f"key-{number}", ticks))
        nemesis = Nemesis(self._world, self._hosts, self._coordinators, self._faults)
        while self._world.now < ticks:
            await self._world.run(min(ticks, self._world.now + _CHECKED_EVERY))
            await self._check()
        await nemesis.heal()
        await self._recover()

    async def _recover(self) -> None:
        """After STUCK and the backlog all has ended; then every log is sealed."""
        end = self._world.now + STUCK + BACKLOG
        while self._world.now < end:
            await self._world.run(min(end, self._world.now + _CHECKED_EVERY))
            await self._check()
            if not self._open_clients and all(facts.status.is_final for facts in self._jobs.values()):
                break
        if self._open_clients:
            raise Broken("", "a client still waits for an answer")
        await self._check(is_ended=True)
        # Nobody has anything to do any more but maintenance.
        self._world.clock.pass_time(SEALING)
        await self._world.run(self._world.now + 60.0)
        await self._check(is_ended=True, is_sealed=True)
        for facts in self._jobs.values():
            self._world.ends[facts.row["reason"]] += 1
            self._world.ends["further attempts"] += max(0, len(facts.attempts) - 1)
            for attempt in facts.attempts:
                claim = Claim(facts.job_id, attempt["attempt"], attempt["lease_id"], attempt["worker_id"])
                stored = self._store.read(f"logs/{facts.job_id}/{claim.attempt}.log")
                self._ledger.check_log(claim, stored)

    async def _check(self, *, is_ended: bool = False, is_sealed: bool = False) -> None:
        self._world.clock.tell()
        self._jobs = await self._laws.check()
        keys = {row["key"]: str(row["job_id"]) for row in await self._database.read(_SURVEY)}
        self._ledger.check(self._jobs, keys=keys, is_ended=is_ended, is_sealed=is_sealed)

    # Clients

    def _be_client(self, key: str, ticks: float) -> Script:
        """Submit a job, perhaps want its end, perhaps run it again: each call until it is answered."""
        yield Sleep(self._random.uniform(0.0, ticks * 0.7))
        job_id = yield from self._submit(key)
        if self._random.random() < 0.25:
            yield Sleep(self._random.expovariate(1 / 10.0))
            yield from self._cancel(job_id, force=False)
            if self._random.random() < 0.4:
                yield Sleep(self._random.expovariate(1 / 5.0))
                yield from self._cancel(job_id, force=True)
        elif self._random.random() < 0.2:
            yield Sleep(self._random.uniform(5.0, 40.0))
            yield from self._retry(job_id)
        self._open_clients -= 1

    def _submit(self, key: str) -> Script:
        seconds = self._random.choice([0.2, 5.0, 15.0, 30.0, 60.0]) * self._random.uniform(0.5, 1.5)
        code = self._random.choice([0, 0, 0, 3])
        asked = request(
            job_command=f"{seconds:.3f} {code}",
            retry_on_lost=self._random.choice([0, 0, 0, 1, 2]),
            timeout_seconds=self._random.choice([15, 3600, 3600, 3600]),
            queue_timeout_seconds=self._random.choice([60, 86400]),
            priority=self._random.choice([0, 0, 1]),
        )
        named = IdempotencyKey(key, hashlib.sha256(key.encode()).digest())
        while True:
            try:
                made = yield Call("submit", lambda c: c.jobs.submit(self._user, asked, named))
            except Unavailable:
                yield Sleep(self._random.uniform(0.2, 2.0))
            else:
                job_id = str(made.job.job_id)
                self._world.note(job_id, f"submission {key} is acknowledged")
                self._ledger.submitted[key] = job_id
                return job_id

    def _cancel(self, job_id: str, *, force: bool) -> Script:
        while True:
            try:
                job = yield Call("cancel", lambda c: c.jobs.cancel(self._user, job_id, force=force))
            except Conflict:
                return
            except Unavailable:
                yield Sleep(self._random.uniform(0.2, 2.0))
            else:
                self._world.note(job_id, f"cancellation is acknowledged: {job.status}")
                if job.status is JobStatus.CANCELLED:
                    self._ledger.cancelled.add(job_id)
                return

    def _retry(self, job_id: str) -> Script:
        try:
            yield Call("retry", lambda c: c.jobs.retry(self._user, job_id))
        except (Conflict, NotFound, Unavailable):
            return

    def _make_principal(self) -> Principal:
        ids = [str(uuid.UUID(int=self._random.getrandbits(128))) for _ in range(2)]
        return Principal(ids[0], ids[1], TokenKind.USER, frozenset({Role.USER}))

    async def _insert_user(self) -> None:
        async with self._database.transaction() as tx:
            await tx.execute(
                "INSERT INTO users (user_id, username) VALUES (%s, 'client')", [self._user.user_id]
            )


def tell_story(error: AssertionError) -> str:
    """Return what happened to the job that ``error`` names, and to the parts meanwhile."""
    world: World = error.world  # type: ignore[attr-defined]
    about = [getattr(error, "job_id", "")]
    parts = [
        name for name in world.trace if name == "nemesis" or name.startswith(("coordinator-", "worker-"))
    ]
    lines = sorted((line, name) for name in {*about, *parts} for line in world.trace.get(name, []))
    story = "\n".join(f"{line}   [{name}]" for line, name in lines)
    return f"seed {world.seed}: {type(error).__name__}: {error}\n{story}"


@contextmanager
def _own_server() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="reactorcide-simulation-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "pg", is_durable=False)
    with structlog.testing.capture_logs():
        asyncio.run(server.start())
    try:
        with structlog.testing.capture_logs():
            asyncio.run(migrate(server.dsn))
        yield server.dsn
    finally:
        with structlog.testing.capture_logs():
            asyncio.run(server.stop())
        shutil.rmtree(folder, ignore_errors=True)


def _main() -> int:
    parser = argparse.ArgumentParser(description="Run seeds of the simulation.")
    parser.add_argument("--seeds", default="1-100", help="FIRST-LAST, or one")
    parser.add_argument("--ticks", type=int, default=120, help="seconds of trouble in each")
    parser.add_argument("--stop", action="store_true", help="stop at the first that breaks")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    broken, steps, began, ends = [], 0, time.monotonic(), Counter[str]()
    with _own_server() as dsn:
        stage = Stage(dsn)
        try:
            for seed in seeds:
                try:
                    world = stage.run(seed, given.ticks)
                    steps += world.steps
                    ends += world.ends
                except AssertionError as error:
                    broken.append(seed)
                    print(tell_story(error), flush=True)  # noqa: T201
                    if given.stop:
                        break
        finally:
            stage.close()
    seconds, count = time.monotonic() - began, seed - seeds[0] + 1
    print(  # noqa: T201
        f"{count} seeds, {steps} events, {seconds:.1f} s, {count / seconds:.2f} seeds/s,"
        f" broken: {broken or 'none'}; {dict(ends)}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(_main())
