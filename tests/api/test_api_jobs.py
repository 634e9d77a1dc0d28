"""Submitting, reading, listing and cancelling jobs over HTTP."""

import asyncio
import re
import time
from typing import Any

import pytest
from api_people import JOB, Api, Person, assert_problem, pointers

pytest_plugins = ["api_fixtures"]

JOBS = "/api/v1/jobs"
ALWAYS = {
    *("job_id", "name", "description", "status", "source_type", "code_dir", "job_dir", "job_command"),
    *("runner_image", "queue_name", "created_at", "updated_at", "timeout_seconds", "priority"),
}
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def has_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(has_null(entry) for entry in value.values())
    return value is None or (isinstance(value, list) and any(has_null(entry) for entry in value))


async def test_a_submitted_job_is_answered_whole_and_without_null(person: Person) -> None:
    answer = await person.post(JOBS, JOB)

    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{JOBS}/{job['job_id']}"
    assert job.keys() >= ALWAYS
    assert not has_null(job)
    assert not {"git_url", "exit_code", "started_at", "worker", "labels"} & job.keys()
    assert RFC_3339.fullmatch(job["created_at"])
    assert (job["user_id"], job["timeout_seconds"], job["code_dir"]) == (person.user_id, 3600, "/job/src")
    assert (await person.get(answer.headers["location"])).json().keys() >= ALWAYS


async def test_a_password_in_a_git_url_is_not_shown(person: Person) -> None:
    job = await person.submit(source_type="git", git_url="https://me:pa55word@example.org/r.git")

    assert job["git_url"] == "https://me:[REDACTED]@example.org/r.git"


async def test_a_job_that_waits_says_why(person: Person) -> None:
    job = await person.submit()

    read = (await person.get(f"{JOBS}/{job['job_id']}")).json()

    assert "no live worker" in read["waiting"]


async def test_an_ended_job_tells_its_end(person: Person) -> None:
    job = await person.submit()
    await person.api.finish(await person.api.start_next(), exit_code=3)

    read = (await person.get(f"{JOBS}/{job['job_id']}")).json()
    events = (await person.get(f"{JOBS}/{job['job_id']}/events")).json()["events"]

    assert (read["status"], read["exit_code"], read["reason"], read["fault"]) == (
        "failed",
        3,
        "exit_nonzero",
        "user",
    )
    assert RFC_3339.fullmatch(read["completed_at"])
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert "from" not in events[0]
    assert events[-1]["to"] == "failed"
    assert events[-1]["reason"] == "exit_nonzero"


async def test_an_unchanged_job_is_304(person: Person) -> None:
    job = await person.submit()
    address = f"{JOBS}/{job['job_id']}"
    etag = (await person.get(address)).headers["etag"]

    same = await person.get(address, headers={"If-None-Match": etag})
    await person.call("PUT", f"{address}/cancel")
    changed = await person.get(address, headers={"If-None-Match": etag})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_a_wait_ends_when_the_job_changes(person: Person) -> None:
    job = await person.submit()
    address = f"{JOBS}/{job['job_id']}"
    etag = (await person.get(address)).headers["etag"]

    begun = time.perf_counter()
    waiting = asyncio.create_task(person.get(f"{address}?wait=30", headers={"If-None-Match": etag}))
    await person.call("PUT", f"{address}/cancel")
    answer = await waiting

    assert answer.json()["status"] == "cancelled"
    assert time.perf_counter() - begun < 10


async def test_a_wait_that_sees_no_change_ends_with_304(person: Person) -> None:
    address = f"{JOBS}/{(await person.submit())['job_id']}"
    etag = (await person.get(address)).headers["etag"]

    answer = await person.get(f"{address}?wait=1", headers={"If-None-Match": etag})

    assert answer.status_code == 304


async def test_a_wait_for_an_ended_job_ends_at_once(person: Person) -> None:
    address = f"{JOBS}/{(await person.submit())['job_id']}"
    await person.call("PUT", f"{address}/cancel")

    begun = time.perf_counter()
    answer = await person.get(f"{address}?wait=30")

    assert answer.status_code == 200
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_cancelling_twice_is_no_fault(person: Person, method: str) -> None:
    address = f"{JOBS}/{(await person.submit())['job_id']}/cancel"

    first, second = await person.call(method, address), await person.call(method, f"{address}?force=true")

    assert [first.status_code, second.status_code] == [200, 200]
    assert second.json()["status"] == "cancelled"


