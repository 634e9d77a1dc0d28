"""The overview: what queues and workers are at."""

from datetime import timedelta

from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import Forbidden
from reactorcide.store import outbox, workers
from reactorcide.store.database import Database
from reactorcide.store.outbox import OutboxBacklog
from reactorcide.store.workers import QueueRow as QueueOverview
from reactorcide.store.workers import WorkerRow as WorkerOverview

__all__ = ["OutboxBacklog", "Overview", "QueueOverview", "WorkerOverview"]


class Overview:
    """Counts of queues for every user, workers by name for admins.

    Args:
        heartbeat: between two heartbeats of a worker; tells which workers count as live.
    """

    def __init__(self, database: Database, *, heartbeat: timedelta = timedelta(seconds=10)) -> None:
        self._database = database
        self._heartbeat = heartbeat

    async def queues(self, caller: Principal) -> list[QueueOverview]:  # noqa: ARG002 - for every user alike
        """Return all queues that have jobs or workers."""
        async with self._database.transaction() as tx:
            return await workers.list_queues(tx, heartbeat=self._heartbeat)

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
