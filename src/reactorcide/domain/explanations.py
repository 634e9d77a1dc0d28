"""What a job does, or why it ended, in one sentence: from what is seen of it at one moment.

Every sentence must hold whatever a job, its worker and its queue are at: a fact that is not known is left
out, and what is yet to come is told with its condition.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.spelling import (
    first_line,
    spell_duration,
    spell_run,
    spell_signal,
    spell_size,
    spell_time,
)
from reactorcide.domain.status import READY, Desired, JobStatus
from reactorcide.domain.workers import Timing

POSITIONS_COUNTED = 1_000


@dataclass(frozen=True)
class QueueSight:
    """What a waiting job sees of its queue. Of its live workers, some may take no jobs."""

    able_workers: int
    draining_workers: int
    full_workers: int
    """Live, not draining, and reporting a full disk."""
    slots: int
    """Of the able workers, as ``busy_slots``."""
    busy_slots: int
    jobs_ahead: int
    """Counted up to `POSITIONS_COUNTED`."""
    last_worker: str | None = None
    """If none is live, who took jobs of the queue last, seen ``last_seen_seconds`` ago."""
    last_seen_seconds: float | None = None

    @property
    def live_workers(self) -> int:
        """The number of workers that were heard of lately."""
        return self.able_workers + self.draining_workers + self.full_workers


@dataclass(frozen=True)
class AttemptSight:
    """What is seen of a job's newest attempt."""

    worker: str
    is_started: bool
    is_ended: bool
    claimed_seconds: float
    """Ago."""
    lease_expires_at: datetime
    lease_left_seconds: float
    """Below 0: the lease ran out so long ago."""
    worker_silent_seconds: float
    log_length: int
    promised_log_length: int | None
    is_log_sealed: bool


@dataclass(frozen=True)
class JobSight:
    """What is seen of a job at one moment, all by the database's clock."""

    job_id: str
    user_id: str
    queue_name: str
    status: JobStatus
    attempt: int
    runs: int
    max_runs: int
    may_run_again: bool
    """Whether, if it runs now and is lost, it is run again."""
    desired: int
    is_claimed: bool
    is_unannounced: bool
    """The external queue has not been told of it yet."""
    timeout_seconds: int
    queue_timeout_seconds: int
    silence_timeout_seconds: int | None
    waiting_seconds: float
    """Since it was last put into its queue, till now or till its end."""
    rest_seconds: float
    """How long, if above 0, until it may be claimed."""
    queue_deadline_seconds: float
    running_seconds: float | None
    """From its start, till now or till its end."""
    deadline_seconds: float | None
    """Until it is to be ended; below 0: that was so long ago."""
    completed_at: datetime | None = None
    reason: Reason | None = None
    fault: Fault | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    desired_seconds: float | None = None
    """How long ago its end was asked for, by ``desired_by``."""
    desired_by: str | None = None
    """A user's name."""
    last_actor: str = ""
    """Who made its last transition: `user:…`, `worker:…` or `system:…`."""
    newest: AttemptSight | None = None
    queue: QueueSight | None = None
    """Of a job that waits."""

    @property
    def is_ready(self) -> bool:
        """Whether it has not started, or is to start again."""
        return self.status in READY


def tell_waiting(sight: JobSight) -> str | None:
    """Return why a job does not run yet; None: it does not wait. Does not change by the mere clock."""
    return _waiting_clause(sight, with_times=False)


def tell_why(sight: JobSight, timing: Timing, *, silence: timedelta) -> str:
    """Return what a job does or why it ended.

    Args:
        silence: a worker counts as live for so long after it was heard of.
    """
    if sight.status.is_final:
        return _end_sentence(sight, timing) + _log_clause(sight)
    if sight.status is JobStatus.RUNNING:
        return _running_sentence(sight, timing, silence.total_seconds())
    return f"{sight.status} for {spell_duration(sight.waiting_seconds)}: " + (
        _waiting_clause(sight, with_times=True) or "it is about to change"
    )


def position_of(queue: QueueSight) -> str:
    """Return the place in the queue, in words."""
    return (
        f"more than {POSITIONS_COUNTED}"
        if queue.jobs_ahead >= POSITIONS_COUNTED
        else str(queue.jobs_ahead + 1)
    )


