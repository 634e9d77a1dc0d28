"""Every way in which a job ends: told apart, in time, with nothing left."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, Attempt, Attempts, processes_running, wait_until
from runnerlib.executors.cgroups import find_controllers
from runnerlib.spec import HostPolicy, JobSource, Renewed, Resources, Stop

ISOLATIONS = pytest.mark.parametrize("is_unsandboxed", [False, True], ids=["bubblewrap", "unsandboxed"])


def policy(*, is_unsandboxed: bool = False, grace: float = 1) -> HostPolicy:
    return HostPolicy(unsandboxed=is_unsandboxed, cancel_grace_seconds=grace)


def mark_of(number: int) -> str:
    """An argument of `sleep` that no other test uses."""
    return f"{number}{os.getpid()}"


def is_gone(mark: str) -> bool:
    return not processes_running(f"sleep\0{mark}")


@ISOLATIONS
@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 130, 137, 255])
def test_run_14_an_exit_code_is_kept_exactly(attempts: Attempts, code: int, is_unsandboxed: bool) -> None:
    done = attempts.run(f"exit {code}", host=policy(is_unsandboxed=is_unsandboxed))

    assert done.result.exit_code == code
    assert done.result.status == ("completed" if code == 0 else "failed")
    assert done.result.reason in ("ok", "exit_nonzero", "signalled")
    assert done.result.reason == "ok" or done.result.fault == "user"


@ISOLATIONS
@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "HUP"])
def test_run_14_death_by_a_signal_is_told(attempts: Attempts, name: str, is_unsandboxed: bool) -> None:
    number = signal.Signals[f"SIG{name}"].value

    done = attempts.run(f"kill -{name} $$; sleep 5", host=policy(is_unsandboxed=is_unsandboxed))

    assert (done.result.status, done.result.reason) == ("failed", "signalled")
    assert (done.result.exit_code, done.result.signal) == (128 + number, number)


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command-at-all", 127), ("/etc/passwd", 126), ("/job/none/x", 127)]
)
def test_run_15_what_cannot_be_run_is_named_in_the_log(attempts: Attempts, command: str, code: int) -> None:
    done = attempts.run(command)

    assert (done.result.status, done.result.exit_code) == ("failed", code)
    assert command in done.output


@ISOLATIONS
def test_run_08_a_job_ends_with_its_main_process_and_takes_its_daemons_along(
    attempts: Attempts, is_unsandboxed: bool
) -> None:
    mark = mark_of(41)
    began = time.monotonic()

    done = attempts.run(
        f"setsid sleep {mark} & (setsid sh -c 'setsid sleep {mark} & sleep {mark}' &); sleep 0.3; exit 0",
        host=policy(is_unsandboxed=is_unsandboxed),
    )

    assert done.result.status == "completed"
    assert time.monotonic() - began < 8
    assert is_gone(mark)


@ISOLATIONS
def test_run_10_a_job_that_ignores_term_is_killed_after_the_grace_time(
    attempts: Attempts, is_unsandboxed: bool
) -> None:
    mark = mark_of(42)
    job = attempts.start(
        f"trap '' TERM; echo begun; sleep {mark}; sleep {mark}", host=policy(is_unsandboxed=is_unsandboxed)
    )
    job.wait_for(b"begun")

    job.send(Stop("cancel"))

    assert job.wait(8).status == "cancelled"
    assert (job.result.reason, job.result.fault) == ("cancelled_user", "none")
    assert is_gone(mark)


def test_a_cancelled_job_may_tidy_up_within_the_grace_time(attempts: Attempts) -> None:
    job = attempts.start("trap 'echo tidied; exit 3' TERM; echo begun; sleep 60", host=policy(grace=20))
    job.wait_for(b"begun")

    job.send(Stop("cancel"))

    assert job.wait(10).status == "cancelled"
    assert job.result.exit_code == 3
    assert "tidied" in job.output


def test_kill_overrides_a_cancel_that_is_under_way(attempts: Attempts) -> None:
    job = attempts.start(
        "trap 'echo stubborn' TERM; echo begun; while :; do sleep 1; done", host=policy(grace=60)
    )
    job.wait_for(b"begun")
    job.send(Stop("cancel"))
    job.wait_for(b"stubborn")

    job.send(Stop("kill"))

    assert job.wait(8).status == "cancelled"


def test_run_11_a_job_that_runs_too_long_is_ended_and_its_log_kept(attempts: Attempts) -> None:
    mark = mark_of(43)
    began = time.monotonic()

    done = attempts.run(f"echo so far; trap '' TERM; sleep {mark}; sleep {mark}", timeout_seconds=2)

    assert (done.result.status, done.result.reason) == ("timeout", "timeout_run")
    assert 2 <= time.monotonic() - began < 2 + 1 + 5
    assert "so far" in done.output
    assert is_gone(mark)


def test_a_silent_job_is_ended(attempts: Attempts) -> None:
    done = attempts.run(
        "for i in 1 2 3; do echo $i; sleep 0.4; done; exec sleep 60", silence_timeout_seconds=1
    )

    assert (done.result.status, done.result.reason) == ("timeout", "timeout_silent")
    assert done.output.split() == ["1", "2", "3"]


def test_run_20_a_cancel_during_the_source_ends_it(attempts: Attempts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        job = attempts.start(
            "echo run",
            source=JobSource(type="git", url=f"http://{host}/repository.git"),
            host=HostPolicy(git_allowed_protocols=("http",), git_allowed_hosts=(host,)),
        )
        silent.settimeout(20)
        connection, _ = silent.accept()

        job.send(Stop("cancel"))

        result = job.wait(10)
        connection.close()
    assert (result.status, result.reason) == ("cancelled", "cancelled_user")
    assert result.exit_code is None
    assert job.output == ""
    assert processes_running(host) == []


def test_a_log_that_cannot_be_written_ends_the_job_as_the_hosts_fault(attempts: Attempts) -> None:
    done = attempts.run(
        "while :; do head -c 100000 /dev/zero | tr '\\0' '\\n'; done",
        launcher=["/bin/sh", "-c", 'ulimit -f 400; exec "$0" "$@"'],
        timeout_seconds=30,
    )

    assert (done.result.status, done.result.reason) == ("failed", "worker_disk")
    assert done.result.log_length == len(done.log) <= 400 * 512
    assert done.stream("oep") == done.log


def test_run_13_a_job_that_kills_all_it_can_does_not_hurt_its_neighbour(attempts: Attempts) -> None:
    neighbour = attempts.start("echo begun; sleep 3; echo unharmed")
    neighbour.wait_for(b"begun")

    for number in ("-STOP", "-9"):
        attempts.run(f"kill {number} -1; kill {number} 1; exit 0", timeout_seconds=20)

    assert neighbour.wait().status == "completed"
    assert "unharmed" in neighbour.output


@ISOLATIONS
def test_a_job_dies_with_its_worker(attempts: Attempts, is_unsandboxed: bool) -> None:
    mark = mark_of(44)
    job = attempts.start(f"echo begun; sleep {mark}", host=policy(is_unsandboxed=is_unsandboxed))
    job.wait_for(b"begun")

    job.hang_up()

    assert job.wait(5).reason == "worker_lost"
    assert job.result.status == "failed"
    assert is_gone(mark)


def test_a_job_dies_with_its_runner(attempts: Attempts) -> None:
    mark = mark_of(45)
    job = attempts.start(f"trap '' HUP TERM; (setsid sleep {mark} &); echo begun; sleep {mark}")
    job.wait_for(b"begun")

    job.process.kill()

    wait_until(lambda: is_gone(mark), 2)


def test_a_job_whose_lease_is_not_renewed_is_killed(attempts: Attempts) -> None:
    mark = mark_of(46)
    job = attempts.start(f"echo begun; sleep {mark}", fence_seconds=3.0)
    job.wait_for(b"begun")
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        job.send(Renewed())
        assert job.process.poll() is None
        time.sleep(0.2)

    result = job.wait(10)

    assert (result.status, result.reason) == ("failed", "worker_lost")
    assert is_gone(mark)


def test_a_renewal_that_was_long_on_its_way_counts_from_its_sending(attempts: Attempts) -> None:
    job = attempts.start("echo begun; sleep 60", fence_seconds=4.0)
    job.wait_for(b"begun")
    ends = time.monotonic() + 8

    while job.process.poll() is None and time.monotonic() < ends:
        job.send(Renewed(age_seconds=3.9))
        time.sleep(0.1)

    result = job.wait(5)
    assert (result.status, result.reason) == ("failed", "worker_lost")


def test_what_the_start_took_counts_against_the_first_lease(attempts: Attempts) -> None:
    job = attempts.start("echo begun; sleep 60", fence_seconds=60.0, fence_used_seconds=58.0)

    result = job.wait(10)

    assert (result.status, result.reason) == ("failed", "worker_lost")


def test_an_abandoned_job_is_killed_at_once(attempts: Attempts) -> None:
    mark = mark_of(47)
    job = attempts.start(f"trap '' TERM; echo begun; sleep {mark}", host=policy(grace=60))
    job.wait_for(b"begun")

    job.send(Stop("abandon"))

    job.wait(8)
    assert is_gone(mark)


def test_a_signal_meant_for_the_worker_does_not_end_its_job(attempts: Attempts) -> None:
    job = attempts.start("echo begun; sleep 1; echo whole")
    job.wait_for(b"begun")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        job.process.send_signal(number)

    assert job.wait().status == "completed"
    assert "whole" in job.output


def test_run_04_a_fork_bomb_stays_within_its_number_of_processes(attempts: Attempts) -> None:
    mark = mark_of(48)
    bomb = attempts.start(
        f"echo begun; f() {{ f | f & }}; f; while :; do sleep {mark} & done",
        resources=Resources(pids=40),
        timeout_seconds=4,
    )
    bomb.wait_for(b"begun")
    most, neighbour = 0, attempts.start("echo fine")
    while neighbour.process.poll() is None:
        most = max(most, len(processes_running(f"sleep\0{mark}")))
        time.sleep(0.02)

    bomb.wait(20)
    assert neighbour.result.status == "completed"
    assert most <= 40
    assert is_gone(mark)


def test_run_05_a_job_that_takes_too_much_memory_is_told_from_any_other_end(attempts: Attempts) -> None:
    done = attempts.run(
        'exec /usr/bin/python3 -c "import time; b = bytearray(4 << 30); time.sleep(60)"',
        resources=Resources(memory_mb=256),
        timeout_seconds=60,
    )

    assert (done.result.status, done.result.reason) == ("failed", "oom_killed")
    assert (done.result.exit_code, done.result.fault) == (137, "user")


def test_run_05_without_control_groups_memory_is_watched(attempts: Attempts) -> None:
    done = attempts.run(
        "/usr/bin/python3 -c \"import time; b = b'x' * (400 << 20); time.sleep(60)\"; exit 0",
        host=policy(is_unsandboxed=True),
        resources=Resources(memory_mb=128),
        timeout_seconds=60,
    )

    assert (done.result.reason, done.result.exit_code) == ("oom_killed", 137)


def test_run_06_no_file_grows_past_the_limit(attempts: Attempts) -> None:
    done = attempts.run(
        "truncate -s 1T sparse; echo sparse=$?; dd if=/dev/zero of=big bs=1M count=64; echo big=$?;"
        " stat -c %s big",
        host=HostPolicy(workspace_limit_bytes=16 * 1024**2),
    )

    assert "sparse=0" not in done.output
    assert "big=0" not in done.output
    assert int(done.output.split()[-1]) == 16 * 1024**2


def test_run_06_the_temporary_directory_is_full_before_the_memory_is(attempts: Attempts) -> None:
    done = attempts.run(
        "dd if=/dev/zero of=/tmp/big bs=1M count=200; echo temp=$?;"
        " dd if=/dev/zero of=/dev/shm/big bs=1M count=99",
        resources=Resources(memory_mb=256),
    )

    assert "temp=1" in done.output
    assert done.output.count("No space left") == 2


def test_run_06_a_job_that_fills_its_workspace_is_ended_and_the_space_given_back(attempts: Attempts) -> None:
    done = attempts.run(
        "i=0; while :; do dd if=/dev/zero of=f$i bs=1M count=4 2>/dev/null; i=$((i+1)); sleep 0.05; done",
        host=HostPolicy(workspace_limit_bytes=16 * 1024**2),
        timeout_seconds=60,
    )

    assert (done.result.status, done.result.reason) == ("failed", "output_limit")
    assert "16777216" in (done.result.message or "")
    assert list(done.work.iterdir()) == []


@pytest.mark.skipif(not IS_ROOT, reason="only root can have control groups here")
def test_no_control_group_is_left(attempts: Attempts) -> None:
    controllers = find_controllers()

    done = attempts.run("sleep 60 & exit 0", resources=Resources(cpu=1.0), job_id="groups")

    assert done.result.status == "completed"
    for hierarchy in (controllers.memory, controllers.pids, controllers.cpu):
        assert hierarchy is None or not (hierarchy.parent / "reactorcide.groups.1").exists()


def test_a_tree_that_resists_removal_is_removed(attempts: Attempts, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "sings").write_text("yes")

    done = attempts.run(
        f"mkdir -p a/b; touch a/b/c; chmod 000 a/b a; ln -s {canary} link; mkfifo pipe; mkdir deep; cd deep; "
        "i=0; while [ $i -lt 400 ]; do mkdir d; cd d; i=$((i+1)); done; touch bottom; echo built"
    )

    assert "built" in done.output
    assert list(done.work.iterdir()) == []
    assert (canary / "sings").read_text() == "yes"


def test_the_phases_are_told_in_order(attempts: Attempts) -> None:
    done: Attempt = attempts.run("echo x")

    events = done.events()
    phases = [event["phase"] for event in events if event["type"] == "phase"]
    assert phases == ["workspace", "image", "source", "environment", "command", "cleanup"]
    assert any(event["type"] == "log" and event["length"] == 2 for event in events)
