"""The checker of logs: byte for byte against what the jobs of the workload print."""

import hashlib
from collections.abc import Iterator

from robustness.history import AttemptRow, History, JobRow, ServedLog
from robustness.workload import Plan

FLUSH_SECONDS = 1.0
"""What was printed so long before a job died is in its log."""
EXACT_REASONS = ("ok", "exit_nonzero")


def broken_logs(history: History) -> tuple[list[str], dict[str, object]]:
    """Return what is wrong with the logs, and how many there are of each sort."""
    jobs = {job.job_id: job for job in history.jobs}
    faults: list[str] = []
    exact = prefixes = 0
    for row in history.attempts:
        job = jobs.get(row.job_id)
        plan = None if job is None else history.plans.get(job.name)
        if job is None or plan is None or not row.is_started:
            continue
        served = history.logs.get((row.job_id, row.attempt))
        name = f"{job.name}.{row.attempt}"
        if served is None:
            faults.append(f"{name}: its log could not be read")
            continue
        faults += [f"{name}: {fault}" for fault in _digest_faults(history, row, served)]
        if row.attempt == job.attempt and job.reason in EXACT_REASONS:
            exact += 1
            faults += [f"{name}: {fault}" for fault in _exact_faults(plan, served)]
        else:
            prefixes += 1
            faults += [
                f"{name} ({job.reason}): {fault}" for fault in _prefix_faults(history, job, row, plan, served)
            ]
    return faults, {
        "exact": exact,
        "prefixes": prefixes,
        "bytes": sum(len(s.whole) for s in history.logs.values()),
    }


def _digest_faults(history: History, row: AttemptRow, served: ServedLog) -> Iterator[str]:
    acknowledged = history.acknowledged_bytes.get((row.job_id, row.attempt), 0)
    if max(acknowledged, row.log_length) > len(served.whole):
        yield f"{max(acknowledged, row.log_length)} bytes were acknowledged, {len(served.whole)} are there"
    if row.promised_sha256 is None:
        return
    if not row.is_sealed:
        yield f"{row.promised_length} bytes were promised, {row.log_length} came, and it is not sealed"
    elif hashlib.sha256(served.whole).digest() != row.promised_sha256:
        yield "what is served has another digest than what was sealed"


def _exact_faults(plan: Plan, served: ServedLog) -> Iterator[str]:
    for errors, found in ((False, served.stdout), (True, served.stderr)):
        wanted = plan.expected(errors=errors)
        if found != wanted:
            place = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
            where = min(len(found), len(wanted)) if place is None else place
            name = "stderr" if errors else "stdout"
            yield f"{name} differs at byte {where} of {len(wanted)}: {found[where:][:80]!r}"


def _prefix_faults(
    history: History, job: JobRow, row: AttemptRow, plan: Plan, served: ServedLog
) -> Iterator[str]:
    for errors, found in ((False, served.stdout), (True, served.stderr)):
        name = "stderr" if errors else "stdout"
        wanted = plan.expected(errors=errors)
        # A line that was cut off is shown with an end of its own.
        if not (wanted.startswith(found) or wanted.startswith(found.removesuffix(b"\n"))):
            yield f"{name} is not a beginning of what was printed"
            continue
        printed = 0
        for life in history.lives.get((row.job_id, row.attempt), ()):
            if life.ended_at is not None:
                printed = max(printed, life.lines_before(life.ended_at - FLUSH_SECONDS))
        least = plan.lines_on(printed, errors=errors)
        if found.count(b"\n") < least and job.reason not in ("worker_disk", "log_lost"):
            yield f"{name} has {found.count(bytes([10]))} lines; {least} were printed long before the end"
