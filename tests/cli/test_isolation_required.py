"""Services start only where the host has what isolates jobs, whichever executor that is."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from reactorcide.cli.doctor import doctor
from reactorcide.cli.errors import CommandFailed
from reactorcide.cli.service import find_isolation, require_isolation
from reactorcide.config import load_settings
from reactorcide.domain.errors import InvalidInput

ENGINE = """#!/bin/sh
case "$1" in
--version) echo "Docker version 27.1.1, build 0" ;;
info) echo '{"version":"27.1.1","cgroup":"2","memory":true,"pids":true,"cpu":true}' ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path) -> str:
    """A program that answers as docker does, the only one on a path without bubblewrap."""
    program = tmp_path / "programs" / "docker"
    program.parent.mkdir()
    program.write_text(ENGINE)
    program.chmod(0o755)
    return str(program)


def variables(tmp_path: Path, **more: str) -> dict[str, str]:
    # A host path that is not there: no bubblewrap sandbox can be made with it.
    return {
        "REACTORCIDE_DATA_DIR": str(tmp_path / "data"),
        "REACTORCIDE_SANDBOX_PATHS": "/no/such/toolchain",
        **more,
    }


async def test_a_host_with_nothing_but_a_container_engine_runs_jobs(tmp_path: Path, engine: str) -> None:
    environ = variables(tmp_path, EXECUTOR="container", CONTAINER_ENGINE=engine)

    isolation = await require_isolation(load_settings(environ).settings, environ)

    assert isolation.name == "docker"
    assert "27.1.1" in isolation.detail


async def test_what_the_operator_says_of_containers_is_heeded(tmp_path: Path, engine: str) -> None:
    environ = variables(tmp_path, EXECUTOR="container", CONTAINER_ENGINE=engine, CONTAINER_NETWORK="host")

    isolation = await find_isolation(load_settings(environ).settings, environ)

    (loopback,) = [measure for measure in isolation.measures if measure.name == "loopback"]
    assert not loopback.is_enforced


async def test_an_engine_that_is_missing_is_no_reason_to_take_another(tmp_path: Path) -> None:
    environ = variables(tmp_path, EXECUTOR="container", CONTAINER_ENGINE="/no/such/engine")

    with pytest.raises(CommandFailed, match="/no/such/engine"):
        await require_isolation(load_settings(environ).settings, environ)


async def test_a_worker_does_not_start_where_what_is_required_is_not_enforced(
    tmp_path: Path, engine: str
) -> None:
    environ = variables(
        tmp_path,
        EXECUTOR="container",
        CONTAINER_ENGINE=engine,
        CONTAINER_NETWORK="host",
        REQUIRE_ISOLATION="memory,loopback",
    )

    with pytest.raises(CommandFailed, match=r"REQUIRE_ISOLATION: loopback$"):
        await require_isolation(load_settings(environ).settings, environ)


async def test_no_sandbox_meets_no_requirement_even_if_it_is_wanted(tmp_path: Path) -> None:
    environ = variables(tmp_path, UNSANDBOXED="true", REQUIRE_ISOLATION="memory")

    with pytest.raises(CommandFailed, match=r"REQUIRE_ISOLATION: memory$"):
        await require_isolation(load_settings(environ).settings, environ)


def test_a_requirement_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        load_settings(variables(tmp_path, REQUIRE_ISOLATION="memory,swap"))

    (fault,) = refused.value.faults
    assert "REQUIRE_ISOLATION" in fault.pointer
    assert "'swap' is none of user, files" in fault.detail


def test_doctor_warns_of_each_measure_that_nothing_enforces(tmp_path: Path, engine: str) -> None:
    environ = variables(
        tmp_path,
        REACTORCIDE_PORT="0",
        REACTORCIDE_EXECUTOR="container",
        REACTORCIDE_CONTAINER_ENGINE=engine,
        REACTORCIDE_CONTAINER_NETWORK="host",
        REACTORCIDE_REQUIRE_ISOLATION="disk",
    )

    done = CliRunner(env=environ).invoke(doctor, ["--json"])

    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert (found["sandbox"]["state"], found["sandbox: memory"]["state"]) == ("fail", "ok")
    assert found["sandbox: loopback"]["state"] == "warn"
    assert "CONTAINER_NETWORK" in found["sandbox: loopback"]["remedy"]
    assert found["sandbox: disk"]["state"] == "fail"
