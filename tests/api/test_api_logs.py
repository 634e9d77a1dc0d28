"""Reading and following logs over HTTP."""

import asyncio
import json
import re
from dataclasses import dataclass

import httpx2
import pytest
from api_people import Api, Person, assert_problem

from reactorcide.domain.jobs import StartedAttempt
from reactorcide.store.attempts import end_lease

pytest_plugins = ["api_fixtures"]

TEXT = b"one\ntwo\nthree \xe2\x82\xac\nfour\n"
DIRTY = b"bad \xff\xfe bytes\n\x00 nul\n\xef\xbb\xbfbom\nbar 10%\rbar 20%\r\nhalf \xe2\x82"
EVENTS = {"Accept": "text/event-stream"}


@dataclass
class Running:
    """A job that has started."""

    address: str
    started: StartedAttempt


@pytest.fixture
async def running(api: Api, person: Person) -> Running:
    job = await person.submit()
    return Running(f"/api/v1/jobs/{job['job_id']}/logs", await api.start_next())


@dataclass
class Event:
    kind: str
    data: str
    event_id: str


async def follow(person: Person, address: str, **headers: str) -> list[Event]:
    """Follow a log to the end of the answer."""
    answer = await person.get(address, headers=EVENTS | headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parse_events(answer.text)


def parse_events(text: str) -> list[Event]:
    events = []
    for block in re.split(r"\n\n", text):
        fields = dict(
            line.partition(": ")[::2] for line in block.split("\n") if line and not line.startswith(":")
        )
        if "data" in fields:
            events.append(Event(fields.get("event", "message"), fields["data"], fields.get("id", "")))
    return events


def bytes_of(events: list[Event]) -> bytes:
    text = "".join(json.loads(event.data) for event in events if event.kind == "message")
    return text.encode(errors="surrogateescape")


async def test_a_job_without_a_log_has_an_empty_one(person: Person) -> None:
    job = await person.submit()

    answer = await person.get(f"/api/v1/jobs/{job['job_id']}/logs")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_log_is_read_to_the_byte(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, DIRTY)

    answer = await person.get(running.address)

    assert answer.content == DIRTY
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-length"] == str(len(DIRTY))
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-2", 0, 3),
        ("bytes=4-", 4, len(TEXT)),
        ("bytes=-5", len(TEXT) - 5, len(TEXT)),
        ("bytes=4-9999", 4, len(TEXT)),
    ],
)
async def test_a_range_is_206(
    api: Api, person: Person, running: Running, wanted: str, start: int, end: int
) -> None:
    await api.write_log(running.started, TEXT)

    answer = await person.get(running.address, headers={"Range": wanted})

    assert (answer.status_code, answer.content) == (206, TEXT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TEXT)}"


async def test_a_range_behind_the_end_is_416_with_the_length(
    api: Api, person: Person, running: Running
) -> None:
    await api.write_log(running.started, TEXT)

    answer = await person.get(running.address, headers={"Range": f"bytes={len(TEXT)}-"})

    assert_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(TEXT)}"


@pytest.mark.parametrize("wanted", ["lines=1-2", "bytes=x", "bytes=5-2", "bytes=0-1,3-4", "bytes=-"])
async def test_a_range_we_do_not_know_gives_the_whole(
    api: Api, person: Person, running: Running, wanted: str
) -> None:
    await api.write_log(running.started, TEXT)

    answer = await person.get(running.address, headers={"Range": wanted})

    assert (answer.status_code, answer.content) == (200, TEXT)


async def test_the_last_lines(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, TEXT)

    assert (await person.get(f"{running.address}?tail=1")).content == b"four\n"
    assert (await person.get(f"{running.address}?tail=0")).content == b""
    assert (await person.get(f"{running.address}?tail=99")).content == TEXT


