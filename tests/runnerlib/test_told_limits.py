"""What a result tells of the limits that a job really had."""

from pathlib import Path

import msgspec

from attempt_runs import Attempts
from runnerlib.limits import find_limits
from runnerlib.spec import EffectiveLimits, HostPolicy, JobSource, Resources, RunSpec


def test_a_job_that_asks_for_nothing_has_what_is_usual_on_its_host(attempts: Attempts) -> None:
    host = HostPolicy(default_resources=Resources(memory_mb=512, pids=64), cancel_grace_seconds=1)

    attempt = attempts.run("true", host=host, timeout_seconds=59.3)

    assert attempt.result.limits == EffectiveLimits(
        memory_mb=512, cpu=None, pids=64, timeout_seconds=60, network="default"
    )


def test_what_a_job_asks_for_wins_over_its_host(attempts: Attempts) -> None:
    asked = Resources(memory_mb=256, cpu=0.5)

    attempt = attempts.run("true", resources=asked, network="none", timeout_seconds=60)

    assert attempt.result.limits == EffectiveLimits(
        memory_mb=256, cpu=0.5, pids=1024, timeout_seconds=60, network="none"
    )


def test_a_job_that_never_started_had_no_limits(attempts: Attempts) -> None:
    attempt = attempts.run("true", source=JobSource(type="copy", path="/etc"))

    assert attempt.result.reason == "source_denied"
    assert attempt.result.limits is None


def test_no_limit_stays_no_limit(tmp_path: Path) -> None:
    spec = RunSpec(
        job_id="j",
        job_name="j",
        attempt=1,
        command="true",
        source=JobSource(type="none"),
        spool_dir=str(tmp_path),
        workspace_root=str(tmp_path),
        host=msgspec.structs.replace(HostPolicy(), default_resources=Resources()),
    )

    found = find_limits(spec)

    assert (found.memory_mb, found.cpu, found.pids) == (None, None, None)
