"""A job's output on its way into the spool: whole, masked, bounded, never holding the job up."""

import hashlib
import os
import time

import pytest

from attempt_runs import Attempts
from runnerlib.spec import HostPolicy

PYTHON = "/usr/bin/python3"


def test_log_12_a_last_line_without_newline_is_there_and_masked(attempts: Attempts) -> None:
    done = attempts.run("printf 'first\\nlast hunter2hunter2'", secrets={"PASSWORD": "hunter2hunter2"})

    assert done.log == b"first\nlast [REDACTED]"


def test_log_12_what_a_killed_job_wrote_is_there(attempts: Attempts) -> None:
    done = attempts.run("printf 'end without newline'; kill -9 $$")

    assert done.stream("o") == b"end without newline"
    assert done.stream("p") == b"\nreactorcide: the job was killed by SIGKILL\n"


def test_log_14_an_endless_line_is_cut_and_later_lines_are_there(attempts: Attempts) -> None:
    done = attempts.run(
        "head -c 10485760 /dev/zero | tr '\\0' x; echo; echo after on stdout; echo after on stderr >&2"
    )

    out = done.stream("o")
    assert out.startswith(b"x" * 1024 * 1024 + b" [reactorcide: the rest of this line is cut]\n")
    assert out.endswith(b"\nafter on stdout\n")
    assert len(out) < 1024 * 1024 + 200
    assert done.stream("e") == b"after on stderr\n"


def test_log_15_a_full_stderr_does_not_wait_for_a_silent_stdout(attempts: Attempts) -> None:
    began = time.monotonic()

    done = attempts.run("head -c 4194304 /dev/zero | tr '\\0\\0' 'y\\n' | fold -w 100 >&2; exit 0")

    assert done.result.status == "completed"
    assert len(done.stream("e")) >= 4194304
    assert time.monotonic() - began < 15


def test_log_16_past_the_limit_one_notice_stands_and_the_exit_code_is_right(attempts: Attempts) -> None:
    done = attempts.run(
        "head -c 50000000 /dev/zero | tr '\\0' '\\n'; echo late >&2; exit 5",
        host=HostPolicy(log_limit_bytes=100_000),
    )

    assert done.result.exit_code == 5
    assert len(done.stream("oe")) == 100_000
    assert done.stream("p").count(b"log limit") == 1


def test_log_17_bytes_are_kept_as_they_are(attempts: Attempts) -> None:
    done = attempts.run("printf '\\377\\376\\000\\r50%%\\r100%%\\n\\357\\273\\277'")

    assert done.log == b"\xff\xfe\x00\r50%\r100%\n\xef\xbb\xbf"


def test_log_20_what_looks_like_the_platform_is_the_jobs_own(attempts: Attempts) -> None:
    line = "reactorcide: the job completed"

    done = attempts.run(f"echo '{line}'; exit 1")

    assert done.stream("o").decode() == line + "\n"
    assert done.stream("p").decode() == "reactorcide: the job ended with exit code 1\n"
    assert done.result.status == "failed"


def test_a_prompt_without_newline_shows_while_the_job_waits(attempts: Attempts) -> None:
    job = attempts.start("printf 'name? '; sleep 60")

    job.wait_for(b"name? ")

    assert job.process.poll() is None


@pytest.mark.parametrize("name", ["API_TOKEN", "DB_PASSWORD", "SIGNING_KEY"])
def test_a_variable_that_looks_like_a_credential_is_masked(attempts: Attempts, name: str) -> None:
    done = attempts.run(f"echo got ${name}", environment={name: "value-of-it-0"})

    assert done.log == b"got [REDACTED]\n"


def test_log_10_no_raw_byte_of_a_secret_is_left_on_disk(attempts: Attempts) -> None:
    value = f"raw-{os.getpid()}-bytes"
    done = attempts.run(
        'i=0; while [ $i -lt 200 ]; do printf %s "$TOKEN"; printf %s "$TOKEN" >&2; i=$((i+1)); done',
        secrets={"TOKEN": value},
    )

    for path in done.spool.iterdir():
        assert value.encode() not in path.read_bytes()


def test_the_result_tells_length_and_digest_of_the_log(attempts: Attempts) -> None:
    done = attempts.run(f"{PYTHON} -c \"print('line\\n' * 300000)\"; echo end >&2")

    assert done.result.log_length == len(done.log)
    assert done.result.log_sha256 == hashlib.sha256(done.log).hexdigest()
    assert sorted(path.name for path in done.spool.iterdir()) == ["index", "log", "result.json"]


def test_log_22_the_lines_of_each_stream_keep_their_order(attempts: Attempts) -> None:
    done = attempts.run("i=0; while [ $i -lt 5000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done")

    assert done.stream("o").decode().split() == [f"o{i}" for i in range(5000)]
    assert done.stream("e").decode().split() == [f"e{i}" for i in range(5000)]
