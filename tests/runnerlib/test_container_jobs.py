"""Jobs in real containers: how they end, what they get, what they can do, what stays."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, processes_running, wait_until
from container_host import IMAGE_PATH, IMAGE_WITHOUT_SHELL, ContainerAttempts
from runnerlib.executors.container_argv import ATTEMPT_LABEL, USUAL_ID
from runnerlib.spec import JobSource, Resources, Stop

needs_enforced_limits = pytest.mark.skipif(
    not IS_ROOT and not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    reason="without root, version 1 of control groups limits nothing",
)


def spaced(number: int) -> str:
    """Return a number of seconds that no other test sleeps."""
    return f"{number}.{os.getpid()}"


@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 130, 137, 255])
def test_run_14_a_container_ends_with_the_exit_code_of_its_job(
    containers: ContainerAttempts, code: int
) -> None:
    done = containers.run(f"echo out; echo err >&2; exit {code}")

    assert done.result.exit_code == code
    assert done.result.status == ("completed" if code == 0 else "failed")
    assert done.stream("o") == b"out\n"
    assert done.stream("e") == b"err\n"
    assert done.result.isolation == "podman"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", done.result.image_digest or "")


@pytest.mark.parametrize("number", [1, 2, 9, 11, 15])
def test_run_14_death_by_a_signal_is_told_as_such(containers: ContainerAttempts, number: int) -> None:
    done = containers.run(f"kill -{number} $$")

    assert (done.result.reason, done.result.exit_code) == ("signalled", 128 + number)
    assert done.result.signal == number
    assert done.output == ""


def test_run_15_a_missing_command_is_the_jobs_own_127(containers: ContainerAttempts) -> None:
    done = containers.run("no-such-command")

    assert (done.result.reason, done.result.exit_code) == ("exit_nonzero", 127)
    assert "no-such-command" in done.output


def test_an_image_without_a_shell_is_told_as_that(containers: ContainerAttempts) -> None:
    done = containers.run("true", image=IMAGE_WITHOUT_SHELL)

    assert (done.result.reason, done.result.exit_code) == ("sandbox_unavailable", None)
    assert "the image has no /bin/sh" in (done.result.message or "")


def test_an_image_that_is_not_here_and_not_pulled_is_told_as_that(containers: ContainerAttempts) -> None:
    done = containers.run("true", image="localhost/reactorcide-tests/absent:1")

    assert (done.result.reason, done.result.fault) == ("image_pull_failed", "infra")
    assert "localhost/reactorcide-tests/absent:1 is not on this host" in (done.result.message or "")


@needs_enforced_limits
def test_run_05_a_job_that_takes_too_much_memory_is_told_so(containers: ContainerAttempts) -> None:
    done = containers.run(
        "head -c 300m /dev/zero | tail -c 290m >/dev/null", resources=Resources(memory_mb=64)
    )

    assert (done.result.reason, done.result.exit_code) == ("oom_killed", 137)


@needs_enforced_limits
def test_run_04_a_fork_bomb_meets_its_limit(containers: ContainerAttempts) -> None:
    done = containers.run(
        "for i in $(seq 60); do sleep 5 & done; echo made; wait", resources=Resources(pids=20)
    )

    assert "can't fork" in done.output
    assert "made" not in done.output


def test_run_11_a_job_is_ended_when_its_time_is_over(containers: ContainerAttempts) -> None:
    done = containers.run(f"echo begun; sleep {spaced(611)}; echo never", timeout_seconds=4)

    assert (done.result.status, done.result.reason) == ("timeout", "timeout_run")
    assert done.output == "begun\n"
    assert processes_running(f"sleep\0{spaced(611)}") == []


def test_a_cancelled_job_gets_term_and_its_whole_group_does(containers: ContainerAttempts) -> None:
    job = containers.start(
        "sh -c 'trap \"echo child; exit\" TERM; echo ready; while :; do sleep 0.05; done' &"
        ' trap "wait; echo parent; exit 3" TERM; wait',
        host=containers.policy(cancel_grace_seconds=20),
    )
    job.wait_for(b"ready")

    job.send(Stop("cancel"))
    result = job.wait()

    assert result.status == "cancelled"
    # The shell of the image itself says that its child was terminated.
    assert job.output.replace("Terminated\n", "") == "ready\nchild\nparent\n"
    assert result.exit_code == 3


def test_run_10_a_job_that_ignores_term_is_killed_after_its_grace(containers: ContainerAttempts) -> None:
    job = containers.start(f"trap '' TERM; echo ready; sleep {spaced(612)}; sleep {spaced(612)}")
    job.wait_for(b"ready")

    job.send(Stop("cancel"))
    result = job.wait(15)

    assert result.status == "cancelled"
    assert processes_running(f"sleep\0{spaced(612)}") == []
    assert containers.engine.containers() == []


def test_run_08_what_a_job_left_behind_dies_with_it(containers: ContainerAttempts) -> None:
    done = containers.run(f"setsid sleep {spaced(613)} & echo over")

    assert done.result.status == "completed"
    assert processes_running(f"sleep\0{spaced(613)}") == []


def test_nothing_of_an_attempt_stays(containers: ContainerAttempts) -> None:
    done = containers.run("mkdir -p /job/src/deep; echo x >/job/src/deep/file; chmod 0 /job/src/deep")

    assert done.result.status == "completed"
    assert list(done.work.iterdir()) == []
    wait_until(lambda: containers.engine.containers() == [], 10)


def test_variables_arrive_byte_for_byte(containers: ContainerAttempts) -> None:
    values = {
        "LINES": "first\nsecond\n\n",
        "QUOTES": 'it\'s "quoted" $HOME `id` \\ \\n !! #',
        "CONTROLS": "".join(map(chr, range(1, 128))),
        "DETACH": "\x10\x11" * 3,
        "UNICODE": "é\u200b\U0001f680\x85",
        "EMPTY": "",
        "TMOUT": "1",
        "word": "a name that the script uses too",
    }

    done = containers.run("env -0; sleep 1.5", environment=values)

    seen = dict(entry.split("=", 1) for entry in done.output.split("\0") if entry)
    assert {name: seen.get(name) for name in values} == values


def test_run_02_a_job_gets_the_documented_variables_and_no_descriptor(
    containers: ContainerAttempts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log_ins = tmp_path / "hidden.json"
    log_ins.write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(log_ins))
    for name in ("DOCKER_CONFIG", "HTTP_PROXY", "OF_THE_WORKER"):
        monkeypatch.setenv(name, "hidden")

    done = containers.run("env; ls /proc/self/fd | tr '\\n' ' '; cat")

    *lines, descriptors = done.output.splitlines()
    seen = dict(line.split("=", 1) for line in lines)
    assert "hidden" not in done.output
    assert (seen["PATH"], seen["FROM_IMAGE"], seen["HOME"]) == (IMAGE_PATH, "yes", "/job/home")
    assert set(seen) - {"FROM_IMAGE", "HOSTNAME", "OLDPWD", "PWD", "SHLVL", "TERM", "container"} == {
        *("CI", "CI_ARTIFACTS_DIR", "CI_JOB_ATTEMPT", "CI_JOB_ID", "CI_JOB_NAME", "CI_WORKSPACE"),
        *("HOME", "LANG", "LOGNAME", "PATH", "PYTHONUNBUFFERED", "SHELL", "USER"),
        *("REACTORCIDE_CI", "REACTORCIDE_CODE_DIR", "REACTORCIDE_JOB_COMMAND", "REACTORCIDE_JOB_DIR"),
        *("REACTORCIDE_RUNNER_IMAGE", "REACTORCIDE_SECRETS_SOCKET"),
    }
    assert descriptors.split() == ["0", "1", "2", "3"]  # 3 is the folder that `ls` reads


def test_a_job_may_set_its_own_path(containers: ContainerAttempts) -> None:
    done = containers.run("/bin/echo $PATH", environment={"PATH": "/job/bin:/bin"})

    assert done.output == "/job/bin:/bin\n"


def test_a_command_of_64_kib_is_run_byte_for_byte(containers: ContainerAttempts) -> None:
    text = "x" * (64 * 1024 - 40)

    done = containers.run(f"printf %s '{text}' | wc -c; exit 4")

    assert done.output == f"{len(text)}\n"
    assert done.result.exit_code == 4


def test_a_mebibyte_of_variables_arrives(containers: ContainerAttempts) -> None:
    values = {f"V{number}": "x" * 100_000 for number in range(9)}

    done = containers.run("env | grep -c ^V.=x", environment=values)

    assert done.output == "9\n"


def test_secrets_are_in_no_argv_no_inspection_and_no_file(containers: ContainerAttempts) -> None:
    secret = f"sesame-{os.urandom(8).hex()}"
    job = containers.start(
        'echo "$API_TOKEN"; echo ready; sleep 30',
        secrets={"API_TOKEN": secret},
        environment={"PLAIN": f"plain-{secret[:12]}"},
    )
    job.wait_for(b"ready")

    (name,) = containers.engine.containers()
    told = containers.engine.podman("inspect", name)
    kept = subprocess.run(["grep", "-rl", secret, containers.engine.folder], capture_output=True, text=True)

    assert processes_running(secret) == []
    assert secret not in told
    assert "PLAIN" not in told
    assert f'"{ATTEMPT_LABEL}": "{job.name}"' in told
    assert kept.stdout == ""
    job.send(Stop("kill"))
    job.wait()


def test_run_16_a_job_has_no_privileges(containers: ContainerAttempts) -> None:
    done = containers.run(
        "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id -u; id -g; cat;"
        " mount -t tmpfs none /mnt 2>/dev/null || echo no mount; hostname; ulimit -c"
    )

    status, *rest = re.split(r"(?<=Seccomp:)", done.output, maxsplit=1)
    assert len(re.findall(r"Cap\w+:\t0000000000000000\n", status)) == 5
    assert "NoNewPrivs:\t1" in status
    assert rest[0].split() == ["2", str(USUAL_ID), str(USUAL_ID), "no", "mount", "job", "0"]


def test_the_files_of_an_image_may_be_kept_as_they_are(containers: ContainerAttempts) -> None:
    done = containers.run(
        "touch /opt/x /bin/x; touch /tmp/x /job/x && echo written",
        host=containers.policy(container_read_only=True),
    )

    assert done.output.count("Read-only file system") == 2 or "No such file" in done.output
    assert "written" in done.output


def test_run_03_a_job_without_network_has_none(containers: ContainerAttempts) -> None:
    done = containers.run("ls /sys/class/net")

    assert done.output == "lo\n"


def test_run_06_tmp_and_single_files_are_bounded(containers: ContainerAttempts) -> None:
    done = containers.run(
        "df -k /tmp | tail -1 | awk '{print $2}'; head -c 3m /dev/zero >/job/big; ls -s /job/big",
        resources=Resources(memory_mb=64),
        host=containers.policy(workspace_limit_bytes=2 * 1024**2),
    )

    temp, big = done.stream("o").decode().splitlines()
    assert temp == str(32 * 1024)
    assert int(big.split()[0]) <= 2048


def test_the_workspace_belongs_to_the_job(containers: ContainerAttempts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("copied")

    job = containers.start(
        "stat -c %u:%g /job /job/src /job/src/file; cat file; echo own >new; echo ready; sleep 20",
        source=JobSource(type="copy", path=str(source)),
        host=containers.policy(copy_source_roots=(str(tmp_path),)),
    )
    job.wait_for(b"ready")
    made = (job.work / job.name / "job" / "src" / "new").stat()
    job.send(Stop("kill"))
    job.wait()

    assert job.output == f"{USUAL_ID}:{USUAL_ID}\n" * 3 + "copiedready\n"
    assert (made.st_uid, made.st_gid) == ((USUAL_ID, USUAL_ID) if IS_ROOT else (os.getuid(), os.getgid()))


def test_artifacts_are_collected(containers: ContainerAttempts) -> None:
    done = containers.run("mkdir $CI_ARTIFACTS_DIR/deep; echo kept >$CI_ARTIFACTS_DIR/deep/report")

    listed = json.loads((done.spool / "artifacts.json").read_bytes())
    assert done.result.artifacts == 1
    assert "deep/report" in json.dumps(listed)


def test_a_job_may_be_root_in_its_container_only_if_the_operator_says_so(
    containers: ContainerAttempts,
) -> None:
    refused = containers.run("id -u", host=containers.policy(container_user="root"))
    allowed = containers.run(
        "id -u; echo x >/job/src/file",
        host=containers.policy(container_user="root", container_allow_root=True),
    )

    assert refused.result.reason == "sandbox_unavailable"
    assert "root is not allowed" in (refused.result.message or "")
    assert allowed.output == "0\n"
    assert list(allowed.work.iterdir()) == []


def test_a_user_of_the_operators_choice_runs_the_job(containers: ContainerAttempts) -> None:
    done = containers.run("id -u; id -g; touch /job/x", host=containers.policy(container_user="4321:5432"))

    assert done.output == "4321\n5432\n"
    assert done.result.status == "completed"


def test_a_job_reaches_the_socket_of_its_channel(containers: ContainerAttempts) -> None:
    done = containers.run(
        "[ -S $REACTORCIDE_SECRETS_SOCKET ] && [ -w $REACTORCIDE_SECRETS_SOCKET ] && echo reachable"
    )

    assert done.output == "reachable\n"


def test_what_the_operator_lets_jobs_read_is_there(containers: ContainerAttempts, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "tool").write_text("a tool\n")
    shelf.chmod(0o755)

    done = containers.run(
        f"cat {shelf}/tool; touch {shelf}/x || echo kept",
        host=containers.policy(read_only_paths=(str(shelf),)),
    )

    assert "a tool" in done.output
    assert "kept" in done.output


def test_an_attempt_of_an_odd_name_runs(containers: ContainerAttempts) -> None:
    done = containers.run("echo here", job_id="--privileged $(id) \n'")

    assert done.output == "here\n"
