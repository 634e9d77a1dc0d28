"""What the coordinator answers, as typed values: the fields the commands show, and the whole as it came.

Read leniently: a field this version does not know stays in ``raw``, so that a newer coordinator is
no fault.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec

from reactorcide.cli.errors import AnswerNotUnderstood, ExitCode
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import FINAL, JobStatus

JsonObject = dict[str, object]
T = TypeVar("T")


@dataclass(frozen=True)
class LimitsAnswer:
    """What an attempt had at most; None: no limit."""

    timeout_seconds: int
    network: str
    memory_mb: int | None = None
    cpu: float | None = None
    pids: int | None = None


def describe_limits(limits: LimitsAnswer) -> str:
    """Return limits in words."""
    known = (
        (limits.memory_mb, "MB of memory"),
        (limits.cpu, "cores"),
        (limits.pids, "processes"),
        (limits.timeout_seconds, "s"),
    )
    told = [f"{value:g} {unit}" for value, unit in known if value is not None]
    return ", ".join([*told, *(["no network"] if limits.network == "none" else [])])


@dataclass(frozen=True)
class JobAnswer:
    """A job."""

    job_id: str
    name: str
    status: str
    queue_name: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    fault: str | None = None
    message: str | None = None
    waiting: str | None = None
    """Why a ready job does not run yet."""
    attempt: int = 0
    isolation: str | None = None
    """What the newest attempt ran in; `none` if its command never started."""
    image_digest: str | None = None
    limits: "LimitsAnswer | None" = None
    raw: JsonObject = field(default_factory=dict)
    etag: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.status in FINAL

    @property
    def is_ready(self) -> bool:
        """Whether the job still waits for a worker."""
        return self.status in (JobStatus.SUBMITTED, JobStatus.QUEUED)

    @property
    def seconds(self) -> float | None:
        """How long it ran; None as long as it did not start or did not end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return max((self.completed_at - self.started_at).total_seconds(), 0.0)


def exit_code_of(job: JobAnswer) -> int:
    """Return the exit code that stands for the end of ``job``: its own wherever it has one."""
    match job.status:
        case JobStatus.COMPLETED:
            return job.exit_code or ExitCode.OK
        case JobStatus.TIMEOUT:
            return ExitCode.JOB_TIMED_OUT
        case JobStatus.CANCELLED:
            return ExitCode.INTERRUPTED
    if job.reason == Reason.WORKER_LOST:
        return ExitCode.JOB_LOST
    if job.exit_code and 0 < job.exit_code < 256:
        return job.exit_code
    if job.signal and 0 < job.signal < 128:
        return 128 + job.signal
    return ExitCode.JOB_FAILED


@dataclass(frozen=True)
class JobList:
    """One page of jobs, newest first."""

    jobs: list[JobAnswer]
    total: int | None = None
    next_cursor: str | None = None
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class EventAnswer:
    """One transition of a job."""

    seq: int
    at: datetime
    to_status: str
    attempt: int
    actor: str
    from_status: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class EventList:
    """The transitions of a job, oldest first."""

    events: list[EventAnswer]
    raw: object


@dataclass(frozen=True)
class ArtifactAnswer:
    """A file that a job left behind."""

    path: str
    size: int
    sha256: str
    content_type: str = ""
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class ArtifactList:
    """The artifacts of a job, by path; ``complete``: no more will come."""

    artifacts: list[ArtifactAnswer]
    complete: bool
    removed_at: datetime | None = None
    """They were there, and are kept no longer."""
    removed_why: str | None = None
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class TreeLimitsAnswer:
    """How large a tree may be."""

    tree_bytes: int


@dataclass(frozen=True)
class MissingAnswer:
    """Contents of a tree that have still to be brought, by their SHA-256."""

    missing: list[str]
    limits: TreeLimitsAnswer


@dataclass(frozen=True)
class ExplanationAnswer:
    """What a job does or why it ended, in a sentence; the facts are in ``raw``."""

    why: str
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class TokenAnswer:
    """A token; ``token``, its text, only in the answer that created it."""

    token_id: str
    name: str
    kind: str = "user"
    user_id: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    is_active: bool = True
    token: str | None = field(default=None, repr=False)
    raw: JsonObject = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class TokenList:
    """Tokens without their texts."""

    tokens: list[TokenAnswer]
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class UserAnswer:
    """An account."""

    user_id: str
    username: str = ""
    email: str | None = None
    roles: list[str] = field(default_factory=list)
    enabled: bool = True
    created_at: datetime | None = None
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class UserList:
    """Accounts."""

    users: list[UserAnswer]
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class TicketAnswer:
    """What the external queue service holds of a queue."""

    ready: int = 0
    drawn: int = 0


@dataclass(frozen=True)
class QueueAnswer:
    """A queue at this moment."""

    name: str
    ready: int = 0
    running: int = 0
    oldest_wait_seconds: float | None = None
    live_workers: int = 0
    draining_workers: int = 0
    full_workers: int = 0
    tickets: TicketAnswer | None = None


@dataclass(frozen=True)
class QueueList:
    """The queues; ``queue_service`` is None where the rows of jobs are the queue."""

    queues: list[QueueAnswer]
    queue_service: str | None = None
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerAnswer:
    """A worker as the coordinator knows it."""

    name: str
    worker_id: str = ""
    queues: list[str] = field(default_factory=list)
    slots: int = 0
    running: int = 0
    last_seen_at: datetime | None = None
    version: str = ""
    isolation: str = ""
    draining: bool = False
    disk_full: bool = False
    spooled: int = 0
    spool_bytes: int = 0
    is_live: bool = True


@dataclass(frozen=True)
class WorkerList:
    """The workers."""

    workers: list[WorkerAnswer]
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class MeAnswer:
    """Who the token belongs to, and what it opens."""

    user: UserAnswer
    token_id: str | None
    kind: str
    is_admin: bool
    raw: JsonObject


def read_answer(kind: type[T], told: object) -> T:
    """Return ``told`` as ``kind``, with the whole of it in ``raw``.

    Raises:
        AnswerNotUnderstood: it is not of that form.
    """
    try:
        return msgspec.convert(_keep_raw(told), kind)
    except msgspec.ValidationError as error:
        raise AnswerNotUnderstood(f"the coordinator's answer is not understood: {error}") from error


def read_me(told: object) -> MeAnswer:
    """Return the caller in ``told``: a user, and beside it the facts of the token."""
    user = read_answer(UserAnswer, told)
    raw = user.raw
    token_id = raw.get("token_id")
    return MeAnswer(
        user,
        str(token_id) if token_id else None,
        str(raw.get("kind", "user")),
        raw.get("is_admin") is True,
        raw,
    )


def read_events(told: object) -> EventList:
    """Return the transitions in ``told``, which names their statuses `from` and `to`."""
    entries = told.get("events") if isinstance(told, dict) else told
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AnswerNotUnderstood("the coordinator's answer is not understood: it has no list of events")
    renamed = [entry | {"from_status": entry.get("from"), "to_status": entry.get("to")} for entry in entries]
    return EventList([read_answer(EventAnswer, entry) for entry in renamed], told)


def _keep_raw(told: object) -> object:
    """Put each object under its own key `raw`: the objects of a list keep theirs too."""
    if not isinstance(told, dict):
        return told
    whole = cast(dict[str, Any], told)
    kept = {
        name: [_keep_raw(entry) for entry in value] if isinstance(value, list) else value
        for name, value in whole.items()
        if name != "etag"
    }
    return kept | {"raw": whole}
