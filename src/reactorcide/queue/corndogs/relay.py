"""The relay: publishes what the rows owe to the queue (T2), beside every coordinator.

What is due is taken, sent and marked, a batch at a time, never within a request. A ticket that may have
been published although its answer was lost is published once more: the guarded claim lets one of the two
lead to a start, and the other is completed when it is drawn.
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.domain.retry import retry_delay
from reactorcide.queue.corndogs.errors import OutcomeUnknown, QueueUnavailable
from reactorcide.queue.corndogs.messages import CorndogsClient, NewTask, Task
from reactorcide.queue.corndogs.payload import write_payload
from reactorcide.queue.corndogs.ready_queue import RELAY_TOPIC, CorndogsQueue
from reactorcide.queue.corndogs.terms import BUSY_FOR, DRAWN, LOOK_AFTER, READY, QueueWatch
from reactorcide.queue.port import Withdrawal
from reactorcide.store import tickets
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.tickets import DueTicket, Published

_BATCH = 200
_AT_ONCE = 32
_LOOK_EVERY = timedelta(seconds=1)
_RETRY_BASE = timedelta(seconds=0.5)
_RETRY_CEILING = timedelta(seconds=3)
"""The queue is tried again so often at least: what waited for it starts soon after its return."""

log = structlog.get_logger()


class TicketRelay:
    """Publishes tickets, and looks after those that wait long. Any number of relays may run."""

    def __init__(
        self,
        client: CorndogsClient,
        queue: CorndogsQueue,
        database: Database,
        bell: Bell,
        *,
        watch: QueueWatch,
    ) -> None:
        self._client = client
        self._queue = queue
        self._database = database
        self._bell = bell
        self._watch = watch

    async def run(self) -> None:
        """Publish what becomes due, until cancelled."""
        failures = 0
        with self._bell.listen(RELAY_TOPIC) as ear:
            while True:
                try:
                    if failures:
                        # Before anything is taken, so that an outage costs the database nothing.
                        await self._client.ping()
                    while await self.run_round() == _BATCH:
                        pass
                    if failures:
                        log.info("queue.reached", failures=failures)
                    failures = 0
                except Unavailable as error:
                    failures += 1
                    if failures == 1:
                        detail = error.detail if isinstance(error, QueueUnavailable) else ""
                        log.warning("queue.unreachable", part=error.part, detail=detail)
                except Exception:
                    failures += 1
                    log.exception("relay.crashed")
                if failures:
                    delay = retry_delay(failures, base=_RETRY_BASE, ceiling=_RETRY_CEILING)
                    await asyncio.sleep(delay.total_seconds() * random.uniform(0.5, 1.0))
                else:
                    await ear.wait(_LOOK_EVERY)

    async def run_round(self) -> int:
        """Publish and look after at most one batch of what is due; return how many were.

        Raises:
            Unavailable: the database or the queue cannot be reached; what was not done is due at once.
        """
        due = await self._database.run(partial(tickets.take_due, limit=_BATCH, busy_for=BUSY_FOR))
        if not due:
            return 0
        limit = asyncio.Semaphore(_AT_ONCE)

        async def publish(ticket: DueTicket) -> Published | None:
            async with limit:
                return await self._publish(ticket)

        answers = await asyncio.gather(*map(publish, due), return_exceptions=True)
        published = [answer for answer in answers if isinstance(answer, Published)]
        waiting = [t.job_id for t, answer in zip(due, answers, strict=True) if answer is None]
        failed = [t.job_id for t, answer in zip(due, answers, strict=True) if isinstance(answer, Exception)]
        await self._mark(due, published)
        for job_ids, later in ((waiting, LOOK_AFTER), (failed, timedelta())):
            if job_ids:
                await self._database.run(partial(tickets.postpone, job_ids=job_ids, by=later))
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return len(due)

    async def _publish(self, due: DueTicket) -> Published | None:
        """Publish a job's ticket. None: it has one that lies in the queue."""
        if due.task_id is not None and await self._still_waits(due, due.task_id):
            return None
        task = NewTask(
            queue=due.queue_name,
            payload=write_payload(due),
            current_state=READY,
            auto_target_state=DRAWN,
            priority=due.priority,
        )
        try:
            submitted = await self._client.submit_task(task)
        except QueueUnavailable as error:
            result = "unknown" if isinstance(error, OutcomeUnknown) else "error"
            self._watch.task_submitted(due.queue_name, result)
            raise
        self._watch.task_submitted(due.queue_name, "ok")
        self._queue.clock.note(submitted.submit_time)
        return Published(due.job_id, due.attempt, submitted.uuid)

    async def _still_waits(self, due: DueTicket, task_id: str) -> bool:
        task = await self._client.find_task(task_id, due.queue_name)
        if task is not None and _comes_to_somebody(task):
            return True
        log.warning("ticket.lost", job_id=due.job_id, task_id=task_id, state=task and task.current_state)
        # Should it be there after all, in a state from which nobody takes it.
        await self._queue.withdraw([Withdrawal(due.job_id, due.queue_name, task_id)])
        return False

    async def _mark(self, due: Sequence[DueTicket], published: Sequence[Published]) -> None:
        if not published:
            return
        unneeded = await self._database.run(
            partial(tickets.mark_published, published=published, look_after=LOOK_AFTER)
        )
        queue_of = {ticket.job_id: ticket.queue_name for ticket in due}
        await self._queue.withdraw([Withdrawal(t.job_id, queue_of[t.job_id], t.task_id) for t in unneeded])
        self._bell.ring(
            *{f"queue:{queue_of[ticket.job_id]}" for ticket in published},
            *(f"job:{ticket.job_id}" for ticket in published),
        )


def _comes_to_somebody(task: Task) -> bool:
    """Tell whether a ticket lies ready, or is drawn for a time that ends."""
    return task.current_state == READY or (task.current_state == DRAWN and task.timeout > 0)
