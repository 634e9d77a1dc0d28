"""What is kept and what was removed, over HTTP: for admins, and how a removed log and artifacts answer."""

from datetime import timedelta
from typing import Any

import httpx2
import pytest
from api_people import Api, Person, assert_problem, pointers

from reactorcide.services.retention import Retention, RetentionRules

pytest_plugins = ["api_fixtures"]

DAY = timedelta(days=1)
FILES = {"a.txt": b"aaaa", "b.txt": b"bb"}


async def old_job(api: Api, person: Person, *, days: int = 8) -> str:
    """Return the id of a job with a log and artifacts that ended so long ago."""
    job_id: str = (await person.submit())["job_id"]
    started = await api.start_next()
    await api.write_log(started, b"hello\n")
    await api.finish(started, b"hello\n", artifacts=len(FILES))
    await api.leave(started, FILES)
    await api.log_service.seal_due()
    async with api.database.transaction() as tx:
        for statement in (
            "UPDATE jobs SET completed_at = completed_at - %s WHERE job_id = %s",
            "UPDATE attempts SET ended_at = ended_at - %s WHERE job_id = %s",
        ):
            await tx.execute(statement, [days * DAY, job_id])
    return job_id


async def retain(api: Api, **rules: Any) -> None:
    """Do a round of retention on the API's own database, and the deletions it owes."""
    service = api.services.retention
    await Retention(service._database, service._objects, RetentionRules(**rules)).run_round()
    await api.log_service.purge_due()


async def test_a_removed_log_is_gone_in_every_form_and_the_job_says_so(api: Api, person: Person) -> None:
    job_id = await old_job(api, person)
    whole = (await person.get(f"/api/v1/jobs/{job_id}")).json()
    await retain(api, logs=DAY)

    for accept in ("text/plain", "application/json", "text/event-stream"):
        answer = await person.get(f"/api/v1/jobs/{job_id}/logs", headers={"Accept": accept})
        body = assert_problem(answer, 410, "gone")
        assert body["message"].startswith("the log was removed at 20")
    for query in ("tail=1", "attempt=1", "stream=stdout", "timestamps=true"):
        assert_problem(await person.get(f"/api/v1/jobs/{job_id}/logs?{query}"), 410, "gone")
    job = (await person.get(f"/api/v1/jobs/{job_id}")).json()
    assert {"log_size", "logs_object_key"} <= whole.keys()
    assert not {"log_size", "logs_object_key"} & job.keys()
    assert job["log_removed_why"] == "age"
    assert job["log_removed_at"].endswith("Z")


async def test_removed_artifacts_are_an_empty_list_that_says_so(api: Api, person: Person) -> None:
    job_id = await old_job(api, person)
    await retain(api, artifact_bytes=0)
    address = f"/api/v1/jobs/{job_id}/artifacts"

    told = (await person.get(address)).json()
    job = (await person.get(f"/api/v1/jobs/{job_id}")).json()

    assert (told["artifacts"], told["complete"], told["removed_why"]) == ([], True, "bytes")
    assert told["removed_at"] == job["artifacts_removed_at"]
    assert "artifacts_object_key" not in job
    assert_problem(await person.get(f"{address}/a.txt"), 410, "gone")
    assert_problem(await person.get(f"{address}?format=tar"), 410, "gone")


async def test_a_download_that_goes_on_while_its_log_is_removed_ends_with_an_error(
    api: Api, person: Person
) -> None:
    job_id = (await person.submit())["job_id"]
    started = await api.start_next()
    log = b"x" * 1023 + b"\n"
    for place in range(32):
        await api.write_log(started, log * 1024, offset=place * 2**20)
    await api.finish(started, log * 32 * 1024)
    await api.log_service.seal_due()
    address, received = f"/api/v1/jobs/{job_id}/logs", bytearray()

    async def download() -> None:
        async with api.http.stream("GET", address, headers=person.headers) as answer:
            async for piece in answer.aiter_raw():
                if not received:
                    await retain(api, log_bytes=0)
                received.extend(piece)

    with pytest.raises(httpx2.RemoteProtocolError):
        await download()

    assert 0 < len(received) < 32 * 2**20
    taken_up = await person.get(address, headers={"Range": f"bytes={len(received)}-"})
    assert_problem(taken_up, 410, "gone")


