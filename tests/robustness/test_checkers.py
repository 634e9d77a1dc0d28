"""Every checker of the nemesis is able to fail: each is fed histories that no correct product leaves."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from fixture_types import MakeUser
from job_desk import JobDesk
from reactorcide.store.database import Database
from robustness import checkers
from robustness.history import AttemptRow, History, JobRow, ServedLog, StuckLease
from robustness.ledger import Life
from robustness.nemesis_faults import FaultSpan, PlannedFault
from robustness.observer import SecretSearch, broken_laws
from robustness.workload import Kind, Plan, giveaways, make_plans
from robustness.workload_clients import Call, Cancel, Trace

JOB = "00000000-0000-4000-8000-000000000001"
PLAN = Plan("n1-00001", Kind.SHORT, client=0, submit_at=0, seconds=1, lines=30, secret="s3cret-value")
WHOLE = PLAN.expected()
ROW = JobRow(JOB, PLAN.key, "completed", "ok", attempt=1, runs=1, max_runs=1, exit_code=0, completed_at=15.0)
ATTEMPT = AttemptRow(
    JOB,
    1,
    len(WHOLE),
    end_status="completed",
    promised_length=len(WHOLE),
    promised_sha256=hashlib.sha256(WHOLE).digest(),
    is_sealed=True,
)
CALL = Call("submit", PLAN.key, 1, 0, began=10.0, seconds=0.1, status=201)


def span(target: str, kind: str, began: float, ended: float) -> FaultSpan:
    return FaultSpan(PlannedFault(0, 0, target, kind, ended - began, 0), began, ended)


def sound_history() -> History:
    """One job, which went as it should."""
    return History(
        plans={PLAN.key: PLAN},
        trace=Trace([CALL], {PLAN.key: JOB}),
        jobs=[ROW],
        attempts=[ATTEMPT],
        lives={(JOB, 1): [Life(11.0, 14.0, has_end=True, lines=[(11.5, 10), (12.5, 30)])]},
        logs={(JOB, 1): ServedLog(WHOLE, WHOLE)},
        acknowledged_bytes={(JOB, 1): len(WHOLE)},
        searched_bytes=1,
        exit_codes={"worker-1": 0},
    )


def with_end(history: History, status: str, reason: str, served: bytes) -> None:
    """Let the job have ended in another way, its log without a promise."""
    history.jobs = [replace(ROW, status=status, reason=reason, exit_code=None)]
    history.attempts = [replace(ATTEMPT, log_length=len(served), promised_length=None, promised_sha256=None)]
    history.acknowledged_bytes = {}
    history.logs = {(JOB, 1): ServedLog(served, served)}


def lose_the_job(history: History) -> None:
    history.jobs = []


def store_it_twice(history: History) -> None:
    history.jobs = [ROW, replace(ROW, job_id=JOB.replace("1", "2"))]


def store_what_nobody_asked_for(history: History) -> None:
    history.jobs = [ROW, replace(ROW, name="n1-00002")]


def store_another(history: History) -> None:
    history.jobs = [replace(ROW, job_id=JOB.replace("1", "2"))]


def never_acknowledge(history: History) -> None:
    history.trace.acknowledged.clear()


def contradict(history: History) -> None:
    history.trace.contradictions.append("submit n1-00001: 500")


def run_it_twice(history: History) -> None:
    history.lives = {**history.lives, (JOB, 2): [Life(20.0, 21.0)]}


def start_the_attempt_twice(history: History) -> None:
    history.lives = {(JOB, 1): [Life(11.0, 14.0, has_end=True), Life(20.0, 21.0)]}


def overlap(history: History) -> None:
    history.jobs = [replace(ROW, max_runs=3, attempt=2)]
    history.lives = {(JOB, 1): [Life(11.0, 14.0)], (JOB, 2): [Life(13.9, 16.0, has_end=True)]}


def never_die(history: History) -> None:
    history.jobs = [replace(ROW, max_runs=3, attempt=2)]
    history.lives = {(JOB, 1): [Life(11.0)], (JOB, 2): [Life(13.9, 16.0, has_end=True)]}


def complete_without_an_end(history: History) -> None:
    history.lives = {(JOB, 1): [Life(11.0, 14.0)]}


def complete_without_a_run(history: History) -> None:
    history.lives = {}


def complete_what_fails(history: History) -> None:
    history.plans = {PLAN.key: replace(PLAN, kind=Kind.FAILING)}


def fail_what_does_not(history: History) -> None:
    history.jobs = [replace(ROW, status="failed", reason="exit_nonzero", exit_code=3)]


def cancel_unasked(history: History) -> None:
    history.jobs = [replace(ROW, status="cancelled", reason="cancelled_user")]


def stay_running(history: History) -> None:
    history.jobs = [replace(ROW, status="running", reason=None)]


def keep_a_dead_lease(history: History) -> None:
    history.stuck = [StuckLease(JOB, history.profile.stuck + 1)]


def lose_patience(history: History) -> None:
    history.unended = [PLAN.key]


def break_a_law(history: History) -> None:
    history.broken_laws = ["completed -> running"]


def change_a_byte(history: History) -> None:
    changed = WHOLE.replace(b"fox", b"fix", 1)
    history.logs = {(JOB, 1): ServedLog(WHOLE, changed)}


def drop_the_last_line(history: History) -> None:
    history.logs = {(JOB, 1): ServedLog(WHOLE, WHOLE[: WHOLE.rindex(b"\n", 0, -1) + 1])}


def repeat_a_line(history: History) -> None:
    line = WHOLE[: WHOLE.index(b"\n") + 1]
    history.logs = {(JOB, 1): ServedLog(WHOLE, line + WHOLE)}


def lose_acknowledged_bytes(history: History) -> None:
    history.acknowledged_bytes = {(JOB, 1): len(WHOLE) + 1}


def serve_other_bytes_than_sealed(history: History) -> None:
    history.logs = {(JOB, 1): ServedLog(WHOLE[:-1] + b" ", WHOLE)}


def never_seal(history: History) -> None:
    history.attempts = [replace(ATTEMPT, is_sealed=False)]


def lose_the_log(history: History) -> None:
    history.logs = {}


def reorder_a_cut_log(history: History) -> None:
    first, second, rest = WHOLE.split(b"\n", 2)
    with_end(history, "failed", "worker_lost", second + b"\n" + first + b"\n" + rest)


def lose_lines_printed_long_before_the_kill(history: History) -> None:
    with_end(history, "failed", "worker_lost", b"".join(WHOLE.splitlines(keepends=True)[:9]))


def find_a_secret(history: History) -> None:
    history.secret_hits = ["object x: a secret of n1-00001 at byte 7"]


def leave_something(history: History) -> None:
    history.leftovers = ["worker-1: spool/x"]


def end_badly(history: History) -> None:
    history.exit_codes = {"worker-1": -9}


def be_slow_to_cancel(history: History) -> None:
    history.trace.cancels.append(
        Cancel(PLAN.key, 15.0 - history.profile.cancel_bound - 0.1, was_running=True)
    )


def need_many_tries(history: History) -> None:
    failed = replace(CALL, status=None, error="ConnectError")
    history.trace.calls[:] = [*(replace(failed, number=number) for number in (1, 2, 3)), CALL]


def be_silent_without_a_database(history: History) -> None:
    history.spans = [span("database", "kill", 9.0, 13.0)]
    history.trace.calls[:] = [replace(CALL, status=None, seconds=6.0)]


def be_slow_without_a_database(history: History) -> None:
    history.spans = [span("database", "kill", 9.0, 14.0)]
    history.trace.calls[:] = [replace(CALL, status=503, seconds=2.5)]


CASES: dict[str, list[Callable[[History], None]]] = {
    "C1": [
        lose_the_job,
        store_it_twice,
        store_what_nobody_asked_for,
        store_another,
        never_acknowledge,
        contradict,
    ],
    "C2": [
        run_it_twice,
        start_the_attempt_twice,
        overlap,
        never_die,
        complete_without_an_end,
        complete_without_a_run,
        complete_what_fails,
        fail_what_does_not,
        cancel_unasked,
    ],
    "C3": [stay_running, keep_a_dead_lease, lose_patience],
    "C4": [break_a_law],
    "C5": [
        change_a_byte,
        drop_the_last_line,
        repeat_a_line,
        lose_acknowledged_bytes,
        serve_other_bytes_than_sealed,
        never_seal,
        lose_the_log,
        reorder_a_cut_log,
        lose_lines_printed_long_before_the_kill,
    ],
    "C6": [find_a_secret],
    "C7": [leave_something, end_badly],
    "C9": [be_slow_to_cancel],
    "C11": [need_many_tries, be_silent_without_a_database, be_slow_without_a_database],
}


def test_a_sound_history_keeps_every_goal() -> None:
    history = sound_history()

    verdicts = [check(history) for check in checkers.CHECKERS]

    assert [verdict.violations for verdict in verdicts] == [[]] * len(verdicts)


def test_every_goal_has_wrong_histories() -> None:
    assert list(CASES) == [check(sound_history()).goal for check in checkers.CHECKERS]


@pytest.mark.parametrize(
    ("goal", "spoil"),
    [
        pytest.param(goal, spoil, id=f"{goal}-{spoil.__name__}")
        for goal, cases in CASES.items()
        for spoil in cases
    ],
)
def test_a_wrong_history_is_found_out(goal: str, spoil: Callable[[History], None]) -> None:
    history = sound_history()

    spoil(history)

    verdicts = {verdict.goal: verdict for verdict in (check(history) for check in checkers.CHECKERS)}
    assert not verdicts[goal].holds


@pytest.mark.parametrize(
    ("target", "excuses"), [("worker-1", True), ("worker-1:uplink", True), ("worker-2", False)]
)
def test_a_slow_cancel_is_excused_by_outages_on_its_way_only(target: str, excuses: bool) -> None:
    history = sound_history()
    be_slow_to_cancel(history)
    history.jobs = [replace(ROW, worker_name="worker-1")]
    history.spans = [span(target, "kill", 13.0, 14.0)]

    assert checkers.check_cancels(history).holds is excuses


def test_a_cut_log_may_end_anywhere_in_its_last_second() -> None:
    history = sound_history()
    with_end(history, "failed", "worker_lost", WHOLE[:-7])

    assert checkers.check_logs(history).holds


def test_each_spelling_of_a_secret_is_found_anywhere(tmp_path: Path) -> None:
    search = SecretSearch([PLAN])
    assert PLAN.secret is not None

    for number, form in enumerate(sorted(giveaways(PLAN.secret))):
        (tmp_path / str(number)).write_bytes(b"before" + form + b"after")
    search.look_into(tmp_path, what="object")

    assert len(search.hits) >= len(giveaways(PLAN.secret))


def test_the_workload_is_the_seeds_alone() -> None:
    assert make_plans(7, 50, 60) == make_plans(7, 50, 60) != make_plans(8, 50, 60)


async def test_a_broken_law_of_the_rows_is_found(database: Database, dsn: str, make_user: MakeUser) -> None:
    desk = JobDesk(database, await make_user())
    job = await desk.submit()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as reader:
        before = await broken_laws(reader)
        await reader.execute("UPDATE job_events SET to_status = 'running'")

        broken = await broken_laws(reader)

    assert before == []
    assert [found.partition(":")[0] for found in broken] == [job.job_id]
