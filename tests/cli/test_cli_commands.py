"""The commands as a person uses them."""

import asyncio
import os
import pty
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_shell import POLICY, Api, Keyboard, Person, ended, keyboard_of, running_api, start_job

from fixture_types import MakeUser
from reactorcide.api.app import ApiSettings, create_app
from reactorcide.api.server import ApiServer
from reactorcide.cli import run_command
from reactorcide.domain.status import JobStatus
from reactorcide.store.database import Database

pytest_plugins = ["cli_fixtures"]
NOBODY = "01890000-0000-7000-8000-000000000000"


async def test_run_shows_the_log_and_exits_as_the_job(api: Api, keys: Keyboard) -> None:
    process = await keys.start("run", "--", "make", "a b")
    started = await start_job(api)
    await api.write_log(started, b"one\n\xff\x1b]0;t\x07")
    await api.finish(started, b"one\n\xff\x1b]0;t\x07", exit_code=7)

    done = await ended(process)

    assert (done.code, done.stdout) == (7, b"one\n\xff\x1b]0;t\x07")
    assert started.spec.job_command == "make 'a b'"
    assert "job make 'a b' failed" in done.stderr.splitlines()[-1]
    assert "exit code 7 (exit_nonzero)" in done.stderr.splitlines()[-1]


async def test_run_takes_a_single_argument_as_it_stands(api: Api, keys: Keyboard) -> None:
    process = await keys.start(
        "run", "-e", "A=1", "-e", "B", "--secret", "S", "--", "echo $A; exit", B="2", S="3sesame"
    )
    started = await start_job(api)
    await api.finish(started)

    done = await ended(process)

    assert done.code == 0
    assert started.spec.job_command == "echo $A; exit"
    assert started.spec.job_env_vars == {"A": "1", "B": "2"}
    assert started.spec.job_secrets == {"S": "3sesame"}
    assert "3sesame" not in done.stderr


async def test_run_says_what_a_job_waits_for(api: Api, keys: Keyboard) -> None:
    process = await keys.start("run", "--", "true")
    assert process.stderr is not None
    lines = [(await asyncio.wait_for(process.stderr.readline(), 30)).decode() for _ in range(2)]
    await api.finish(await start_job(api))

    assert (await ended(process)).code == 0
    assert lines[1].startswith("waiting: ")


async def test_interrupting_run_leaves_the_job_alone(api: Api, keys: Keyboard) -> None:
    process = await keys.start("run", "--", "true")
    started = await start_job(api)
    await api.write_log(started, b"begun\n")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 30)
    process.send_signal(signal.SIGINT)

    done = await ended(process)

    job_id = started.claim.job_id
    assert done.code == 130
    assert f"reactorcide cancel {job_id}" in done.stderr
    assert (await keys.type("jobs", "get", job_id, "--json")).json["status"] == "running"


async def test_run_in_json_tells_the_job_its_log_and_its_end(api: Api, keys: Keyboard) -> None:
    process = await keys.start("run", "--json", "--", "true")
    started = await start_job(api)
    await api.write_log(started, b"one\n")
    await api.finish(started, b"one\n")

    lines = (await ended(process)).json_lines

    assert [line["type"] for line in lines] == ["job", "log", "end"]
    assert lines[1] == {"type": "log", "offset": 0, "data": "one\n"}
    assert lines[2]["job"]["status"] == "completed"


async def test_log_19_on_a_terminal_a_job_has_colours_and_no_more(api: Api, keys: Keyboard) -> None:
    ours, theirs = pty.openpty()
    process = await keys.start("run", "--name", "a\u202eb", "--", "true", stdout=theirs, TERM="xterm")
    os.close(theirs)
    started = await start_job(api)
    await api.write_log(started, b"\x1b[31mred\x1b]52;c;eA==\x07")
    await api.finish(started, b"\x1b[31mred\x1b]52;c;eA==\x07")
    await ended(process)

    shown = os.read(ours, 65_536)

    os.close(ours)
    assert shown == b"\x1b[31mred^[]52;c;eA==^G\x1b[0m\r\n"


async def test_submit_prints_an_id_that_wait_takes(api: Api, keys: Keyboard) -> None:
    submitted = await keys.type("submit", "-c", "true", "--name", "n", "--label", "a=b")
    job_id = submitted.stdout.decode().strip()
    waiting = await keys.start("wait", job_id, "--json")
    await api.finish(await start_job(api), exit_code=3)

    done = await ended(waiting)

    assert (done.code, done.json["job_id"], done.json["labels"]) == (3, job_id, {"a": "b"})


async def test_submit_takes_a_job_file_and_flags_over_it(api: Api, keys: Keyboard) -> None:
    (keys.folder / "job.yaml").write_text("name: n\ncommand: make\nenvironment: {A: on}\ntimeout: 9\n")

    job = (await keys.type("submit", "job.yaml", "--timeout", "2m", "-e", "B=2", "--json")).json

    assert (job["name"], job["timeout_seconds"], job["source_type"]) == ("n", 120, "none")
    assert job["job_env_vars"] == {"A": "on", "B": "2"}