async def test_a_follower_whose_log_is_removed_is_told_when_it_comes_back(api: Api, person: Person) -> None:
    job_id = await old_job(api, person)
    address = f"/api/v1/jobs/{job_id}/logs"
    await retain(api, logs=DAY)

    answer = await person.get(address, headers={"Accept": "text/event-stream", "Last-Event-ID": "3"})

    assert_problem(answer, 410, "gone")


async def test_what_was_removed_is_no_secret_of_its_owner_s_alone(api: Api, person: Person) -> None:
    job_id = await old_job(api, person)
    await retain(api, logs=DAY)
    stranger = await api.person()

    assert_problem(await stranger.get(f"/api/v1/jobs/{job_id}/logs"), 403, "forbidden")


async def test_the_rules_and_rounds_are_shown(api: Api, person: Person, admin: Person) -> None:
    await old_job(api, person)
    service = api.services.retention
    rules = RetentionRules(jobs=30 * DAY, log_bytes=1000, artifacts=DAY, interval=timedelta(minutes=1))
    object.__setattr__(api.services, "retention", Retention(service._database, service._objects, rules))
    await api.services.retention.run_round()

    told = (await admin.get("/api/v1/retention")).json()

    assert told["rules"] == {
        "job_seconds": 30 * 86_400,
        "log_bytes": 1000,
        "artifact_seconds": 86_400,
        "removal_seconds": 365 * 86_400,
    }
    assert (told["dry_run"], told["interval_seconds"]) == (False, 60)
    [entry] = told["rounds"]
    assert (entry["kind"], entry["dry_run"]) == ("retention", False)
    assert entry["removed"] == [{"rule": "artifacts_by_age", "count": 1, "size_bytes": 6}]


async def test_a_preview_tells_by_rule_and_changes_nothing(api: Api, person: Person, admin: Person) -> None:
    job_id = await old_job(api, person)
    service = api.services.retention
    rules = RetentionRules(logs=DAY, jobs=30 * DAY)
    object.__setattr__(api.services, "retention", Retention(service._database, service._objects, rules))

    told = (await admin.get("/api/v1/retention/preview")).json()["rules"]

    assert [(rule["rule"], rule["count"], rule["size_bytes"]) for rule in told] == [
        ("jobs_by_age", 0, 0),
        ("logs_by_age", 1, 6),
    ]
    assert told[1]["oldest"] == told[1]["newest"]
    assert (await person.get(f"/api/v1/jobs/{job_id}/logs")).content == b"hello\n"


async def test_removals_are_listed_and_filtered_and_paged(api: Api, person: Person, admin: Person) -> None:
    first, second = [await old_job(api, person) for _ in range(2)]
    await retain(api, logs=DAY)
    assert (await admin.call("DELETE", f"/api/v1/jobs/{first}")).status_code == 204

    all_of_them = (await admin.get("/api/v1/removals")).json()
    of_one = (await admin.get(f"/api/v1/removals?job_id={second}")).json()["removals"]
    page = await admin.get("/api/v1/removals?limit=2")
    rest = (await admin.get(page.headers["link"].partition(">")[0].removeprefix("<"))).json()

    assert [(entry["what"], entry["why"]) for entry in all_of_them["removals"]] == [
        ("job", "asked"),
        ("log", "age"),
        ("log", "age"),
    ]
    newest = all_of_them["removals"][0]
    assert (newest["job_id"], newest["job_name"], newest["actor"], newest["size_bytes"]) == (
        first,
        "build",
        f"user:{admin.user_id}",
        6,
    )
    assert [(entry["what"], entry["attempt"], entry["user_id"]) for entry in of_one] == [
        ("log", 1, person.user_id)
    ]
    assert page.json()["removals"] + rest["removals"] == all_of_them["removals"]
    assert "next_cursor" not in rest


@pytest.mark.parametrize("route", ["retention", "retention/preview", "removals"])
async def test_only_admins_may_ask(api: Api, person: Person, route: str) -> None:
    assert_problem(await person.get(f"/api/v1/{route}"), 403, "forbidden")
    assert_problem(await api.http.get(f"/api/v1/{route}"), 401, "unauthorized")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "?limit"),
        ("limit=101", "?limit"),
        ("cursor=x", "?cursor"),
        ("job_id=x", "?job_id"),
        ("why=age", "?why"),
    ],
)
async def test_a_wrong_question_is_refused(admin: Person, query: str, pointer: str) -> None:
    answer = await admin.get(f"/api/v1/removals?{query}")

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {pointer}
