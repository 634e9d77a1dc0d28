"""The worker's routes: who may call, what a body may be, and waits that nobody waits for."""

import asyncio
import itertools
import json
import uuid
from typing import Any

import msgspec
import pytest
from api_people import Api, Person, assert_problem, pointers

from reactorcide import protocol
from reactorcide.domain.accounts import TokenKind

pytest_plugins = ["api_fixtures"]

TURNS = itertools.count(1)
ROUTES = (
    "turn",
    "register",
    "claim",
    "start",
    "heartbeat",
    "orders",
    "log",
    "finish",
    "release",
    "deregister",
)
CLAIM = {"job_id": str(uuid.uuid4()), "attempt": 1, "lease_id": str(uuid.uuid4())}


@pytest.fixture
async def host(api: Api) -> Person:
    """Who holds a worker's token."""
    return await api.person(kind=TokenKind.WORKER)


def introduction(**changed: Any) -> dict[str, Any]:
    return {
        "protocols": [1, 1],
        "name": "far",
        "boot_id": str(uuid.uuid4()),
        "turn": next(TURNS),
        "queues": ["reactorcide-jobs"],
        "slots": 2,
        "version": "1",
        "isolation": "bubblewrap",
        **changed,
    }


async def call(host: Person, route: str, body: Any) -> Any:
    return await host.post(f"{protocol.PATH}/{route}", body)


async def register(host: Person, **changed: Any) -> dict[str, str]:
    """Register a worker and return what names it in further calls."""
    body = introduction(**changed)
    answer = await call(host, "register", body)
    assert answer.status_code == 200, answer.text
    return {"worker_id": answer.json()["registration"]["worker_id"], "boot_id": body["boot_id"]}


@pytest.mark.parametrize("route", ROUTES)
async def test_auth_15_a_users_token_opens_no_route_of_workers(api: Api, admin: Person, route: str) -> None:
    address = f"{protocol.PATH}/{route}"

    assert_problem(await admin.post(address, introduction()), 403, "forbidden")
    assert_problem(await api.http.post(address, json={}), 401, "unauthorized")


async def test_auth_15_a_workers_token_opens_no_route_of_users(host: Person) -> None:
    for path in ("/api/v1/jobs", "/api/v1/workers", "/api/v1/queues", "/api/v1/tokens"):
        assert_problem(await host.get(path), 403, "forbidden")


async def test_the_newest_protocol_that_both_speak_is_chosen(host: Person) -> None:
    answer = await call(host, "register", introduction(protocols=[1, 9]))

    assert answer.json()["protocol"] == 2


@pytest.mark.parametrize("spoken", [[3, 4], [0, 0], [4, 3]])
async def test_without_a_common_protocol_a_worker_is_told_in_words(host: Person, spoken: list[int]) -> None:
    problem = assert_problem(
        await call(host, "register", introduction(protocols=spoken)), 400, "invalid_input"
    )

    assert pointers(problem) == {"/protocols"}
    assert "bring the older of the two up to date" in problem["message"]


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"name": "a\nb"}, "/name"),
        ({"name": ""}, "/name"),
        ({"version": "1\n"}, "/version"),
        ({"boot_id": "boot\n"}, "/boot_id"),
        ({"queues": []}, "/queues"),
        ({"queues": ["fine", "Not Fine"]}, "/queues/1"),
        ({"slots": 0}, "/slots"),
        ({"slots": True}, "/slots"),
        ({"spooled": [CLAIM | {"attempt": "1"}]}, "/spooled/0/attempt"),
        ({"colour": "red"}, ""),
    ],
)
async def test_a_malformed_introduction_is_refused(
    host: Person, changed: dict[str, Any], pointer: str
) -> None:
    problem = assert_problem(await call(host, "register", introduction(**changed)), 400, "invalid_input")

    assert pointers(problem) == {pointer}


async def test_bodies_are_read_strictly(host: Person) -> None:
    twice = b'{"worker_id": "a", "worker_id": "b", "boot_id": "c"}'

    assert_problem(await host.post_raw(f"{protocol.PATH}/deregister", twice), 400, "invalid_input")
    assert_problem(await call(host, "deregister", []), 400, "invalid_input")
    assert_problem(await host.call("POST", f"{protocol.PATH}/log", json={}), 415, "unsupported_media_type")


async def test_an_unknown_worker_is_told_so(host: Person) -> None:
    for worker_id in (str(uuid.uuid4()), "x"):
        answer = await call(host, "deregister", {"worker_id": worker_id, "boot_id": "b"})

        assert assert_problem(answer, 404, "not_found")["cause"] == "worker_unknown"


