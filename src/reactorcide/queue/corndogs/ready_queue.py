"""The ready queue on Corndogs: a ticket is drawn, the guarded claim decides, the ticket is completed.

A ticket is a hint. One whose job is not ready any more is completed as well; one whose job is not ready
yet, or unknown yet, comes again. Whoever dies in between leaves a drawn ticket, which the sweep returns.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.queue.corndogs.errands import Errands
from reactorcide.queue.corndogs.errors import QueueUnavailable, UnknownOperation
from reactorcide.queue.corndogs.messages import CorndogsClient, Delivery, Override, Task, TaskUpdate
from reactorcide.queue.corndogs.payload import read_job_id
from reactorcide.queue.corndogs.service_clock import ServiceClock
from reactorcide.queue.corndogs.terms import (
    DRAW_SECONDS,
    DRAWN,
    READY,
    RETURN_SECONDS,
    QueueWatch,
)
from reactorcide.queue.port import Announcement, TicketCount, Withdrawal
from reactorcide.store import claims, tickets
from reactorcide.store.bell import Bell
from reactorcide.store.claims import Refusal, Ticket
from reactorcide.store.database import Database, Transaction

RELAY_TOPIC = "tickets"
"""Rings when tickets are due to be published."""
_EXTRA_DRAWS = 200
"""So many tickets that lead to nothing are cleared away by one claim, at most."""
_UNKNOWN_FOR = timedelta(minutes=10)
"""A ticket of a job that nobody knows is completed so long after it was published."""
_CLOSE_SECONDS = 3.0

log = structlog.get_logger()


@dataclass(frozen=True)
class _Drawn:
    """A ticket that we hold, and the job that it names; None: it names none."""

    delivery: Delivery
    job_id: str | None

    @property
    def task(self) -> Task:
        return self.delivery.task


class CorndogsQueue:
    """Ready jobs by tickets of a Corndogs service.

    Tickets are published by the `TicketRelay` of any coordinator, which an announcement only wakes.

    Args:
        look_every: the longest wait without looking for ready jobs that have tickets.
    """

    rows_are_the_queue = False

    def __init__(
        self,
        client: CorndogsClient,
        database: Database,
        bell: Bell,
        *,
        watch: QueueWatch,
        look_every: timedelta = timedelta(seconds=2),
    ) -> None:
        self._client = client
        self._database = database
        self._bell = bell
        self._watch = watch
        self._look_every = look_every
        self._errands = Errands()
        self.clock = ServiceClock()
        self._has_plenty = False

    async def announce(self, jobs: Sequence[Announcement]) -> None:
        """Wake the relays: what is to be announced they read from the rows."""
        if jobs:
            self._bell.ring(RELAY_TOPIC)

    async def withdraw(self, jobs: Sequence[Withdrawal]) -> None:
        """Cancel the tickets of these jobs, soon."""
        for job in jobs:
            if job.task_id is not None:
                self._errands.send(partial(self._client.cancel_task, job.task_id, job.queue_name, READY))

    async def claim(
        self, worker_id: str, queue_names: Sequence[str], limit: int, *, start_within: timedelta
    ) -> list[Claim]:
        """As the port says."""
        if not queue_names or limit < 1:
            return []
        queues = list(dict.fromkeys(queue_names))
        claimed: list[Claim] = []
        wanted, drawn_in_all = limit if self._has_plenty else 1, 0
        while len(claimed) < limit and drawn_in_all < limit + _EXTRA_DRAWS:
            wanted = min(wanted, limit - len(claimed))
            try:
                drawn = await self._draw(queues, wanted)
                claimed += await self._take(worker_id, drawn, start_within)
            except Unavailable as error:
                if not claimed:
                    raise
                log.info("claim.cut_short", part=error.part, claims=len(claimed))
                break
            self._has_plenty = len(drawn) == wanted
            if not self._has_plenty:
                break
            drawn_in_all += len(drawn)
            # Where there was one there may be more, but each call for nothing costs the service a write.
            wanted *= 2
        return claimed

    async def wait(self, queue_names: Sequence[str], timeout: timedelta) -> frozenset[str]:
        """As the port says. The rows tell, which costs the service nothing."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout.total_seconds()
        with self._bell.listen(*(f"queue:{name}" for name in queue_names)) as ear:
            while True:
                ready = await tickets.see_ready(self._database, queue_names)
                left = timedelta(seconds=deadline - clock.time())
                if ready or left <= timedelta():
                    return ready
                await ear.wait(min(left, self._look_every))

    async def count_tickets(self, queue_names: Collection[str]) -> Mapping[str, TicketCount]:
        """As `TicketCounter` says."""
        try:
            counts = await asyncio.gather(*map(self._client.count_states, queue_names))
        except UnknownOperation:
            return {}
        return {
            counted.queue: TicketCount(counted.states.get(READY, 0), counted.states.get(DRAWN, 0))
            for counted in counts
        }

    async def close(self) -> None:
        """Let what tidies up come to its end, within a bound, and hang up."""
        await self._errands.close(_CLOSE_SECONDS)
        await self._client.close()

    async def _draw(self, queues: Sequence[str], limit: int) -> list[_Drawn]:
        """Draw at most ``limit`` tickets, the best there are. Raises QueueUnavailable if none could be."""
        asked: list[Sequence[str]]
        if len(queues) == 1 or await self._client.has_groups():
            asked = [queues] * limit
        else:
            # The service cannot compare queues; the rows can.
            ranked = await self._database.run(partial(tickets.rank_queues, queue_names=queues, limit=limit))
            asked = [[name] for name in ranked]
        override = Override(timeout=DRAW_SECONDS, current_state=DRAWN, auto_target_state=READY)
        answers = await asyncio.gather(
            *(self._client.claim_task(names, READY, override) for names in asked), return_exceptions=True
        )
        return self._sort_answers(asked, answers)

    def _sort_answers(
        self, asked: Sequence[Sequence[str]], answers: Sequence[Delivery | BaseException | None]
    ) -> list[_Drawn]:
        drawn: list[_Drawn] = []
        failures: list[BaseException] = []
        for names, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Delivery):
                self._watch.task_polled(answer.task.queue, "task")
                self.clock.note(answer.task.update_time)
                drawn.append(_Drawn(answer, read_job_id(answer.payload)))
                continue
            for name in names:
                self._watch.task_polled(name, "empty" if answer is None else "error")
            if answer is not None:
                failures.append(answer)
        for failure in failures:
            if not isinstance(failure, QueueUnavailable) or not drawn:
                self._give_back(drawn)
                raise failure
        return drawn

    async def _take(self, worker_id: str, drawn: Sequence[_Drawn], start_within: timedelta) -> list[Claim]:
        """Claim the jobs of tickets (T3), and let each ticket go where its verdict says."""
        named = [Ticket(d.job_id, d.task.uuid) for d in drawn if d.job_id is not None]
        taken: list[Claim] = []
        refusals: dict[str, Refusal] = {}

        async def take(tx: Transaction) -> tuple[list[Claim], dict[str, Refusal]]:
            return await claims.claim_named(tx, worker_id, named, start_within=start_within)

        if named:
            try:
                taken, refusals = await self._database.run(take)
            except BaseException:
                self._give_back(drawn)
                raise
        for ticket in drawn:
            if ticket.job_id is None:
                log.warning("ticket.unreadable", task_id=ticket.task.uuid, queue=ticket.task.queue)
            refusal = refusals.get(ticket.job_id) if ticket.job_id is not None else None
            if refusal is Refusal.EARLY or (refusal is Refusal.MISSING and _is_young(ticket.task)):
                self._errands.send(partial(self._return_soon, ticket))
            else:
                task = ticket.task
                self._errands.send(partial(self._client.complete_task, task.uuid, task.queue, DRAWN))
        return taken

    def _give_back(self, drawn: Sequence[_Drawn]) -> None:
        """Let tickets lie ready again at once: whether their jobs were claimed is not known."""
        for ticket in drawn:
            self._errands.send(partial(self._put_back, ticket))

    async def _put_back(self, ticket: _Drawn) -> None:
        await self._client.update_task(_moved(ticket, READY, DRAWN, timeout=0))

    async def _return_soon(self, ticket: _Drawn) -> None:
        await self._client.update_task(_moved(ticket, DRAWN, READY, timeout=RETURN_SECONDS))


def _moved(ticket: _Drawn, state: str, target: str, *, timeout: int) -> TaskUpdate:
    """Return the update that changes states and timeout and nothing else."""
    return TaskUpdate(
        uuid=ticket.task.uuid,
        queue=ticket.task.queue,
        new_state=state,
        auto_target_state=target,
        timeout=timeout,
        priority=ticket.task.priority,
        # Servers differ in what a missing payload does.
        payload=ticket.delivery.payload or None,
    )


def _is_young(task: Task) -> bool:
    """Tell whether the commit of a ticket's job may yet be under way; by the server's own clock."""
    return task.update_time - task.submit_time < _UNKNOWN_FOR.total_seconds() * 1e9