async def test_one_stream_and_timestamps(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, b"out 1\n")
    await api.write_log(running.started, b"err 1\n", offset=6, stream="e")
    await api.write_log(running.started, b"out 2\n", offset=12)

    out = await person.get(f"{running.address}?stream=stdout")
    err = await person.get(f"{running.address}?stream=stderr&timestamps=true")
    last = await person.get(f"{running.address}?stream=stdout&tail=1")

    assert out.content == b"out 1\nout 2\n"
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT[0-9:.]+Z err 1\n", err.content)
    assert last.content == b"out 2\n"


async def test_log_17_as_json_any_bytes_are_valid(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, DIRTY)

    answer = await person.get(running.address, headers={"Accept": "application/json"})
    lines = json.loads(answer.content)

    assert answer.headers["content-type"] == "application/json"
    assert lines[0]["message"] == "bad \ufffd\ufffd bytes"
    assert {line["stream"] for line in lines} == {"stdout"}
    assert all(line.keys() == {"timestamp", "stream", "message"} for line in lines)


async def test_an_empty_log_as_json_is_an_empty_list(person: Person, running: Running) -> None:
    answer = await person.get(running.address, headers={"Accept": "application/json"})

    assert answer.json() == []


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html", "text/plain; charset=utf-8"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.5, text/plain", "text/plain; charset=utf-8"),
        ("text/plain;q=0, application/json", "application/json"),
    ],
)
async def test_the_form_is_what_the_client_likes_best(
    person: Person, running: Running, accept: str, form: str
) -> None:
    answer = await person.get(running.address, headers={"Accept": accept})

    assert answer.headers["content-type"] == form


async def test_a_followed_log_is_whole_and_ends_with_the_jobs_end(
    api: Api, person: Person, running: Running
) -> None:
    await api.write_log(running.started, DIRTY[:7])
    following = asyncio.create_task(follow(person, running.address))
    await api.write_log(running.started, DIRTY[7:-1], offset=7)
    await api.write_log(running.started, DIRTY[-1:], offset=len(DIRTY) - 1)
    await api.finish(running.started, DIRTY, exit_code=3)

    events = await asyncio.wait_for(following, 15)

    assert bytes_of(events) == DIRTY
    assert events[-2].event_id == str(len(DIRTY))
    assert events[-1].kind == "end"
    assert json.loads(events[-1].data) == {"status": "failed", "exit_code": 3, "reason": "exit_nonzero"}


async def test_following_goes_on_from_the_last_event(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, TEXT)
    await api.finish(running.started, TEXT)

    for offset in range(len(TEXT) + 1):
        events = await follow(person, running.address, **{"Last-Event-ID": str(offset)})
        assert bytes_of(events) == TEXT[offset:]
        assert events[-1].kind == "end"


async def test_following_may_begin_with_the_last_lines(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, TEXT)
    await api.finish(running.started, TEXT)

    told = await follow(person, f"{running.address}?tail=1")

    assert bytes_of(told) == b"four\n"
    assert told[0].event_id == str(len(TEXT))


async def test_a_character_is_not_cut_in_two(api: Api, person: Person, running: Running) -> None:
    euro = "€".encode()
    following = asyncio.create_task(follow(person, running.address))
    for offset in range(len(euro)):
        await api.write_log(running.started, euro[offset : offset + 1], offset=offset)
    await api.finish(running.started, euro)

    events = await asyncio.wait_for(following, 15)

    assert [json.loads(event.data) for event in events[:-1]] == ["€"]


