"""The goals of the programme, each checked over the history of a run.

A checker returns a verdict: what broke the goal, in words, and figures of what it saw. None of them
asks the product how it believes to have done.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from robustness.checkers_logs import broken_logs
from robustness.history import History, JobRow
from robustness.nemesis_faults import FaultSpan
from robustness.workload import FAILS_WITH, Kind
from robustness.workload_clients import Call

TRIES = 3
TRIED_SHARE = 0.995
ANSWERED_WITHIN = 2.0
RECOVERED_WITHIN = 5.0
HANGING_WITHIN = 5.0
"""Of a database that hangs instead of refusing, this is known after so long."""
SETTLING_SECONDS = 0.25
"""An outage is felt a moment after its begin."""


@dataclass(frozen=True)
class Verdict:
    """What a checker found."""

    goal: str
    says: str
    violations: list[str]
    figures: dict[str, object] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.violations


def check_acknowledged(history: History) -> Verdict:
    """C1: no acknowledged job is lost, and none is there that nobody asked for."""
    names = Counter(job.name for job in history.jobs)
    ids = {job.name: job.job_id for job in history.jobs}
    faults = [f"{name}: {number} rows" for name, number in names.items() if number > 1]
    faults += [f"{name}: nobody asked for it" for name in names if name not in history.plans]
    for key in history.plans:
        job_id = history.trace.acknowledged.get(key)
        if job_id is None:
            faults.append(f"{key}: never acknowledged")
        elif key not in names:
            faults.append(f"{key}: acknowledged and lost")
        elif ids[key] != job_id and names[key] == 1:
            faults.append(f"{key}: acknowledged as {job_id}, stored as {ids[key]}")
    faults += history.trace.contradictions
    return Verdict(
        "C1",
        "0 acknowledged jobs lost, 0 extra",
        faults,
        {"acknowledged": len(history.trace.acknowledged), "rows": len(history.jobs)},
    )


def check_runs(history: History) -> Verdict:
    """C2: nothing runs more often than it may, or twice at once; what completed came to its end."""
    faults = list(_run_faults(history))
    longest = 0.0
    by_job: dict[str, list[tuple[int, float, float]]] = {}
    for (job_id, attempt), lives in history.lives.items():
        for life in lives:
            ended = float("inf") if life.ended_at is None else life.ended_at
            by_job.setdefault(job_id, []).append((attempt, life.started_at, ended))
    for job_id, runs in by_job.items():
        runs.sort()
        for earlier, later in pairwise(runs):
            overlap = earlier[2] - later[1]
            if overlap > 0:
                longest = max(longest, overlap)
                faults.append(f"{job_id}: attempts {earlier[0]} and {later[0]} overlap by {overlap:.3f} s")
    figures = {"runs": sum(map(len, by_job.values())), "longest_overlap_seconds": longest}
    again = sum(1 for runs in by_job.values() if len(runs) > 1)
    return Verdict(
        "C2", "no second run, no overlap, no end without an end", faults, figures | {"run_again": again}
    )


def _run_faults(history: History) -> Iterator[str]:
    for job in history.jobs:
        runs = {a: lives for (job_id, a), lives in history.lives.items() if job_id == job.job_id}
        if any(len(lives) > 1 for lives in runs.values()):
            yield f"{job.name}: an attempt was started twice"
        if len(runs) > job.max_runs:
            yield f"{job.name}: {len(runs)} attempts ran, {job.max_runs} may"
        plan = history.plans.get(job.name)
        last = runs.get(job.attempt, ())
        if job.status == "completed" and not any(life.has_end for life in last):
            yield f"{job.name}: completed, but attempt {job.attempt} never came to its end"
        if plan is None:
            continue
        if job.status == "completed" and plan.kind in (Kind.FAILING, Kind.TIMING_OUT):
            yield f"{job.name}: completed, a {plan.kind} job cannot"
        if job.reason == "exit_nonzero" and (plan.kind is not Kind.FAILING or job.exit_code != FAILS_WITH):
            yield f"{job.name}: a {plan.kind} job failed with exit code {job.exit_code}"
        if job.status == "cancelled" and plan.cancel_after is None:
            yield f"{job.name}: cancelled, and nobody had asked for it"


def check_ended(history: History) -> Verdict:
    """C3: after the healing every job ends, and no lease stays that ended long ago."""
    faults = [f"{job_id}: not ended" for job_id in history.unended]
    faults += [f"{job.name}: {job.status}" for job in history.jobs if not job.is_final]
    bound = history.profile.stuck
    faults += [
        f"{stuck.job_id}: its lease was over for {stuck.over_for_seconds:.1f} s"
        for stuck in history.stuck
        if stuck.over_for_seconds > bound
    ]
    worst = max((stuck.over_for_seconds for stuck in history.stuck), default=0.0)
    return Verdict("C3", f"all ended, no lease over for {bound:g} s", faults, {"longest_over_seconds": worst})


def check_transitions(history: History) -> Verdict:
    """C4: every transition is legal, and every job ends once."""
    ends = Counter(f"{job.status}/{job.reason}" for job in history.jobs)
    return Verdict("C4", "100 % of transitions legal", list(history.broken_laws), {"ends": dict(ends)})


def check_logs(history: History) -> Verdict:
    """C5: logs are what the jobs printed, whole or up to where they were cut off."""
    faults, figures = broken_logs(history)
    return Verdict("C5", "logs exact, nothing acknowledged lost", faults, figures)


def check_secrets(history: History) -> Verdict:
    """C6: no secret is anywhere it should not be."""
    figures = {"searched_bytes": history.searched_bytes}
    return Verdict("C6", "0 secrets found", list(history.secret_hits), figures)


def check_leftovers(history: History) -> Verdict:
    """C7: nothing is left of what is over, and every part ends cleanly."""
    faults = list(history.leftovers)
    faults += [f"{name} ended with {code}" for name, code in history.exit_codes.items() if code != 0]
    return Verdict("C7", "0 leftovers, every part exits 0", faults, {"parts": len(history.exit_codes)})


def check_cancels(history: History) -> Verdict:
    """C9: a running job ends soon after its cancel; outages on its way may add themselves to that."""
    jobs = {job.name: job for job in history.jobs}
    calm, disturbed, faults = [], [], []
    for cancel in history.trace.cancels:
        job = jobs.get(cancel.key)
        if job is None or job.completed_at is None:
            continue
        seconds = job.completed_at - cancel.answered_at
        bound = history.profile.cancel_bound
        outages = _outages_on_the_way(history, job, cancel.answered_at)
        if outages:
            # What was lost with an outage is given up after LOST, and after the amnesty of a lease.
            bound += _union_seconds(outages) + history.profile.stuck + history.profile.lease
        (disturbed if outages else calm).append(seconds)
        if seconds > bound:
            faults.append(f"{cancel.key}: ended {seconds:.1f} s after its cancel, bound {bound:.1f} s")
    figures = {
        "calm": len(calm),
        "slowest_calm_seconds": round(max(calm, default=0.0), 2),
        "disturbed": len(disturbed),
        "slowest_disturbed_seconds": round(max(disturbed, default=0.0), 2),
    }
    return Verdict(
        "C9", f"cancelled within {history.profile.cancel_bound:g} s and the outages", faults, figures
    )


def check_api(history: History) -> Verdict:
    """C11: calls succeed within a few tries while the database is there, and are answered while it is not."""
    tries: dict[tuple[str, str], list[Call]] = {}
    for call in history.trace.calls:
        tries.setdefault((call.operation, call.key), []).append(call)
    without = [calls for calls in tries.values() if not _touches(calls, history.database_spans)]
    slow = [calls for calls in without if not any(call.is_success for call in calls[:TRIES])]
    share = 1 - len(slow) / len(without) if without else 1.0
    faults = []
    if share < TRIED_SHARE:
        worst = [f"{calls[0].operation} {calls[0].key}: {_tell(calls)}" for calls in slow[:5]]
        faults.append(
            f"{share:.2%} of {len(without)} calls succeeded within {TRIES} tries: {'; '.join(worst)}"
        )
    answered = list(_calls_without_database(history))
    late = [(call, limit) for call, limit in answered if call.status is None or call.seconds > limit]
    faults += [
        f"{call.operation} {call.key} without a database: {call.status or call.error} in {call.seconds:.2f} s"
        for call, _ in late
    ]
    figures = {
        "calls": len(history.trace.calls),
        "without_database_faults": len(without),
        "within_tries_share": round(share, 5),
        "without_database": len(answered),
        "answered_in_time": len(answered) - len(late),
        "slowest_without_database_seconds": round(max((c.seconds for c, _ in answered), default=0.0), 2),
    }
    return Verdict("C11", "99.5 % within 3 tries; 503 in time without a database", faults, figures)


def _calls_without_database(history: History) -> Iterator[tuple[Call, float]]:
    """Yield the calls to coordinators in order that fell into an outage of the database, and their bounds."""
    outages = [span for span in history.spans if span.target == "database" and span.kind != "kill_backend"]
    for call in history.trace.calls:
        disturbed = history.spans_of(f"serve-{call.coordinator + 1}")
        for span in outages:
            limit = HANGING_WITHIN if span.kind == "stop" else ANSWERED_WITHIN
            is_inside = span.began + SETTLING_SECONDS <= call.began and call.began + limit <= span.ended
            if is_inside and not _touches([call], disturbed):
                yield call, limit


def _touches(calls: Sequence[Call], spans: Sequence[FaultSpan]) -> bool:
    begin, end = calls[0].began, calls[-1].began + calls[-1].seconds
    return any(span.began <= end and begin <= span.ended + RECOVERED_WITHIN for span in spans)


def _outages_on_the_way(history: History, job: JobRow, begin: float) -> list[FaultSpan]:
    """Return the faults from a cancel to its job's end of coordinators, database and its worker."""
    end = job.completed_at or begin
    return [
        span
        for span in history.spans
        if span.target.startswith(("serve", "database", f"{job.worker_name}:"))
        or span.target == job.worker_name
        if span.began <= end and begin <= span.ended + RECOVERED_WITHIN
    ]


def _union_seconds(spans: Sequence[FaultSpan]) -> float:
    """Return the length of all spans together, what they share counted once."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.began):
        total += max(0.0, span.ended - max(span.began, until))
        until = max(until, span.ended)
    return total


def _tell(calls: Sequence[Call]) -> str:
    return ", ".join(f"{call.status or call.error} in {call.seconds:.1f} s" for call in calls[:5])


CHECKERS: tuple[Callable[[History], Verdict], ...] = (
    check_acknowledged,
    check_runs,
    check_ended,
    check_transitions,
    check_logs,
    check_secrets,
    check_leftovers,
    check_cancels,
    check_api,
)