async def test_submit_wait_exits_as_the_job(api: Api, keys: Keyboard) -> None:
    process = await keys.start("submit", "-c", "true", "--wait")
    await api.finish(await start_job(api), exit_code=5)

    assert (await ended(process)).code == 5


async def test_waiting_has_an_end(keys: Keyboard) -> None:
    job_id = (await keys.type("submit", "-c", "true")).stdout.decode().strip()

    done = await keys.type("wait", job_id, "--timeout", "1")

    assert done.code == 69
    assert "has not ended" in done.stderr


async def test_a_cancelled_job_exits_with_130(keys: Keyboard) -> None:
    job_id = (await keys.type("submit", "-c", "true")).stdout.decode().strip()

    cancelled = await keys.type("cancel", job_id, "--json")

    assert cancelled.json["status"] == "cancelled"
    assert (await keys.type("wait", job_id)).code == 130
    assert (await keys.type("jobs", "cancel", job_id)).code == 0


async def test_an_ended_job_is_run_again_as_a_new_one(keys: Keyboard) -> None:
    old = (await keys.type("submit", "-c", "true", "--name", "again")).stdout.decode().strip()
    early = await keys.type("retry", old)
    await keys.type("cancel", old)

    new = (await keys.type("retry", old)).stdout.decode().strip()

    assert early.code == 69
    job = (await keys.type("jobs", "get", new, "--json")).json
    assert (job["name"], job["retry_of"], job["status"]) == ("again", old, "queued")


async def test_a_stored_log_is_written_byte_for_byte(api: Api, keys: Keyboard) -> None:
    await keys.type("submit", "-c", "true")
    started = await start_job(api)
    written = bytes(range(256)) + b"\nlast\n"
    await api.write_log(started, written)
    await api.finish(started, written)
    job_id = started.claim.job_id

    whole = await keys.type("logs", job_id)
    tail = await keys.type("logs", job_id, "--tail", "1")
    stamped = await keys.type("logs", job_id, "--timestamps", "--tail", "1")
    told = await keys.type("logs", job_id, "--json", "--stream", "stdout")
    followed = await keys.type("logs", "-f", job_id, "--tail", "1")

    assert (whole.code, whole.stdout) == (0, written)
    assert tail.stdout == b"last\n"
    assert stamped.stdout == b"2023-11-14T22:13:20Z last\n"
    assert told.json[-1]["message"] == "last"
    assert (followed.code, followed.stdout) == (0, b"last\n")


async def test_crd_10_a_follower_lives_through_a_restart(
    database: Database, make_user: MakeUser, tmp_path: Path
) -> None:
    async with restartable(database, make_user) as (api, restart):
        keys = keyboard_of(await api.person(), tmp_path)
        process = await keys.start("run", "--", "true")
        started = await start_job(api)
        await api.write_log(started, b"one\n")
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), 30)
        await restart()
        await api.write_log(started, b"two\n", offset=4)
        await api.finish(started, b"one\ntwo\n", exit_code=3)

        done = await ended(process)

    assert (done.code, first + done.stdout) == (3, b"one\ntwo\n")


@asynccontextmanager
async def restartable(database: Database, make_user: MakeUser) -> AsyncIterator[Any]:
    """The API, and a function that stops its server and starts another on the same port."""
    async with running_api(database, make_user) as api:
        servers = [api.server]

        async def restart() -> None:
            port = int(api.url.rpartition(":")[2])
            await servers[-1].stop()
            api.services.stopping.clear()
            app = create_app(api.services, ApiSettings(policy=POLICY, version="0.0.0"))
            servers.append(ApiServer(app, port=port))
            await servers[-1].start()

        yield api, restart
        for server in servers[1:]:
            await server.stop()


async def test_jobs_are_listed_looked_at_and_deleted(api: Api, keys: Keyboard, admin_keys: Keyboard) -> None:
    ids = [
        (await keys.type("submit", "-c", "true", "--name", f"j{n}")).stdout.decode().strip() for n in range(3)
    ]
    await keys.type("cancel", ids[0])

    two = await keys.type("jobs", "list", "-n", "2")
    cancelled = await keys.type("jobs", "list", "--status", "cancelled", "--json")
    fields = await keys.type("jobs", "get", ids[0])
    events = await keys.type("jobs", "events", ids[0])
    deleted = await admin_keys.type("jobs", "delete", ids[0])

    assert [line.split()[1] for line in two.stdout.decode().splitlines()] == ["NAME", "j2", "j1"]
    assert "2 of 3" in two.stderr
    assert [job["job_id"] for job in cancelled.json["jobs"]] == [ids[0]]
    assert b"cancelled_user" in fields.stdout
    assert events.stdout.decode().splitlines()[-1].split()[3] == "cancelled"
    assert deleted.code == 0
    assert (await admin_keys.type("jobs", "get", ids[0])).code == 69


