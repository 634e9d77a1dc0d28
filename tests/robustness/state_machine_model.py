"""The state machine as a model: sections D.2 and D.3 of the robustness programme in plain Python.

It predicts every answer and every row of the services. What the services may choose (ids, the jitter of a
retry, when within its time a log is sealed) the model is told afterwards.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from job_desk import TIMING
from job_laws import JobFacts
from reactorcide.domain.jobs import AttemptOutcome, Claim
from reactorcide.domain.reasons import Reason
from reactorcide.domain.retry import retry_delay
from reactorcide.domain.status import JobStatus

MAX_ATTEMPTS = 50
LEASE = TIMING.lease.total_seconds()
GRACE = TIMING.cancel_grace.total_seconds()
LOST = TIMING.lost_after.total_seconds()
START_DEADLINE = TIMING.start_deadline.total_seconds()
KEYS_KEPT = 24 * 3600.0
UNPROMISED, PROMISED = 600.0, 24 * 3600.0


@dataclass
class ModelAttempt:
    """One attempt; its lease is held while it has no end."""

    claim: Claim
    lease_until: float
    started: bool = False
    ended_at: float | None = None
    end_status: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    log: bytearray = field(default_factory=bytearray)
    final_length: int | None = None
    final_sha256: bytes | None = None
    is_sealed: bool = False

    def was_finished_so(self, claim: Claim, told: AttemptOutcome) -> bool:
        unasked = told.status == "cancelled" and (self.end_status, self.reason) == ("failed", "internal")
        return (
            claim == self.claim
            and self.exit_code == told.exit_code
            and (self.final_length, self.final_sha256) == (told.log_length, told.log_sha256)
            and (unasked or (self.end_status, self.reason) == (told.status, told.reason))
        )


@dataclass
class ModelJob:
    """One job."""

    job_id: str
    max_runs: int
    timeout: float
    queue_timeout: float
    priority: int
    created: float
    not_before: float
    queue_deadline: float
    status: JobStatus = JobStatus.QUEUED
    desired: int = 0
    runs: int = 0
    deadline: float | None = None
    reason: str | None = None
    attempts: list[ModelAttempt] = field(default_factory=list)

    @property
    def holder(self) -> ModelAttempt | None:
        """The attempt that holds the lease."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.ended_at is None else None

    def is_held_by(self, claim: Claim) -> bool:
        return self.holder is not None and self.holder.claim == claim

    def is_claimable(self, now: float) -> bool:
        return (
            self.status is JobStatus.QUEUED
            and self.holder is None
            and self.desired == 0
            and self.not_before <= now < self.queue_deadline
            and self.runs < self.max_runs
            and len(self.attempts) < MAX_ATTEMPTS
        )

    def end(self, status: JobStatus, reason: str) -> None:
        self.status, self.reason = status, reason

    def end_lease(self, now: float, delay: float = 0.0) -> None:
        """T8: take the lease away, and let the job go on, back or to its end."""
        attempt = self.holder
        assert attempt is not None
        was_running = self.status is JobStatus.RUNNING
        attempt.ended_at = now
        if self.desired > 0:
            self.end(JobStatus.CANCELLED, "cancelled_user")
        elif self.deadline is not None and now > self.deadline:
            self.end(JobStatus.TIMEOUT, "timeout_run")
        elif len(self.attempts) < MAX_ATTEMPTS and (not was_running or self.runs < self.max_runs):
            self.status, self.not_before = JobStatus.QUEUED, now + delay
            self.queue_deadline = now + self.queue_timeout if was_running else self.queue_deadline
            self.deadline = None
        else:
            self.end(JobStatus.FAILED, "worker_lost")
        if was_running:
            attempt.end_status = self.status.replace("queued", "failed")
            attempt.reason = self.reason or "worker_lost"


@dataclass
class ModelWorker:
    boot_id: str
    takes_jobs: bool = True


@dataclass
class ModelKey:
    job_id: str
    fingerprint: bytes
    created: float


