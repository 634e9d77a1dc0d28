"""What a job can see and reach: as little as possible."""

import os
import shlex
import shutil
import socket
import threading
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, Attempts, processes_running, wait_until
from runnerlib.executors.landlock import has_scopes
from runnerlib.spec import HostPolicy

PYTHON = "/usr/bin/python3"
needs_python = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason="the sandbox sees only the system's Python"
)


def python(code: str) -> str:
    return f"{PYTHON} -c {shlex.quote(code)}"


def test_run_01_a_job_sees_no_process_and_no_file_of_the_host(attempts: Attempts, tmp_path: Path) -> None:
    secret = tmp_path / "worker-credential"
    secret.write_text("hidden")
    home = Path.home()

    done = attempts.run(
        f"cat {secret}; ls {home} {tmp_path} /run /var/run /var/lib /srv; cat /etc/shadow; cat /etc/passwd;"
        f" ls -d /proc/[0-9]* | wc -l; ls -d /proc/{os.getpid()}/root/; ls /proc/1/root/root"
    )

    assert "hidden" not in done.output
    assert f"{home}':" in done.output
    assert "root:x:0:0:root:/nonexistent" in done.output
    for path in (str(secret), str(tmp_path), "/run", "/var/lib", "/srv", "/etc/shadow"):
        assert f"{path}" in done.output
    assert done.output.count("No such file") >= 8
    seen = int(next(line for line in done.output.splitlines() if line.isdigit()))
    assert seen <= 6


def test_run_01_a_job_does_not_see_the_workspace_of_another(attempts: Attempts) -> None:
    first = attempts.start("echo mine > /job/mine; echo written; sleep 60")
    first.wait_for(b"written")

    second = attempts.run("ls -a /job /job/..; find / -name mine 2>/dev/null; true")

    assert "mine" not in second.output


def test_run_01_a_job_runs_as_a_host_user_that_is_not_root(attempts: Attempts) -> None:
    mark = f"61{os.getpid()}"
    job = attempts.start(f"sleep {mark}")

    wait_until(lambda: processes_running(f"sleep\0{mark}"), 20, job.complaints)
    (pid,) = processes_running(f"sleep\0{mark}")

    uid = Path(f"/proc/{pid}").stat().st_uid
    assert uid != 0
    assert (uid >= 2_000_000_000) if IS_ROOT else (uid == os.getuid())


def test_run_02_a_job_gets_the_documented_variables_and_no_descriptor(attempts: Attempts) -> None:
    done = attempts.run("env -0 | tr '\\n\\0' ' \\n' | cut -d= -f1 | sort; ls /proc/self/fd | tr '\\n' ' '")

    *names, descriptors = done.output.splitlines()
    assert set(names) - {"_"} == {
        *("CI", "CI_ARTIFACTS_DIR", "CI_JOB_ATTEMPT", "CI_JOB_ID", "CI_JOB_NAME", "CI_WORKSPACE"),
        *("HOME", "LANG", "LOGNAME", "PATH", "PWD", "PYTHONUNBUFFERED", "SHELL", "USER"),
        *("REACTORCIDE_CI", "REACTORCIDE_CODE_DIR", "REACTORCIDE_JOB_COMMAND", "REACTORCIDE_JOB_DIR"),
        "REACTORCIDE_SECRETS_SOCKET",
    }
    assert descriptors.split() == ["0", "1", "2", "3"]  # 3 is the folder that `ls` reads


