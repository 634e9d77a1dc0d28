"""The overview: what queues and workers are at."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import Forbidden
from reactorcide.queue.port import TicketCount, TicketCounter
from reactorcide.store import outbox, workers
from reactorcide.store.database import Database
from reactorcide.store.outbox import OutboxBacklog
from reactorcide.store.workers import QueueRow as QueueOverview
from reactorcide.store.workers import WorkerRow as WorkerOverview

__all__ = ["OutboxBacklog", "Overview", "QueueOverview", "TicketCount", "WorkerOverview"]


class Overview:
    """Counts of queues for every user, workers by name for admins.

    Args:
        heartbeat: between two heartbeats of a worker; tells which workers count as live.
        tickets: counts what an external queue holds; None: the rows of jobs are the queue.
    """

    def __init__(
        self,
        database: Database,
        *,
        heartbeat: timedelta = timedelta(seconds=10),
        tickets: TicketCounter | None = None,
    ) -> None:
        self._database = database
        self._tickets = tickets
        self._heartbeat = heartbeat

    async def queues(self, caller: Principal) -> list[QueueOverview]:  # noqa: ARG002 - for every user alike
        """Return all queues that have jobs or workers."""
        async with self._database.transaction() as tx:
            return await workers.list_queues(tx, heartbeat=self._heartbeat)

    async def tickets(self, queue_names: Collection[str]) -> Mapping[str, TicketCount] | None:
        """Return what an external queue holds, by name of the queue; None: there is no such thing.

        Raises:
            Unavailable: it cannot be reached.
        """
        return await self._tickets.count_tickets(queue_names) if self._tickets is not None else None

    async def workers(self, caller: Principal) -> list[WorkerOverview]:
        """Return all workers.

        Raises:
            Forbidden: the caller is no admin.
        """
        if not caller.is_admin:
            raise Forbidden("only an admin may see the workers")
        async with self._database.transaction() as tx:
            return await workers.list_workers(tx, heartbeat=self._heartbeat)

    async def outbox(self, caller: Principal) -> OutboxBacklog:
        """Return what the coordinator still owes outside the database.

        Raises:
            Forbidden: the caller is no admin.
        """
        if not caller.is_admin:
            raise Forbidden("only an admin may see the outbox")
        async with self._database.transaction() as tx:
            return await outbox.count_owed(tx)
