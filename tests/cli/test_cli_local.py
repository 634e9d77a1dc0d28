"""`run --local`: jobs on this machine, with no coordinator to be seen."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from attempt_runs import processes_running, wait_until
from laptop import NOBODY, Laptop, ended, nothing_runs

KEY = "hush-hush-value-4711"


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    """A laptop that knows of a coordinator and of a database, and can reach neither."""
    made = Laptop(
        tmp_path,
        {"REACTORCIDE_API_URL": NOBODY, "REACTORCIDE_DB_URI": "postgresql://nobody@127.0.0.1:9/none"},
    )
    yield made
    made.close()


def test_a_job_runs_sandboxed_and_its_end_is_the_exit_code(laptop: Laptop) -> None:
    done = laptop.local("--", "pwd; echo seen >&2; exit 7")

    assert done.code == 7
    assert done.output == b"/job/src\nseen\nreactorcide: the job ended with exit code 7\n"
    assert done.talk.startswith("failed after ")
    assert done.talk.endswith(" in bubblewrap, exit code 7\n")


def test_nothing_is_left_and_no_database_is_made(laptop: Laptop) -> None:
    done = laptop.local("--", "echo $HOME > file; mkdir -p a/b")

    assert done.code == 0, done.talk
    assert laptop.leftovers() == []


def test_a_job_sees_what_it_would_see_on_a_worker_and_nothing_of_this_shell(laptop: Laptop) -> None:
    done = laptop.local("--name", "seen", "-e", "MINE=1", "--", "env", FROM_THE_SHELL="1")
    seen = dict(line.split("=", 1) for line in done.output.decode().splitlines())

    assert {"CI", "CI_JOB_ID", "CI_JOB_ATTEMPT", "REACTORCIDE_SECRETS_SOCKET"} <= seen.keys()
    assert (seen["CI_JOB_NAME"], seen["CI_WORKSPACE"], seen["MINE"]) == ("seen", "/job", "1")
    assert not {"FROM_THE_SHELL", "REACTORCIDE_API_URL", "REACTORCIDE_DB_URI"} & seen.keys()


def test_each_run_has_an_id_of_its_own(laptop: Laptop) -> None:
    first, second = (laptop.local("--", "echo $CI_JOB_ID").output for _ in range(2))

    assert first != second


def test_a_job_file_runs_here_as_it_would_there_and_flags_win(laptop: Laptop) -> None:
    (laptop.folder / "job.yaml").write_text(
        "name: from file\ncommand: echo $A $B; exit 3\nenvironment: {A: file, B: file}\n"
        "queue_name: gpu\npriority: 5\nlabels: {team: web}\n"
    )

    done = laptop.local("-f", "job.yaml", "-e", "B=flag")

    assert (done.code, done.output.splitlines()[0]) == (3, b"file flag")
    assert "only a coordinator knows it: queue_name, priority, labels" in done.talk


def test_a_command_of_ones_own_is_run_in_place_of_the_files(laptop: Laptop) -> None:
    (laptop.folder / "job.yaml").write_text("command: exit 3\nenvironment: {A: kept}\n")

    done = laptop.local("-f", "job.yaml", "--", "echo $A")

    assert (done.code, done.output) == (0, b"kept\n")


def test_a_secret_is_masked_on_the_way_out(laptop: Laptop) -> None:
    done = laptop.local(
        "--secret", "KEY", "--", "echo got $KEY; printf %s $KEY | base64; test -n $KEY", KEY=KEY
    )

    assert b"[REDACTED]" in done.output
    assert KEY.encode() not in done.output + done.talk.encode()


def test_a_directory_that_one_names_oneself_is_copied_even_by_a_link(laptop: Laptop) -> None:
    source = laptop.folder / "project"
    source.mkdir()
    (source / "file").write_text("content")
    (laptop.folder / "link").symlink_to(source)

    done = laptop.local("--source-path", "link", "--", "cat file; rm file")

    assert done.output.endswith(b"content")
    assert (source / "file").exists()


def test_a_directory_that_only_a_file_names_is_refused_with_what_to_do(laptop: Laptop) -> None:
    (laptop.folder / "job.yaml").write_text("command: ls\nsource: {type: copy, path: /etc}\n")

    refused = laptop.local("-f", "job.yaml")
    allowed = laptop.local("-f", "job.yaml", REACTORCIDE_COPY_SOURCE_ROOTS="/etc")

    assert refused.code == 69
    assert "COPY_SOURCE_ROOTS" in refused.talk
    assert "--source-path" in refused.talk
    assert b"passwd" in allowed.output


def test_a_job_file_may_copy_what_lies_beside_it_from_wherever_it_is_named(laptop: Laptop) -> None:
    (laptop.folder / "project" / "code").mkdir(parents=True)
    (laptop.folder / "project" / "code" / "greeting").write_text("hello")
    (laptop.folder / "project" / "job.yaml").write_text("command: cat greeting\nsource: {path: code}\n")
    (laptop.folder / "project" / "out.yaml").write_text("command: ls\nsource: {path: ../..}\n")

    beside = laptop.local("-f", "project/job.yaml")
    outside = laptop.local("-f", "project/out.yaml")

    assert (beside.code, b"hello" in beside.output) == (0, True), beside.talk
    assert outside.code == 69
    assert "COPY_SOURCE_ROOTS" in outside.talk


def test_a_directory_that_holds_the_workspaces_is_not_copied_into_itself(laptop: Laptop) -> None:
    done = laptop.local("--source-path", str(laptop.data_dir.parent), "--", "true")

    assert done.code == 69
    assert "holds the data directory" in done.talk


def test_artifacts_are_kept_where_one_says_and_else_told_of(laptop: Laptop) -> None:
    command = "mkdir $CI_ARTIFACTS_DIR/sub; echo one > $CI_ARTIFACTS_DIR/sub/a.txt"

    dropped = laptop.local("--", command)
    kept = laptop.local("--artifacts-to", "out", "--", command)

    assert "artifacts dropped: 1" in dropped.talk
    assert (laptop.folder / "out/sub/a.txt").read_text() == "one\n"
    assert "artifacts kept in out: 1" in kept.talk


def test_limits_are_those_of_the_flags_over_those_of_the_settings(laptop: Laptop) -> None:
    done = laptop.local(
        "--json", "--pids", "64", "--network", "none", "--", "true", REACTORCIDE_JOB_MEMORY_MB="512"
    )

    assert done.end["limits"] == {"memory_mb": 512, "pids": 64, "timeout_seconds": 3600, "network": "none"}
    assert done.end["isolation"] == "bubblewrap"


def test_programs_get_the_log_and_the_end_as_lines_of_json(laptop: Laptop) -> None:
    done = laptop.local("--json", "--name", "told", "--", "echo hello; exit 4")

    assert [line["type"] for line in done.lines] == ["job", "log", "end"] or done.lines[1]["type"] == "log"
    assert "".join(line["data"] for line in done.lines if line["type"] == "log").startswith("hello\n")
    assert {name: done.end[name] for name in ("name", "status", "reason", "fault", "exit_code")} == {
        "name": "told",
        "status": "failed",
        "reason": "exit_nonzero",
        "fault": "user",
        "exit_code": 4,
    }
    assert done.code == 4


def test_a_job_that_runs_too_long_ends_with_124(laptop: Laptop) -> None:
    done = laptop.local("--timeout", "1", "--", "sleep 60")

    assert done.code == 124
    assert "timed out after " in done.talk


def test_ctrl_c_cancels_the_job_and_leaves_nothing(laptop: Laptop) -> None:
    mark = f"41{os.getpid()}"
    process = laptop.begin("--", f"trap 'echo tidied; exit 0' TERM; echo begun; sleep {mark} & wait")

    process.send_signal(signal.SIGINT)
    done = ended(process)

    assert done.code == 130
    assert b"tidied" in done.output
    assert "once more kills it" in done.talk
    nothing_runs(f"sleep\0{mark}")
    assert laptop.leftovers() == []


def test_a_second_ctrl_c_kills_what_does_not_listen(laptop: Laptop) -> None:
    mark = f"42{os.getpid()}"
    laptop.settings["REACTORCIDE_CANCEL_GRACE"] = "300"
    process = laptop.begin("--", f"trap '' TERM; echo begun; while :; do sleep {mark}; done")

    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert b"once more" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    done = ended(process)

    assert done.code == 130
    nothing_runs(f"sleep\0{mark}")
    assert laptop.leftovers() == []


def test_a_command_that_is_killed_takes_its_job_along_and_the_next_one_tidies_up(laptop: Laptop) -> None:
    mark = f"43{os.getpid()}"
    process = laptop.begin("--", f"echo begun; sleep {mark}")

    # The runner's parent is what `env` became.
    process.kill()
    ended(process)
    nothing_runs(f"sleep\0{mark}")
    assert laptop.leftovers()
    wait_until(lambda: not processes_running(str(laptop.data_dir)), 10)
    done = laptop.local("--", "true")

    assert done.code == 0, done.talk
    assert laptop.leftovers() == []


def test_a_run_spares_the_files_of_one_that_goes_on(laptop: Laptop) -> None:
    process = laptop.begin("--", "echo begun; while ! test -e stop; do sleep 0.1; done; ls -d /job/src")
    (workspace,) = laptop.data_dir.glob("local/*/work/*")

    other = laptop.local("--", "true")

    assert other.code == 0
    assert workspace.is_dir()
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130


def test_a_reader_that_goes_away_ends_the_job(laptop: Laptop) -> None:
    mark = f"44{os.getpid()}"
    process = laptop.begin("--", f"echo begun; sleep {mark}.5 & while echo more; do sleep 0.05; done")
    assert process.stdout is not None

    process.stdout.close()

    assert process.wait(30) == 141
    assert process.stderr is not None
    process.stderr.close()
    nothing_runs(f"sleep\0{mark}.5")
    assert laptop.leftovers() == []


def test_without_a_sandbox_nothing_runs_unless_one_says_so(laptop: Laptop) -> None:
    # A path that is not there: the sandbox cannot be built.
    laptop.settings["REACTORCIDE_SANDBOX_PATHS"] = "/no/such/toolchain"

    refused = laptop.local("--executor", "process", "--", "touch /tmp/ran; echo ran")
    bare = laptop.local("--unsandboxed", "--", "echo ran; exit 5")

    assert refused.code == 125
    assert b"\nran" not in b"\n" + refused.output
    assert "--unsandboxed" in refused.talk
    assert bare.code == 5
    assert b"ran" in bare.output
    assert bare.talk.endswith(" in unsandboxed, exit code 5\n")


def test_an_executor_that_cannot_be_had_is_told(laptop: Laptop) -> None:
    laptop.settings["REACTORCIDE_CONTAINER_ENGINE"] = "/no/such/engine"

    done = laptop.local("--executor", "container", "--", "true")

    assert done.code == 125
    assert "/no/such/engine" in done.talk


def test_every_fault_of_a_job_is_told_at_once(laptop: Laptop) -> None:
    done = laptop.local("--memory-mb", "1", "--git-url", "file:///etc", "--", "true")

    assert done.code == 69
    assert "/git_url" in done.talk
    assert "/resources/memory_mb" in done.talk


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--unsandboxed", "--", "true"], "--unsandboxed: only with --local"),
        (
            ["--artifacts-to", "x", "--executor", "auto", "--", "true"],
            "--executor, --artifacts-to: only with",
        ),
        (["--local"], "a job file with -f"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(laptop: Laptop, arguments: list[str], told: str) -> None:
    done = laptop.run("run", *arguments)

    assert done.code == 2
    assert told in done.talk


def test_a_file_without_a_command_needs_one(laptop: Laptop) -> None:
    (laptop.folder / "job.yaml").write_text("name: nothing to do\n")

    done = laptop.local("-f", "job.yaml")

    assert done.code in (2, 69)
    assert "command" in done.talk