async def test_auth_16_no_other_token_speaks_for_a_worker(api: Api, host: Person) -> None:
    names = await register(host)
    other = await api.person(kind=TokenKind.WORKER)
    job_id = (await (await api.person()).submit())["job_id"]

    bodies = {
        "claim": {"free_slots": 1, "wait_seconds": 0},
        "start": {"claim": CLAIM},
        "heartbeat": {
            "held": [],
            "report": {"draining": True, "has_room": True, "spooled": 0, "spool_bytes": 0},
        },
        "orders": {"wait_seconds": 0},
        "release": {"claim": CLAIM},
        "deregister": {},
    }
    for route, body in bodies.items():
        assert_problem(await call(other, route, names | body), 403, "forbidden")
    assert_problem(await call(other, "register", introduction()), 403, "forbidden")

    claimed = (await call(host, "claim", names | bodies["claim"])).json()["claims"]
    assert [claim["job_id"] for claim in claimed] == [job_id]


async def test_a_newer_process_with_another_token_of_the_user_supersedes(api: Api, host: Person) -> None:
    names = await register(host)
    second = str(uuid.uuid4())
    async with api.database.transaction() as tx:
        await tx.execute(
            "INSERT INTO api_tokens (token_id, user_id, token_hash, name, kind)"
            " VALUES (%s, %s, sha256(%s), 'second', 'worker')",
            [second, host.user_id, second.encode()],
        )

    await register(Person(api, host.user_id, second))

    problem = assert_problem(await call(host, "orders", names | {"wait_seconds": 0}), 409, "conflict")
    assert problem["cause"] == "superseded"


async def test_a_log_body_is_bounded_and_checked(host: Person) -> None:
    names = await register(host)
    call = names | {"claim": CLAIM, "offset": 0, "pieces": [[1, "o", 1]], "data": b"x"}
    cases = [
        (b"\x00" * (protocol.MAX_LOG_BODY_BYTES + 1), 413),
        (b"", 400),
        (b"\xc1", 400),
        (msgspec.msgpack.encode(call) + b"x", 400),
        (msgspec.msgpack.encode(call | {"data": "text"}), 400),
        (msgspec.msgpack.encode(call | {"pieces": [[1, "x", 1]]}), 400),
        (msgspec.msgpack.encode(call | {"pieces": [[1, "o", 2]]}), 400),
        (msgspec.msgpack.encode(call | {"offset": -1}), 400),
        (msgspec.msgpack.encode(call | {"more": 1}), 400),
        (b"\x91" * 100_000, 400),
        (msgspec.msgpack.encode(call), 409),
    ]

    for body, status in cases:
        headers = {"Content-Type": protocol.LOG_TYPE}
        answer = await host.call("POST", f"{protocol.PATH}/log", content=body, headers=headers)
        assert answer.status_code == status, (body[:200], answer.text)


async def test_wrk_02_a_claim_for_a_client_that_has_gone_goes_back_at_once(api: Api, host: Person) -> None:
    far, near = await register(host), await register(host, name="near")
    waiting = {"free_slots": 1, "wait_seconds": 60}
    connection = await _send(api, host, "claim", far | waiting)
    await _seen_waiting(api, far["worker_id"])
    connection.close()
    await connection.wait_closed()

    job_id = (await (await api.person()).submit())["job_id"]
    taken = await asyncio.wait_for(call(host, "claim", near | waiting), 20)

    assert [claim["job_id"] for claim in taken.json()["claims"]] == [job_id]


async def test_a_waiting_claim_ends_when_the_server_stops(api: Api, host: Person) -> None:
    names = await register(host)
    waiting = asyncio.create_task(call(host, "claim", names | {"free_slots": 1, "wait_seconds": 60}))
    await _seen_waiting(api, names["worker_id"])

    stopping = asyncio.create_task(api.server.stop())

    assert (await asyncio.wait_for(waiting, 20)).json() == {"claims": []}
    await stopping


async def test_a_wait_of_more_than_a_minute_is_refused(host: Person) -> None:
    names = await register(host)

    for seconds in (61, -1, "1"):
        answer = await call(host, "claim", names | {"free_slots": 1, "wait_seconds": seconds})
        assert pointers(assert_problem(answer, 400, "invalid_input")) == {"/wait_seconds"}


async def _send(api: Api, host: Person, route: str, body: dict[str, Any]) -> asyncio.StreamWriter:
    """Send a call and wait for no answer."""
    address = api.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(address[0], int(address[1]))
    content = json.dumps(body).encode()
    head = (
        f"POST {protocol.PATH}/{route} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {host.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    return writer


async def _seen_waiting(api: Api, worker_id: str) -> None:
    dispatch = api.attempts._dispatch
    async with asyncio.timeout(10):
        while all(
            waiter.worker_id != worker_id for line in dispatch._lines.values() for waiter in line.waiters
        ):
            await asyncio.sleep(0.01)
