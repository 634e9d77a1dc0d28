"""Registration by real jobs, out of their sandboxes. LOG-11, E21."""

import hashlib
import os
import shlex
import socket
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, Attempt, Attempts
from runnerlib.registration import SOCKET_NAME
from runnerlib.spec import HostPolicy

PYTHON = "/usr/bin/python3"
needs_python = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason="the sandbox sees only the system's Python"
)
REGISTRATIONS = 1_000

CLIENT = """
import hashlib, json, os, socket, sys
def ask(body, path=None):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path or os.environ["REACTORCIDE_SECRETS_SOCKET"])
    data = json.dumps(body).encode()
    s.sendall(len(data).to_bytes(4, "big") + data)
    answer = s.makefile().readline()
    s.close()
    return answer
def register(secrets, path=None):
    return ask({"action": "register", "secrets": secrets}, path)
"""
REGISTER_AND_PRINT = """
import base64
wrong = 0
for number in range(int(sys.argv[2])):
    secret = hashlib.sha256(f"{sys.argv[1]}-{number}".encode()).hexdigest()[:24]
    wrong += register(secret if number % 2 else [secret]) != '{"status":"ok","registered":1}\\n'
    plain, coded = secret.encode(), base64.b64encode(secret.encode())
    os.write(1 + number % 2, b"%d <%s>\\n" % (number, plain))
    cut = 11 if sys.argv[3] == "alone" else 0
    os.write(2 - number % 2, b"coded <%s> %s" % (coded, plain[:cut]))
    os.write(2 - number % 2, plain[cut:] + b"\\n")
os.write(1, b"wrong answers: %d\\n" % wrong)
"""


def python(code: str, *arguments: object) -> str:
    return shlex.join([PYTHON, "-c", CLIENT + code, *map(str, arguments)])


def secret_of(seed: object, number: int) -> str:
    return hashlib.sha256(f"{seed}-{number}".encode()).hexdigest()[:24]


def bytes_kept(attempt: Attempt) -> bytes:
    """Everything in the attempt's spool."""
    return b"\n".join(path.read_bytes() for path in sorted(attempt.spool.rglob("*")) if path.is_file())


@needs_python
@pytest.mark.parametrize("is_unsandboxed", [False, True], ids=["sandboxed", "unsandboxed"])
def test_log_11_what_is_registered_and_printed_at_once_is_shown_nowhere(
    attempts: Attempts, is_unsandboxed: bool
) -> None:
    seed = os.getpid()
    host = HostPolicy(cancel_grace_seconds=1, unsandboxed=is_unsandboxed)

    done = attempts.run(python(REGISTER_AND_PRINT, seed, REGISTRATIONS, "alone"), host=host)

    assert "wrong answers: 0" in done.output
    assert done.output.count("<[REDACTED]>") == 2 * REGISTRATIONS
    assert done.output.count("[REDACTED]\n") >= REGISTRATIONS
    kept = bytes_kept(done)
    assert [n for n in range(REGISTRATIONS) if secret_of(seed, n)[:12].encode() in kept] == []


@needs_python
def test_log_11_several_processes_of_a_job_register_at_once(attempts: Attempts) -> None:
    count = REGISTRATIONS // 8
    crowd = " & ".join(python(REGISTER_AND_PRINT, number, count, "in a crowd") for number in range(8))

    done = attempts.run(f"{crowd} & wait")

    kept = bytes_kept(done)
    assert done.output.count("wrong answers: 0") == 8
    assert [n for s in range(8) for n in range(count) if secret_of(s, n).encode() in kept] == []


