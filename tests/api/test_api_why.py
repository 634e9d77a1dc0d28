"""Why, over HTTP: a sentence, and facts that a program can read."""

from api_people import Api, Person, assert_problem

pytest_plugins = ["api_fixtures"]


async def test_a_waiting_job_is_explained_with_the_facts_of_its_queue(person: Person) -> None:
    job = await person.submit(job_secrets={"API_TOKEN": "tr0ub4dor"})

    answer = await person.get(f"/api/v1/jobs/{job['job_id']}/why")
    told = answer.json()

    assert answer.status_code == 200
    assert told["why"].startswith("queued for 0 s: no live worker takes jobs")
    assert (told["status"], told["waiting"]["position"]) == ("queued", "1")
    assert told["waiting"]["live_workers"] == 0
    assert "tr0ub4dor" not in answer.text


async def test_the_slots_of_a_queue_are_told_as_numbers(api: Api, person: Person) -> None:
    _, second = await person.submit(), await person.submit()
    await api.start_next()

    told = (await person.get(f"/api/v1/jobs/{second['job_id']}/why")).json()

    facts = {name: told["waiting"][name] for name in ("slots", "busy_slots", "live_workers")}
    assert facts == {"slots": 1, "busy_slots": 1, "live_workers": 1}
    assert "the only slot of the queue reactorcide-jobs is busy; its position is 1" in told["why"]
    assert "last_worker" not in told["waiting"]


async def test_a_running_and_then_an_ended_job_are_explained(api: Api, person: Person) -> None:
    job = await person.submit()
    address = f"/api/v1/jobs/{job['job_id']}/why"
    started = await api.start_next()
    await api.write_log(started, b"half")
    running = (await person.get(address)).json()
    await person.call("PUT", f"/api/v1/jobs/{job['job_id']}/cancel")
    cancelling = (await person.get(address)).json()
    await api.finish(started, b"half and half", exit_code=3)
    ended = (await person.get(address)).json()

    assert running["log"] == {"size_bytes": 4, "is_sealed": False}
    assert 0 <= running["heartbeat_seconds"] < 30
    assert running["deadline_in_seconds"] <= 3600
    assert "waiting" not in running
    assert cancelling["cancel"]["is_forced"] is False
    assert (ended["reason"], ended["exit_code"], ended["log"]["promised_bytes"]) == ("exit_nonzero", 3, 13)
    assert ended["why"].endswith("; its log is not complete yet: 4 bytes of 13 bytes have arrived")


async def test_auth_07_a_foreign_job_is_not_explained(api: Api, person: Person) -> None:
    job = await person.submit()
    stranger = await api.person()

    assert_problem(await stranger.get(f"/api/v1/jobs/{job['job_id']}/why"), 403, "forbidden")
    assert_problem(await person.get("/api/v1/jobs/nonsense/why"), 404, "not_found")
    assert_problem(await person.get(f"/api/v1/jobs/{job['job_id']}/why?x=1"), 400, "invalid_input")
