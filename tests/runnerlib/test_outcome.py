"""How an attempt ended, from what was seen."""

import pytest

from runnerlib.executors.port import JobEnd
from runnerlib.guardian import Verdict
from runnerlib.outcome import outcome_of_end, outcome_of_verdict


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (JobEnd(0), ("completed", "ok", "none", 0, None)),
        (JobEnd(0, is_out_of_memory=True), ("completed", "ok", "none", 0, None)),
        (JobEnd(3), ("failed", "exit_nonzero", "user", 3, None)),
        (JobEnd(137), ("failed", "exit_nonzero", "user", 137, None)),
        (JobEnd(137, 9), ("failed", "signalled", "user", 137, 9)),
        (JobEnd(137, 9, is_out_of_memory=True), ("failed", "oom_killed", "user", 137, 9)),
        (JobEnd(2, is_out_of_memory=True), ("failed", "oom_killed", "user", 2, None)),
        (JobEnd(None), ("failed", "sandbox_died", "infra", None, None)),
    ],
)
def test_a_job_that_ended_by_itself(
    end: JobEnd, expected: tuple[str, str, str, int | None, int | None]
) -> None:
    outcome = outcome_of_end(end)

    assert (outcome.status, outcome.reason, outcome.fault, outcome.exit_code, outcome.signal) == expected


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_an_outcome_with_and_without_a_job(verdict: Verdict) -> None:
    before, after = outcome_of_verdict(verdict), outcome_of_verdict(verdict, JobEnd(137, 9))

    assert before.exit_code is None
    assert after.exit_code == 137
    assert before.status == after.status != "completed"


def test_only_an_order_makes_a_job_cancelled_and_only_a_limit_of_time_a_timeout() -> None:
    by_status = {verdict: outcome_of_verdict(verdict).status for verdict in Verdict}

    assert {v for v, status in by_status.items() if status == "cancelled"} == {
        Verdict.CANCELLED,
        Verdict.KILLED,
    }
    assert {v for v, status in by_status.items() if status == "timeout"} == {
        Verdict.TIMED_OUT,
        Verdict.SILENT,
    }
