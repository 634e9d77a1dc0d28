"""Rows LOG-10, LOG-11, E41 and goal C6: a secret is where its job is, and nowhere else."""

import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from attempt_runs import Attempts
from reactorcide.api.schemas import SubmitJobBody
from reactorcide.domain.submission import JobRequest, SubmissionPolicy, freeze_request
from robustness.installation import Installation, ended, installed, log_of, printed, submit
from robustness.workload import giveaways
from runnerlib.executors.bubblewrap import SandboxPlan
from runnerlib.executors.port import JobCommand, Limits
from runnerlib.spec import JobSource, RunSpec

GIVEN = 'g1ven"with/the+job&é'
NAMED = "n4med-like-a-credential"
LATE = "l4te-and-registered"
IN_URL = "p4ssword-of-a-repository"
EVERY = {"given": GIVEN, "named": NAMED, "late": LATE, "in the URL": IN_URL}
PYTHON = "/usr/bin/python3"
POLICY = SubmissionPolicy(
    default_queue_name="x",
    default_timeout_seconds=1,
    default_runner_image="x",
    git_allowed_protocols=("https",),
    git_allowed_hosts=(),
    copy_source_roots=(),
)

REGISTER = """
import json, os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["REACTORCIDE_SECRETS_SOCKET"])
late = "-".join(["l4te", "and", "registered"])
data = json.dumps({"action": "register", "secrets": late}).encode()
s.sendall(len(data).to_bytes(4, "big") + data)
print(s.makefile().readline(), late, flush=True)
"""
PRINT = """
import base64, json, os, sys, urllib.parse
for value in (os.environ["GIVEN"], os.environ["API_TOKEN"], "-".join(["l4te", "and", "registered"])):
    raw = value.encode()
    for text in (value, raw.hex(), json.dumps(value), urllib.parse.quote(value, safe="")):
        print(text, file=sys.stderr if len(text) % 2 else sys.stdout, flush=True)
    for before in range(3):
        print(base64.b64encode(b"u" * before + raw).decode(), flush=True)
print("all printed", flush=True)
"""


def found_in(data: bytes) -> list[str]:
    """Return the names of the secrets that ``data`` gives away, in whatever spelling."""
    return [name for name, value in EVERY.items() if any(form in data for form in giveaways(value))]


