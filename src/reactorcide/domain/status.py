"""The life of a job: its statuses, and the one table of how it may go from one to the next."""

from enum import StrEnum


class JobStatus(StrEnum):
    """The public status of a job. "Cancelling" is not one: it is `running` with `desired` above 0."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_final(self) -> bool:
        """Whether a job of this status can never change again."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # To failed or timeout before a start: a claim that never starts, a wait that is too long.
    JobStatus.SUBMITTED: frozenset(
        {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.TIMEOUT}
    ),
    JobStatus.QUEUED: frozenset(
        {JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.TIMEOUT}
    ),
    # Back to queued: the worker was lost, and the job asked to be run again.
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.QUEUED,
            JobStatus.COMPLETED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
            JobStatus.TIMEOUT,
        }
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.TIMEOUT: frozenset(),
}
"""Every legal edge; section D.2 of the robustness programme."""

READY = frozenset({JobStatus.SUBMITTED, JobStatus.QUEUED})
"""Statuses of a job that has not started (or is to start again)."""

FINAL = frozenset(status for status in JobStatus if status.is_final)
"""Statuses that never change again."""


class Desired:
    """What the owner wants of a job, as kept in its row; a stronger wish overrides a weaker one."""

    RUN = 0
    CANCEL = 1
    KILL = 2


def sources_of(target: JobStatus) -> list[str]:
    """Return, sorted, the statuses from which a job may become ``target``: the guard of an UPDATE."""
    return sorted(source.value for source, targets in TRANSITIONS.items() if target in targets)
