"""What worker and runner say to each other while an attempt runs: one JSON object a line.

Worker to runner, on standard input, after the spec: `Renewed` and `Stop`. End of file means the
worker is dead: the runner kills the sandbox and ends.
Runner to worker, on standard output: `PhaseEntered`, `SourceResolved`, `LogGrew`; they are hints.
The outcome is the file ``result.json`` (`RunResult`) in the spool directory, renamed into place
last, after log and index were synced. No result file after the runner ended means the runner
died: nobody knows how far the job came.

The spool directory holds ``log`` (the job's merged bytes, masked) and ``index`` (one line a piece:
``<milliseconds since epoch> <o|e|p> <length>``; stdout, stderr, platform), in log order.
"""

from typing import Literal

import msgspec


class Renewed(msgspec.Struct, frozen=True, tag_field="type", tag="renewed", forbid_unknown_fields=True):
    """The lease was renewed: the silence that fences is counted from ``age_seconds`` ago.

    That is when the renewal was sent; what the coordinator granted began no earlier.
    """

    age_seconds: float = 0.0


class Stop(msgspec.Struct, frozen=True, tag_field="type", tag="stop", forbid_unknown_fields=True):
    """End the job. ``cancel`` gives it the grace time after TERM, ``kill`` does not.

    ``abandon`` is a kill whose result nobody wants: the attempt is no longer ours.
    """

    how: Literal["cancel", "kill", "abandon"]


ControlMessage = Renewed | Stop


class PhaseEntered(msgspec.Struct, frozen=True, tag_field="type", tag="phase"):
    """The run came to this phase."""

    phase: Literal["workspace", "image", "source", "environment", "command", "cleanup"]


class SourceResolved(msgspec.Struct, frozen=True, tag_field="type", tag="source"):
    """The commit that was checked out, 40 or 64 hexadecimal digits."""

    sha: str


class LogGrew(msgspec.Struct, frozen=True, tag_field="type", tag="log"):
    """The log file is now this long; sent at most every few milliseconds."""

    length: int


RunnerEvent = PhaseEntered | SourceResolved | LogGrew


class EffectiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a job had at most, the host's own defaults included. None: no limit."""

    memory_mb: int | None
    cpu: float | None
    pids: int | None
    timeout_seconds: int
    network: Literal["default", "none"]


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended. A reader passes over what it does not know: a runner may be the newer one.

    ``status`` is ``cancelled`` only if the runner signalled the job because it was told to;
    ``timeout`` only if it killed the job for its run or silence limit. ``reason`` is from the
    closed list of `reactorcide.domain.reasons`; ``exit_code`` is the job's own, 128 + n for death
    by signal n, and absent if the command never started.
    """

    status: Literal["completed", "failed", "cancelled", "timeout"]
    reason: str
    fault: Literal["none", "user", "infra", "policy"]
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    resolved_sha: str | None = None
    log_length: int
    log_sha256: str
    isolation: str
    """What isolated the job, e.g. ``bubblewrap``, ``unsandboxed``, ``none`` if it never started."""
    image_digest: str | None = None
    """``sha256:…`` of the image that the job ran in, where it ran in one."""
    artifacts: int = 0
    """How many artifacts the spool holds; ``artifacts.json`` lists them (see `runnerlib.spec.artifacts`)."""
    limits: EffectiveLimits | None = None
    """Absent if the command never started."""


def encode_line(message: ControlMessage | RunnerEvent | RunResult) -> bytes:
    """Return ``message`` as one line of JSON, newline included."""
    return msgspec.json.encode(message) + b"\n"


def decode_control(line: bytes) -> ControlMessage:
    """Read a line of the worker. Raises ValueError for anything else."""
    message: ControlMessage = msgspec.json.decode(line, type=ControlMessage)
    return message


def decode_event(line: bytes) -> RunnerEvent:
    """Read a line of the runner. Raises ValueError for anything else."""
    event: RunnerEvent = msgspec.json.decode(line, type=RunnerEvent)
    return event


def decode_result(data: bytes) -> RunResult:
    """Read a result file. Raises ValueError for anything else."""
    return msgspec.json.decode(data, type=RunResult)