class Model:
    """All jobs, workers and keys. Times are seconds of the simulated clock."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.deleted: set[str] = set()
        self.keys: dict[str, ModelKey] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.last_round: float | None = None
        self.amnesty_until = 0.0

    def attempt(self, claim: Claim) -> ModelAttempt | None:
        """Return the attempt that this lease holds or held, whoever names it."""
        job = self.jobs.get(claim.job_id)
        if job is None or not 1 <= claim.attempt <= len(job.attempts):
            return None
        found = job.attempts[claim.attempt - 1]
        return found if found.claim.lease_id == claim.lease_id else None

    def claimable(self, now: float) -> list[str]:
        ready = [job for job in self.jobs.values() if job.is_claimable(now)]
        return [job.job_id for job in sorted(ready, key=lambda job: (-job.priority, job.created))]

    def claim(self, claims: Sequence[Claim], now: float) -> None:
        for claim in claims:
            self.jobs[claim.job_id].attempts.append(ModelAttempt(claim, now + START_DEADLINE))

    def start(self, claim: Claim, now: float) -> bool:
        """T4. False: ClaimLost."""
        job = self.jobs.get(claim.job_id)
        if job is None or not job.is_held_by(claim) or job.holder is None:
            return False
        if job.status is JobStatus.RUNNING:
            return True
        if job.desired > 0 or job.holder.lease_until <= now:
            job.end_lease(now)
            return False
        job.status, job.runs, job.deadline = JobStatus.RUNNING, job.runs + 1, now + job.timeout
        job.holder.started, job.holder.lease_until = True, now + LEASE
        return True

    def heartbeat(self, worker_id: str, held: Sequence[Claim], now: float) -> dict[Claim, str]:
        return {claim: self._beat(worker_id, claim, now) for claim in held}

    def _beat(self, worker_id: str, claim: Claim, now: float) -> str:
        job, attempt = self.jobs.get(claim.job_id), self.attempt(claim)
        if job is None or attempt is None or attempt.ended_at is not None:
            return "abandon"
        if claim.worker_id != worker_id or attempt.claim.worker_id != worker_id:
            return "abandon"
        kill_at = float("inf") if job.deadline is None else job.deadline + GRACE
        if attempt.started and now <= kill_at + LOST:
            attempt.lease_until = now + LEASE
        if job.desired >= 2 or now > kill_at:
            return "kill"
        return "cancel" if job.desired else "go_on"

    def finish(self, claim: Claim, told: AttemptOutcome, now: float) -> bool:
        """T6. False: ClaimLost."""
        job, attempt = self.jobs.get(claim.job_id), self.attempt(claim)
        if job is None or attempt is None:
            return False
        if not (job.is_held_by(claim) and job.status is JobStatus.RUNNING):
            return attempt.was_finished_so(claim, told)
        status, reason = told.status, str(told.reason)
        if status is JobStatus.CANCELLED and job.desired == 0:
            status, reason = JobStatus.FAILED, str(Reason.INTERNAL)
        job.end(status, reason)
        attempt.ended_at, attempt.end_status, attempt.reason = now, status, reason
        attempt.exit_code = told.exit_code
        attempt.final_length, attempt.final_sha256 = told.log_length, told.log_sha256
        return True

    def release(self, claim: Claim, now: float) -> None:
        job = self.jobs.get(claim.job_id)
        if job is not None and job.is_held_by(claim) and job.status is JobStatus.QUEUED:
            job.end_lease(now)

    def append(self, claim: Claim, offset: int, data: bytes) -> int | str:
        """D.5: the length now stored, or what is wrong; for a gap, both."""
        attempt = self.attempt(claim)
        if attempt is None or attempt.claim.worker_id != claim.worker_id or attempt.is_sealed:
            return "lost"
        length = len(attempt.log)
        if offset > length:
            return f"gap {length}"
        common = min(length - offset, len(data))
        if attempt.log[offset : offset + common] != data[:common]:
            return "mismatch"
        rest = data[common:]
        if rest and attempt.final_length is not None and offset + len(data) > attempt.final_length:
            return "mismatch"
        attempt.log += rest
        return len(attempt.log)

    def cancel(self, job_id: str, *, force: bool) -> JobStatus | None:
        """T7. A status: that of a Conflict."""
        job = self.jobs[job_id]
        if job.status.is_final:
            return None if job.status is JobStatus.CANCELLED else job.status
        job.desired = max(job.desired, 2 if force else 1)
        if job.status is JobStatus.QUEUED and job.holder is None:
            job.end(JobStatus.CANCELLED, "cancelled_user")
        return None

    def register(self, worker_id: str, boot_id: str, spooled: Sequence[Claim], now: float) -> None:
        is_new = self.workers[worker_id].boot_id != boot_id
        self.workers[worker_id] = ModelWorker(boot_id)
        if not is_new:
            return
        spared = {(claim.job_id, claim.attempt, claim.lease_id) for claim in spooled}
        for job, attempt in self._held(worker_id):
            claim = attempt.claim
            if (claim.job_id, claim.attempt, claim.lease_id) not in spared:
                job.end_lease(now)
            elif attempt.started:
                attempt.lease_until = now + LEASE

    def deregister(self, worker_id: str, boot_id: str, now: float) -> None:
        if self.workers[worker_id].boot_id != boot_id:
            return
        self.workers[worker_id].takes_jobs = False
        for job, _ in self._held(worker_id):
            if job.status is JobStatus.QUEUED:
                job.end_lease(now)

    def restart_coordinator(self) -> None:
        self.last_round = None

    def do_round(self, now: float) -> list[tuple[ModelJob, float, float]]:
        """A round of maintenance; returns jobs that wait now, and the least and the longest wait."""
        waits = []
        longest_pause = 3 * TIMING.reap_interval.total_seconds()
        if self.last_round is None or now - self.last_round > longest_pause:
            self.amnesty_until = now + LEASE
        self.last_round = now
        if now >= self.amnesty_until:
            waits = [wait for job in self.jobs.values() if (wait := _reap(job, now)) is not None]
        for job in self.jobs.values():
            if job.status is JobStatus.QUEUED and job.holder is None and job.queue_deadline < now:
                job.end(JobStatus.TIMEOUT, "timeout_queue")
            for attempt in job.attempts:
                _freeze(attempt, now)
        self.keys = {name: key for name, key in self.keys.items() if key.created >= now - KEYS_KEPT}
        return waits

    def _held(self, worker_id: str) -> Iterator[tuple[ModelJob, ModelAttempt]]:
        for job in self.jobs.values():
            if job.holder is not None and job.holder.claim.worker_id == worker_id:
                yield job, job.holder


def _reap(job: ModelJob, now: float) -> tuple[ModelJob, float, float] | None:
    attempt = job.holder
    if attempt is None:
        return None
    is_patient = job.status is JobStatus.RUNNING and job.max_runs == 1
    if now <= attempt.lease_until + (LOST - LEASE if is_patient else 0.0):
        return None
    delay = retry_delay(len(job.attempts), base=timedelta(seconds=1), ceiling=timedelta(seconds=60))
    job.end_lease(now)
    seconds = delay.total_seconds()
    return None if job.status.is_final else (job, now + seconds / 2, now + seconds)


def _freeze(attempt: ModelAttempt, now: float) -> None:
    if attempt.ended_at is None or attempt.is_sealed:
        return
    since = now - attempt.ended_at
    if (attempt.final_length is None and since > UNPROMISED) or (
        attempt.final_sha256 is not None and since > PROMISED
    ):
        attempt.final_length, attempt.final_sha256 = len(attempt.log), None


def may_be_sealed(attempt: ModelAttempt) -> bool:
    """Tell whether the log of an attempt is whole."""
    digest = hashlib.sha256(attempt.log).digest()
    return attempt.final_length == len(attempt.log) and attempt.final_sha256 in (None, digest)


def seen(facts: JobFacts) -> list[Any]:
    """Return what the rows of a job say, as `predicted` does."""
    row = facts.row
    job = [row["status"], row["desired"], row["runs"], row["reason"] if facts.status.is_final else None]
    return job + [
        [
            attempt["lease_id"],
            attempt["worker_id"],
            attempt["started"] is not None,
            attempt["ended"] is not None,
            attempt["end_status"],
            attempt["reason"],
            attempt["exit_code"],
            attempt["log_length"],
            attempt["final_log_length"],
            attempt["is_sealed"],
        ]
        for attempt in facts.attempts
    ]


def predicted(job: ModelJob) -> list[Any]:
    """Return what the rows of a job should say."""
    ended = job.reason if job.status.is_final else None
    return [job.status.value, job.desired, job.runs, ended] + [
        [
            attempt.claim.lease_id,
            attempt.claim.worker_id,
            attempt.started,
            attempt.ended_at is not None,
            attempt.end_status,
            attempt.reason,
            attempt.exit_code,
            len(attempt.log),
            attempt.final_length,
            attempt.is_sealed,
        ]
        for attempt in job.attempts
    ]