async def test_cancelling_what_ended_otherwise_is_a_conflict_that_tells_the_status(person: Person) -> None:
    job = await person.submit()
    await person.api.finish(await person.api.start_next())

    answer = await person.call("PUT", f"{JOBS}/{job['job_id']}/cancel")

    assert assert_problem(answer, 409, "conflict")["job_status"] == "completed"


async def test_a_running_job_that_is_to_end_says_so(person: Person) -> None:
    job = await person.submit()
    await person.api.start_next()

    answer = await person.call("PUT", f"{JOBS}/{job['job_id']}/cancel")

    assert (answer.json()["status"], answer.json()["cancel_requested"]) == ("running", True)


async def test_a_retry_is_a_new_job_of_the_same_spec(person: Person) -> None:
    job = await person.submit(priority=7)
    address = f"{JOBS}/{job['job_id']}/retry"
    too_early = await person.post(address)
    await person.api.finish(await person.api.start_next(), exit_code=1)

    answer = await person.post(address)

    assert_problem(too_early, 409, "conflict")
    assert answer.status_code == 201
    assert (answer.json()["retry_of"], answer.json()["priority"]) == (job["job_id"], 7)


async def test_api_28_parallel_submissions_of_one_key_make_one_job(api: Api, person: Person) -> None:
    headers = {"Idempotency-Key": "once"}

    answers = await asyncio.gather(*(person.post(JOBS, JOB, headers=headers) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert await api.count_jobs() == 1


async def test_api_29_the_same_key_with_another_body_is_422(api: Api, person: Person) -> None:
    headers = {"Idempotency-Key": "once"}
    await person.post(JOBS, JOB, headers=headers)

    answer = await person.post(JOBS, JOB | {"priority": 1}, headers=headers)

    assert_problem(answer, 422, "idempotency_mismatch")
    assert await api.count_jobs() == 1


async def test_the_same_body_in_another_spelling_is_the_same_request(api: Api, person: Person) -> None:
    headers = {"Idempotency-Key": "once", "Content-Type": "application/json"}
    spelled = b'{ "job_command":"make",\n"source_type" : "none", "name":"\\u0062uild"}'
    first = await person.post(JOBS, JOB, headers=headers)

    second = await person.call("POST", JOBS, content=spelled, headers=headers)

    assert first.json()["job_id"] == second.json()["job_id"]
    assert await api.count_jobs() == 1


async def test_two_people_may_use_one_key(api: Api, person: Person) -> None:
    other = await api.person()

    for someone in (person, other):
        assert (await someone.post(JOBS, JOB, headers={"Idempotency-Key": "k"})).status_code == 201

    assert await api.count_jobs() == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä".encode("latin-1")])
async def test_a_malformed_idempotency_key_is_refused(api: Api, person: Person, key: Any) -> None:
    answer = await person.post(JOBS, JOB, headers={"Idempotency-Key": key})

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {"header Idempotency-Key"}
    assert await api.count_jobs() == 0


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=-1", "limit=101", "limit=x", "limit=", "limit=1.0", "limit=٣"),
        *(
            "offset=-1",
            f"offset={2**63}",
            "offset=x",
            "limit=1&limit=2",
            "status=Running",
            "status=",
            "source_type=svn",
        ),
        *(
            "user_id=x",
            "created_after=yesterday",
            "created_after=2030-01-01T00:00:00",
            "cursor=x",
            "label=a",
            "Limit=1",
        ),
        *("cursor=x&offset=0", "name=", "queue_name=A%00", "name=%ff"),
    ],
)
async def test_api_14_a_bad_parameter_is_refused(person: Person, query: str) -> None:
    answer = await person.get(f"{JOBS}?{query}")

    name = query.partition("=")[0]
    assert f"?{name}" in pointers(assert_problem(answer, 400, "invalid_input"))


async def test_api_14_total_is_the_count_of_all_pages(person: Person) -> None:
    for _ in range(5):
        await person.submit()

    page = (await person.get(f"{JOBS}?limit=2&offset=3")).json()

    assert (page["total"], page["limit"], page["offset"], len(page["jobs"])) == (5, 2, 3, 2)


