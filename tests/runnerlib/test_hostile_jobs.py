"""What jobs that mean ill take from their neighbours and their host: memory, processors, names, secrets."""

import os
import shlex
import signal
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, Attempt, Attempts, processes_running, wait_until
from runnerlib.executors.cgroups import find_controllers
from runnerlib.spec import HostPolicy, Resources, Stop

PYTHON = "/usr/bin/python3"
needs_python = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason="the sandbox sees only the system's Python"
)
WITHOUT_GROUPS = ("unshare", "--mount", "/bin/sh", "-c", 'umount -R /sys/fs/cgroup; exec "$0" "$@"')
"""Starts a runner that finds no control groups."""


def python(code: str) -> str:
    return f"exec {PYTHON} -c {shlex.quote(code)}"


@pytest.fixture
def ungrouped() -> tuple[str, ...]:
    """What starts a runner without control groups, so that memory is only watched."""
    if IS_ROOT:
        return WITHOUT_GROUPS
    if find_controllers().memory is not None:
        pytest.skip("this user was given control groups, and only root can hide them")
    return ()


def run_watched(attempts: Attempts, code: str, launcher: tuple[str, ...], memory_mb: int) -> Attempt:
    return attempts.run(
        python(code),
        host=HostPolicy(executor="process", cancel_grace_seconds=1),
        launcher=launcher,
        resources=Resources(memory_mb=memory_mb),
        timeout_seconds=25,
    )


@needs_python
def test_run_05_memory_that_processes_share_is_watched_too(
    attempts: Attempts, ungrouped: tuple[str, ...]
) -> None:
    code = (
        "import mmap, time; m = mmap.mmap(-1, 400 << 20)\nfor i in range(400): m.write(b'x' * (1 << 20))\n"
        "time.sleep(60)"
    )

    done = run_watched(attempts, code, ungrouped, 128)

    assert (done.result.reason, done.result.exit_code) == ("oom_killed", 137)


@needs_python
def test_memory_that_many_processes_share_counts_once(attempts: Attempts, ungrouped: tuple[str, ...]) -> None:
    code = (
        "import os, time; data = b'x' * (100 << 20)\n"
        "for _ in range(5):\n"
        "  if os.fork() == 0: sum(data[::4096]); time.sleep(1.5); os._exit(0)\n"
        "for _ in range(5): os.wait()\n"
        "print('all had room', flush=True)"
    )

    done = run_watched(attempts, code, ungrouped, 300)

    assert done.output == "all had room\n", done.result


FILL_WITH_NAMES = """
import os, time
for number in range(400_000):
    os.close(os.open(f'/tmp/{number}', os.O_CREAT))
print('all made', flush=True)
time.sleep(5)
"""


@needs_python
def test_run_06_empty_files_in_memory_are_watched_too(attempts: Attempts, ungrouped: tuple[str, ...]) -> None:
    done = run_watched(attempts, FILL_WITH_NAMES, ungrouped, 128)

    assert (done.result.reason, done.result.exit_code) == ("oom_killed", 137)


@needs_python
@pytest.mark.skipif(find_controllers().memory is None, reason="no control group of ours limits memory")
def test_run_06_empty_files_in_memory_count_against_a_control_group(attempts: Attempts) -> None:
    done = attempts.run(
        python(FILL_WITH_NAMES), resources=Resources(memory_mb=128), host=HostPolicy(executor="process")
    )

    assert "all made" not in done.output
    assert (done.result.reason, done.result.exit_code) == ("oom_killed", 137)


SPIN = "while :; do :; done"


def spinning(mark: str, count: int) -> str:
    """A command that keeps processors busy from sessions of their own, which it says when it does."""
    return f"for i in {'x ' * count}; do setsid sh -c '{SPIN}' {mark} & done; echo begun; wait"


def processor_seconds(mark: str) -> float:
    ticks = 0
    for pid in processes_running(f"\0{mark}\0"):
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(find_controllers().cpu is None, reason="no control group of ours shares the processors")
def test_run_04_a_job_gets_its_share_of_the_processors_beside_one_with_many_processes(
    attempts: Attempts,
) -> None:
    many, one = f"63{os.getpid()}", f"64{os.getpid()}"
    host = HostPolicy(executor="process", cancel_grace_seconds=0)
    for mark, count in ((many, 16), (one, 1)):
        attempts.start(spinning(mark, count), host=host, timeout_seconds=40).wait_for(b"begun")
    many_before, one_before = processor_seconds(many), processor_seconds(one)

    wait_until(lambda: processor_seconds(one) > one_before + 0.5, 30)

    taken_by_many = processor_seconds(many) - many_before
    assert taken_by_many < 4 * (processor_seconds(one) - one_before)


def test_run_04_a_job_that_keeps_all_processors_busy_can_be_stopped_at_once(attempts: Attempts) -> None:
    mark = f"65{os.getpid()}"
    job = attempts.start(spinning(mark, 30), host=HostPolicy(executor="process"), timeout_seconds=40)
    job.wait_for(b"begun")

    job.send(Stop("kill"))

    assert job.wait(10).status == "cancelled"
    assert processes_running(f"\0{mark}\0") == []


def test_a_runner_leaves_no_core_file_for_it_knows_secrets(attempts: Attempts, tmp_path: Path) -> None:
    cores = tmp_path / "cores"
    cores.mkdir()
    job = attempts.start(
        "echo begun; sleep 60",
        host=HostPolicy(executor="process"),
        secrets={"DEPLOY_TOKEN": "not-for-core-files"},
        launcher=("/bin/sh", "-c", f'cd {cores}; ulimit -c "$(ulimit -H -c)"; exec "$0" "$@"'),
    )
    job.wait_for(b"begun")

    job.process.send_signal(signal.SIGABRT)

    ended = os.waitid(os.P_PID, job.process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert (ended.si_code, ended.si_status) == (os.CLD_KILLED, signal.SIGABRT)
    assert list(cores.iterdir()) == []


@pytest.mark.skipif(IS_ROOT, reason="root may look into every process")
def test_other_programs_of_a_workers_user_cannot_look_into_its_runners(attempts: Attempts) -> None:
    job = attempts.start("echo begun; sleep 60", host=HostPolicy(executor="process"))
    job.wait_for(b"begun")

    for name in ("environ", "mem", "maps"):
        with pytest.raises(PermissionError):
            Path(f"/proc/{job.process.pid}/{name}").read_bytes()
