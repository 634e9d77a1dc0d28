"""What a job is given: its command, variables and directories, byte for byte, and within /job."""

from pathlib import Path

import pytest

from attempt_runs import Attempts
from runnerlib.spec import HostPolicy, JobSource

ODD_VALUES = {
    "NEWLINE": "one\ntwo\n",
    "EQUALS": "a=b=c",
    "QUOTES": "'single' \"double\" `back` $(sub) \\ ",
    "TRAILING": "blanks \t ",
    "UNICODE": "žluťoučký 🐎",
    "EMPTY": "",
    "LIKE_ANOTHER": "x\nINJECTED=1",
}


def test_api_21_values_of_variables_arrive_byte_for_byte(attempts: Attempts) -> None:
    command = "; ".join(f"printf %s \"${name}\" | od -An -v -tx1 | tr -d ' \\n'; echo" for name in ODD_VALUES)

    done = attempts.run(f'{command}; echo "[$INJECTED]"', environment=ODD_VALUES)

    *values, injected = done.stream("o").decode().split("\n")[:-1]
    assert [bytes.fromhex(value).decode() for value in values] == list(ODD_VALUES.values())
    assert injected == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "echo 'a b' \"c  d\" \\$HOME",
        "echo $(echo sub) `echo back`",
        "echo one\necho two\n",
        "-x 2>/dev/null; echo leading dash",
        "#" + "x" * 60_000 + "\necho long",
        'echo "$0" "$#"',
    ],
    ids=["quotes", "substitution", "newline", "dash", "long", "arguments"],
)
def test_api_22_a_command_is_run_as_sh_c_would(attempts: Attempts, command: str) -> None:
    expected = {
        "echo 'a b'": "a b c  d $HOME\n",
        "echo $(": "sub back\n",
        "echo one": "one\ntwo\n",
        "-x 2>": "leading dash\n",
        "#": "long\n",
        'echo "$0"': "/bin/sh 0\n",
    }

    done = attempts.run(command)

    assert done.stream("o").decode() == next(
        text for key, text in expected.items() if command.startswith(key)
    )


@pytest.mark.parametrize("field", ["code_dir", "job_dir"])
@pytest.mark.parametrize("path", ["/job/../../etc", "/jobs/x", "/job/a/../../job2", "relative"])
def test_api_23_a_directory_outside_the_job_is_refused(
    attempts: Attempts, tmp_path: Path, field: str, path: str
) -> None:
    canary = tmp_path / "work" / "job2"
    canary.mkdir(parents=True)

    done = attempts.run("pwd", **{field: path})

    assert (done.result.status, done.result.reason) == ("failed", "policy_denied")
    assert done.output == ""
    assert canary.is_dir()


def test_api_23_the_working_directory_is_not_reached_through_a_link(
    attempts: Attempts, tmp_path: Path
) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "inside").mkdir()
    (source / "link").symlink_to("inside")
    copy = JobSource(type="copy", path=str(source))
    host = HostPolicy(copy_source_roots=(str(tmp_path),))

    good = attempts.run("pwd", source=copy, host=host, job_dir="/job/src/inside")
    linked = attempts.run("pwd", source=copy, host=host, job_dir="/job/src/link")
    missing = attempts.run("pwd", source=copy, host=host, job_dir="/job/src/none")

    assert good.output == "/job/src/inside\n"
    assert (linked.result.reason, linked.result.fault) == ("source_failed", "user")
    assert (missing.result.reason, missing.result.fault) == ("source_failed", "user")
    assert "/job/src/none" in missing.log.decode()


def test_directories_of_the_jobs_choice_are_made_and_writable(attempts: Attempts) -> None:
    done = attempts.run(
        'pwd; touch here "$CI_ARTIFACTS_DIR/a" "$HOME/h" && echo "$REACTORCIDE_CODE_DIR $CI_WORKSPACE"',
        code_dir="/job/code/deep/",
        job_dir="/job/code/deep/er",
    )

    assert done.output == "/job/code/deep/er\n/job/code/deep /job\n"


def test_unsandboxed_the_directories_are_the_real_ones(attempts: Attempts) -> None:
    done = attempts.run(
        'pwd; touch "$CI_ARTIFACTS_DIR/a" "$HOME/h" && echo "$CI_WORKSPACE"; echo "$SHOULD_NOT"',
        host=HostPolicy(unsandboxed=True),
    )

    workspace = done.output.splitlines()[1]
    assert done.output.splitlines()[0] == f"{workspace}/src"
    assert Path(workspace).is_relative_to(done.work)
    assert done.result.isolation == "unsandboxed"


def source_with_env_file(tmp_path: Path, content: bytes) -> tuple[JobSource, HostPolicy]:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "ci.env").write_bytes(content)
    (tree / "outside.env").symlink_to("/etc/hostname")
    (tree / "folder.env").mkdir()
    return JobSource(type="copy", path=str(tree)), HostPolicy(copy_source_roots=(str(tmp_path),))


def test_variables_come_from_the_weakest_source_last(attempts: Attempts, tmp_path: Path) -> None:
    source, host = source_with_env_file(
        tmp_path, b"FROM_FILE=file\nBOTH=file\nCI_JOB_ID=forged\nHOME=/job/src\nFILE_TOKEN=seven-sins\n"
    )

    done = attempts.run(
        'echo "$FROM_FILE $BOTH $THRICE $CI_JOB_ID $HOME $FILE_TOKEN"',
        source=source,
        host=host,
        env_file="ci.env",
        environment={"BOTH": "job", "THRICE": "job", "CI": "no"},
        secrets={"THRICE": "from-the-secrets"},
        job_id="real-id",
    )

    assert done.output == "file job [REDACTED] real-id /job/src [REDACTED]\n"


@pytest.mark.parametrize("path", ["none.env", "outside.env", "folder.env", "/job/src/none.env", "bad.env"])
def test_an_env_file_that_cannot_be_used_is_the_users_fault(
    attempts: Attempts, tmp_path: Path, path: str
) -> None:
    source, host = source_with_env_file(tmp_path, b"A=1\n")
    (tmp_path / "tree" / "bad.env").write_text("not a variable\n")

    done = attempts.run("echo run", source=source, host=host, env_file=path)

    assert (done.result.reason, done.result.fault) == ("env_file_invalid", "user")
    assert done.output == ""


def test_variables_that_the_kernel_would_refuse_are_refused_in_words(attempts: Attempts) -> None:
    done = attempts.run("true", environment={"HUGE": "x" * 200_000})

    assert (done.result.reason, done.result.fault) == ("env_file_invalid", "user")
    assert "HUGE" in (done.result.message or "")