@needs_python
def test_log_11_another_job_cannot_reach_the_socket_of_this_one(attempts: Attempts) -> None:
    mine, name = "a-secret-of-theirs", "first-job"
    victim = attempts.start(
        "ls -A $(dirname $REACTORCIDE_SECRETS_SOCKET); until [ -e /job/go ]; do sleep 0.02; done;"
        f" echo '<{mine}>'",
        job_id=name,
    )
    victim.wait_for(SOCKET_NAME.encode())
    outer = victim.work / victim.name
    path = outer / "channel" / SOCKET_NAME
    assert path.is_socket()

    tried = attempts.run(
        python(
            "print(register(sys.argv[1]), end='')\n"
            "for path in sys.argv[2:]:\n"
            "    try:\n"
            "        print(os.stat(path))\n"
            "    except OSError as error:\n"
            "        print(type(error).__name__)\n"
            "print(os.listdir('/run/reactorcide'), os.path.exists('/run/reactorcide/channel'))\n",
            mine,
            path,
            f"/proc/{victim.process.pid}/root{path}",
        )
    )
    (outer / "job" / "go").touch()
    victim.wait()

    assert tried.output.splitlines() == [
        '{"status":"ok","registered":1}',
        "FileNotFoundError",
        "FileNotFoundError",
        f"['{SOCKET_NAME}'] False",
    ]
    assert f"<{mine}>" in victim.output


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user, as another job's sandbox is")
def test_log_11_another_host_user_cannot_reach_the_socket(attempts: Attempts) -> None:
    job = attempts.start("echo begun; sleep 60")
    job.wait_for(b"begun")
    job.work.chmod(0o711)
    answers, child_end = os.pipe()

    if (child := os.fork()) == 0:
        os.chdir(job.work)
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(f"{job.name}/channel/{SOCKET_NAME}")
            os.write(child_end, b"reached")
        except OSError as error:
            os.write(child_end, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(answers, 100)
    os.close(answers)
    os.close(child_end)

    assert said == b"PermissionError"


@needs_python
def test_a_job_cannot_put_anything_beside_its_socket_or_take_it_away(attempts: Attempts) -> None:
    done = attempts.run(
        "cd $(dirname $REACTORCIDE_SECRETS_SOCKET); touch more; mkdir more; rm -f *; chmod 777 .;"
        + python("print(register('still-served'), 'still-served')")
    )

    assert '"registered":1' in done.output
    assert "[REDACTED]" in done.output
    assert done.output.count("Read-only file system") >= 3


@needs_python
def test_no_variable_of_a_job_takes_the_place_of_its_socket(attempts: Attempts) -> None:
    done = attempts.run(
        "echo $REACTORCIDE_SECRETS_SOCKET",
        environment={"REACTORCIDE_SECRETS_SOCKET": "/tmp/elsewhere"},
        secrets={"REACTORCIDE_SECRETS_SOCKET": "/job/elsewhere"},
    )

    assert done.output == f"/run/reactorcide/{SOCKET_NAME}\n"


@needs_python
def test_the_socket_is_there_without_network_too(attempts: Attempts) -> None:
    done = attempts.run(python("print(register('net-less'), 'net-less')"), network="none")

    assert '"registered":1' in done.output
    assert "net-less" not in done.output


@needs_python
def test_the_socket_is_reached_however_deep_the_work_directory_is(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 60] * 4)
    deep.mkdir(parents=True)
    attempts = Attempts(deep)
    try:
        for is_unsandboxed in (False, True):
            done = attempts.run(
                python("print(register('deep-secret'), 'deep-secret')"),
                host=HostPolicy(unsandboxed=is_unsandboxed),
            )

            assert '"registered":1' in done.output
            assert "deep-secret" not in done.output
    finally:
        attempts.close()


@needs_python
def test_after_the_end_of_the_job_the_socket_is_gone(attempts: Attempts) -> None:
    done = attempts.run("echo begun")

    assert not (done.work / done.name).exists()


@needs_python
def test_a_registered_secret_is_masked_in_the_lines_of_the_platform_too(attempts: Attempts) -> None:
    done = attempts.run(
        python("register('name-of-a-link')") + "; ln -s /etc/passwd $CI_ARTIFACTS_DIR/name-of-a-link; exit 3"
    )

    assert b"name-of-a-link" not in bytes_kept(done)
    assert "[REDACTED]" in done.stream("p").decode()
    assert done.result.message == "the job ended with exit code 3"


@needs_python
def test_what_a_killed_runner_leaves_shows_no_registered_secret(attempts: Attempts) -> None:
    job = attempts.start(
        python(
            "register('known-to-one-runner'); print('known-to-one-runner', flush=True);"
            "import time; print('printed', flush=True); time.sleep(60)"
        )
    )
    job.wait_for(b"printed")

    job.process.kill()
    job.process.wait()

    assert b"[REDACTED]" in job.log
    assert b"known-to-one-runner" not in bytes_kept(job) + job.complaints().encode()


@needs_python
def test_a_job_that_hangs_on_its_socket_is_ended_like_any_other(attempts: Attempts) -> None:
    done = attempts.run(
        python(
            "import time\n"
            "held = [socket.socket(socket.AF_UNIX) for _ in range(60)]\n"
            "for s in held:\n"
            "    s.connect(os.environ['REACTORCIDE_SECRETS_SOCKET']); s.send(b'\\0\\0')\n"
            "print('held', flush=True)\n"
        )
    )

    assert done.output == "held\n"
    assert done.result.status == "completed"


@needs_python
def test_a_flood_of_secrets_is_refused_in_the_end_and_the_log_still_flows(attempts: Attempts) -> None:
    done = attempts.run(
        python(
            "answers = [register([f'{round}-{n}-of-many' for n in range(2500)]) for round in range(6)]\n"
            "print(*answers)\n"
            "sys.stdout.flush()\n"
            "for n in range(20_000): os.write(1, b'a line of output, number %d\\n' % n)\n"
        )
    )

    assert done.output.count('"registered":2500') == 4
    assert done.output.count("ERROR: a job can register 10000 secrets, not more") == 2
    assert done.output.endswith("number 19999\n")
