"""`retention` and `removals` at the keyboard, and what the other commands say of what was removed."""

from datetime import timedelta
from typing import Any

import pytest
from cli_shell import Api, Keyboard

from reactorcide.services.retention import Retention, RetentionRules

pytest_plugins = ["cli_fixtures"]

DAY = timedelta(days=1)
FILES = {"a.txt": b"aaaa", "b.txt": b"bb"}


async def old_job(api: Api, keys: Keyboard) -> str:
    job_id: str = (await keys.type("submit", "--json", "--command", "true")).json["job_id"]
    started = await api.start_next()
    await api.write_log(started, b"hello\n")
    await api.finish(started, b"hello\n", artifacts=len(FILES))
    await api.leave(started, FILES)
    await api.log_service.seal_due()
    async with api.database.transaction() as tx:
        await tx.execute("UPDATE jobs SET completed_at = completed_at - interval '8 days'")
        await tx.execute("UPDATE attempts SET ended_at = ended_at - interval '8 days'")
    return job_id


def keep(api: Api, **rules: Any) -> Retention:
    """Let the API's coordinator have these rules."""
    service = api.services.retention
    made = Retention(service._database, service._objects, RetentionRules(**rules))
    object.__setattr__(api.services, "retention", made)
    return made


async def test_the_other_commands_say_that_a_log_and_artifacts_were_removed(api: Api, keys: Keyboard) -> None:
    job_id = await old_job(api, keys)
    await keep(api, logs=DAY, artifacts=DAY).run_round()
    await api.log_service.purge_due()

    shown = await keys.type("logs", job_id)
    followed = await keys.type("logs", "-f", job_id)
    listed = await keys.type("artifacts", "list", job_id)
    got = await keys.type("artifacts", "get", job_id, "--all")
    job = await keys.type("jobs", "get", job_id)

    for done in (shown, followed):
        assert done.code == 69
        assert "error: the log was removed at 20" in done.stderr
        assert "it had been kept for as long as the operator wishes" in done.stderr
    assert listed.code == 0
    assert "the artifacts were removed at 20" in listed.stderr
    assert got.code == 69
    assert "the artifacts were removed at 20" in got.stderr
    assert b"log removed" in job.stdout
    assert b"artifacts removed" in job.stdout


async def test_rules_and_rounds_are_told(api: Api, keys: Keyboard, admin_keys: Keyboard) -> None:
    await old_job(api, keys)
    await keep(api, jobs=90 * DAY, logs=7 * DAY, log_bytes=10**9).run_round()

    plain = (await admin_keys.type("retention")).stdout.decode().splitlines()
    programs = await admin_keys.type("retention", "--json")

    assert [line.split(maxsplit=1) for line in plain[:4]] == [
        ["jobs", "kept for 90 d"],
        ["logs", "kept for 7 d, kept up to 1.0 GB in all"],
        ["artifacts", "kept with their job"],
        ["removals", "kept for 365 d"],
    ]
    assert plain[-1].endswith("logs, by age  1      6 B")
    assert programs.json["rules"]["log_bytes"] == 10**9


async def test_a_dry_run_tells_what_would_go(api: Api, keys: Keyboard, admin_keys: Keyboard) -> None:
    job_id = await old_job(api, keys)
    keep(api, logs=DAY, jobs=DAY)

    plain = (await admin_keys.type("retention", "--dry-run")).stdout.decode().splitlines()
    programs = await admin_keys.type("retention", "--dry-run", "--json")

    assert plain[0].split() == ["WOULD", "GO", "COUNT", "SIZE", "OLDEST", "NEWEST"]
    assert plain[1].startswith("jobs, by age  1      12 B")
    assert plain[2].startswith("logs, by age  1      6 B")
    assert [rule["count"] for rule in programs.json["rules"]] == [1, 1]
    assert (await keys.type("logs", job_id)).stdout == b"hello\n"


async def test_without_rules_everything_is_kept(admin_keys: Keyboard) -> None:
    told = await admin_keys.type("retention")
    preview = await admin_keys.type("retention", "--dry-run")

    assert told.stdout.decode().splitlines()[0].split() == ["jobs", "kept"]
    assert "everything is kept" in preview.stderr


async def test_removals_are_listed(api: Api, keys: Keyboard, admin_keys: Keyboard) -> None:
    jobs = [await old_job(api, keys) for _ in range(3)]
    await keep(api, logs=DAY).run_round()

    every = await admin_keys.type("removals")
    two = await admin_keys.type("removals", "-n", "2")
    one = await admin_keys.type("removals", "--job", jobs[0], "--json")

    assert len(every.stdout.splitlines()) == 4
    assert every.stdout.decode().splitlines()[0].split() == [
        "REMOVED",
        "WHAT",
        "WHY",
        "SIZE",
        "ID",
        "NAME",
        "BY",
    ]
    assert len(two.stdout.splitlines()) == 3
    assert "there are more" in two.stderr
    assert [entry["job_id"] for entry in one.json["removals"]] == [jobs[0]]


@pytest.mark.parametrize("command", [["retention"], ["retention", "--dry-run"], ["removals"]])
async def test_only_admins_may_ask(keys: Keyboard, command: list[str]) -> None:
    done = await keys.type(*command)

    assert done.code == 69
    assert "admins only" in done.stderr


async def test_nothing_removed_is_told_too(admin_keys: Keyboard) -> None:
    assert "nothing was removed" in (await admin_keys.type("removals")).stderr
