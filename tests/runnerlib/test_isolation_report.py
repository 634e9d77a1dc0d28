"""What is told of a host's isolation is what holds there, and what is required and missing stops jobs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attempt_runs import IS_ROOT, Attempts
from container_host import ContainerHost
from runnerlib.executors.cgroups import Controllers, Hierarchy, find_controllers
from runnerlib.executors.engine import Engine
from runnerlib.executors.landlock import has_scopes
from runnerlib.executors.measures import container_measures, no_measures, sandbox_measures
from runnerlib.executors.seccomp import find_filter
from runnerlib.spec import MEASURES, HostPolicy, Measure, parse_measures, unmet

GROUP = Hierarchy(Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup"))
BEST_SANDBOX = sandbox_measures(
    Controllers(2, GROUP, GROUP, GROUP), has_own_user=True, has_filter=True, has_scopes=True
)
WORST_SANDBOX = sandbox_measures(
    Controllers(0, None, None, None), has_own_user=False, has_filter=False, has_scopes=False
)
ROOTS_DOCKER = Engine("docker", "/usr/bin/docker", "27.1", False, True, True, True)
WEAK_PODMAN = Engine("podman", "/usr/bin/podman", "4.3.1", True, False, False, False)


def isolation(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "runnerlib.cli", "isolation", *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(*arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(isolation("--json", *arguments, environment=environment).stdout)
    return found


def enforced(measures: tuple[Measure, ...]) -> set[str]:
    return {measure.name for measure in measures if measure.is_enforced}


@pytest.mark.parametrize(
    "measures",
    [
        BEST_SANDBOX,
        WORST_SANDBOX,
        no_measures(),
        container_measures(ROOTS_DOCKER, has_own_user=True, counts_users=False, network=None),
        container_measures(WEAK_PODMAN, has_own_user=False, counts_users=True, network="host"),
    ],
)
def test_every_measure_is_told_once_and_what_is_not_enforced_has_a_remedy(
    measures: tuple[Measure, ...],
) -> None:
    assert [measure.name for measure in measures] == list(MEASURES)
    assert all(measure.remedy for measure in measures if not measure.is_enforced)
    assert not any(measure.is_enforced for measure in measures if measure.by == "nothing")


def test_only_what_the_parts_of_a_host_see_to_counts_as_enforced() -> None:
    assert set(MEASURES) - enforced(BEST_SANDBOX) == {"disk", "loopback"}
    assert enforced(WORST_SANDBOX) == {"files", "processes", "network"}
    assert enforced(no_measures()) == set()


def test_a_container_on_the_network_of_the_host_is_not_told_to_be_apart_from_it() -> None:
    usual = container_measures(ROOTS_DOCKER, has_own_user=True, counts_users=False, network="builds")
    shared = container_measures(ROOTS_DOCKER, has_own_user=True, counts_users=False, network="host")

    assert enforced(usual) - enforced(shared) == {"loopback", "abstract sockets"}


def test_an_engine_that_limits_nothing_is_not_told_to() -> None:
    weak = container_measures(WEAK_PODMAN, has_own_user=False, counts_users=False, network=None)

    assert enforced(weak).isdisjoint({"memory", "processes", "cpu", "user"})


def test_a_list_of_measures_may_be_in_any_case_and_names_only_what_there_is() -> None:
    assert parse_measures(" Memory,system  calls,, ") == ("memory", "system calls")
    with pytest.raises(ValueError, match="'swap' is none of user, files"):
        parse_measures("memory,swap")


def test_a_measure_that_nobody_knows_is_never_met() -> None:
    assert unmet(("memory", "swap", "disk"), BEST_SANDBOX) == ["swap", "disk"]


def test_the_report_tells_of_this_host_what_holds_on_it() -> None:
    found = told("--executor=process")

    measures = {measure["name"]: measure for measure in found["measures"]}
    controllers = find_controllers()
    assert found["name"] == "bubblewrap", found["detail"]
    assert measures["system calls"]["is_enforced"] == (find_filter() is not None)
    assert measures["user"]["is_enforced"] == IS_ROOT
    assert measures["memory"]["is_enforced"] == (controllers.memory is not None)
    assert measures["abstract sockets"]["is_enforced"] == has_scopes()
    assert measures["loopback"] == {
        "name": "loopback",
        "by": "nothing",
        "is_enforced": False,
        "remedy": "have jobs say network: none, or take EXECUTOR=container",
    }


def test_people_get_a_line_for_each_measure() -> None:
    lines = isolation("--executor=process").stdout.splitlines()

    assert len(lines) == 1 + len(MEASURES)
    assert any(line.split() == ["loopback", "NOT", "ENFORCED", "nothing"] for line in lines)


def test_the_report_fails_where_less_is_enforced_than_required() -> None:
    done = isolation("--executor=process", "--require=files,loopback")

    assert done.returncode == 1
    assert "required and not enforced: loopback" in done.stdout


def test_auto_takes_a_container_where_there_is_no_bubblewrap(container_host: ContainerHost) -> None:
    # A path that is not there keeps bubblewrap away where the worker is root; the engine looks later.
    if not IS_ROOT:
        pytest.skip("only for root does a missing path already hinder the choice")
    found = told("--read-only-path=/no/such/toolchain", environment=container_host.environment)

    assert found["name"] == "podman", found["detail"]
    assert found["version"] in found["detail"]


def test_a_container_is_told_to_be_there_if_its_engine_is(container_host: ContainerHost) -> None:
    found = told("--executor=container", environment=container_host.environment)

    assert found["name"] == "podman", found["detail"]
    assert {"files", "network"} <= {entry["name"] for entry in found["measures"] if entry["is_enforced"]}


def test_an_engine_that_is_missing_is_told_of() -> None:
    found = told("--executor=container", "--container-engine=/no/such/engine", "--require=files")

    assert found["name"] == "none"
    assert "/no/such/engine" in found["detail"]
    assert found["unmet"] == ["files"]


def test_no_job_is_run_where_what_is_required_is_not_enforced(attempts: Attempts) -> None:
    policy = HostPolicy(executor="process", require_isolation=("files", "loopback"))

    done = attempts.run("echo run", host=policy)

    assert (done.result.status, done.result.reason) == ("failed", "sandbox_unavailable")
    assert "loopback" in (done.result.message or "")
    assert "files" not in (done.result.message or "")
    assert done.output == ""


def test_jobs_are_run_where_what_is_required_is_enforced(attempts: Attempts) -> None:
    policy = HostPolicy(executor="process", require_isolation=("files", "processes", "network"))

    assert attempts.run("echo run", host=policy).output == "run\n"
