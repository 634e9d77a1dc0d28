"""The worker protocol: what goes over HTTP between a worker and its coordinator.

Every call is a `POST` below `PATH`, with a worker's token. Bodies are JSON, but those of `log` and
`artifacts`, which are msgpack; `artifact` is a `PUT` of plain bytes whose call stands in the query.
A coordinator refuses a field it does not know; a worker passes over one, so that an answer may grow.
Jobs, claims, limits and registrations travel as the values of `reactorcide.domain` that they are: a change
of `StartedAttempt`, `JobSpec`, `AttemptLimits` or `Registration` is a change of the protocol.

A refusal is a problem (RFC 9457). What a worker acts on is its status, and its `cause`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.jobs import (
    SHORTEST_PAUSE_SECONDS,
    AttemptLimits,
    AttemptOutcome,
    Claim,
    HeartbeatOrder,
    StartedAttempt,
)
from reactorcide.domain.outcomes import MAX_MESSAGE_CHARACTERS
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.trees import MAX_FETCHED_BLOBS
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from reactorcide.protocol_values import (
    Answer,
    ClaimBody,
    Claims,
    Id,
    QueueName,
    Request,
    Size,
    Small,
    Text,
    Wait,
    Word,
)

OLDEST, NEWEST = 1, 2
"""The versions of the protocol that this program speaks, as worker and as coordinator.

