"""What is left of a container when its runner, its client or its worker dies: nothing, soon."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from attempt_runs import processes_running, wait_until
from container_host import ContainerAttempts
from runnerlib.executors.processes import children_of, descendants_of


def spaced(number: int) -> str:
    """Return a number of seconds that no other test sleeps."""
    return f"{number}.{os.getpid()}"


def test_wrk_01_a_container_is_gone_when_its_runner_was_killed(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; trap '' TERM; sleep {spaced(711)}")
    job.wait_for(b"ready")

    job.process.kill()

    wait_until(lambda: not processes_running(f"sleep\0{spaced(711)}"), 5)
    wait_until(lambda: containers.engine.containers() == [], 10)


def test_wrk_01_a_job_ends_by_itself_when_nobody_is_left_to_end_it(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; trap '' TERM; sleep {spaced(717)}")
    job.wait_for(b"ready")
    (watcher,) = [
        pid
        for pid in children_of(job.process.pid)
        if b"read -r word" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    job.process.send_signal(signal.SIGSTOP)

    os.kill(watcher, signal.SIGKILL)
    job.process.kill()

    wait_until(lambda: not processes_running(f"sleep\0{spaced(717)}"), 5)
    containers.engine.podman("rm", "--force", "--time=0", *containers.engine.containers())


def test_wrk_11_what_outlived_everything_is_removed_by_a_clean_up(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; sleep {spaced(712)}")
    job.wait_for(b"ready")
    clients = list(descendants_of(job.process.pid))
    job.process.send_signal(signal.SIGSTOP)
    for pid in clients:  # the watcher and the engine's client
        os.kill(pid, signal.SIGKILL)
    job.process.kill()
    job.process.wait()
    (name,) = containers.engine.containers()
    assert job.name in name

    cleaned = subprocess.run(
        [sys.executable, "-P", "-m", "runnerlib.cli", "cleanup", str(job.work), job.name],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    told = json.loads(cleaned.stdout)
    assert told["containers"] == [job.name]
    assert job.name in told["workspaces"]
    assert containers.engine.containers() == []
    assert processes_running(f"sleep\0{spaced(712)}") == []
    assert list(job.work.iterdir()) == []


def test_the_container_of_another_attempt_is_left_alone(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; sleep {spaced(713)}")
    job.wait_for(b"ready")

    subprocess.run(
        [sys.executable, "-P", "-m", "runnerlib.cli", "cleanup", str(job.work), f"{job.name}1"],
        capture_output=True,
        check=True,
        timeout=30,
    )

    assert len(containers.engine.containers()) == 1
    assert processes_running(f"sleep\0{spaced(713)}")


def test_a_container_that_somebody_removes_is_told_as_dead(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; sleep {spaced(714)}")
    job.wait_for(b"ready")

    containers.engine.podman("rm", "--force", "--time=0", *containers.engine.containers())
    result = job.wait()

    assert result.status == "failed"
    assert result.reason in ("sandbox_died", "signalled")


def test_a_job_whose_engine_client_dies_is_told_as_dead(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; sleep {spaced(715)}")
    job.wait_for(b"ready")
    (client,) = [
        pid
        for pid in children_of(job.process.pid)
        if b"--interactive" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]

    os.kill(client, signal.SIGKILL)
    result = job.wait()

    assert (result.reason, result.exit_code) == ("sandbox_died", None)
    assert processes_running(f"sleep\0{spaced(715)}") == []
    wait_until(lambda: containers.engine.containers() == [], 10)


def test_a_worker_that_hangs_up_ends_its_container(containers: ContainerAttempts) -> None:
    job = containers.start(f"echo ready; sleep {spaced(716)}")
    job.wait_for(b"ready")

    job.hang_up()

    assert job.wait(15).reason == "worker_lost"
    assert containers.engine.containers() == []
