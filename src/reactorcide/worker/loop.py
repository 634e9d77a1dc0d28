"""The life of a worker: clean up, register, deliver what was left, claim, drain.

Duties, in this order:

1. kill and remove what a former self left on this host;
2. register, naming the attempts whose results the spool still holds, and deliver those;
3. claim, never without a free slot, and run each claim as an `Attempt` of its own;
4. beat for all attempts at once, and obey the orders that come back; who holds nothing and waits for work
   need not beat, for it is seen waiting;
5. on `drain` claim no more and let the attempts end; on `stop` kill them and say so;
6. step down when another process has taken over the name.
"""

import asyncio
import heapq
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import structlog

from reactorcide.domain.errors import (
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    ReactorcideError,
    Superseded,
    Unavailable,
)
from reactorcide.domain.jobs import Claim
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from reactorcide.worker.attempt import Attempt, deliver_leftover, has_outcome
from reactorcide.worker.cancelling import cancel_tasks
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.heart import Heart
from reactorcide.worker.run_spec import HostTerms
from reactorcide.worker.runner import RunnerPool
from reactorcide.worker.shipping import NOT_OURS, pause_before_retry
from reactorcide.worker.spool import AttemptSpool, Spool
from reactorcide.worker.tree_cache import TreeCache
from reactorcide.worker.trees import TreePorter

log = structlog.get_logger()

# Below the minute after which proxies on the way like to give a silent answer up.
CLAIM_WAIT = timedelta(seconds=50)
DELIVERY_PATIENCE_SECONDS = 5.0
"""How long the first claim waits for results of a former self to be delivered."""
STOP_LIMIT_SECONDS = 30.0
"""A stopping worker waits so long for its killed jobs; what is undelivered then stays in the spool."""
LEAST_FREE_BYTES = 32 * 1024 * 1024
"""With less room for spool or workspaces no job is claimed."""
ROOM_KNOWN_SECONDS = 1.0
"""A claim that took longer to come is given back if the room has gone meanwhile."""


@dataclass(frozen=True)
class WorkerPlan:
    """How a worker is to work."""

    identity: WorkerIdentity
    spool_dir: Path
    poll_interval: timedelta
    drain_limit: timedelta
    terms: HostTerms
    tree_cache: TreeCache


