"""What a job does or why it ended, as a table of moments."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reactorcide.domain.explanations import (
    AttemptSight,
    JobSight,
    QueueSight,
    tell_waiting,
    tell_why,
)
from reactorcide.domain.reasons import Reason, usual_fault
from reactorcide.domain.spelling import spell_duration, spell_size
from reactorcide.domain.status import READY, JobStatus
from reactorcide.domain.workers import Timing

SECOND = timedelta(seconds=1)
TIMING = Timing(
    lease=60 * SECOND,
    heartbeat=10 * SECOND,
    start_deadline=30 * SECOND,
    lost_after=300 * SECOND,
    reap_interval=2 * SECOND,
    cancel_grace=10 * SECOND,
)
SILENCE = 30 * SECOND
AT = datetime(2030, 1, 31, 12, 0, 0, tzinfo=UTC)
QUEUE = QueueSight(able_workers=1, draining_workers=0, full_workers=0, slots=4, busy_slots=4, jobs_ahead=6)
NOBODY = replace(QUEUE, able_workers=0, slots=0, busy_slots=0)
NEWEST = AttemptSight(
    worker="w1",
    is_started=True,
    is_ended=False,
    claimed_seconds=181,
    lease_expires_at=AT,
    lease_left_seconds=56,
    worker_silent_seconds=4,
    log_length=40_000,
    promised_log_length=None,
    is_log_sealed=False,
)
WAITING = JobSight(
    job_id="job",
    user_id="user",
    queue_name="gpu",
    status=JobStatus.QUEUED,
    attempt=0,
    runs=0,
    max_runs=1,
    may_run_again=True,
    desired=0,
    is_claimed=False,
    is_unannounced=False,
    timeout_seconds=3_600,
    queue_timeout_seconds=86_400,
    silence_timeout_seconds=None,
    waiting_seconds=245,
    rest_seconds=-1,
    queue_deadline_seconds=86_000,
    running_seconds=None,
    deadline_seconds=None,
    queue=QUEUE,
)
CLAIMED = replace(
    WAITING,
    attempt=1,
    is_claimed=True,
    newest=replace(NEWEST, is_started=False, claimed_seconds=2, lease_left_seconds=28),
)
RUNNING = replace(
    WAITING,
    status=JobStatus.RUNNING,
    queue=None,
    is_claimed=True,
    attempt=1,
    runs=1,
    may_run_again=False,
    running_seconds=180,
    deadline_seconds=3_420,
    newest=NEWEST,
)
AGAIN = replace(RUNNING, attempt=2, runs=2, max_runs=3, may_run_again=True)
SILENT = replace(NEWEST, lease_left_seconds=20, worker_silent_seconds=40)
ENDED = replace(
    RUNNING,
    status=JobStatus.FAILED,
    is_claimed=False,
    running_seconds=12,
    completed_at=AT + 4 * 60 * SECOND,
    last_actor="worker:w1",
    newest=replace(NEWEST, is_ended=True, promised_log_length=40_000, is_log_sealed=True),
)
REAPED = replace(
    ENDED,
    reason=Reason.WORKER_LOST,
    last_actor="system:maintenance",
    message="the worker was lost while it ran the job",
    running_seconds=360,
)
NEVER_RUN = replace(ENDED, attempt=0, runs=0, running_seconds=None, newest=None)


def ended(reason: Reason, **facts: object) -> JobSight:
    return replace(ENDED, reason=reason, **facts)  # type: ignore[arg-type]


LOST = (
    "failed after 6 min: worker w1 was lost while it ran the job (last heartbeat 2030-01-31T11:59:00Z,"
    " given up 2030-01-31T12:04:00Z)"
)
MOMENTS = [
    (WAITING, "queued for 4 min 5 s: all 4 slots of the queue gpu are busy; its position is 7"),
    (
        replace(WAITING, queue=replace(QUEUE, slots=1, busy_slots=1)),
        "queued for 4 min 5 s: the only slot of the queue gpu is busy; its position is 7",
    ),
    (
        replace(WAITING, queue=replace(QUEUE, busy_slots=1, jobs_ahead=0)),
        "queued for 4 min 5 s: 3 of 4 slots of the queue gpu are free; its position is 1",
    ),
    (
        replace(WAITING, queue=replace(QUEUE, jobs_ahead=1_000)),
        "queued for 4 min 5 s: all 4 slots of the queue gpu are busy; its position is more than 1000",
    ),
    (
        replace(WAITING, queue=NOBODY),
        "queued for 4 min 5 s: no live worker takes jobs from the queue gpu; if none takes it, it ends as"
        " timeout in 23 h 53 min",
    ),
    (
        replace(WAITING, queue=replace(NOBODY, last_worker="w2", last_seen_seconds=10_900)),
        "queued for 4 min 5 s: no live worker takes jobs from the queue gpu (the last one, w2, was seen"
        " 3 h 1 min ago); if none takes it, it ends as timeout in 23 h 53 min",
    ),
    (
        replace(WAITING, queue=replace(NOBODY, full_workers=2)),
        "queued for 4 min 5 s: every live worker of the queue gpu reports a full disk; if none takes it,"
        " it ends as timeout in 23 h 53 min",
    ),
    (
        replace(WAITING, queue_deadline_seconds=-1),
        "queued for 4 min 5 s: it has waited for longer than its queue_timeout_seconds, and ends now as"
        " timeout",
    ),
    (
        replace(WAITING, waiting_seconds=1, attempt=1, rest_seconds=8, newest=replace(SILENT, is_ended=True)),
        "queued for 1 s: it is tried again in 8 s, after worker w1 was lost (attempt 1)",
    ),
    (
        replace(
            WAITING,
            attempt=2,
            rest_seconds=1.6,
            newest=replace(SILENT, is_ended=True, is_started=False),
        ),
        "queued for 4 min 5 s: it is tried again in 2 s, after worker w1 did not start it (attempt 2)",
    ),
    (CLAIMED, "queued for 4 min 5 s: worker w1 has taken it 2 s ago and is about to start it"),
    (
        replace(CLAIMED, newest=replace(NEWEST, is_started=False, lease_left_seconds=-1)),
        "queued for 4 min 5 s: worker w1 took it and did not start it in time, so that it goes back to"
        " its queue",
    ),
    (
        replace(CLAIMED, desired=1, desired_seconds=1, desired_by="ann"),
        "queued for 4 min 5 s: its end was asked for 1 s ago by user ann while worker w1 was about to"
        " start it, so that it ends without a start",
    ),
    (RUNNING, "running on w1 for 3 min; its deadline is in 57 min; last heartbeat 4 s ago"),
    (
        AGAIN,
        "running on w1 for 3 min (attempt 2 of at most 3); its deadline is in 57 min; last heartbeat 4 s ago",
    ),
    (
        replace(RUNNING, attempt=3),
        "running on w1 for 3 min (attempt 3, run 1 of at most 1); its deadline is in 57 min;"
        " last heartbeat 4 s ago",
    ),
    (
        replace(RUNNING, deadline_seconds=-3),
        "running on w1 for 3 min; its deadline passed 3 s ago, and the worker is ending it;"
        " last heartbeat 4 s ago",
    ),
    (
        replace(RUNNING, newest=SILENT),
        "running on w1 for 3 min; worker w1 has been silent for 40 s: if that stays so, the job ends as"
        " failed (worker_lost) in about 4 min 20 s",
    ),
    (
        replace(AGAIN, newest=SILENT),
        "running on w1 for 3 min (attempt 2 of at most 3); worker w1 has been silent for 40 s: if that"
        " stays so, the job is given back to its queue, to be run again, in about 20 s",
    ),
    (
        replace(AGAIN, runs=3, attempt=3, may_run_again=False, newest=replace(SILENT, lease_left_seconds=-2)),
        "running on w1 for 3 min (attempt 3 of at most 3); worker w1 has been silent for 40 s: if that"
        " stays so, the job ends as failed (worker_lost) at any moment",
    ),
    (
        replace(RUNNING, newest=SILENT, deadline_seconds=100),
        "running on w1 for 3 min; worker w1 has been silent for 40 s: if that stays so, the job ends as"
        " timeout in about 4 min 20 s",
    ),
    (
        replace(RUNNING, newest=replace(SILENT, worker_silent_seconds=1)),
        "running on w1 for 3 min; worker w1 is there, and has not renewed its lease on attempt 1 for"
        " 40 s: if that stays so, the job ends as failed (worker_lost) in about 4 min 20 s",
    ),
    (
        replace(RUNNING, desired=1, desired_seconds=3, desired_by="ann"),
        "running on w1 for 3 min; its end was asked for 3 s ago by user ann, and the worker has not"
        " confirmed it yet; last heartbeat 4 s ago",
    ),
    (
        replace(RUNNING, desired=2, desired_seconds=3, newest=SILENT),
        "running on w1 for 3 min; its kill was asked for 3 s ago, and the worker has not confirmed it yet;"
        " worker w1 has been silent for 40 s: if that stays so, the job ends as cancelled in about"
        " 4 min 20 s",
    ),
    (
        ended(Reason.OK, status=JobStatus.COMPLETED, exit_code=0),
        "completed after 12 s: the command exited with 0",
    ),
    (ended(Reason.EXIT_NONZERO, exit_code=3), "failed after 12 s: the command exited with 3"),
    (
        ended(Reason.EXIT_NONZERO, exit_code=3, attempt=2, runs=2, max_runs=2),
        "failed after 12 s (attempt 2 of at most 2): the command exited with 3",
    ),
    (
        ended(Reason.SIGNALLED, signal=11, exit_code=139),
        "failed after 12 s: the command was killed by signal 11 (SIGSEGV)",
    ),
    (ended(Reason.SIGNALLED, signal=99), "failed after 12 s: the command was killed by signal 99"),
    (REAPED, f"{LOST}; it was not run again because its retry_on_lost is 0"),
    (
        replace(REAPED, attempt=3, runs=3, max_runs=3),
        LOST.replace("after 6 min", "after 6 min (attempt 3 of at most 3)")
        + "; it was not run again because its 3 runs are used up",
    ),
    (
        replace(REAPED, last_actor="system:register"),
        "failed after 6 min: a new process took the place of worker w1 while it ran the job; it was not run"
        " again because its retry_on_lost is 0",
    ),
    (
        ended(Reason.WORKER_LOST, message="the worker was shut down before the job ended"),
        "failed after 12 s: the worker was shut down before the job ended; it was not run again because"
        " its retry_on_lost is 0",
    ),
    (
        replace(
            NEVER_RUN,
            attempt=50,
            reason=Reason.WORKER_LOST,
            message="no worker could start it in 50 attempts",
            last_actor="system:maintenance",
        ),
        "failed before it started: no worker could start it in 50 attempts",
    ),
    (
        ended(Reason.TIMEOUT_RUN, status=JobStatus.TIMEOUT, timeout_seconds=60, running_seconds=61),
        "timed out after 61 s: it ran for longer than its timeout_seconds (60 s)",
    ),
    (
        replace(REAPED, status=JobStatus.TIMEOUT, reason=Reason.TIMEOUT_RUN),
        "timed out after 6 min: worker w1 was lost, and its deadline has passed since",
    ),
    (
        ended(Reason.TIMEOUT_SILENT, status=JobStatus.TIMEOUT, silence_timeout_seconds=300),
        "timed out after 12 s: it wrote nothing for longer than its silence_timeout_seconds (5 min)",
    ),
    (
        replace(
            NEVER_RUN,
            status=JobStatus.TIMEOUT,
            reason=Reason.TIMEOUT_QUEUE,
            waiting_seconds=86_401,
            last_actor="system:maintenance",
        ),
        "timed out before it started, after 24 h in the queue gpu: no worker took it within its"
        " queue_timeout_seconds (24 h)",
    ),
    (
        replace(NEVER_RUN, status=JobStatus.CANCELLED, reason=Reason.CANCELLED_USER, desired_by="ann"),
        "cancelled by user ann before it started",
    ),
    (
        replace(
            NEVER_RUN, status=JobStatus.CANCELLED, reason=Reason.CANCELLED_USER, runs=1, desired_by="ann"
        ),
        "cancelled by user ann before it was run again (runs so far: 1)",
    ),
    (
        ended(Reason.CANCELLED_USER, status=JobStatus.CANCELLED, desired=1, desired_by="ann"),
        "cancelled by user ann after 12 s",
    ),
    (
        replace(
            REAPED, status=JobStatus.CANCELLED, reason=Reason.CANCELLED_USER, desired=1, desired_by="ann"
        ),
        "cancelled by user ann after 6 min; worker w1 was lost before it confirmed",
    ),
    (
        ended(Reason.INTERNAL, message="the runner ended without a result (exit code 1)"),
        "failed after 12 s: Reactorcide or its host failed, not the job: the runner ended without a result"
        " (exit code 1)",
    ),
    (
        ended(Reason.WORKER_DISK, message="the spool cannot be made: No space left on device"),
        "failed after 12 s: worker w1 could not write to its disk: the spool cannot be made:"
        " No space left on device",
    ),
    (
        ended(Reason.SOURCE_FAILED, message="there is no such ref: main\nfatal: and much more"),
        "failed after 12 s: its source could not be prepared: there is no such ref: main",
    ),
    (
        ended(
            Reason.EXIT_NONZERO,
            exit_code=3,
            newest=replace(ENDED.newest, log_length=12_000, is_log_sealed=False),  # type: ignore[type-var]
        ),
        "failed after 12 s: the command exited with 3; its log is not complete yet: 12.0 kB of 40.0 kB"
        " have arrived",
    ),
    (
        ended(
            Reason.EXIT_NONZERO,
            exit_code=3,
            newest=replace(ENDED.newest, log_length=39_999, is_log_sealed=False),  # type: ignore[type-var]
        ),
        "failed after 12 s: the command exited with 3; its log is not complete yet: 39999 bytes of"
        " 40000 bytes have arrived",
    ),
    (
        ended(Reason.OOM_KILLED, newest=replace(NEWEST, is_ended=True)),
        "failed after 12 s: it used more memory than it may; the worker may still bring the rest of its log",
    ),
]


@pytest.mark.parametrize(("sight", "sentence"), MOMENTS, ids=[sentence for _, sentence in MOMENTS])
def test_a_moment_is_told_in_a_sentence(sight: JobSight, sentence: str) -> None:
    assert tell_why(sight, TIMING, silence=SILENCE) == sentence


@pytest.mark.parametrize("sight", [sight for sight, _ in MOMENTS], ids=[text for _, text in MOMENTS])
def test_only_a_waiting_job_waits_and_time_alone_does_not_change_what_for(sight: JobSight) -> None:
    later = replace(
        sight,
        waiting_seconds=sight.waiting_seconds + 2,
        queue_deadline_seconds=sight.queue_deadline_seconds - 0.5,
        newest=sight.newest and replace(sight.newest, claimed_seconds=sight.newest.claimed_seconds + 2),
    )

    assert (tell_waiting(sight) is not None) == (sight.status in READY)
    assert tell_waiting(later) == tell_waiting(sight)


ENDS = [
    (status, reason)
    for status, reason in itertools.product(JobStatus, Reason)
    if status.is_final and (status is JobStatus.COMPLETED) == (reason is Reason.OK)
]


@pytest.mark.parametrize(("status", "reason"), ENDS)
@pytest.mark.parametrize("message", [None, "a message"])
def test_every_end_has_a_sentence_whatever_is_known_of_it(
    status: JobStatus, reason: Reason, message: str | None
) -> None:
    facts = {"status": status, "reason": reason, "fault": usual_fault(reason), "message": message}

    for base, actor in itertools.product(
        (ENDED, REAPED, NEVER_RUN), ("", "worker:w1", "system:maintenance", "system:register", "user:u")
    ):
        sight = replace(base, last_actor=actor, **facts)  # type: ignore[arg-type]
        sentence = tell_why(sight, TIMING, silence=SILENCE)

        assert sentence
        assert "None" not in sentence.replace("exited with None", "")
        assert "{" not in sentence


@pytest.mark.parametrize("desired", [0, 1, 2])
@pytest.mark.parametrize("status", [JobStatus.SUBMITTED, JobStatus.QUEUED, JobStatus.RUNNING])
def test_every_state_of_a_job_that_has_not_ended_has_a_sentence(status: JobStatus, desired: int) -> None:
    for base, newest, left in itertools.product((WAITING, CLAIMED, RUNNING), (None, NEWEST, SILENT), (-9, 9)):
        queue = QUEUE if status in READY else None
        facts = {"status": status, "desired": desired, "deadline_seconds": left, "queue": queue}
        sight = replace(base, newest=newest, **facts)  # type: ignore[arg-type]

        assert "None" not in tell_why(sight, TIMING, silence=SILENCE)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7_199, "119 min 59 s"),
        (7_200, "2 h"),
        (172_799, "47 h 59 min"),
        (172_800, "2 d"),
        (9e6, "104 d 4 h"),
    ],
)
def test_a_duration_is_spelled_in_at_most_two_units(seconds: float, text: str) -> None:
    assert spell_duration(seconds) == text


def test_a_size_is_spelled_with_its_unit() -> None:
    sizes = [0, 999, 1_000, 12_345, 5_000_000, 7_200_000_000_000]

    assert [spell_size(size) for size in sizes] == [
        *("0 bytes", "999 bytes", "1.0 kB", "12.3 kB", "5.0 MB", "7200.0 GB")
    ]