async def test_all_jobs_are_listed_over_pages(person: Person, keys: Keyboard) -> None:
    for number in range(103):
        await person.submit(name=f"j{number}")

    listed = (await keys.type("jobs", "list", "--all", "--json")).json

    assert [job["name"] for job in listed["jobs"]] == [f"j{n}" for n in reversed(range(103))]
    assert listed["total"] == 103


async def test_tokens_are_created_listed_and_revoked(api: Api, admin_keys: Keyboard, tmp_path: Path) -> None:
    made = await admin_keys.type("tokens", "create", "ci", "--expires-in", "30d")
    token = made.stdout.decode().strip()
    mine = Keyboard(api.url, token, tmp_path)
    listed = (await mine.type("tokens", "list", "--json")).json["tokens"]
    token_id = next(entry["token_id"] for entry in listed if entry["name"] == "ci")
    revoked = await mine.type("tokens", "revoke", token_id)

    refused = await mine.type("me")

    assert (made.code, revoked.code, refused.code) == (0, 0, 69)
    assert "Invalid or expired token" in refused.stderr
    assert "REACTORCIDE_API_TOKEN" in refused.stderr


async def test_users_are_created_listed_and_changed(admin_keys: Keyboard) -> None:
    user_id = (await admin_keys.type("users", "create", "ada", "--role", "support")).stdout.decode().strip()

    changed = await admin_keys.type("users", "update", user_id, "--disable", "--json")
    listed = await admin_keys.type("users", "list")

    assert (changed.json["enabled"], changed.json["roles"]) == (False, ["support"])
    assert "ada" in listed.stdout.decode()


@pytest.mark.parametrize("command", [["queues"], ["workers"], ["me"], ["users", "list"], ["tokens", "list"]])
async def test_overviews_have_two_forms(api: Api, admin_keys: Keyboard, command: list[str]) -> None:
    await admin_keys.type("submit", "-c", "true")
    await start_job(api)

    for_people = await admin_keys.type(*command)
    for_programs = await admin_keys.type(*command, "--json")

    assert (for_people.code, for_programs.code) == (0, 0)
    assert len(for_people.stdout.splitlines()) > 1
    assert isinstance(for_programs.json, dict)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["jobs", "get", NOBODY], "no such job"),
        (["logs", NOBODY], "no such job"),
        (["users", "list"], "error: "),
        (["submit", "-c", "x", "--priority", "5000"], "/priority: must be from -1000 to 1000"),
    ],
)
async def test_what_the_coordinator_refuses_is_told(keys: Keyboard, arguments: list[str], told: str) -> None:
    done = await keys.type(*arguments)

    assert (done.code, done.stdout) == (69, b"")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["jobs", "get", "../users"], 2, "is not an id"),
        (["lgos", "x"], 2, "did you mean 'logs'"),
        (["jobs", "lst"], 2, "No such command"),
        (["run"], 2, "give a command behind --, or a job file with -f"),
        (["submit"], 2, "give a FILE or a --command"),
        (["submit", "none.yaml"], 69, "cannot be read"),
        (["submit", "-c", "x", "--timeout", "soon"], 2, "is not a duration"),
        (["run", "--secret", "A=b", "--", "x"], 2, "process list"),
        (["run", "--secret", "ABSENT", "--", "x"], 2, "no such variable"),
        (["run", "--secret", "A=@none", "--", "x"], 2, "cannot be read"),
        (["run", "--env", "1A=b", "--", "x"], 2, "not starting with a digit"),
        (["run", "--label", "x", "--", "x"], 2, "KEY=VALUE"),
        (["logs", "-f", "--timestamps", NOBODY], 2, "do not go with --follow"),
        (["users", "update", NOBODY], 2, "say what to change"),
        (["--token-file", "none", "--url", "http://x", "me"], 69, "cannot be read"),
        (["--url", "nonsense", "me"], 69, "not the URL"),
    ],
)
def test_what_is_wrong_before_anything_is_sent_is_told(
    arguments: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    exit_code = run_command(arguments)

    shown = capsys.readouterr()
    assert (exit_code, shown.out) == (code, "")
    assert told in shown.err


async def test_without_a_coordinator_the_way_to_one_is_told(keys: Keyboard) -> None:
    done = await keys.type("jobs", "list", REACTORCIDE_API_URL="")

    assert done.code == 69
    assert "reactorcide up" in done.stderr


async def test_a_reader_that_goes_away_ends_a_command_quietly(api: Api, keys: Keyboard) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await keys.start("me", stdout=writing)
    os.close(writing)

    done = await ended(process)

    assert (done.code, done.stderr) == (141, "")


async def test_every_final_status_can_be_filtered(keys: Keyboard) -> None:
    flags = [word for status in JobStatus for word in ("--status", status.value)]

    assert (await keys.type("jobs", "list", *flags, "--json")).json["jobs"] == []
