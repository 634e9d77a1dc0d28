"""`runnerlib run` and its neighbours as a user calls them, in real sandboxes."""

import json
import os
import select
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from attempt_runs import processes_running, wait_until
from container_host import IMAGE, ContainerHost
from runnerlib.spec import HostPolicy, JobSource, RunSpec, encode_spec
from runnerlib_calls import Done, Here


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_a_run_exits_as_its_command(here: Here, code: int) -> None:
    done = here.call("run", "--", f"echo out; echo err >&2; exit {code}")

    assert done.returncode == code
    assert done.stdout.startswith((b"out\nerr\n", b"err\nout\n"))
    assert b"in bubblewrap" in done.stderr


def test_several_arguments_are_one_command_quoted(here: Here) -> None:
    done = here.call("run", "--", "printf", "%s|", "a b", "$HOME")

    assert done.stdout == b"a b|$HOME|"


def test_a_run_that_takes_too_long_exits_with_124(here: Here) -> None:
    done = here.call("run", "--timeout", "1", "--grace", "0", "--", "echo begun; sleep 60")

    assert done.returncode == 124
    assert done.stdout.startswith(b"begun\n")


def test_a_refused_run_tells_every_fault_and_exits_with_1(here: Here) -> None:
    done = here.call("run", "--network", "host", "--pids", "0", "--", "true")

    assert done.returncode == 1
    assert b"network: is 'host': must be one of default, none (it is said by --network)" in done.stderr
    assert b"pids: is '0': must be from 4 to 1048576" in done.stderr
    assert here.call("run").returncode == 1
    assert here.call("run", "--no-such-flag").returncode == 2


def test_where_no_sandbox_can_be_had_a_run_exits_with_125(here: Here) -> None:
    done = here.call("run", "--executor", "container", "--container-engine", "no-such-engine", "--", "true")

    assert done.returncode == 125
    assert b"no-such-engine" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_with_grace_and_leaves_nothing(here: Here, number: signal.Signals) -> None:
    mark = f"73{os.getpid()}"
    process = here.start("run", "--", f"trap 'echo tidied; exit 0' TERM; echo begun; sleep {mark} & wait")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    process.send_signal(number)
    stdout, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert b"tidied" in stdout
    assert processes_running(f"sleep\0{mark}") == []


