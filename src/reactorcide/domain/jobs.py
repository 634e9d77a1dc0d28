"""A job, an attempt at it, and what is said of them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.removals import Loss
from reactorcide.domain.status import JobStatus

SourceType = Literal["git", "copy", "none", "tree"]
NetworkMode = Literal["default", "none"]
REDACTED = "[REDACTED]"


@dataclass(frozen=True)
class JobResources:
    """Limits a job asked for; None takes the worker's default."""

    cpu: float | None = None
    memory_mb: int | None = None
    pids: int | None = None


@dataclass(frozen=True)
class JobSpec:
    """What was submitted, with every default filled in; it never changes again.

    ``secrets`` holds the values in the clear and lives in memory only: `store` keeps them encrypted.
    """

    name: str
    source_type: SourceType
    job_command: str
    code_dir: str
    job_dir: str
    runner_image: str
    queue_name: str
    timeout_seconds: int
    queue_timeout_seconds: int
    description: str = ""
    git_url: str | None = field(default=None, repr=False)
    git_ref: str | None = None
    source_path: str | None = None
    source_tree: str | None = None
    """The name of a tree that the user uploaded (`reactorcide.domain.trees`)."""
    source_commit: str | None = None
    """The commit that the tree was made from, as its sender says."""
    source_changes: int | None = None
    """How many files of the tree differ from that commit."""
    job_env_vars: dict[str, str] = field(default_factory=dict, repr=False)
    job_secrets: dict[str, str] = field(default_factory=dict, repr=False)
    job_env_file: str | None = None
    silence_timeout_seconds: int | None = None
    priority: int = 0
    retry_on_lost: int = 0
    artifacts: tuple[str, ...] = ("**",)
    resources: JobResources = field(default_factory=JobResources)
    network: NetworkMode = "default"
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AttemptLimits:
    """What the job of an attempt had at most, with its host's defaults. None: no limit."""

    timeout_seconds: int
    network: NetworkMode
    memory_mb: int | None = None
    cpu: float | None = None
    pids: int | None = None


@dataclass(frozen=True)
class Job:
    """A job's row, as read. In ``spec``, secret values are `[REDACTED]`; nobody reads them back here."""

    job_id: str
    user_id: str
    spec: JobSpec
    status: JobStatus
    attempt: int
    runs: int
    max_runs: int
    desired: int
    created_at: datetime
    updated_at: datetime
    version: int
    """Rises with every change of the row; the `ETag`."""
    queued_at: datetime | None = None
    not_before: datetime | None = None
    started_at: datetime | None = None
    deadline_at: datetime | None = None
    completed_at: datetime | None = None
    worker: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: Reason | None = None
    fault: Fault | None = None
    message: str | None = None
    resolved_sha: str | None = None
    corndogs_task_id: str | None = None
    logs_object_key: str | None = None
    artifacts_object_key: str | None = None
    log_size: int | None = None
    log_loss: Loss | None = None
    """Set if the log of the newest attempt was removed before the job."""
    artifacts_loss: Loss | None = None
    retry_of: str | None = None
    isolation: str | None = None
    """What the newest attempt ran in; `none` if its command never started."""
    image_digest: str | None = None
    limits: AttemptLimits | None = None

    @property
    def cancel_requested(self) -> bool:
        """Whether someone asked for the end of a job that has not ended yet."""
        return self.desired > 0 and not self.status.is_final


@dataclass(frozen=True)
class JobEvent:
    """One transition of a job. ``from_status`` is None for the submission."""

    seq: int
    at: datetime
    from_status: JobStatus | None
    to_status: JobStatus
    attempt: int
    actor: str
    """`user:<id>`, `worker:<name>` or `system:<part>`."""
    reason: Reason | None


@dataclass(frozen=True)
class Claim:
    """The fencing pair of one attempt, with the job and the worker it belongs to."""

    job_id: str
    attempt: int
    lease_id: str
    worker_id: str


@dataclass(frozen=True)
class StartedAttempt:
    """What a worker gets when its claim has started: the frozen job, secrets in the clear."""

    claim: Claim
    spec: JobSpec
    deadline_seconds: float
    """From the answer, not by the clock: no rule compares clocks of two machines."""
    lease_seconds: float
    lease_left_seconds: float
    """Less than the whole lease when the start is repeated; a worker counts it from sending the call."""
    may_run_again: bool
    """`max_runs` allows another run, so this one must be dead soon after its lease (self-fencing)."""


@dataclass(frozen=True)
class HeartbeatOrder:
    """What the coordinator answers for one attempt a worker holds."""

    claim: Claim
    order: Literal["go_on", "cancel", "kill", "abandon"]
    """`abandon`: the attempt is no longer this worker's."""
    is_watched: bool = False
    """Somebody follows its log, which then is to come soon."""


SHORTEST_PAUSE_SECONDS = 0.1
"""Between two appends to a log of which little comes."""


@dataclass(frozen=True)
class AppendedLog:
    """What became of an append: the length stored now, and how long to gather bytes for the next one."""

    length: int
    pause_seconds: float = SHORTEST_PAUSE_SECONDS


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended, as its worker tells it."""

    status: JobStatus
    reason: Reason
    fault: Fault
    log_length: int
    log_sha256: bytes
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    resolved_sha: str | None = None
    isolation: str | None = None
    artifacts: int = 0
    """How many artifacts the worker will bring."""
    image_digest: str | None = None
    """`sha256:…` of the image that it ran in, where it ran in one."""
    limits: AttemptLimits | None = None
    """None if the command never started."""


@dataclass(frozen=True)
class LogPiece:
    """When and on which stream a run of log bytes came. Streams: stdout, stderr, platform."""

    at_milliseconds: int
    stream: Literal["o", "e", "p"]
    length: int