async def test_following_over_a_re_run_tells_of_the_new_attempt_and_never_mixes_two_logs(
    api: Api, person: Person
) -> None:
    job = await person.submit(retry_on_lost=1)
    address, logs = f"/api/v1/jobs/{job['job_id']}", f"/api/v1/jobs/{job['job_id']}/logs"
    first = await api.start_next()
    await api.write_log(first, b"one \xe2\x82")
    async with api.http.stream("GET", logs, headers=person.headers | EVENTS) as answer:
        pieces = answer.aiter_text()
        seen = await anext(pieces)
        while "one" not in seen:
            seen += await anext(pieces)
        async with api.database.transaction() as tx:
            await end_lease(tx, first.claim, actor="system:maintenance", at_once=True)
        second = await api.start_next()
        await api.write_log(second, b"two")
        await api.finish(second, b"two")
        told = parse_events(seen + "".join([piece async for piece in pieces]))
    back = {
        last: await follow(person, logs, **{"Last-Event-ID": last})
        for last in ("4", "1:6", "2:0", "2:1", told[-2].event_id)
    }

    assert bytes_of(told) == b"one \xe2\x82two"
    assert [event.kind for event in told][-3:] == ["attempt", "message", "end"]
    assert (json.loads(told[-3].data), told[-3].event_id) == ({"attempt": 2}, "2:0")
    assert (json.loads(told[-2].data), told[-2].event_id) == ("two", "2:3")
    assert bytes_of(back["4"]) == b"\xe2\x82two"
    assert [event.event_id for event in back["4"]][:2] == ["6", "2:0"]
    assert bytes_of(back["1:6"]) == bytes_of(back["2:0"]) == b"two"
    assert bytes_of(back["2:1"]) == b"wo"
    assert [event.kind for event in back["2:3"]] == ["end"]
    assert (await person.get(address)).json()["attempt"] == 2


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 16, "0:1", "1:", ":1", "100:1", "1:2:3"])
async def test_an_event_id_that_is_none_of_ours_is_refused(
    person: Person, running: Running, last: str
) -> None:
    answer = await person.get(running.address, headers=EVENTS | {"Last-Event-ID": last})

    assert_problem(answer, 400, "invalid_input")


@pytest.mark.parametrize(
    "query", ["tail=-1", "tail=x", "stream=both", "timestamps=1", "attempt=0", "follow=true", "tail=1&tail=2"]
)
async def test_a_bad_parameter_of_a_log_is_refused(person: Person, running: Running, query: str) -> None:
    assert_problem(await person.get(f"{running.address}?{query}"), 400, "invalid_input")


async def test_a_stream_ends_when_the_server_stops(api: Api, person: Person, running: Running) -> None:
    await api.write_log(running.started, TEXT)
    async with api.http.stream("GET", running.address, headers=person.headers | EVENTS) as answer:
        pieces = answer.aiter_text()
        seen = await anext(pieces)
        while "four" not in seen:
            seen += await anext(pieces)

        stopping = asyncio.create_task(api.server.stop())
        rest = [piece async for piece in pieces]
        await asyncio.wait_for(stopping, 5)

    assert "event: end" not in "".join(rest)


async def test_a_wait_ends_when_the_server_stops(api: Api, person: Person) -> None:
    job = await person.submit()
    # A connection that is open already, so that the wait has begun when its request was written.
    waiting = asyncio.create_task(person.get(f"/api/v1/jobs/{job['job_id']}?wait=60"))
    await until_requests(api, 1)

    await asyncio.wait_for(api.server.stop(), 5)

    assert (await waiting).status_code == 200


async def test_a_follower_that_leaves_is_let_go(api: Api, person: Person, running: Running) -> None:
    async with (
        httpx2.AsyncClient(base_url=api.url, trust_env=False) as http,
        http.stream("GET", running.address, headers=person.headers | EVENTS) as answer,
    ):
        await anext(answer.aiter_bytes())

    # Nothing is left that the stop would have to wait for or cut.
    await asyncio.wait_for(api.server.stop(), 0.9)


async def until_requests(api: Api, count: int) -> None:
    """Wait until a long wait listens."""
    for _ in range(1000):
        if sum("wait_for_change" in repr(task) for task in asyncio.all_tasks()) >= count:
            return
        await asyncio.sleep(0)
        await api.http.get("/healthz")
    raise AssertionError("no request came to its wait")


async def test_the_log_of_an_attempt_that_never_was_is_not_found(person: Person) -> None:
    job = await person.submit()

    answer = await person.get(f"/api/v1/jobs/{job['job_id']}/logs?attempt=1")

    assert_problem(answer, 404, "not_found")