@needs_python
def test_run_03_a_job_without_network_reaches_no_port_of_the_host(attempts: Attempts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        accepted = threading.Event()

        def accept() -> None:
            server.accept()[0].close()
            accepted.set()

        threading.Thread(target=accept, daemon=True).start()
        reach = python(f"import socket; socket.create_connection(('127.0.0.1', {port}), 3); print('reached')")

        without = attempts.run(reach, network="none")
        with_network = attempts.run(reach, network="default")

    assert "reached" not in without.output
    assert "refused" in without.output
    assert "reached" in with_network.output
    assert accepted.wait(5)


@needs_python
@pytest.mark.skipif(not has_scopes(), reason="the kernel is older than 6.12, or without Landlock")
def test_abstract_sockets_of_the_host_are_out_of_reach_of_a_job_that_shares_its_network(
    attempts: Attempts,
) -> None:
    name = f"\0reactorcide-test-{os.getpid()}"
    reach = python(
        "import socket; new = lambda: socket.socket(socket.AF_UNIX)\n"
        "own = new(); own.bind('\\0own'); own.listen(); new().connect('\\0own'); print('own reached')\n"
        f"try: new().connect('\\0{name[1:]}'); print('host reached')\n"
        "except OSError as error: print(type(error).__name__)"
    )

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with_network = attempts.run(reach, network="default")
        without = attempts.run(reach, network="none")

    assert with_network.output.splitlines() == ["own reached", "PermissionError"]
    assert without.output.splitlines() == ["own reached", "ConnectionRefusedError"]


def test_run_01_proc_tells_a_job_of_no_key_and_lets_it_change_nothing(attempts: Attempts) -> None:
    done = attempts.run(
        "cat /proc/keys 2>/dev/null && echo read keys; for path in sys/kernel/core_pattern"
        " sys/kernel/hostname sys/vm/drop_caches sys/kernel/shmmax sysrq-trigger mtrr irq/0/smp_affinity; do"
        " (echo 1 > /proc/$path) 2>/dev/null && echo changed $path; done; echo end"
    )

    assert done.output == "end\n"


def test_run_01_a_job_can_write_nothing_but_what_is_its_own(attempts: Attempts) -> None:
    done = attempts.run(
        "find / -path '/proc/[0-9]*' -prune -o -path /job -prune -o ! -type l -writable -print 2>/dev/null;"
        " ls -d /sys /dev/mqueue /dev/kmsg /dev/mem /dev/fuse /dev/net /dev/kvm /dev/vsock 2>/dev/null"
    )

    own = {"/tmp", "/dev/shm", "/dev/pts", "/dev/pts/ptmx", "/run/reactorcide/secrets.sock"}
    keeps_nothing = {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")}
    # Not the list of keys, but /dev/null over it; and where one may ask to be woken when the host is busy.
    harmless = {"/proc/keys", *(f"/proc/pressure/{name}" for name in ("cpu", "io", "irq", "memory"))}
    assert set(done.output.split()) - harmless == own | keeps_nothing


def test_run_16_a_job_has_no_device_that_anybody_may_not_use(attempts: Attempts) -> None:
    done = attempts.run(
        "find / -path /proc -prune -o -path /usr -prune -o -print 2>/dev/null | while read -r path; do"
        ' if [ -c "$path" ] || [ -b "$path" ]; then [ -L "$path" ] || echo "$path"; fi; done'
    )

    usual = {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero", "pts/ptmx")}
    assert set(done.output.split()) == usual


@pytest.mark.skipif(not IS_ROOT, reason="only root can make a set-id program of another user")
def test_run_16_a_set_id_program_gives_no_other_user(attempts: Attempts, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy("/usr/bin/id", tools / "id")
    (tools / "id").chmod(0o6755)

    done = attempts.run(
        f"{tools}/id -u; {tools}/id -g; {tools}/id -ru; cp {tools}/id own; chmod 6755 own; ./own -u",
        host=HostPolicy(executor="process", read_only_paths=(str(tools),)),
    )

    assert done.output.split() == ["1000"] * 4


def test_run_06_a_job_that_uses_up_names_of_files_is_ended(attempts: Attempts) -> None:
    done = attempts.run(
        "i=0; while :; do : > f$i; i=$((i+1)); done",
        host=HostPolicy(executor="process", workspace_limit_bytes=16 * 1024**2, cancel_grace_seconds=1),
        timeout_seconds=20,
    )

    assert (done.result.status, done.result.reason) == ("failed", "output_limit")
    assert list(done.work.iterdir()) == []


def test_run_08_what_leaves_the_session_of_a_job_does_not_outlive_it(attempts: Attempts) -> None:
    mark = f"62{os.getpid()}"

    done = attempts.run(
        f"(trap '' HUP TERM; setsid sh -c '(setsid nohup sleep {mark} >/dev/null 2>&1 &)' &) ;"
        f" until grep -qsz {mark} /proc/[0-9]*/cmdline; do :; done; echo escaped"
    )

    assert "escaped" in done.output
    assert processes_running(f"sleep\0{mark}") == []


@needs_python
def test_run_02_a_job_can_open_no_descriptor_of_what_started_it(attempts: Attempts) -> None:
    look = python(
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        " for entry in os.listdir(f'/proc/{pid}/fd'):\n"
        "  try: print(os.readlink(f'/proc/{pid}/fd/{entry}'))\n"
        "  except OSError: pass"
    )

    done = attempts.run(look)

    kinds = {line.split(":")[0] for line in done.output.splitlines() if not line.startswith("/proc/")}
    # The socket is the first process's empty input: sockets are not opened by these names.
    assert kinds <= {"pipe", "anon_inode", "/dev/null", "socket"}


@needs_python
def test_run_16_nothing_gives_a_job_more_rights(attempts: Attempts) -> None:
    done = attempts.run(
        "cat; echo input ended; unshare -U true; unshare -r id; mount -t tmpfs none /tmp; "
        + python("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')")
        + "; find /usr/bin -perm -4000 -exec {} --version \\; >/dev/null 2>&1; id -u; "
        + "grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs' /proc/self/status; echo x > /etc/x; echo x > /usr/x"
    )

    assert "input ended" in done.output
    assert done.output.count("unshare failed") == 2
    assert "uid=0" not in done.output
    assert "PermissionError" in done.output
    lines = done.output.splitlines()
    assert "1000" in lines
    assert {line.split()[1] for line in lines if line.startswith("Cap")} == {"0000000000000000"}
    assert any(line.split() == ["NoNewPrivs:", "1"] for line in lines)
    assert done.output.count("Read-only file system") == 2


def test_run_17_nothing_that_a_job_wrote_is_there_for_the_next(attempts: Attempts) -> None:
    look = 'ls -A "$HOME" /tmp /var/tmp /dev/shm /job /job/src; cat "$HOME/.profile" "$HOME/.gitconfig"'
    first = attempts.run(
        'touch "$HOME/.profile" "$HOME/.gitconfig" /tmp/left /dev/shm/left /job/left; mkdir "$HOME/.cache"',
        job_id="same",
    )

    second = attempts.run(look, job_id="same", attempt=2)

    assert first.result.status == "completed"
    assert "left" not in second.output
    assert ".cache" not in second.output
    assert list(second.work.iterdir()) == []


def test_host_paths_that_the_operator_allows_are_read_only(attempts: Attempts, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "hello").write_text("#!/bin/sh\necho from the toolchain\n")
    (tools / "hello").chmod(0o755)

    done = attempts.run(f"{tools}/hello; echo x > {tools}/x", host=HostPolicy(read_only_paths=(str(tools),)))

    assert "from the toolchain" in done.output
    assert "Read-only file system" in done.output
    assert not (tools / "x").exists()


def test_a_loader_variable_of_a_job_does_not_reach_what_builds_its_sandbox(attempts: Attempts) -> None:
    done = attempts.run("tr '\\0' '\\n' < /proc/1/environ; echo end", environment={"LD_PRELOAD": "/job/x.so"})

    before_end = done.stream("o").decode()
    assert "LD_PRELOAD" not in before_end
    assert done.result.status == "completed"


def test_no_value_of_a_secret_is_in_any_argument_list(attempts: Attempts) -> None:
    value = f"s3cret-{os.getpid()}-value"
    job = attempts.start("echo begun; sleep 60", secrets={"DEPLOY_TOKEN": value})
    job.wait_for(b"begun")

    assert processes_running(value) == []


def test_without_a_sandbox_nothing_is_run(attempts: Attempts, tmp_path: Path) -> None:
    missing = HostPolicy(executor="process", read_only_paths=(str(tmp_path / "missing"),))

    done = attempts.run("echo run", host=missing)

    assert (done.result.status, done.result.reason) == ("failed", "sandbox_unavailable")
    assert (done.result.fault, done.result.isolation) == ("infra", "none")
    assert done.result.exit_code is None
    assert done.output == ""
