"""The same job by a worker and on a laptop, and a worker's job once more on the laptop."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from whole_product import PROGRAM, Product, processes_holding, wait_until

from fakes.git_server import commit_files, git

JOB_FILE = """\
name: one and the same
command: |
  exec 2>&1  # what comes by two pipes has no order
  echo "to stdout from $(pwd)"; echo to stderr >&2
  env | sort
  id -u; ulimit -n; umask; cat /proc/self/limits | grep -i 'max processes'
  ls -A / /job; cat note
  echo "$DEPLOY_KEY" | rev | rev
  echo kept > "$CI_ARTIFACTS_DIR/kept.txt"
  exit 3
source: {type: copy, path: SOURCE}
environment: {LEVEL: "5"}
secrets: {DEPLOY_KEY: not-for-your-eyes}
timeout: 60
resources: {memory_mb: 512, pids: 300}
network: none
artifacts: ["**"]
"""
# What no two runs have alike.
CHANGES = (
    (rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", b"ID"),
    (rb"(?m)^CI_JOB_URL=.*\n", b""),
    # Without a sandbox a job sees where it lies.
    (rb"/[^ \n]*/ID\.1/job", b"/job"),
    (rb"(?m)^(REACTORCIDE_SECRETS_SOCKET)=/proc/.*", rb"\1=/proc/"),
)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "note").write_text("a note\n")
    path = tmp_path / "job.yaml"
    path.write_text(JOB_FILE.replace("SOURCE", str(source)))
    return path


def normalised(log: str) -> bytes:
    data = log.encode()
    for pattern, replacement in CHANGES:
        data = re.sub(pattern, replacement, data)
    return data


@pytest.mark.parametrize("is_unsandboxed", [False, True])
def test_a_job_file_does_the_same_by_a_worker_and_here(
    product: Product, job_file: Path, tmp_path: Path, is_unsandboxed: bool
) -> None:
    product.settings["REACTORCIDE_COPY_SOURCE_ROOTS"] = str(tmp_path.resolve())
    if is_unsandboxed:
        product.settings["REACTORCIDE_UNSANDBOXED"] = "true"
    product.up()

    there = product.run("run", "-f", str(job_file))
    here = product.run("run", "--local", "-f", str(job_file))

    assert (there.returncode, here.returncode) == (3, 3), here.stderr
    assert "a note" in here.stdout
    assert "[REDACTED]" in here.stdout
    assert "not-for-your-eyes" not in here.stdout
    assert different_lines(there.stdout, here.stdout) == [], here.stdout


def different_lines(there: str, here: str) -> list[bytes]:
    """Return the lines that differ, whatever no two runs have alike aside."""
    ours, theirs = normalised(there), normalised(here)
    return [] if ours == theirs else sorted(set(ours.splitlines()) ^ set(theirs.splitlines())) or [b"order"]


def test_a_failed_job_is_reproduced_and_its_record_is_shown(running: Product) -> None:
    job = running.submit("echo trying; exit 4", "--memory-mb", "300")
    assert running.run("wait", job).returncode == 4

    done = running.run("reproduce", job)
    shown = running.run("jobs", "get", job).stdout

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "trying"
    assert done.stderr.splitlines()[-1] == "same exit code: yes (4)"
    assert "there bubblewrap, here bubblewrap" in done.stderr
    told = running.job(job)
    assert told["isolation"] == "bubblewrap"
    assert told["limits"] == {
        "memory_mb": 300,
        "pids": 1024,
        "timeout_seconds": 3600,
        "network": "default",
    }
    assert "image_digest" not in told
    assert re.search(r"(?m)^limits +300 MB of memory, 1024 processes, 3600 s$", shown)
    assert re.search(r"(?m)^ran in +bubblewrap$", shown)


def test_a_flaky_job_is_found_out(running: Product, tmp_path: Path) -> None:
    # It fails where it is told so from outside, which is what a flaky job is like.
    flag = tmp_path / "flag"
    flag.touch()
    tmp_path.chmod(0o755)
    running.stop()
    running.settings["REACTORCIDE_SANDBOX_PATHS"] = str(flag)
    running.up()
    job = running.submit(f"grep -q fixed {flag} || exit 1")
    assert running.run("wait", job).returncode == 1
    flag.write_text("fixed")

    done = running.run("reproduce", job)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "same exit code: no (there 1, here 0)"


def test_secrets_are_needed_again_and_never_shown(running: Product) -> None:
    command = 'echo "got $API_TOKEN"; test "$API_TOKEN" = correct-horse && exit 6'
    job = str(
        running.json(
            "submit", "--name", "e2e", "--secret", "API_TOKEN=@" + str(secret_file(running)), "-c", command
        )["job_id"]
    )
    assert running.run("wait", job).returncode == 6

    unknown = running.run("reproduce", job)
    given = running.run("reproduce", job, "--secret", "API_TOKEN", API_TOKEN="correct-horse")

    assert unknown.returncode == 69
    assert "not known here: API_TOKEN" in unknown.stderr
    assert given.returncode == 0
    assert "got [REDACTED]" in given.stdout
    assert "correct-horse" not in given.stdout + given.stderr


def secret_file(running: Product) -> Path:
    path = running.data_dir / "token.txt"
    path.write_text("correct-horse\n")
    return path


def test_ctrl_c_in_a_reproduction_leaves_nothing_behind(running: Product) -> None:
    mark = f"33{os.getpid()}"
    job = running.submit(f'test "$CI_JOB_ATTEMPT" = 1 && echo begun; sleep {mark}', "--timeout", "1")
    assert running.run("wait", job).returncode == 124

    process = running.start("reproduce", job, "--", f"echo begun; sleep {mark}")
    wait_until(lambda: processes_holding(f"sleep\0{mark}"), 30)
    process.send_signal(signal.SIGTERM)
    _, talk = process.communicate(timeout=30)

    assert process.returncode == 130, talk
    assert "nothing to compare: it was interrupted here" in talk
    wait_until(lambda: not processes_holding(f"sleep\0{mark}"), 5)
    assert list((running.data_dir / "local").iterdir()) == []


def test_a_sent_working_tree_is_reproduced_from_where_it_still_is(running: Product, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    git(tree, "init", "--quiet")
    commit_files(tree, {"file": "committed\n"})
    (tree / "file").write_text("changed\n")
    command = ("sh", "-c", "cat file; echo $CI_COMMIT_SHA; exit 3")
    sent = in_folder(running, tree, "run", "--dirty", "--", *command)
    job = str(running.json("jobs", "list")["jobs"][0]["job_id"])

    same = in_folder(running, tree, "reproduce", job)
    (tree / "file").write_text("changed again\n")
    changed = in_folder(running, tree, "reproduce", job)
    elsewhere = in_folder(running, tmp_path, "reproduce", job)

    assert sent.returncode == 3, sent.stderr
    assert (same.returncode, same.stdout) == (0, sent.stdout), same.stderr
    assert changed.returncode == elsewhere.returncode == 69
    assert "the working tree here is another one" in changed.stderr
    assert "is in no working tree" in elsewhere.stderr


def in_folder(product: Product, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=product.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