def renewed_seconds(sight: JobSight, timing: Timing) -> float | None:
    """Return how long ago the worker renewed a running job's lease; None: it does not run."""
    if sight.status is not JobStatus.RUNNING or sight.newest is None:
        return None
    return max(0.0, timing.lease.total_seconds() - sight.newest.lease_left_seconds)


def given_up_seconds(sight: JobSight, timing: Timing) -> float | None:
    """Return in how long a running job is given up if its worker stays silent; None: it does not run.

    A job that may run again is fenced by its guardian, so that its lease is the whole of its patience.
    """
    if sight.status is not JobStatus.RUNNING or sight.newest is None:
        return None
    grace = timing.lost_after - timing.lease if sight.max_runs == 1 else timedelta()
    return max(0.0, sight.newest.lease_left_seconds + grace.total_seconds())


def _waiting_clause(sight: JobSight, *, with_times: bool) -> str | None:
    queue, newest = sight.queue, sight.newest
    if not sight.is_ready or queue is None:
        return None
    if sight.is_claimed:
        return _claimed_clause(sight, newest, with_times=with_times)
    if sight.queue_deadline_seconds <= 0:
        return "it has waited for longer than its queue_timeout_seconds, and ends now as timeout"
    if queue.able_workers == 0:
        return _nobody_clause(sight, queue, with_times=with_times)
    if sight.rest_seconds > 0:
        return f"it is tried again in {sight.rest_seconds:.0f} s{_after_what(newest, sight)}"
    if sight.is_unannounced:
        return "the queue service has not been told of it yet"
    free = queue.slots - queue.busy_slots
    if free > 0:
        slots = f"{free} of {queue.slots} slots of the queue {sight.queue_name} are free"
    elif queue.slots == 1:
        slots = f"the only slot of the queue {sight.queue_name} is busy"
    else:
        slots = f"all {queue.slots} slots of the queue {sight.queue_name} are busy"
    return f"{slots}; its position is {position_of(queue)}"


def _claimed_clause(sight: JobSight, newest: AttemptSight | None, *, with_times: bool) -> str:
    worker = f"worker {newest.worker}" if newest else "a worker"
    if sight.desired > Desired.RUN:
        return f"{_wish(sight)} while {worker} was about to start it, so that it ends without a start"
    if newest is not None and newest.lease_left_seconds <= 0:
        return f"{worker} took it and did not start it in time, so that it goes back to its queue"
    when = f" {spell_duration(newest.claimed_seconds)} ago" if newest and with_times else ""
    return f"{worker} has taken it{when} and is about to start it"


def _nobody_clause(sight: JobSight, queue: QueueSight, *, with_times: bool) -> str:
    if queue.live_workers == 0:
        clause = f"no live worker takes jobs from the queue {sight.queue_name}"
        if with_times and queue.last_worker is not None and queue.last_seen_seconds is not None:
            seen = spell_duration(queue.last_seen_seconds)
            clause += f" (the last one, {queue.last_worker}, was seen {seen} ago)"
    elif queue.full_workers == 0:
        clause = f"every live worker of the queue {sight.queue_name} is draining"
    elif queue.draining_workers == 0:
        clause = f"every live worker of the queue {sight.queue_name} reports a full disk"
    else:
        clause = f"every live worker of the queue {sight.queue_name} is draining or reports a full disk"
    if with_times:
        clause += f"; if none takes it, it ends as timeout in {spell_duration(sight.queue_deadline_seconds)}"
    return clause


def _after_what(newest: AttemptSight | None, sight: JobSight) -> str:
    if newest is None or not newest.is_ended:
        return ""
    what = "was lost" if newest.is_started else "did not start it"
    return f", after worker {newest.worker} {what} (attempt {sight.attempt})"


