"""The bodies that come in, and the documented form of those that go out.

What comes in is validated by these models. What goes out is written by `reactorcide.api.answers`; the
models here describe it in the published schema, which the tests hold the answers against.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from reactorcide.api.inputs import Input
from reactorcide.domain.accounts import Role, TokenKind
from reactorcide.domain.jobs import JobResources
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest


def _parse_time(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be a time as text, as in 2030-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be an RFC 3339 time, as in 2030-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("must name its time zone, as in 2030-01-31T12:00:00Z")
    return moment


Time = Annotated[datetime, BeforeValidator(_parse_time)]
# These bounds are for the readers of the schema; the rule itself is the domain's, which speaks for it.
_PATH: dict[str, Any] = {"maxLength": 4096}
Variables = dict[str, str]


def optional(*, alias: Any = None, **schema: Any) -> Any:
    """Declare a field that may be left out, but not be null."""
    return Field(default=None, alias=alias, json_schema_extra=schema or None)


class ResourcesBody(Input):
    """Limits a job asks for; what is left out is the worker's default."""

    cpu: float = optional(minimum=0.01, maximum=1_024)
    memory_mb: int = optional(minimum=16, maximum=16_777_216)
    pids: int = optional(minimum=4, maximum=1_048_576)


class SubmitJobBody(Input):
    """A job to run."""

    name: str = Field(json_schema_extra={"minLength": 1, "maxLength": 255})
    source_type: Literal["git", "copy", "none", "tree"]
    job_command: str = Field(
        description="Run byte for byte by `/bin/sh -c`; at most 64 KiB.", json_schema_extra={"minLength": 1}
    )
    description: str = optional(maxLength=4096)
    git_url: str = optional(maxLength=2048)
    git_ref: str = optional(maxLength=255)
    source_path: str = optional(**_PATH)
    source_tree: str = optional(pattern="^[0-9a-f]{64}$")
    source_commit: str = optional(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")
    source_changes: int = optional(minimum=0, maximum=2_147_483_647)
    code_dir: str = optional(**_PATH)
    job_dir: str = optional(**_PATH)
    runner_image: str = optional(maxLength=512)
    job_env_vars: Variables = optional(maxProperties=1_000)
    job_secrets: Variables = optional(maxProperties=1_000)
    job_env_file: str = optional(**_PATH)
    timeout_seconds: int = optional(minimum=1, maximum=604_800)
    queue_timeout_seconds: int = optional(minimum=1, maximum=2_592_000)
    silence_timeout_seconds: int = optional(minimum=1, maximum=604_800)
    priority: int = optional(minimum=-1_000, maximum=1_000)
    queue_name: str = optional(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")
    retry_on_lost: int = optional(minimum=0, maximum=10)
    artifacts: list[str] = optional(maxItems=100)
    resources: ResourcesBody = optional()
    network: Literal["default", "none"] = optional()
    labels: Variables = optional(maxProperties=64)

    def request(self) -> JobRequest:
        """Return the submission, with the domain's defaults for what was left out."""
        given = self.given()
        if "artifacts" in given:
            given["artifacts"] = tuple(self.artifacts)
        if "resources" in given:
            given["resources"] = JobResources(**self.resources.given())
        return JobRequest(**given)


class CreateTokenBody(Input):
    """A token to make."""

    name: str = Field(json_schema_extra={"minLength": 1, "maxLength": 255})
    expires_at: Time = optional()
    user_id: str = optional(format="uuid")
    kind: Literal["user", "worker"] = "user"


class CreateUserBody(Input):
    """A user to make."""

    username: str = Field(json_schema_extra={"minLength": 1, "maxLength": 255})
    email: str = optional(maxLength=320)
    roles: list[str] = Field(default_factory=lambda: [Role.USER.value], json_schema_extra={"minItems": 1})
    enabled: bool = True


class UpdateUserBody(Input):
    """What shall change of a user. An empty email takes it away."""

    username: str = optional(minLength=1, maxLength=255)
    email: str = optional(maxLength=320)
    roles: list[str] = optional(minItems=1)
    enabled: bool = optional()


class Answer(BaseModel):
    """The documented form of an answer; a field with a default is left out when it is unset."""

    model_config = ConfigDict(extra="forbid")


class ProblemBody(Answer):
    """An error (RFC 9457)."""

    class ListedFault(Answer):
        """One thing wrong with the input: a JSON pointer, `?name` of a query or `header name`."""

        pointer: str
        detail: str

    type: str
    title: str
    status: int
    detail: str
    instance: str = optional()
    error: str = Field(description="The code by which programs tell errors apart.")
    message: str
    errors: list[ListedFault] = optional()
    job_status: JobStatus = optional()
    request_id: str = optional()


class HealthBody(Answer):
    """Whether the API answers, and what it thinks of the token that was sent."""

    class Verification(Answer):
        """What became of the token."""

        verified: bool
        user_authenticated: bool
        user_id: str = optional()

    status: Literal["OK", "UNAVAILABLE"]
    verification: Verification


class ReadyBody(Answer):
    """Whether everything the API depends on is there."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, str]


class AliveBody(Answer):
    """The process answers."""

    status: Literal["alive"]


class JobBody(Answer):
    """A job. A secret's value is `[REDACTED]`."""

    class Limits(Answer):
        """Limits of an attempt; what is left out had none."""

        timeout_seconds: int
        network: Literal["default", "none"]
        memory_mb: int = optional()
        cpu: float = optional()
        pids: int = optional()

    job_id: str
    name: str
    description: str
    status: JobStatus
    source_type: Literal["git", "copy", "none", "tree"]
    code_dir: str
    job_dir: str
    job_command: str
    runner_image: str
    queue_name: str
    created_at: datetime
    updated_at: datetime
    timeout_seconds: int
    priority: int
    user_id: str
    git_url: str = optional()
    git_ref: str = optional()
    source_path: str = optional()
    source_tree: str = optional()
    source_commit: str = optional()
    source_changes: int = optional()
    job_env_vars: dict[str, str] = optional()
    job_secrets: dict[str, str] = optional()
    job_env_file: str = optional()
    queue_timeout_seconds: int = optional()
    silence_timeout_seconds: int = optional()
    retry_on_lost: int = optional()
    artifacts: list[str] = optional()
    resources: dict[str, float] = optional()
    network: Literal["default", "none"] = optional()
    labels: dict[str, str] = optional()
    queued_at: datetime = optional()
    started_at: datetime = optional()
    completed_at: datetime = optional()
    attempt: int = optional()
    exit_code: int = optional()
    signal: int = optional()
    reason: Reason = optional()
    fault: Fault = optional()
    message: str = optional()
    cancel_requested: bool = optional()
    resolved_sha: str = optional()
    worker: str = optional()
    corndogs_task_id: str = optional()
    retry_of: str = optional()
    logs_object_key: str = optional()
    artifacts_object_key: str = optional()
    log_size: int = optional()
    log_removed_at: datetime = optional(description="The log was there, and is kept no longer.")
    log_removed_why: Literal["age", "bytes", "lost"] = optional()
    artifacts_removed_at: datetime = optional(description="They were there, and are kept no longer.")
    artifacts_removed_why: Literal["age", "bytes", "lost"] = optional()
    isolation: str = optional(
        description="What the newest attempt ran in; `none`: its command never started."
    )
    image_digest: str = optional(description="Of the image that it ran in, where it ran in one.")
    limits: Limits = optional(description="What it had at most, with its host's defaults.")
    waiting: str = optional()


class JobListBody(Answer):
    """One page of jobs, newest first. With `cursor` there is no `total` and no `offset`."""

    jobs: list[JobBody]
    limit: int
    total: int = optional()
    offset: int = optional()
    next_cursor: str = optional()


class EventListBody(Answer):
    """Every transition of a job, oldest first."""

    class Event(Answer):
        """One transition; the submission has no `from`."""

        seq: int
        at: datetime
        from_status: JobStatus = optional(alias="from")
        to_status: JobStatus = Field(alias="to")
        attempt: int
        actor: str
        reason: Reason = optional()

    events: list[Event]


class LogLineBody(Answer):
    """One line of a log, or the part of it that came at one time."""

    timestamp: datetime
    stream: Literal["stdout", "stderr", "platform"]
    message: str


class TokenBody(Answer):
    """A token without its text."""

    token_id: str
    name: str
    kind: TokenKind
    user_id: str
    created_at: datetime
    updated_at: datetime
    is_active: bool
    expires_at: datetime = optional()
    last_used_at: datetime = optional()


class MintedTokenBody(Answer):
    """A new token; its text is shown only here."""

    token_id: str
    token: str
    name: str
    kind: TokenKind
    user_id: str
    created_at: datetime
    expires_at: datetime = optional()


class TokenListBody(Answer):
    """Tokens of one user."""

    tokens: list[TokenBody]
    total: int


class UserBody(Answer):
    """A user."""

    user_id: str
    username: str
    email: str = optional()
    roles: list[Role]
    enabled: bool
    created_at: datetime
    updated_at: datetime


class UserListBody(Answer):
    """Every user."""

    users: list[UserBody]
    total: int


class MeBody(UserBody):
    """Who the token belongs to, and what it opens."""

    token_id: str
    kind: TokenKind
    is_admin: bool


class QueueListBody(Answer):
    """The queues that hold work or have a worker."""

    class Tickets(Answer):
        """What the external queue service holds of a queue: tickets to be drawn, and drawn ones."""

        ready: int
        drawn: int

    class Queue(Answer):
        """A queue at this moment."""

        name: str
        ready: int
        running: int
        live_workers: int
        draining_workers: int
        full_workers: int
        oldest_wait_seconds: float = optional()
        tickets: "QueueListBody.Tickets" = optional()

    queues: list[Queue]
    queue_service: Literal["ok", "unreachable"] = optional()


class WorkerListBody(Answer):
    """The workers this coordinator knows."""

    class Worker(Answer):
        """A worker."""

        worker_id: str
        name: str
        queues: list[str]
        slots: int
        running: int
        last_seen_at: datetime
        version: str
        isolation: str
        draining: bool
        disk_full: bool
        spooled: int
        spool_bytes: int
        is_live: bool

    workers: list[Worker]
