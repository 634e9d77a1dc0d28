"""`reproduce`: what a coordinator kept of a job, run here and compared. The jobs run, their past is told."""

import asyncio
import os
import pty
import select
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cli_shell import Api, Done, Keyboard, Person, ended

from fakes.git_server import GitServer, commit_files, git
from job_desk import EMPTY_LOG
from reactorcide.domain.jobs import AttemptLimits, AttemptOutcome
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus

pytest_plugins = ["cli_fixtures"]

FAILED = AttemptOutcome(
    JobStatus.FAILED,
    Reason.EXIT_NONZERO,
    Fault.USER,
    exit_code=3,
    log_length=0,
    log_sha256=EMPTY_LOG,
    isolation="bubblewrap",
    limits=AttemptLimits(60, "default", memory_mb=512, pids=100),
)
TIMED_OUT = replace(FAILED, status=JobStatus.TIMEOUT, reason=Reason.TIMEOUT_RUN, exit_code=137)
DIGEST = f"sha256:{'ab' * 32}"


@dataclass
class Past:
    """A coordinator where jobs have ended as a test says."""

    api: Api
    person: Person

    async def job(self, command: str, outcome: AttemptOutcome = FAILED, **fields: Any) -> str:
        submitted = await self.person.submit(job_command=command, **{"source_type": "none"} | fields)
        started = await self.api.start_next()
        await self.api.attempts.finish(started.claim, outcome)
        return str(submitted["job_id"])

    async def copy_job(self, command: str, source_path: Path) -> str:
        """A job whose source the coordinator allowed at the time."""
        job_id = await self.job(command, source_type="copy", source_path="/srv/sources/one")
        await self._rewrite(job_id, "source_path", str(source_path))
        return job_id

    async def git_job(self, command: str, git_url: str, outcome: AttemptOutcome) -> str:
        """Alike, with a repository."""
        fields = {"source_type": "git", "git_url": "https://git.example.org/r", "git_ref": "main"}
        job_id = await self.job(command, outcome, **fields)
        await self._rewrite(job_id, "git_url", git_url)
        return job_id

    async def _rewrite(self, job_id: str, column: str, value: str) -> None:
        async with self.api.database.transaction() as tx:
            statement = f"UPDATE jobs SET {column} = %(value)s WHERE job_id = %(job_id)s"
            await tx.execute(statement.encode(), {"value": value, "job_id": job_id})