class Worker:
    """Takes jobs through a gateway and runs them on this host, as many at once as it has slots."""

    def __init__(
        self,
        gateway: Gateway,
        plan: WorkerPlan,
        runners: RunnerPool,
        clean_host: Callable[[str | None], Awaitable[None]],
    ) -> None:
        self.is_registered = asyncio.Event()
        self._gateway = gateway
        self._plan = plan
        self._runners = runners
        self._clean_host = clean_host
        self._spool = Spool(plan.spool_dir)
        self._trees = TreePorter(gateway, plan.tree_cache)
        self._terms = plan.terms
        self._free_slots = list(range(plan.identity.slots))
        self._slot_freed = asyncio.Event()
        self._attempts: dict[Claim, Attempt] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._heart: Heart | None = None
        self._is_asking = False
        self._has_free_disk = True
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_superseded = False
        self._worker_id = ""

    @property
    def running(self) -> int:
        """The number of attempts in the slots."""
        return len(self._running)

    def drain(self) -> None:
        """Claim no more; `run` returns when the attempts have ended, or after the drain limit."""
        self._draining.set()
        self._beat_soon()

    def stop(self) -> None:
        """Kill the jobs; `run` returns when that is told, or cannot be told for a while."""
        self._stopping.set()
        self.drain()

    async def run(self) -> None:
        """Work until drained or stopped.

        Raises:
            Misconfigured: the name is somebody else's, or another process has taken it over.
        """
        await self._clean_host(None)
        leftovers = await asyncio.to_thread(self._spool.leftovers)
        registration = await self._register([spool.claim for spool in leftovers if has_outcome(spool)])
        if registration is None:
            self._check_name()
            return
        self._runners.warm_up()
        await self._deliver_leftovers(leftovers)
        self.is_registered.set()
        self._heart = Heart(
            self._gateway,
            registration,
            self._attempts,
            report=self._report,
            is_seen=lambda: self._is_asking,
            step_down=self._step_down,
        )
        helpers = [asyncio.create_task(self._heart.beat()), asyncio.create_task(self._heart.hear_orders())]
        try:
            await self._claim_until_drained()
            await self._await_attempts()
        finally:
            await cancel_tasks((*helpers, *self._running, *self._deliveries))
            await self._runners.close()
            await self._say_good_bye()
        self._check_name()

    def _check_name(self) -> None:
        if self._is_superseded:
            raise Misconfigured(
                f"another process has registered as worker {self._plan.identity.name!r}:"
                " give each a WORKER_NAME of its own"
            )

    async def _register(self, spooled: list[Claim]) -> Registration | None:
        tries = 0
        while not self._draining.is_set():
            tries += 1
            try:
                registration = await self._gateway.register(self._plan.identity, spooled)
            except Unavailable as error:
                log.warning("worker.not_registered", part=error.part, tries=tries)
                await pause_before_retry(tries)
            except Superseded:
                self._step_down()
            except (Forbidden, InvalidInput) as error:
                raise Misconfigured(f"the coordinator does not take this worker: {error}") from error
            else:
                self._worker_id = registration.worker_id
                self._terms = self._plan.terms.as_registered(registration)
                if self._heart is not None:
                    self._heart.registration = registration
                return registration
        return None

    async def _deliver_leftovers(self, leftovers: list[AttemptSpool]) -> None:
        for spool in leftovers:
            # The name, and so the id, is the same; an edited data directory must not break a boot.
            own = replace(spool, claim=replace(spool.claim, worker_id=self._worker_id))
            self._deliver(deliver_leftover(self._gateway, own))
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=DELIVERY_PATIENCE_SECONDS)

    async def _claim_until_drained(self) -> None:
        failures = 0
        while not self._draining.is_set():
            if not self._free_slots or not await self._has_room():
                await self._wait_for_slot()
                continue
            asked = time.monotonic()
            try:
                claims = await self._ask_for_work(len(self._free_slots))
                failures = 0
            except Unavailable as error:
                failures += 1
                log.warning("worker.claim_failed", part=error.part, tries=failures)
                await self._pause(failures)
                continue
            except NotFound:
                # The database was replaced by another one, or an older one.
                log.warning("worker.forgotten")
                await self._register([])
                continue
            except Superseded:
                self._step_down()
                continue
            except Exception:
                failures += 1
                log.exception("worker.claim_crashed", tries=failures)
                await self._pause(failures)
                continue
            was_long = time.monotonic() - asked >= ROOM_KNOWN_SECONDS
            if claims and was_long and not await self._has_room():
                await self._give_back(claims)
                continue
            for claim in claims:
                self._take_on(claim)

    async def _ask_for_work(self, free: int) -> list[Claim]:
        """Wait for claims, and give back at once what comes after draining began."""
        asking = asyncio.ensure_future(self._gateway.claim(self._worker_id, free, CLAIM_WAIT))
        draining = asyncio.create_task(self._draining.wait())
        self._is_asking = True
        try:
            await asyncio.wait({asking, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_asking = False
            draining.cancel()
            # A claim that is lost here goes back with the good-bye, or after its start deadline.
            await cancel_tasks({asking})
        return [] if asking.cancelled() else asking.result()

    async def _give_back(self, claims: list[Claim]) -> None:
        for claim in claims:
            try:
                await self._gateway.release(claim)
            except (Unavailable, *NOT_OURS) as error:
                # It goes back by itself after its start deadline.
                log.warning("claim.not_released", job_id=claim.job_id, error=str(error))

    def _take_on(self, claim: Claim) -> None:
        slot = heapq.heappop(self._free_slots)
        attempt = Attempt(
            claim,
            slot,
            gateway=self._gateway,
            runners=self._runners,
            spool=self._spool,
            terms=self._terms,
            trees=self._trees,
        )
        self._attempts[claim] = attempt
        if self._heart is not None:
            self._heart.holds_some.set()
        if self._draining.is_set():
            attempt.obey("shutdown")
        task = asyncio.create_task(self._carry_out(attempt, slot))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _carry_out(self, attempt: Attempt, slot: int) -> None:
        try:
            rest = await attempt.run()
            if rest is not None:
                self._deliver(rest)
            if attempt.is_runner_lost:
                self._deliver(self._clean_host(f"{attempt.claim.job_id}.{attempt.claim.attempt}"))
        except Exception:
            # One attempt's crash must never touch its neighbours.
            log.exception("attempt.crashed", job_id=attempt.claim.job_id, attempt=attempt.claim.attempt)
        finally:
            del self._attempts[attempt.claim]
            if self._heart is not None and not self._attempts:
                self._heart.holds_some.clear()
            heapq.heappush(self._free_slots, slot)
            self._slot_freed.set()

    def _deliver(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(_log_crash(work))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _report(self) -> WorkerReport:
        spooled, spool_bytes = await asyncio.to_thread(self._spool.measure)
        return WorkerReport(self._draining.is_set(), self._has_free_disk, spooled, spool_bytes)

    def _step_down(self) -> None:
        """Kill what runs, without a word to the coordinator: another process has this worker's name now."""
        if not self._is_superseded:
            log.error("worker.superseded", worker=self._plan.identity.name)
        self._is_superseded = True
        for attempt in self._attempts.values():
            attempt.obey("abandon")
        self.stop()

    async def _await_attempts(self) -> None:
        """Let the attempts end, kill them after the drain limit, and give up what cannot be told."""
        if (self._running or self._deliveries) and not self._stopping.is_set():
            log.info("worker.draining", running=self.running, undelivered=len(self._deliveries))
            limit = asyncio.create_task(self._stopping.wait())
            ended = asyncio.create_task(self._all_ended())
            await asyncio.wait(
                {limit, ended},
                timeout=self._plan.drain_limit.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            limit.cancel()
            ended.cancel()
        for attempt in self._attempts.values():
            attempt.obey("shutdown")
        unfinished = {*self._running, *self._deliveries}
        if unfinished:
            await asyncio.wait(unfinished, timeout=STOP_LIMIT_SECONDS)

    async def _all_ended(self) -> None:
        """Wait until all has ended and is delivered: the host may be about to go."""
        while unfinished := {*self._running, *self._deliveries}:
            await asyncio.wait(unfinished)

    async def _has_room(self) -> bool:
        for path in (self._plan.spool_dir, self._plan.terms.work_dir):
            free = await asyncio.to_thread(_free_bytes, path)
            if free < LEAST_FREE_BYTES:
                log.warning("worker.disk_full", path=str(path), free_bytes=free)
                self._note_room(has_room=False)
                return False
        self._note_room(has_room=True)
        return True

    def _note_room(self, *, has_room: bool) -> None:
        """Keep in mind what is told with heartbeats; a change is told at once."""
        if has_room != self._has_free_disk:
            self._has_free_disk = has_room
            self._beat_soon()

    def _beat_soon(self) -> None:
        if self._heart is not None:
            self._heart.beat_soon.set()

    async def _wait_for_slot(self) -> None:
        self._slot_freed.clear()
        draining = asyncio.create_task(self._draining.wait())
        freed = asyncio.create_task(self._slot_freed.wait())
        try:
            # With slots free it is the disk that is waited for.
            seconds = self._plan.poll_interval.total_seconds() if self._free_slots else None
            await asyncio.wait({draining, freed}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
            freed.cancel()

    async def _pause(self, failures: int) -> None:
        """Wait before asking for work again; draining ends the wait."""
        pause = asyncio.create_task(pause_before_retry(failures))
        draining = asyncio.create_task(self._draining.wait())
        await asyncio.wait(
            {pause, draining},
            timeout=self._plan.poll_interval.total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        pause.cancel()
        draining.cancel()

    async def _say_good_bye(self) -> None:
        try:
            async with asyncio.timeout(2):
                await self._gateway.deregister(self._worker_id)
        except (ReactorcideError, TimeoutError) as error:
            log.warning("worker.not_deregistered", error=str(error) or "no answer")
        log.info("worker.stopped")


async def _log_crash(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:
        log.exception("worker.delivery_crashed")


def _free_bytes(path: Path) -> int:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(existing).free
