"""The ready-queue port: how a job that is ready comes to a worker that asks.

A queue is a hint. Whatever it hands out, the guarded claim on the job's row decides.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from reactorcide.domain.jobs import Claim


@dataclass(frozen=True)
class Announcement:
    """A job that became ready."""

    job_id: str
    queue_name: str
    attempt_hint: int


@dataclass(frozen=True)
class Withdrawal:
    """A job that was announced and is ready no more; ``task_id`` as its row tells it."""

    job_id: str
    queue_name: str
    task_id: str | None


@dataclass(frozen=True)
class TicketCount:
    """Tickets of a queue at an external service: that may be drawn, and that somebody has drawn."""

    ready: int
    drawn: int


class TicketCounter(Protocol):
    """A queue that is kept beside the rows of jobs, so that the two sides may differ for a while."""

    async def count_tickets(self, queue_names: Collection[str]) -> Mapping[str, TicketCount]:
        """Return what the service holds of these queues.

        Raises:
            Unavailable: it cannot be reached.
        """


class ReadyQueue(Protocol):
    """Ready jobs in the order of priority (high first), then age.

    Every method may be called from many tasks of one event loop.
    """

    rows_are_the_queue: bool
    """The commit of a job's row is its announcement: such a job is `queued` from the beginning."""

    async def announce(self, jobs: Sequence[Announcement]) -> None:
        """Tell that jobs became ready; called after their commit.

        Losing an announcement costs time, never a job: a backend must find the job again by itself.
        Never raises for an unreachable queue.
        """

    async def withdraw(self, jobs: Sequence[Withdrawal]) -> None:
        """Tell that jobs ended before anybody claimed them; called after their commit.

        For tidiness alone: what stays behind in the queue is refused by the guarded claim. Never raises
        for an unreachable queue, and does not wait for it.
        """

    async def claim(
        self, worker_id: str, queue_names: Sequence[str], limit: int, *, start_within: timedelta
    ) -> list[Claim]:
        """Claim at most ``limit`` ready jobs of these queues for a worker, without waiting.

        Each returned claim is committed, with a new attempt number and lease that expires after
        ``start_within`` by the database's clock unless it is started. No two claims, whoever asks
        and however often, are for one attempt.

        Raises:
            Unavailable: the database or the queue cannot be reached; nothing was claimed.
        """

    async def wait(self, queue_names: Sequence[str], timeout: timedelta) -> frozenset[str]:
        """Wait until jobs of these queues may have become ready, and return of which queues.

        Empty: ``timeout`` passed first. May name a queue for nothing; returns about by ``timeout``.

        Raises:
            Unavailable: the database or the queue cannot be reached.
        """
