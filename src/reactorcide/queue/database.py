"""The ready queue that is the job rows themselves: nothing to keep in step, nothing to lose."""
# ruff: noqa: S608 - every part of a statement is a constant of ours

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from reactorcide.domain.jobs import Claim
from reactorcide.queue.port import Announcement, Withdrawal
from reactorcide.store.bell import Bell
from reactorcide.store.claims import IS_READY, TAKE, claims_of
from reactorcide.store.database import Database, Transaction

_BEST_OF_ONE_QUEUE = f"""
    SELECT j.job_id FROM jobs j WHERE j.queue_name = %(queue)s AND {IS_READY}
     ORDER BY j.priority DESC, j.created_at, j.job_id LIMIT %(limit)s
       FOR UPDATE OF j SKIP LOCKED
"""
# Each queue is read in the order of its index as far as can be needed, more than the limit because other
# claims may hold some; only what is taken is locked, with its guard asked again.
_BEST_OF_QUEUES = f"""
    SELECT j.job_id FROM jobs j
      JOIN (SELECT c.job_id FROM unnest(%(queues)s::text[]) AS q (name) CROSS JOIN LATERAL (
                SELECT j.job_id FROM jobs j WHERE j.queue_name = q.name AND {IS_READY}
                 ORDER BY j.priority DESC, j.created_at, j.job_id LIMIT %(limit)s + 50) c
           ) candidate ON candidate.job_id = j.job_id
     WHERE {IS_READY}
     ORDER BY j.priority DESC, j.created_at, j.job_id LIMIT %(limit)s
       FOR UPDATE OF j SKIP LOCKED
"""
_CLAIM_FROM_ONE = TAKE.format(best=_BEST_OF_ONE_QUEUE)
_CLAIM_FROM_SEVERAL = TAKE.format(best=_BEST_OF_QUEUES)
_SEE_READY = f"""
    SELECT q.name FROM unnest(%(queues)s::text[]) AS q (name) CROSS JOIN LATERAL (
        SELECT 1 FROM jobs j WHERE j.queue_name = q.name AND {IS_READY} LIMIT 1) ready
"""


class DatabaseQueue:
    """Ready jobs, claimed by one `FOR UPDATE SKIP LOCKED` statement on their rows (T3).

    Args:
        look_every: the longest wait without looking at the rows; it bounds what a lost ring costs, and how
            late a job is taken whose time to try again has come.
    """

    rows_are_the_queue = True

    def __init__(
        self, database: Database, bell: Bell, *, look_every: timedelta = timedelta(seconds=2)
    ) -> None:
        self._database = database
        self._bell = bell
        self._look_every = look_every

    async def announce(self, jobs: Sequence[Announcement]) -> None:
        """Wake waiting workers: the commit has told the queue."""
        self._bell.ring(*(f"queue:{name}" for name in {job.queue_name for job in jobs}))

    async def withdraw(self, jobs: Sequence[Withdrawal]) -> None:
        """The commit has told the queue."""

    async def claim(
        self, worker_id: str, queue_names: Sequence[str], limit: int, *, start_within: timedelta
    ) -> list[Claim]:
        """As the port says."""
        if not queue_names or limit < 1:
            return []
        statement = _CLAIM_FROM_ONE if len(queue_names) == 1 else _CLAIM_FROM_SEVERAL
        given = {
            "worker_id": worker_id,
            "queue": queue_names[0],
            "queues": list(queue_names),
            "limit": limit,
            "start_within": start_within,
        }

        async def take(tx: Transaction) -> list[Claim]:
            return claims_of(await (await tx.execute(statement, given)).fetchall(), worker_id)

        return await self._database.run(take)

    async def wait(self, queue_names: Sequence[str], timeout: timedelta) -> frozenset[str]:
        """As the port says."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout.total_seconds()
        with self._bell.listen(*(f"queue:{name}" for name in queue_names)) as ear:
            while True:
                # What rang between the last claim and now was not heard.
                ready = await self._see_ready(queue_names)
                left = timedelta(seconds=deadline - clock.time())
                if ready or left <= timedelta():
                    return ready
                await ear.wait(min(left, self._look_every))

    async def _see_ready(self, queue_names: Sequence[str]) -> frozenset[str]:
        rows = await self._database.read(_SEE_READY, {"queues": list(queue_names)})
        return frozenset(row["name"] for row in rows)
