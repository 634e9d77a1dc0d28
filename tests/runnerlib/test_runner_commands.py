"""What a worker asks of its host through the command `runnerlib`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attempt_runs import IS_ROOT, Attempts, processes_running, wait_until


def runnerlib(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "runnerlib.cli", *arguments], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_isolation_tells_what_a_job_gets_on_this_host() -> None:
    found = runnerlib("isolation", "--json")

    assert found["name"] == "bubblewrap", found["detail"]
    assert found["version"] in found["detail"]
    measures = {measure["name"]: measure for measure in found["measures"]}
    assert measures["user"]["is_enforced"] is IS_ROOT
    assert "rlimit" in measures["processes"]["by"]


def test_isolation_says_why_there_is_none() -> None:
    found = runnerlib("isolation", "--json", "--executor=process", "--read-only-path", "/no/such/toolchain")

    assert found["name"] == "none"
    assert "No such file or directory" in found["detail"]


def test_cleanup_removes_what_a_named_attempt_left_and_spares_the_others(
    attempts: Attempts, tmp_path: Path
) -> None:
    mark = f"71{os.getpid()}"
    living = attempts.start("echo begun; sleep 60", job_id="living")
    living.wait_for(b"begun")
    dead = attempts.start(f"mkdir -p a/b; echo begun; sleep {mark}", job_id="dead")
    dead.wait_for(b"begun")
    dead.process.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_running(f"sleep\0{mark}"), 5)

    cleaned = runnerlib("cleanup", str(tmp_path / "work"), "dead.1", "never.1")

    assert cleaned["workspaces"] == ["dead.1"]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["living.1"]
    assert living.process.poll() is None


@pytest.mark.parametrize("names", [(), ("stale.1", "private.2", "notes", "shared.3", "file.4")])
def test_cleanup_leaves_what_no_runner_made(tmp_path: Path, names: tuple[str, ...]) -> None:
    work = tmp_path / "work"
    for name, mode in (("notes", 0o700), ("shared.3", 0o755), ("private.2", 0o700)):
        (work / name).mkdir(parents=True)
        (work / name / "sings").touch()
        (work / name).chmod(mode)
    (work / "stale.1").symlink_to(work / "notes")
    (work / "file.4").touch(mode=0o700)

    cleaned = runnerlib("cleanup", str(work), *names)

    assert cleaned["workspaces"] == ["private.2"]
    assert {path.name for path in work.iterdir()} == {"notes", "shared.3", "stale.1", "file.4"}
    assert (work / "notes" / "sings").exists()


def test_cleanup_without_a_folder_takes_that_of_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reactorcide" / "runs" / "dead.1").mkdir(mode=0o700, parents=True)
    (tmp_path / "told" / "dead.2").mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    usual = runnerlib("cleanup")
    monkeypatch.setenv("REACTORCIDE_WORK_DIR", str(tmp_path / "told"))
    told = runnerlib("cleanup")

    assert (usual["workspaces"], told["workspaces"]) == (["dead.1"], ["dead.2"])


def test_cleanup_of_a_folder_that_is_not_there_is_done(tmp_path: Path) -> None:
    assert runnerlib("cleanup", str(tmp_path / "none"))["workspaces"] == []


def test_cleanup_spares_what_still_runs_unless_told_otherwise(attempts: Attempts, tmp_path: Path) -> None:
    work = tmp_path / "work"
    living = attempts.start("echo begun; sleep 60", job_id="living")
    living.wait_for(b"begun")
    (work / "dead.1").mkdir(mode=0o700)

    gently = runnerlib("cleanup", str(work))
    wholly = runnerlib("cleanup", "--also-running", str(work))

    assert (gently["workspaces"], gently["spared"]) == (["dead.1"], ["living.1"])
    assert (wholly["workspaces"], wholly["spared"]) == (["living.1"], [])