2: `finish` tells `image_digest` and `limits`.
"""
PATH = "/api/v1/worker"
LOG_TYPE = "application/msgpack"
MAX_LOG_BODY_BYTES = 2 * 1024 * 1024
MAX_LOG_DATA_BYTES = 1024 * 1024
MAX_LOG_PIECES = 32_768
"""With these two a `log` body stays within its bound."""
MAX_SEAL_BODY_BYTES = 16 * 1024 * 1024
MAX_ARTIFACTS = 10_000

CLAIM_LOST = "claim_lost"
LOG_MISMATCH = "log_mismatch"
SUPERSEDED = "superseded"
OFFSET_GAP = "offset_gap"
WORKER_UNKNOWN = "worker_unknown"


class TurnBody(Request, frozen=True):
    """Asks for a turn, which a process does once, before it registers."""


class TurnAnswer(Answer, frozen=True):
    """A number above all that were answered before."""

    turn: int


class RegisterBody(Request, frozen=True):
    """Announces a worker process, and the attempts whose results its spool still holds."""

    protocols: tuple[int, int]
    """The oldest and the newest version of the protocol that the worker speaks."""
    turn: Size
    """What `turn` answered this process when it began."""
    name: Word
    boot_id: Id
    queues: Annotated[list[QueueName], Meta(min_length=1, max_length=100)]
    slots: Annotated[int, Meta(ge=1, le=1_000)]
    version: Word
    isolation: Word
    spooled: Claims = msgspec.field(default_factory=list)

    @classmethod
    def of(cls, identity: WorkerIdentity, turn: int, spooled: Sequence[Claim]) -> "RegisterBody":
        return cls(
            protocols=(OLDEST, NEWEST),
            turn=turn,
            name=identity.name,
            boot_id=identity.boot_id,
            queues=list(identity.queues),
            slots=identity.slots,
            version=identity.version,
            isolation=identity.isolation,
            spooled=[ClaimBody.of(claim) for claim in spooled],
        )

    @property
    def identity(self) -> WorkerIdentity:
        return WorkerIdentity(
            self.name, self.boot_id, tuple(self.queues), self.slots, self.version, self.isolation
        )


class RegisterAnswer(Answer, frozen=True):
    """Who the worker is, the times it has to keep, and the version of the protocol to speak."""

    protocol: int
    registration: Registration


class WorkerCall(Request, frozen=True):
    """What every other call names: the worker, and the process that speaks for it."""

    worker_id: Id
    boot_id: Id


class AttemptCall(WorkerCall, frozen=True):
    """A call about one attempt: `start` and `release`."""

    claim: ClaimBody

    @property
    def own_claim(self) -> Claim:
        return self.claim.by(self.worker_id)


class ClaimCall(WorkerCall, frozen=True):
    """Asks for work, for at most so many free slots."""

    free_slots: Annotated[int, Meta(ge=0, le=1_000)]
    wait_seconds: Wait


class ClaimAnswer(Answer, frozen=True):
    """The claims; none, if nothing came in time."""

    claims: list[ClaimBody]


class HeldReport(Request, frozen=True):
    """What a worker tells of itself with a heartbeat."""

    draining: bool
    has_room: bool
    spooled: Size
    spool_bytes: Size

    @classmethod
    def of(cls, report: WorkerReport) -> "HeldReport":
        return cls(report.draining, report.has_room, report.spooled, report.spool_bytes)

    @property
    def told(self) -> WorkerReport:
        return WorkerReport(self.draining, self.has_room, self.spooled, self.spool_bytes)


class HeartbeatCall(WorkerCall, frozen=True):
    """Renews the leases of all attempts that are held."""

    held: Claims
    report: HeldReport


class OrderEntry(Answer, frozen=True):
    """The order for one attempt."""

    claim: ClaimBody
    order: Literal["go_on", "cancel", "kill", "abandon"]
    is_watched: bool = False
    """Somebody follows its log. Coordinators of before did not tell."""

    @classmethod
    def of(cls, order: HeartbeatOrder) -> "OrderEntry":
        return cls(ClaimBody.of(order.claim), order.order, order.is_watched)


class HeartbeatAnswer(Answer, frozen=True):
    """One order for each attempt that was named."""

    orders: list[OrderEntry]


class OrdersCall(WorkerCall, frozen=True):
    """Waits until a heartbeat would bring something new."""

    wait_seconds: Wait


class OrdersAnswer(Answer, frozen=True):
    """Whether one would, or else time has passed."""

    is_news: bool


class Piece(Request, frozen=True, array_like=True, gc=False):
    """When and on which stream a run of log bytes came."""

    at_milliseconds: int
    stream: Literal["o", "e", "p"]
    length: int


class LogCall(AttemptCall, frozen=True):
    """Appends to the log of an attempt."""

    offset: Size
    pieces: Annotated[list[Piece], Meta(max_length=MAX_LOG_PIECES)]
    data: bytes


class LogAnswer(Answer, frozen=True):
    """The length that is stored now, and how long the worker may wait before it sends more."""

    length: int
    pause_seconds: float = SHORTEST_PAUSE_SECONDS
    """Coordinators of before did not tell."""


class OutcomeBody(Request, frozen=True):
    """How an attempt ended."""

    status: JobStatus
    reason: Reason
    fault: Fault
    log_length: Size
    log_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    message: Text | None = None
    exit_code: Small | None = None
    signal: Small | None = None
    resolved_sha: Id | None = None
    isolation: Word | None = None
    artifacts: Annotated[int, Meta(ge=0, le=MAX_ARTIFACTS)] = 0
    image_digest: Annotated[str, Meta(max_length=71)] | None = None
    limits: AttemptLimits | None = None

    @classmethod
    def of(cls, outcome: AttemptOutcome, spoken: int = NEWEST) -> "OutcomeBody":
        """Return ``outcome`` as it travels; of a message, what is no text stays behind.

        Args:
            spoken: the version of the protocol that the coordinator chose.
        """
        message = outcome.message
        if message is not None:
            message = message.replace("\0", "").encode(errors="replace").decode()[:MAX_MESSAGE_CHARACTERS]
        return cls(
            status=outcome.status,
            reason=outcome.reason,
            fault=outcome.fault,
            log_length=outcome.log_length,
            log_sha256=outcome.log_sha256.hex(),
            message=message,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            resolved_sha=outcome.resolved_sha,
            isolation=outcome.isolation,
            artifacts=outcome.artifacts,
            image_digest=outcome.image_digest if spoken >= 2 else None,
            limits=outcome.limits if spoken >= 2 else None,
        )

    @property
    def told(self) -> AttemptOutcome:
        return AttemptOutcome(
            status=self.status,
            reason=self.reason,
            fault=self.fault,
            log_length=self.log_length,
            log_sha256=bytes.fromhex(self.log_sha256),
            message=self.message,
            exit_code=self.exit_code,
            signal=self.signal,
            resolved_sha=self.resolved_sha,
            isolation=self.isolation,
            artifacts=self.artifacts,
            image_digest=self.image_digest,
            limits=self.limits,
        )


class FinishCall(AttemptCall, frozen=True):
    """Tells how an attempt ended."""

    outcome: OutcomeBody


class ArtifactCall(AttemptCall, frozen=True):
    """Brings a content; all of this stands in the query."""

    sha256: Id
    size: Size

    @property
    def query(self) -> dict[str, str]:
        claim = self.claim
        return {
            "worker_id": self.worker_id,
            "boot_id": self.boot_id,
            "job_id": claim.job_id,
            "attempt": str(claim.attempt),
            "lease_id": claim.lease_id,
            "sha256": self.sha256,
            "size": str(self.size),
        }


class ArtifactEntry(Request, frozen=True, array_like=True):
    """One artifact of a list."""

    path: Annotated[str, Meta(max_length=1_024)]
    size: Size
    sha256: Id
    content_type: Annotated[str, Meta(max_length=255)]

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactEntry":
        return cls(artifact.path, artifact.size_bytes, artifact.sha256, artifact.content_type)

    @property
    def told(self) -> Artifact:
        return Artifact(self.path, self.size, self.sha256, self.content_type)


class SealCall(AttemptCall, frozen=True):
    """Lists every artifact of an attempt."""

    artifacts: Annotated[list[ArtifactEntry], Meta(max_length=MAX_ARTIFACTS)]


class SealAnswer(Answer, frozen=True):
    """The digests of what has still to be brought; none: the list is taken."""

    missing: list[str]


class TreeCall(AttemptCall, frozen=True):
    """Asks for contents of the tree that the attempt's job has for its source; they come as a pack."""

    blobs: Annotated[list[Id], Meta(min_length=1, max_length=MAX_FETCHED_BLOBS)]
    """By their SHA-256 in hexadecimal."""


class Problem(Answer, frozen=True):
    """What of a refusal a worker reads."""

    message: str = ""
    cause: str | None = None
    length: int | None = None
    errors: list[dict[str, str]] = msgspec.field(default_factory=list)


CALLS = (
    *(
        TurnBody,
        RegisterBody,
        AttemptCall,
        ClaimCall,
        HeartbeatCall,
        OrdersCall,
        LogCall,
        FinishCall,
        SealCall,
        TreeCall,
    ),
    WorkerCall,
)
ANSWERS = (RegisterAnswer, ClaimAnswer, HeartbeatAnswer, OrdersAnswer, LogAnswer, SealAnswer, StartedAttempt)


def schemas(ref_template: str) -> dict[str, Any]:
    """Return the JSON schemas of all calls and answers by name."""
    _, found = msgspec.json.schema_components((*CALLS, *ANSWERS), ref_template=ref_template)
    return found