def _running_sentence(sight: JobSight, timing: Timing, silence_seconds: float) -> str:
    newest, renewed = sight.newest, renewed_seconds(sight, timing)
    if newest is None or renewed is None:
        return "running"
    head = f"running on {newest.worker} for {spell_duration(sight.running_seconds or 0)}{_count(sight)}"
    wish = f"{_wish(sight)}, and the worker has not confirmed it yet" if sight.desired else None
    if renewed > silence_seconds or newest.lease_left_seconds <= 0:
        trouble = _silence_clause(sight, newest, renewed, silence_seconds)
        fate = _fate_clause(sight, timing)
        return "; ".join(part for part in (head, wish, f"{trouble}: if that stays so, {fate}") if part)
    beat = f"last heartbeat {spell_duration(renewed)} ago"
    return "; ".join((head, wish or _deadline_clause(sight), beat))


def _silence_clause(sight: JobSight, newest: AttemptSight, renewed: float, silence_seconds: float) -> str:
    if newest.worker_silent_seconds > silence_seconds:
        return f"worker {newest.worker} has been silent for {spell_duration(newest.worker_silent_seconds)}"
    return (
        f"worker {newest.worker} is there, and has not renewed its lease on attempt {sight.attempt}"
        f" for {spell_duration(renewed)}"
    )


def _fate_clause(sight: JobSight, timing: Timing) -> str:
    """Return what becomes of a running job that is not heard of any more."""
    left = given_up_seconds(sight, timing) or 0.0
    when = f"in about {spell_duration(left)}" if left >= 1 else "at any moment"
    if sight.desired > Desired.RUN:
        return f"the job ends as cancelled {when}"
    if sight.deadline_seconds is not None and sight.deadline_seconds < left:
        return f"the job ends as timeout {when}"
    if sight.may_run_again:
        return f"the job is given back to its queue, to be run again, {when}"
    return f"the job ends as failed (worker_lost) {when}"


def _deadline_clause(sight: JobSight) -> str:
    left = sight.deadline_seconds or 0.0
    if left < 0:
        return f"its deadline passed {spell_duration(-left)} ago, and the worker is ending it"
    return f"its deadline is in {spell_duration(left)}"


def _wish(sight: JobSight) -> str:
    what = "its kill" if sight.desired >= Desired.KILL else "its end"
    when = "" if sight.desired_seconds is None else f" {spell_duration(sight.desired_seconds)} ago"
    return f"{what} was asked for{when}{_by_whom(sight)}"


def _by_whom(sight: JobSight) -> str:
    return f" by user {sight.desired_by}" if sight.desired_by else ""


def _count(sight: JobSight) -> str:
    """Return which attempt it is, where that is worth a word."""
    if sight.attempt <= 1 and sight.max_runs == 1:
        return ""
    if sight.attempt == sight.runs:
        return f" (attempt {sight.attempt} of at most {sight.max_runs})"
    return f" (attempt {sight.attempt}, run {sight.runs} of at most {sight.max_runs})"


def _end_sentence(sight: JobSight, timing: Timing) -> str:
    took = sight.running_seconds
    when = f"after {spell_run(took)}{_count(sight)}" if took is not None else _before_what(sight)
    match sight.status:
        case JobStatus.COMPLETED:
            return f"completed {when}: {_cause(sight, timing)}"
        case JobStatus.CANCELLED:
            lost = f"; {_lost_worker(sight)} before it confirmed" if took and _was_taken_away(sight) else ""
            return f"cancelled{_by_whom(sight)} {when}{lost}"
        case JobStatus.TIMEOUT if sight.reason is Reason.TIMEOUT_QUEUE:
            waited = spell_duration(sight.waiting_seconds)
            limit = spell_duration(sight.queue_timeout_seconds)
            return (
                f"timed out {when}, after {waited} in the queue {sight.queue_name}:"
                f" no worker took it within its queue_timeout_seconds ({limit})"
            )
        case JobStatus.TIMEOUT:
            return f"timed out {when}: {_cause(sight, timing)}"
    return f"failed {when}: {_cause(sight, timing)}"


def _before_what(sight: JobSight) -> str:
    return f"before it was run again (runs so far: {sight.runs})" if sight.runs else "before it started"


