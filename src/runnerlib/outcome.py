"""How an attempt ended, in the closed words of the wire: pure, from what was seen.

The order matters: what we did to the job comes before how it then ended, and what the host could
not do comes before what the job did.
"""

import signal
from dataclasses import dataclass
from typing import Literal

from runnerlib.executors.port import JobEnd
from runnerlib.guardian import Verdict

Status = Literal["completed", "failed", "cancelled", "timeout"]
Fault = Literal["none", "user", "infra", "policy"]


@dataclass(frozen=True)
class Outcome:
    """Status, reason and fault, with what a person should read beside them."""

    status: Status
    reason: str
    fault: Fault
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None


_VERDICTS: dict[Verdict, tuple[Status, str, Fault, str | None]] = {
    Verdict.CANCELLED: ("cancelled", "cancelled_user", "none", None),
    Verdict.KILLED: ("cancelled", "cancelled_user", "none", None),
    Verdict.ABANDONED: ("failed", "worker_lost", "infra", "the attempt is no longer this worker's"),
    Verdict.TIMED_OUT: ("timeout", "timeout_run", "user", "the job ran for longer than it may"),
    Verdict.SILENT: ("timeout", "timeout_silent", "user", "the job was silent for longer than it may be"),
    Verdict.OUT_OF_MEMORY: ("failed", "oom_killed", "user", "the job used more memory than it may"),
    Verdict.WORKSPACE_FULL: ("failed", "output_limit", "user", "the job wrote more files than it may"),
    Verdict.LOG_BROKEN: ("failed", "worker_disk", "infra", "the log cannot be written on this worker"),
    Verdict.WORKER_DIED: ("failed", "worker_lost", "infra", "the worker died, so the job was killed"),
    Verdict.WORKER_SILENT: (
        "failed",
        "worker_lost",
        "infra",
        "the worker could not renew its lease in time, so the job was killed",
    ),
}


def outcome_of_verdict(verdict: Verdict, end: JobEnd | None = None, *, detail: str | None = None) -> Outcome:
    """Return how an attempt ended that we ended; ``end`` is absent if the command had not started."""
    status, reason, fault, message = _VERDICTS[verdict]
    if detail is not None:
        message = f"{message}: {detail}" if message else detail
    if end is None:
        return Outcome(status, reason, fault, message)
    if verdict is Verdict.OUT_OF_MEMORY:
        return Outcome(status, reason, fault, message, 128 + signal.SIGKILL, signal.SIGKILL)
    return Outcome(status, reason, fault, message, end.exit_code, end.signal)


def outcome_of_end(end: JobEnd) -> Outcome:
    """Return how a job ended by itself."""
    code = end.exit_code
    if code is None:
        return Outcome("failed", "sandbox_died", "infra", "the sandbox died before the job had ended")
    if code == 0:
        return Outcome("completed", "ok", "none", exit_code=0)
    if end.is_out_of_memory:
        text = "the job used more memory than it may"
        return Outcome("failed", "oom_killed", "user", text, code, end.signal)
    if end.signal is not None:
        text = f"the job was killed by {_name_of(end.signal)}"
        return Outcome("failed", "signalled", "user", text, code, end.signal)
    return Outcome("failed", "exit_nonzero", "user", f"the job ended with exit code {code}", code)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
