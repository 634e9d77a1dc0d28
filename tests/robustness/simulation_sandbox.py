"""A sandbox of the simulation: a job that runs, its runner and its guardian, and what they leave behind."""

import hashlib
from dataclasses import dataclass, replace

from job_desk import outcome
from reactorcide.domain.jobs import AttemptOutcome, Claim, StartedAttempt
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from robustness.simulation_coordinator import TIMING
from robustness.simulation_ledger import Execution, Ledger
from robustness.simulation_world import World

LOST = outcome(JobStatus.FAILED, Reason.WORKER_LOST, exit_code=None)
CANCELLED = outcome(JobStatus.CANCELLED, Reason.CANCELLED_USER, exit_code=None)
TIMED_OUT = outcome(JobStatus.TIMEOUT, Reason.TIMEOUT_RUN, exit_code=None)
_LEASE = TIMING.lease.total_seconds()
_GRACE = TIMING.cancel_grace.total_seconds()


@dataclass
class SpoolEntry:
    """What one attempt leaves on its host."""

    claim: Claim
    result: AttemptOutcome | None = None
    sent: int = 0
    """Log bytes that this process of the worker has sent."""


class Sandbox:
    """A job that runs, its runner and its guardian."""

    def __init__(
        self,
        world: World,
        ledger: Ledger,
        started: StartedAttempt,
        entry: SpoolEntry,
        renewed_at: float,
    ) -> None:
        self.is_alive = True
        self.entry = entry
        self._world = world
        self._ledger = ledger
        self._renewed_at = renewed_at
        # As `worker.attempt` composes it.
        self._fence = 0.7 * _LEASE if started.may_run_again else 4 * TIMING.lost_after.total_seconds()
        self._execution: Execution | None = None
        self._log = ledger.logs[entry.claim]
        if self._world.now >= self._fence_end:
            # Silent for too long already: the job is not begun at all.
            self._end(LOST, None)
            return
        self._execution = ledger.begin(entry.claim, may_run_again=started.may_run_again)
        seconds, code = _plan(started)
        self._world.after(self._fence_end - self._world.now, self._look_at_fence)
        self._world.after(started.deadline_seconds, lambda: self.stop(TIMED_OUT))
        self._world.after(seconds, lambda: self._exit(code))
        self._write()

    @property
    def _fence_end(self) -> float:
        return self._renewed_at + self._fence

    def renew(self, sent_at: float) -> None:
        self._renewed_at = max(self._renewed_at, sent_at)

    def kill(self, result: AttemptOutcome) -> None:
        if self.is_alive:
            self._end(result, None)

    def stop(self, result: AttemptOutcome) -> None:
        """TERM, and KILL after the grace time."""
        if self.is_alive:
            self._world.after(self._world.random.uniform(0.0, _GRACE), lambda: self.kill(result))

    def _look_at_fence(self) -> None:
        left = self._fence_end - self._world.now
        if not self.is_alive:
            return
        if left <= 0:
            self._world.note(self.entry.claim.job_id, "the guardian finds its worker silent")
            self.kill(LOST)
        else:
            self._world.after(left, self._look_at_fence)

    def _exit(self, code: int) -> None:
        if self.is_alive:
            told = outcome() if code == 0 else outcome(JobStatus.FAILED, Reason.EXIT_NONZERO, exit_code=code)
            self._end(told, code)

    def _end(self, result: AttemptOutcome, code: int | None) -> None:
        self.is_alive = False
        digest = hashlib.sha256(self._log).digest()
        self.entry.result = replace(result, log_length=len(self._log), log_sha256=digest)
        if self._execution is not None:
            self._ledger.end(self._execution, code)

    def _write(self) -> None:
        if self.is_alive:
            size = self._world.random.randint(1, 60)
            self._log += self._world.random.randbytes(size)
            self._world.after(self._world.random.uniform(0.3, 4.0), self._write)


def _plan(started: StartedAttempt) -> tuple[float, int]:
    """Return how long the job runs by itself, and its exit code."""
    seconds, code = started.spec.job_command.split()
    return float(seconds), int(code)