def _cause(sight: JobSight, timing: Timing) -> str:
    match sight.reason:
        case Reason.OK | Reason.EXIT_NONZERO:
            return f"the command exited with {sight.exit_code}"
        case Reason.SIGNALLED:
            return f"the command was killed by {spell_signal(sight.signal)}"
        case Reason.TIMEOUT_RUN if _was_taken_away(sight):
            return f"{_lost_worker(sight)}, and its deadline has passed since"
        case Reason.TIMEOUT_RUN:
            return f"it ran for longer than its timeout_seconds ({spell_duration(sight.timeout_seconds)})"
        case Reason.TIMEOUT_SILENT:
            limit = spell_duration(sight.silence_timeout_seconds or 0)
            return f"it wrote nothing for longer than its silence_timeout_seconds ({limit})"
        case Reason.WORKER_LOST if sight.newest is not None and sight.newest.is_started:
            return _loss(sight, sight.newest, timing)
        case Reason.WORKER_LOST:
            return first_line(sight.message) if sight.message else "no worker could start it"
        case Reason.OOM_KILLED:
            return "it used more memory than it may"
        case None:
            return "the reason is not known"
    meaning = _MEANINGS[sight.reason].format(worker=sight.newest.worker if sight.newest else "")
    return f"{meaning}: {first_line(sight.message)}" if sight.message else meaning


_MEANINGS: dict[Reason, str] = {
    Reason.OUTPUT_LIMIT: "it wrote more than it may",
    Reason.ENV_FILE_INVALID: "its env file cannot be used",
    Reason.CANCELLED_USER: "its end was asked for",
    Reason.TIMEOUT_QUEUE: "no worker took it in time",
    Reason.SANDBOX_UNAVAILABLE: "worker {worker} could not make a sandbox for it",
    Reason.SANDBOX_DIED: "its sandbox on worker {worker} died before the command had ended",
    Reason.IMAGE_PULL_FAILED: "worker {worker} could not pull its image",
    Reason.SOURCE_FAILED: "its source could not be prepared",
    Reason.WORKER_DISK: "worker {worker} could not write to its disk",
    Reason.LOG_LOST: "its log could not be kept",
    Reason.INTERNAL: "Reactorcide or its host failed, not the job",
    Reason.SOURCE_DENIED: "the operator's rules forbid its source",
    Reason.POLICY_DENIED: "the operator's rules forbid it",
}
"""Of the reasons that have nothing of their own to tell but a message."""


def _loss(sight: JobSight, newest: AttemptSight, timing: Timing) -> str:
    if sight.last_actor.startswith("worker:"):
        # It was lost by its own account: what the worker said is the story.
        lost = first_line(sight.message) if sight.message else "its worker had to give it up"
    else:
        lost = f"{_lost_worker(sight)} while it ran the job"
        if sight.last_actor == _REAPER and sight.completed_at is not None:
            renewed = newest.lease_expires_at - timing.lease
            lost += f" (last heartbeat {spell_time(renewed)}, given up {spell_time(sight.completed_at)})"
    if sight.max_runs == 1:
        return f"{lost}; it was not run again because its retry_on_lost is 0"
    if sight.runs >= sight.max_runs:
        return f"{lost}; it was not run again because its {sight.max_runs} runs are used up"
    return lost


_REAPER = "system:maintenance"
_NEW_BOOT = "system:register"


def _was_taken_away(sight: JobSight) -> bool:
    """Tell whether the worker had no part in the job's last transition."""
    return sight.last_actor in (_REAPER, _NEW_BOOT)


def _lost_worker(sight: JobSight) -> str:
    worker = f"worker {sight.newest.worker}" if sight.newest else "its worker"
    if sight.last_actor == _NEW_BOOT:
        return f"a new process took the place of {worker}"
    return f"{worker} was lost"


def _log_clause(sight: JobSight) -> str:
    newest = sight.newest
    if newest is None or not newest.is_started or newest.is_log_sealed:
        return ""
    if newest.promised_log_length is None:
        return "; the worker may still bring the rest of its log"
    if newest.log_length >= newest.promised_log_length:
        return ""
    arrived, promised = spell_size(newest.log_length), spell_size(newest.promised_log_length)
    if arrived == promised:
        arrived, promised = f"{newest.log_length} bytes", f"{newest.promised_log_length} bytes"
    return f"; its log is not complete yet: {arrived} of {promised} have arrived"