async def test_pages_by_cursor_hold_every_job_once_newest_first(person: Person) -> None:
    ids = [(await person.submit())["job_id"] for _ in range(5)]
    address: str | None = f"{JOBS}?limit=2&status=queued&status=submitted"
    seen: list[str] = []

    while address:
        answer = await person.get(address)
        seen += [job["job_id"] for job in answer.json()["jobs"]]
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
        assert (link is not None) == ("next_cursor" in answer.json())
        address = link[1] if link else None

    assert seen == ids[::-1]
    assert answer.json().keys() == {"jobs", "limit"}


async def test_filters_choose(person: Person) -> None:
    wanted = await person.submit(name="special", queue_name="gpu", labels={"team": "a:b"})
    await person.submit()

    for query in ("name=special", "queue_name=gpu", "label=team:a:b", "queue_name=gpu&queue_name=other"):
        page = (await person.get(f"{JOBS}?{query}")).json()
        assert [job["job_id"] for job in page["jobs"]] == [wanted["job_id"]]
        assert page["total"] == 1
    assert (await person.get(f"{JOBS}?created_after={wanted['created_at']}")).json()["total"] == 1
    assert (await person.get(f"{JOBS}?status=running&source_type=none")).json()["total"] == 0


async def test_lists_hold_ones_own_jobs_and_an_admins_all(api: Api, person: Person, admin: Person) -> None:
    other = await api.person()
    mine, _ = await person.submit(), await other.submit()

    own = (await person.get(JOBS)).json()
    everything = (await admin.get(JOBS)).json()
    of_person = (await admin.get(f"{JOBS}?user_id={person.user_id}")).json()

    assert (
        [job["job_id"] for job in own["jobs"]]
        == [job["job_id"] for job in of_person["jobs"]]
        == [mine["job_id"]]
    )
    assert everything["total"] == 2
    assert_problem(await person.get(f"{JOBS}?user_id={other.user_id}"), 403, "forbidden")


@pytest.mark.parametrize(
    "attack",
    ["' OR 1=1 --", "'; DROP TABLE jobs; --", "1); SELECT pg_sleep(5); --", "%27%20OR%20pg_sleep(5)--"],
)
async def test_api_16_sql_in_filters_and_ids_is_only_text(api: Api, person: Person, attack: str) -> None:
    await person.submit()
    filters = ("status", "queue_name", "source_type", "user_id", "name", "label", "created_after", "cursor")

    begun = time.perf_counter()
    answers = [await person.get(JOBS, params={name: attack}) for name in (*filters, "limit", "offset")]
    answers += [await person.get(f"{JOBS}/{attack}"), await person.get(f"{JOBS}/{attack}/logs")]
    by_label = await person.get(JOBS, params={"label": f"a:{attack}"})

    assert {answer.status_code for answer in answers} <= {200, 400, 404}
    assert by_label.json()["total"] == 0
    assert time.perf_counter() - begun < 4
    assert await api.count_jobs() == 1


@pytest.mark.parametrize(
    "job_id",
    [
        *("x", "..", "%2e%2e", "..%2f..%2fetc", "a%2fb", "x" * 10_000, "%00", "%ff", "null"),
        *("{id}%20", "%20{id}", "{ID}", "{id}x", "{{{id}}}", "{id}%2f", "{id};x"),
    ],
)
async def test_api_17_a_malformed_id_is_404(person: Person, job_id: str) -> None:
    own = (await person.submit())["job_id"]
    written = job_id.replace("{id}", own).replace("{ID}", own.upper())

    for path in (f"{JOBS}/{written}", f"{JOBS}/{written}/events", f"{JOBS}/{written}/logs"):
        assert (await person.get(path)).status_code == 404
    assert (await person.call("PUT", f"{JOBS}/{written}/cancel")).status_code == 404
    assert (await person.get(f"{JOBS}/{own}")).json()["status"] != "cancelled"


async def test_queues_and_workers_are_shown(person: Person, admin: Person) -> None:
    await person.submit(queue_name="idle")
    await person.submit()
    await person.api.start_next()

    queues = {queue["name"]: queue for queue in (await person.get("/api/v1/queues")).json()["queues"]}
    workers = (await admin.get("/api/v1/workers")).json()["workers"]

    assert (queues["idle"]["ready"], queues["idle"]["live_workers"]) == (1, 0)
    assert (queues["reactorcide-jobs"]["running"], queues["reactorcide-jobs"]["live_workers"]) == (1, 1)
    assert [(worker["running"], worker["is_live"]) for worker in workers] == [(1, True)]