def test_ctrl_c_at_a_terminal_leaves_the_job_its_grace_time(here: Here) -> None:
    process = here.start(
        "run",
        "--",
        "trap 'sleep 0.2; echo tidied; exit 0' TERM; echo begun; sleep 60 & wait",
        process_group=0,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    os.killpg(process.pid, signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert b"tidied" in stdout


def test_a_second_signal_kills(here: Here) -> None:
    process = here.start(
        "run", "--grace", "300", "--", "trap 'echo deaf' TERM; echo begun; while :; do :; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"deaf\n"
    process.send_signal(signal.SIGINT)

    process.communicate(timeout=30)
    assert process.returncode == 130


def test_who_reads_no_further_cancels_the_run(here: Here) -> None:
    process = here.start("run", "--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"

    process.stdout.close()

    assert process.wait(30) == 130
    for stream in (process.stdin, process.stderr):
        assert stream is not None
        stream.close()


def test_runs_at_the_same_time_do_not_meet(here: Here) -> None:
    done: list[Done] = []
    commands = [f"echo {n} > mine; sleep 0.2; cat mine; exit {n}" for n in range(4)]
    threads = [threading.Thread(target=lambda c=c: done.append(here.call("run", "--", c))) for c in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted((d.returncode, d.stdout.splitlines()[0]) for d in done) == [
        (n, str(n).encode()) for n in range(4)
    ]


def test_secrets_are_masked_wherever_they_come_from(here: Here) -> None:
    private = here.folder / "secrets.env"
    private.write_text("DEPLOY=swordfish1\n")
    private.chmod(0o600)

    done = here.call(
        *("run", "--secrets-file", str(private), "--secrets-list", "swordfish2, swordfish3"),
        *("--job-env", "API_KEY=swordfish4", "--", "echo $DEPLOY swordfish2 swordfish3 $API_KEY"),
    )

    assert done.stdout == b" ".join([b"[REDACTED]"] * 4) + b"\n"


def test_a_job_file_is_run_with_flags_over_it_and_its_artifacts_are_put_out(here: Here) -> None:
    (here.folder / "code").mkdir()
    (here.folder / "code" / "greeting").write_text("hello")
    (here.folder / "job.yaml").write_text(
        "command: cat greeting; echo $WHO; mkdir $CI_ARTIFACTS_DIR/a; echo kept > $CI_ARTIFACTS_DIR/a/b\n"
        "source: {type: local, path: code}\nenvironment: {WHO: file}\n"
    )

    done = here.call("run-job", "job.yaml", "--job-env", "WHO=flag", "--artifacts", "out")

    assert done.returncode == 0, done.stderr
    assert b"helloflag\n" in done.stdout
    assert (here.folder / "out" / "a" / "b").read_text() == "kept\n"
    assert b"1 artifacts are in " + bytes(here.folder / "out") in done.stderr


def test_artifacts_are_not_written_through_a_link(here: Here) -> None:
    (here.folder / "outside").mkdir()
    (here.folder / "out").mkdir()
    (here.folder / "out" / "a").symlink_to(here.folder / "outside")

    here.call("run", "--artifacts", "out", "--", "mkdir $CI_ARTIFACTS_DIR/a; echo x > $CI_ARTIFACTS_DIR/a/b")

    assert list((here.folder / "outside").iterdir()) == []
    assert (here.folder / "out" / "a" / "b").read_text() == "x\n"


def test_a_job_file_with_faults_is_refused_with_their_lines(here: Here) -> None:
    done = here.call("run-job", "-", said=b"command: x\ntimeot: 3\n")

    assert done.returncode == 1
    assert b"timeot: unknown key in line 2" in done.stderr
    assert b"did you mean timeout?" in done.stderr


def test_the_result_is_told_as_json(here: Here) -> None:
    done = here.call("run", "--json", "--", "exit 3")

    told = json.loads(done.stderr)
    assert (told["status"], told["reason"], told["exit_code"]) == ("failed", "exit_nonzero", 3)


def test_validate_exits_by_whether_it_would_start(here: Here) -> None:
    good = here.call("validate", "--json", "--job-command", "true")
    bad = here.call("validate", "--json", "--job-command", "true", "--timeout", "0")

    assert (good.returncode, json.loads(good.stdout)) == (0, {"fit": True, "findings": []})
    assert (bad.returncode, json.loads(bad.stdout)["findings"][0]["field"]) == (1, "timeout_seconds")


def test_validate_prints_the_schema(here: Here) -> None:
    done = here.call("validate", "--schema")

    assert json.loads(done.stdout)["title"] == "Reactorcide job file"


def test_config_tells_each_value_and_where_it_came_from(here: Here) -> None:
    here.environment["REACTORCIDE_TIMEOUT"] = "5"

    told = {row["name"]: row for row in json.loads(here.call("config", "--json").stdout)}

    assert told["timeout_seconds"] == {
        "name": "timeout_seconds",
        "value": 5,
        "source": "REACTORCIDE_TIMEOUT",
        "flag": "--timeout",
        "variable": "REACTORCIDE_TIMEOUT",
    }
    assert told["executor"]["source"] == "default"


def test_a_frozen_spec_is_run_and_its_result_written(here: Here) -> None:
    spool = here.folder / "spool"
    spool.mkdir(mode=0o700)
    spec = RunSpec(
        job_id="frozen",
        job_name="frozen",
        attempt=1,
        command="echo hello; exit 9",
        source=JobSource(type="none"),
        spool_dir=str(spool),
        workspace_root=str(here.runs),
        host=HostPolicy(),
    )

    done = here.call("run-spec", "--result", "result.json", said=encode_spec(spec))

    assert done.returncode == 9
    assert done.stdout.startswith(b"hello\n")
    assert json.loads((here.folder / "result.json").read_text())["exit_code"] == 9


@pytest.mark.parametrize("said", [b"", b"{}", b"not json", b'{"protocol": 99}'])
def test_a_spec_that_is_none_is_refused(here: Here, said: bytes) -> None:
    done = here.call("run-spec", said=said)

    assert done.returncode == 1
    assert done.stderr.startswith(b"runnerlib: the spec is refused")


def test_what_a_killed_run_left_is_removed_by_cleanup(here: Here) -> None:
    process = here.start("run", "--", "echo begun; sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    running = json.loads(here.call("cleanup", str(here.runs)).stdout)

    process.kill()
    process.communicate()
    wait_until(lambda: json.loads(here.call("cleanup", str(here.runs)).stdout)["workspaces"], 20)

    attempt, spool = running["spared"]
    assert spool == attempt.removesuffix("1") + "spool.1"
    assert here.leftovers() == []


def test_a_command_that_is_given_twice_is_wrong_usage(here: Here) -> None:
    assert here.call("run", "--job-command", "true", "--", "false").returncode == 2


def test_a_run_says_that_its_image_was_not_used(here: Here) -> None:
    done = here.call("run", "--runner-image", "a:1", "--", "true")

    assert done.returncode == 0
    assert b"warning: runner_image: is not used: jobs run in bubblewrap here" in done.stderr


def test_a_log_that_cannot_be_written_ends_the_run_and_is_told(here: Here) -> None:
    with Path("/dev/full").open("wb") as full:
        process = here.start("run", "--", "echo begun; sleep 60", stdout=full)
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == 125
    assert b"the log cannot be shown: No space left on device" in stderr


def test_a_log_is_whole_where_others_made_the_output_non_blocking(here: Here) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = here.start("run", "--", "seq 100000", stdout=write, stdin=subprocess.DEVNULL)
    os.close(write)
    # Nobody reads until the pipe is full.
    wait_until(lambda: select.select([read], [], [], 0)[0], 20)

    with os.fdopen(read, "rb") as output:
        log = output.read()
    process.communicate(timeout=30)

    assert process.returncode == 0
    assert log == b"".join(b"%d\n" % number for number in range(1, 100_001))


def test_artifacts_that_cannot_be_put_out_are_told(here: Here) -> None:
    (here.folder / "out" / "a").mkdir(parents=True)

    done = here.call("run", "--artifacts", "out", "--", "echo x > $CI_ARTIFACTS_DIR/a")

    assert done.returncode == 125
    assert b"the artifacts cannot be put into" in done.stderr
    assert b"Is a directory" in done.stderr


def test_a_run_removes_what_killed_runs_left_and_nothing_else(here: Here) -> None:
    process = here.start("run", "--", "echo begun; sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate()
    left = here.leftovers()
    mine = [here.runs / "mine", here.runs / "run-0123456789abcdef.2"]
    for path in (*left, *mine):
        path.mkdir(mode=0o700, exist_ok=True)
        os.utime(path, (0, 0))

    done = here.call("run", "--", "true")

    assert len(left) == 2
    assert done.returncode == 0
    assert sorted(here.leftovers()) == sorted(mine)
    for path in mine:
        path.rmdir()


def test_a_young_folder_is_let_be_as_its_run_may_be_starting(here: Here) -> None:
    young = here.runs / "run-0123456789abcdef.1"
    young.mkdir(parents=True)
    young.chmod(0o700)

    here.call("run", "--", "true")

    assert here.leftovers() == [young]
    young.rmdir()


def test_what_the_caller_ignores_stays_ignored(here: Here) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = here.start("run", "--", "echo begun; sleep 0.5; echo ended")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    process.send_signal(signal.SIGHUP)
    stdout, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    assert b"ended" in stdout


def test_a_job_runs_in_a_container_where_one_is_asked_for(here: Here, container_host: ContainerHost) -> None:
    here.use_engine(container_host.environment)
    asked = ("--executor", "container", "--container-engine", "podman", "--pull", "never")

    done = here.call(
        "run", *asked, "--network", "none", "--runner-image", IMAGE, "--", "cat /etc/hostname; id"
    )

    assert done.returncode == 0, done.stderr
    assert b"in podman" in done.stderr
