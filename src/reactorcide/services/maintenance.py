"""Maintenance: what nobody asks for and somebody must do, in rounds, beside every coordinator.

A round takes away lost leases (T8), ends jobs that waited too long, forgets old idempotency keys and done
outbox entries, and does the chores it was given. Rounds of several coordinators do not disturb each other.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.retry import retry_delay
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import Timing
from reactorcide.queue.port import Announcement, ReadyQueue, Withdrawal
from reactorcide.services.tally import JobTally
from reactorcide.store import attempts, idempotency, jobs, outbox
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database, Transaction

Chore = Callable[[], Awaitable[object]]

_BATCH = 200
_RETRY_BASE = timedelta(seconds=1)
_RETRY_CEILING = timedelta(seconds=60)

log = structlog.get_logger()


class Maintenance:
    """The loop of maintenance.

    Leases are not taken away for one full lease (amnesty) after the start, after the database was out of
    reach, and after a pause of the loop itself: workers that could not renew meanwhile shall have time to.

    Args:
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        database: Database,
        bell: Bell,
        queue: ReadyQueue,
        timing: Timing,
        chores: Sequence[Chore] = (),
        *,
        tally: JobTally,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._bell = bell
        self._queue = queue
        self._timing = timing
        self._tally = tally
        own = (self._reap, self._expire_waiting, self._expire_keys, self._expire_outbox, tally.settle)
        self._chores: tuple[Chore, ...] = (*own, *chores)
        self._monotonic = monotonic
        self._last_round: float | None = None
        self._amnesty_until = 0.0

    async def run(self) -> None:
        """Do a round every reap interval until cancelled."""
        while True:
            await self.run_round()
            await asyncio.sleep(self._timing.reap_interval.total_seconds())

    async def run_round(self) -> None:
        """Do every chore once; one that fails does not stop the others."""
        now = self._monotonic()
        longest = 3 * self._timing.reap_interval.total_seconds()
        if self._last_round is None or now - self._last_round > longest:
            self._grant_amnesty(now)
        for chore in self._chores:
            try:
                await chore()
            except Unavailable as error:
                if error.part == "database":
                    self._grant_amnesty(self._monotonic())
                log.warning("chore.postponed", chore=_name_of(chore), part=error.part)
            except Exception:
                log.exception("chore.failed", chore=_name_of(chore))
        self._last_round = self._monotonic()

    def _grant_amnesty(self, now: float) -> None:
        self._amnesty_until = now + self._timing.lease.total_seconds()

    async def _reap(self) -> None:
        if self._monotonic() < self._amnesty_until:
            return
        grace = self._timing.lost_after - self._timing.lease
        async with self._database.transaction() as tx:
            overdue = await attempts.find_overdue(tx, grace=grace, limit=_BATCH)
        for claim in overdue:
            end = await self._end_lease(claim, grace)
            if end is None:
                continue
            log.warning(
                "lease.lost",
                job_id=claim.job_id,
                attempt=claim.attempt,
                worker_id=claim.worker_id,
                status=end.status,
            )
            self._tally.note_loss(end.queue_name, claim.worker_id, end.status, by="maintenance")
            self._bell.ring(f"job:{claim.job_id}", f"log:{claim.job_id}", f"worker:{claim.worker_id}")
            if end.status.is_final:
                self._tally.note_end(claim.job_id)
            if end.status is JobStatus.QUEUED:
                await self._queue.announce([Announcement(claim.job_id, end.queue_name, claim.attempt)])

    async def _end_lease(self, claim: Claim, grace: timedelta) -> attempts.LeaseEnd | None:
        delay = retry_delay(claim.attempt, base=_RETRY_BASE, ceiling=_RETRY_CEILING)

        async def end(tx: Transaction) -> attempts.LeaseEnd | None:
            return await attempts.end_lease(
                tx, claim, actor="system:maintenance", grace=grace, delay=delay * random.uniform(0.5, 1.0)
            )

        return await self._database.run(end)

    async def _expire_waiting(self) -> None:
        async def expire(tx: Transaction) -> list[jobs.ExpiredJob]:
            return await jobs.expire_waiting(tx, limit=_BATCH)

        expired = await self._database.run(expire)
        for job in expired:
            log.info("job.expired", job_id=job.job_id)
            self._tally.note_end(job.job_id)
            self._bell.ring(f"job:{job.job_id}", f"log:{job.job_id}")
        await self._queue.withdraw([Withdrawal(job.job_id, job.queue_name, job.task_id) for job in expired])

    async def _expire_keys(self) -> None:
        async with self._database.transaction() as tx:
            await idempotency.expire_keys(tx, limit=10 * _BATCH)

    async def _expire_outbox(self) -> None:
        async with self._database.transaction() as tx:
            await outbox.expire_done(tx, limit=10 * _BATCH)


def _name_of(chore: Chore) -> str:
    return getattr(chore, "__qualname__", repr(chore))