@pytest.fixture
def past(api: Api, person: Person) -> Past:
    return Past(api, person)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A directory that was a copy source."""
    folder = tmp_path.resolve() / "project"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def last_line(done: Done) -> str:
    return done.stderr.splitlines()[-1]


async def test_a_job_that_fails_here_too_is_the_same(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("echo doing it; exit 3")

    done = await keys.type("reproduce", job_id)

    assert (done.code, last_line(done)) == (0, "same exit code: yes (3)")
    assert done.stdout.startswith(b"doing it\n")
    assert "512 MB of memory, 100 processes, 60 s" in done.stderr
    assert "there bubblewrap, here bubblewrap" in done.stderr
    assert "differs" not in done.stderr


async def test_a_job_that_ends_otherwise_here_is_not_the_same(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 0")

    done = await keys.type("reproduce", job_id)

    assert (done.code, last_line(done)) == (1, "same exit code: no (there 3, here 0)")


async def test_it_has_the_limits_the_environment_and_the_attempt_that_it_had(
    past: Past, keys: Keyboard
) -> None:
    job_id = await past.job("env; ulimit -u; exit 3", job_env_vars={"MINE": "1"}, name="had")

    done = await keys.type("reproduce", "--json", job_id, REACTORCIDE_JOB_MEMORY_MB="4096")

    (end,) = [line["job"] for line in done.json_lines if line["type"] == "end"]
    assert end["limits"] == {"memory_mb": 512, "pids": 100, "timeout_seconds": 60, "network": "default"}
    log = "".join(line["data"] for line in done.json_lines if line["type"] == "log")
    assert {"MINE=1", "CI_JOB_NAME=had", "CI_JOB_ATTEMPT=1"} <= set(log.splitlines())
    assert done.json_lines[-1] == {
        "type": "comparison",
        "differences": [],
        "there": "3",
        "here": "3",
        "same": True,
    }


async def test_ends_that_are_no_exit_code_are_compared_by_their_reason(past: Past, keys: Keyboard) -> None:
    alike = await past.job("sleep 60", replace(TIMED_OUT, limits=AttemptLimits(1, "default")))
    otherwise = await past.job("exit 3", TIMED_OUT)

    same = await keys.type("reproduce", alike)
    other = await keys.type("reproduce", otherwise)

    assert (same.code, last_line(same)) == (0, "same end: yes (timeout_run)")
    assert (other.code, last_line(other)) == (1, "same end: no (there timeout_run, here 3)")


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (
            replace(FAILED, reason=Reason.SANDBOX_DIED, fault=Fault.INFRA, exit_code=None),
            "it did not end by itself there: sandbox_died",
        ),
        (None, "it has not ended there: it is running"),
    ],
)
async def test_without_an_end_to_compare_with_the_exit_code_is_the_jobs(
    past: Past, keys: Keyboard, outcome: AttemptOutcome | None, why: str
) -> None:
    if outcome is not None:
        job_id = await past.job("exit 9", outcome)
    else:
        job_id = (await past.person.submit(job_command="exit 9", source_type="none"))["job_id"]
        await past.api.start_next()

    done = await keys.type("reproduce", job_id)

    assert (done.code, last_line(done)) == (9, f"nothing to compare: {why}")


async def test_a_job_that_was_cancelled_before_it_ran_is_run_here(past: Past, keys: Keyboard) -> None:
    job_id = (await past.person.submit(job_command="exit 9", source_type="none"))["job_id"]
    assert (await past.person.call("PUT", f"/api/v1/jobs/{job_id}/cancel")).status_code == 200

    done = await keys.type("reproduce", job_id)

    assert (done.code, last_line(done)) == (9, "nothing to compare: it was cancelled there")


async def test_another_command_looks_around_where_the_job_ran(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 3", job_env_vars={"MINE": "1"})

    done = await keys.type("reproduce", job_id, "--", "echo $MINE; exit 8")

    assert done.stdout.startswith(b"1\n")
    assert (done.code, last_line(done)) == (8, "nothing to compare: another command was run")


async def test_an_attempt_that_was_not_made_is_refused(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 3")

    done = await keys.type("reproduce", job_id, "--attempt", "2")

    assert done.code == 69
    assert "the job has no attempt 2: its newest is 1" in done.stderr


async def test_an_earlier_attempt_is_run_under_its_number(past: Past, keys: Keyboard) -> None:
    job_id = (
        await past.person.submit(job_command="exit $CI_JOB_ATTEMPT", source_type="none", retry_on_lost=1)
    )["job_id"]
    lost = await past.api.start_next()
    async with past.api.database.transaction() as tx:
        await tx.execute(
            "UPDATE attempts SET ended_at = now() WHERE job_id = %(job_id)s", {"job_id": lost.claim.job_id}
        )
        await tx.execute(
            "UPDATE jobs SET status = 'queued', lease_id = NULL, lease_worker = NULL, not_before = now()"
            " WHERE job_id = %(job_id)s",
            {"job_id": lost.claim.job_id},
        )
    started = await past.api.start_next()
    await past.api.attempts.finish(started.claim, replace(FAILED, exit_code=2))

    newest = await keys.type("reproduce", job_id)
    first = await keys.type("reproduce", job_id, "--attempt", "1")

    assert (newest.code, last_line(newest)) == (0, "same exit code: yes (2)")
    assert (first.code, last_line(first)) == (
        1,
        "nothing to compare: it did not end by itself there: worker_lost",
    )


async def test_nobody_elses_job_is_reproduced(past: Past, keys: Keyboard, api: Api, tmp_path: Path) -> None:
    job_id = await past.job("exit 3")
    stranger = await api.person()
    theirs = Keyboard(api.url, stranger.token, tmp_path)

    foreign = await theirs.type("reproduce", job_id)
    missing = await keys.type("reproduce", "01890000-0000-7000-8000-000000000001")

    assert (foreign.code, foreign.stdout) == (69, b"")
    assert "somebody else's" in foreign.stderr
    assert (missing.code, missing.stdout) == (69, b"")
    assert "no such job" in missing.stderr


# Secrets


async def test_unknown_secrets_are_listed_where_nobody_can_be_asked(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 3", job_secrets={"B": "x" * 9}, job_env_vars={"A_TOKEN": "y" * 9, "C": "z"})

    done = await keys.type("reproduce", job_id)

    assert (done.code, done.stdout) == (69, b"")
    assert "not known here: A_TOKEN, B" in done.stderr
    assert "--no-secrets" in done.stderr


async def test_secrets_come_from_the_environment_and_are_masked_or_are_left_empty(
    past: Past, keys: Keyboard
) -> None:
    command = "echo [$A_TOKEN] [$B]; test -z $B && exit 3; exit 4"
    job_id = await past.job(command, job_secrets={"B": "x" * 9}, job_env_vars={"A_TOKEN": "y" * 9})

    given = await keys.type(
        "reproduce", job_id, "--secret", "B", "--secret", "A_TOKEN", B="bee-value", A_TOKEN="tokenvalue"
    )
    empty = await keys.type("reproduce", job_id, "--no-secrets")

    assert given.stdout.startswith(b"[[REDACTED]] [[REDACTED]]\n")
    assert given.code == 1
    assert empty.stdout.startswith(b"[] []\n")
    assert empty.code == 0
    assert "left empty: A_TOKEN, B" in empty.stderr


async def test_a_secret_that_the_job_does_not_have_is_refused(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 3", job_secrets={"B": "x" * 9})

    done = await keys.type("reproduce", job_id, "--secret", "BEE", BEE="1")

    assert done.code == 2
    assert "no such secret; it has: B" in done.stderr


async def test_secrets_are_asked_for_without_showing_them(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("test $B = bee-value && exit 3", job_secrets={"B": "x" * 9})
    ours, theirs = pty.openpty()

    process = await asyncio.create_subprocess_exec(
        # With the terminal as its own, as a shell has it.
        *("setsid", "--ctty", "--wait", *program()),
        *("reproduce", job_id),
        env=variables(keys),
        cwd=keys.folder,
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    keys.started.append(process)
    os.close(theirs)
    shown = await asyncio.to_thread(read_until, ours, b"Secret B")
    os.write(ours, b"bee-value\n")
    done = await ended(process)
    shown += os.read(ours, 1024)
    os.close(ours)

    assert b"bee-value" not in shown
    assert (done.code, last_line(done)) == (0, "same exit code: yes (3)")


async def test_the_password_in_a_git_url_counts_as_a_secret(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 3", source_type="git", git_url="https://me:opensesame@git.example.org/r")

    done = await keys.type("reproduce", job_id)

    assert done.code == 69
    assert "not known here: GIT_CREDENTIAL" in done.stderr
    assert "opensesame" not in done.stderr


# Sources


async def test_a_git_source_is_checked_out_at_the_commit_that_it_was(
    past: Past, keys: Keyboard, tmp_path: Path
) -> None:
    with GitServer(tmp_path / "git") as server:
        commit = git(server.repo, "rev-parse", "HEAD").strip()
        told = replace(FAILED, resolved_sha=commit)
        command = "echo $CI_COMMIT_SHA; test -e later && exit 4; exit 3"
        job_id = await past.git_job(command, server.url, told)
        commit_files(server.repo, {"later": "moved on"})

        done = await keys.type(
            "reproduce",
            job_id,
            REACTORCIDE_GIT_ALLOWED_PROTOCOLS="http",
            REACTORCIDE_GIT_ALLOWED_HOSTS=server.address,
        )

    assert commit.encode() in done.stdout
    assert (done.code, last_line(done)) == (0, "same exit code: yes (3)"), done.stderr


async def test_a_copied_directory_is_copied_again_if_it_is_here(
    past: Past, keys: Keyboard, copied: Path
) -> None:
    here = await past.copy_job("cat file; exit 3", copied)
    gone = await past.copy_job("exit 3", copied / "no-more")

    found = await keys.type("reproduce", here)
    missing = await keys.type("reproduce", gone)
    named = await keys.type("reproduce", gone, "--source-path", str(copied))

    assert b"content" in found.stdout
    assert found.code == 0
    assert "may have changed since" in found.stderr
    assert missing.code == 69
    assert "not on this machine" in missing.stderr
    assert named.code == 0
    assert f"the directory is {copied} here" in named.stderr


async def test_another_users_job_gets_no_directory_of_mine_unless_i_name_it(
    past: Past, admin_keys: Keyboard, copied: Path
) -> None:
    job_id = await past.copy_job("cat file; exit 3", copied)

    refused = await admin_keys.type("reproduce", job_id)
    meant = await admin_keys.type("reproduce", job_id, "--source-path", str(copied))

    assert (refused.code, refused.stdout) == (69, b"")
    assert "another user" in refused.stderr
    assert b"content" in meant.stdout


# Isolation


async def test_a_job_of_a_container_is_not_quietly_run_in_something_else(past: Past, keys: Keyboard) -> None:
    told = replace(FAILED, isolation="docker", image_digest=DIGEST)
    job_id = await past.job("exit 3", told, runner_image="registry.example.org:5000/ci/base:1.2")

    refused = await keys.type("reproduce", job_id, REACTORCIDE_CONTAINER_ENGINE="/no/such/engine")
    forced = await keys.type("reproduce", job_id, "--executor", "process")

    assert refused.code == 125
    assert f"registry.example.org:5000/ci/base@{DIGEST}" in refused.stderr
    assert "/no/such/engine" in refused.stderr
    assert last_line(refused) == "nothing to compare: this machine could not run it"
    assert forced.code == 0
    assert "isolation: it ran in docker, here it runs in bubblewrap" in forced.stderr


async def test_who_goes_without_a_sandbox_is_told_that_it_was_otherwise(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 0")

    done = await keys.type("reproduce", job_id, "--unsandboxed")

    assert done.code == 1
    assert "differs    isolation: it ran in bubblewrap, here it runs in unsandboxed" in done.stderr


async def test_what_was_not_recorded_is_told(past: Past, keys: Keyboard) -> None:
    job_id = await past.job("exit 3", replace(FAILED, isolation=None, limits=None))

    done = await keys.type("reproduce", job_id)

    assert done.code == 0
    assert "what it ran in was not recorded" in done.stderr
    assert "limits" in done.stderr


def program() -> list[str]:
    return [sys.executable, "-m", "reactorcide"]


def variables(keys: Keyboard) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(keys.folder),
        "LC_ALL": "C.UTF-8",
        "REACTORCIDE_API_URL": keys.url,
        "REACTORCIDE_API_TOKEN": keys.token,
    }


def read_until(terminal: int, text: bytes) -> bytes:
    """Read what a terminal shows until it holds ``text``."""
    shown = b""
    while text not in shown:
        assert select.select([terminal], [], [], 20)[0], shown
        shown += os.read(terminal, 1024)
    return shown
