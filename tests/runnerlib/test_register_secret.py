"""The command ``runnerlib register-secret``, run by real jobs."""

import subprocess
import sys
from pathlib import Path

import pytest

from attempt_runs import Attempt, Attempts
from runnerlib.spec import HostPolicy

VALUE = "v4lue-to-register"
RUNNERLIB = f"{sys.executable} -P -m runnerlib"


def run(attempts: Attempts, command: str) -> Attempt:
    """Run a job outside of a sandbox, where it has this test's own Python."""
    host = HostPolicy(unsandboxed=True)
    return attempts.run(command, host=host, environment={"ONE": VALUE, "TWO": VALUE[::-1], "SHORT": "abc"})


def test_variables_are_registered_by_name(attempts: Attempts) -> None:
    done = run(attempts, f"{RUNNERLIB} register-secret ONE TWO && echo $ONE-$TWO")

    assert done.output == "[REDACTED]-[REDACTED]\n"


@pytest.mark.parametrize("argument", ["", "-"])
def test_standard_input_is_one_secret(attempts: Attempts, argument: str) -> None:
    done = run(
        attempts,
        f"printf 'first line\\nsecond line\\n' | {RUNNERLIB} register-secret {argument};"
        " echo $?; echo second line; printf 'first line\\nsecond line'",
    )

    assert done.output == "0\n[REDACTED]\n[REDACTED]"


def test_lines_of_standard_input_are_secrets_each(attempts: Attempts) -> None:
    done = run(
        attempts,
        f"printf 'line-1\\n\\nline-2\\n' | {RUNNERLIB} register-secret --lines; echo $? line-1 line-2",
    )

    assert done.output == "0 [REDACTED] [REDACTED]\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("register-secret SHORT ONE", 1, "1 of 2 not masked: blank, or under 6 bytes"),
        (f"register-secret {VALUE}", 2, "argument 1 is not the name of a variable"),
        ("register-secret ONE -", 2, "not both"),
        ("register-secret --lines ONE", 2, "--lines goes with standard input"),
        ("register-secret < /dev/zero", 1, "more than 524288 bytes"),
    ],
)
def test_what_is_not_registered_is_told(attempts: Attempts, command: str, code: int, words: str) -> None:
    done = run(attempts, f"{RUNNERLIB} {command}; echo code $?")

    assert f"code {code}\n" in done.output
    assert words in " ".join(done.output.split())
    assert VALUE not in done.output


@pytest.mark.parametrize(
    ("path", "words"),
    [("", "is not set: this is not inside a job"), ("none/s", "the runner cannot be reached: No such")],
)
def test_outside_of_a_job_it_says_so(path: str, words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "runnerlib", "register-secret"],
        env={"REACTORCIDE_SECRETS_SOCKET": path},
        cwd=tmp_path,
        input=VALUE,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 1
    assert words in done.stderr
    assert VALUE not in done.stderr