def found_below(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [f"{path}: {names}" for path in files if (names := found_in(path.read_bytes()))]


def found_in_processes() -> list[str]:
    """Return the processes that show a secret in argv, or in variables although they are not a job's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments, variables = ((process / name).read_bytes() for name in ("cmdline", "environ"))
            status = (process / "status").read_text()
        except OSError:
            continue
        ids = re.search(r"^NSpid:\s+(.*)$", status, re.MULTILINE)
        # In a namespace of its own, and not its first process, which is bubblewrap.
        is_jobs = ids is not None and len(ids[1].split()) > 1 and ids[1].split()[-1] != "1"
        if found_in(arguments) or (found_in(variables) and not is_jobs):
            found.append(f"{process.name}: {arguments!r}")
    return found


def found_in_database(dsn: str) -> Iterator[str]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        for (table,) in tables:
            statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))
            with connection.cursor().copy(statement) as copy:
                if names := found_in(b"".join(bytes(block) for block in copy)):
                    yield f"{table}: {names}"


@pytest.fixture
async def site(dsn: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(dsn, tmp_path / "site", REACTORCIDE_LOG_LEVEL="debug") as made:
        yield made


@pytest.mark.skipif(not Path(PYTHON).exists(), reason="the sandbox sees only the system's Python")
@pytest.mark.parametrize("way", ["direct", "http"])
async def test_log_10_no_secret_is_anywhere_but_in_its_job(site: Installation, dsn: str, way: str) -> None:
    serve = await site.serve()
    await (site.worker() if way == "direct" else site.remote_worker(serve))
    client = site.client(serve.url)

    job_id = await submit(
        client,
        "tells all",
        f"{PYTHON} -c '{REGISTER}'; {PYTHON} -c '{PRINT}'; until [ -e /job/go ]; do sleep 0.1; done; exit 3",
        job_secrets={"GIVEN": GIVEN},
        job_env_vars={"API_TOKEN": NAMED, "PLAIN": "shown"},
        timeout_seconds=60,
    )
    await printed(client, job_id, b"all printed")
    while_it_runs = found_in_processes() + found_below(site.folder)
    for go in site.folder.glob("*/**/job"):
        (go / "go").touch()
    job = await ended(client, job_id)

    log = await log_of(client, job_id)
    answers = [
        (await client.get(f"/api/v1/jobs{rest}")).content
        for rest in (f"/{job_id}", f"/{job_id}/events", f"/{job_id}/logs", "")
    ]
    assert job["exit_code"] == 3, log
    assert log.count(b"[REDACTED]") >= 22, log
    assert while_it_runs == []
    assert found_in_processes() == []
    assert [found_in(answer) for answer in answers] == [[]] * 4
    assert list(found_in_database(dsn)) == []
    assert found_below(site.folder) == []


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    made = Attempts(tmp_path)
    yield made
    made.close()


# --- a runner that crashes --------------------------------------------------------------------------

_CRASHER = """
import faulthandler, os, sys
faulthandler.enable()
import runnerlib.attempt, runnerlib.run, runnerlib.masking
{break_something}
code = runnerlib.attempt.main()
sys.stderr.flush()
sys.exit(code)
"""
CRASHES = {
    "an exception that shows the spec and the command": (
        "def crash(self, executor, workspace, command):\n"
        "    local = dict(command.environment)\n"
        "    raise RuntimeError(f'{self._spec!r} {command!r} {vars(self)!r}', self._spec, command)\n"
        "runnerlib.run.Run._run_command = crash"
    ),
    "an assertion on the spec": (
        "def crash(self, executor, workspace, command):\n"
        "    assert not self._spec.secrets, self._spec\n"
        "runnerlib.run.Run._run_command = crash"
    ),
    "an exception in the thread of a pipe": (
        "def crash(self, data):\n"
        "    raise ValueError(self, self._masker)\n"
        "runnerlib.masking.MaskingStream.feed = crash"
    ),
    "an abort of the whole process": (
        "def crash(self, executor, workspace, command):\n    os.abort()\n"
        "runnerlib.run.Run._run_command = crash"
    ),
}


@pytest.mark.parametrize("what", CRASHES)
def test_e41_a_runner_that_crashes_tells_no_secret(attempts: Attempts, what: str, tmp_path: Path) -> None:
    code = _CRASHER.replace("{break_something}", CRASHES[what])

    job = attempts.start(
        "echo $GIVEN",
        launcher=[sys.executable, "-P", "-c", code],
        secrets={"GIVEN": GIVEN},
        environment={"API_TOKEN": NAMED},
        source=JobSource(type="none", url=f"https://me:{IN_URL}@example.org/x.git"),
    )
    job.process.wait(30)
    assert job.process.stdout is not None
    assert job.process.stderr is not None
    said = job.process.stdout.read() + job.process.stderr.read()

    assert b"Traceback" in said or b"Abort" in said, said
    assert found_in(said) == [], said.decode(errors="replace")
    assert found_below(tmp_path) == []


@pytest.mark.parametrize(
    "spec",
    [
        b'{"secrets":{"GIVEN":1,"X":"%s"}}\n',
        b'{"secrets":{"GIVEN":"%s"},"environment":["%s"]}\n',
        b'{"secrets":{"GIVEN":"%s"}\n',
        b'{"secrets":"%s"}\n',
        b'{"protocol":99,"secrets":{"GIVEN":"%s"},"job_id":"x","job_name":"x","attempt":1,"command":"%s",'
        b'"source":{"type":"none"},"spool_dir":"/","workspace_root":"/"}\n',
    ],
)
def test_e41_a_spec_that_is_refused_is_not_repeated(attempts: Attempts, spec: bytes) -> None:
    job = attempts.start("true", launcher=["/bin/sh", "-c", 'read line; read line; exec "$@"', "sh"])
    assert job.process.stdin is not None

    job.process.stdin.write(b"\n" + spec.replace(b"%s", LATE.encode()))
    job.process.stdin.close()

    assert job.process.wait(30) == 2
    said = job.complaints().encode()
    assert b"the spec is refused" in said
    assert found_in(said) == []


def test_e41_nothing_that_holds_secrets_shows_them_when_it_is_printed() -> None:
    url = f"https://me:{IN_URL}@example.org/x.git"
    request = JobRequest(
        name="x",
        source_type="git",
        job_command="true",
        git_url=url,
        job_env_vars={"API_TOKEN": NAMED},
        job_secrets={"GIVEN": GIVEN},
    )
    body = SubmitJobBody(
        name="x", source_type="git", job_command="true", git_url=url, job_secrets={"GIVEN": GIVEN}
    )
    spec = RunSpec(
        job_id="x",
        job_name="x",
        attempt=1,
        command="true",
        source=JobSource(type="git", url=url),
        environment={"API_TOKEN": NAMED},
        secrets={"GIVEN": GIVEN},
        spool_dir="/spool",
        workspace_root="/work",
    )
    limits = Limits(memory_bytes=None, pids=None, cpu=None, open_files=1, file_bytes=1)
    command = JobCommand(
        text="true", directory="/job", environment={"A": GIVEN}, limits=limits, network="none"
    )
    plan = SandboxPlan(
        workspace="/w",
        directory="/job",
        environment={"A": GIVEN},
        shares_network=False,
        shelves=(),
        channel=None,
        temp_bytes=1,
    )

    for value in (request, freeze_request(request, POLICY), body, spec, spec.source, command, plan):
        for shown in (repr(value), str(value), f"{[value]}", f"{value!a}"):
            assert "=" in shown
            assert found_in(shown.encode()) == [], shown
