"""The Corndogs server of the tests on its own wire: real servers' bytes, broken ones, and its two shapes."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fakes import corndogs_captures as captures
from fakes.corndogs_server import SPLIT, WHOLE, CorndogsServer
from fakes.corndogs_store import CorndogsStore
from fakes.csil_bytes import Tagged, dump, load
from fakes.csil_line import Line, connected, envelope, framed, opened

SHAPES = pytest.mark.parametrize("shape", [SPLIT, WHOLE])

SUBMIT: dict[str, object] = {
    "queue": "ci",
    "current_state": "submitted",
    "auto_target_state": "working",
    "timeout": -1,
    "payload": b"hi",
    "priority": 5,
}
CLAIM: dict[str, object] = {
    "current_state": "submitted",
    "override_timeout": 0,
    "override_current_state": "",
    "override_auto_target_state": "",
}
UPDATE: dict[str, object] = {
    "queue": "ci",
    "current_state": "",
    "auto_target_state": "working",
    "timeout": 0,
    "new_state": "submitted",
    "priority": 0,
}


@pytest.fixture
async def server() -> AsyncIterator[CorndogsServer]:
    async with CorndogsServer() as running:
        yield running


@pytest.fixture
async def line(server: CorndogsServer) -> AsyncIterator[Line]:
    async with connected(server.port) as made:
        yield made


async def submitted(line: Line, **changes: object) -> dict[str, Any]:
    answer = await line.call("SubmitTask", **SUBMIT | changes)
    task: dict[str, Any] = answer["payload"]["task"]
    return task


def stamped(*stamps: int, uuid: str) -> CorndogsStore:
    left: Iterator[int] = iter(stamps)
    return CorndogsStore(clock=lambda: next(left), make_uuid=lambda: uuid)


@SHAPES
@pytest.mark.parametrize(("asked", "answer"), captures.ON_EMPTY_STORES.values(), ids=captures.ON_EMPTY_STORES)
async def test_an_empty_store_answers_with_the_bytes_of_real_ones(
    shape: str, asked: str, answer: str
) -> None:
    async with CorndogsServer(shape=shape) as server, connected(server.port) as line:
        assert (await line.ask(bytes.fromhex(asked))).hex() == answer


async def test_a_submitted_task_is_answered_with_the_bytes_of_a_real_one() -> None:
    store = stamped(0x18EA70ECFBD8DC1D, uuid="6edf5920-b06c-42fb-b786-9d774bc7b071")

    async with CorndogsServer(store=store) as server, connected(server.port) as line:
        assert (await line.ask(bytes.fromhex(captures.SUBMIT))).hex() == captures.SUBMITTED


@pytest.mark.parametrize(
    ("shape", "uuid", "stamps", "answer"),
    [
        (
            SPLIT,
            "f85b4a1b-d647-41c5-945a-a622b41bf380",
            (0x18EA71A2F61F0F9F, 0x18EA71A2F6447206),
            captures.CLAIMED_SPLIT,
        ),
        (
            WHOLE,
            "4fb31c72-96f0-4a8b-aaa6-c24971936ee9",
            (0x18EA71A2F6A9683B, 0x18EA71A2F6B5F095),
            captures.CLAIMED_WHOLE,
        ),
    ],
    ids=["split", "whole"],
)
async def test_a_claimed_task_is_answered_with_the_bytes_of_a_real_one(
    shape: str, uuid: str, stamps: tuple[int, int], answer: str
) -> None:
    store = stamped(*stamps, uuid=uuid)

    async with CorndogsServer(shape=shape, store=store) as server, connected(server.port) as line:
        await line.ask(bytes.fromhex(captures.SUBMIT))

        assert (await line.ask(bytes.fromhex(captures.CLAIM))).hex() == answer


# -- envelopes -------------------------------------------------------------------------------------------


async def test_hello_is_answered_whatever_the_service(line: Line) -> None:
    answer = await line.told(envelope("$hello", b"", id=9, service="SomethingElse"))

    assert answer == {"v": 1, "id": 9, "status": 0, "variant": "$hello-ack", "payload": None}


async def test_another_service_is_unknown(line: Line) -> None:
    answer = await line.told(envelope("GetQueues", b"\xa0", id=9, service="corndogs"))

    assert (answer["id"], answer["status"], answer["error"]) == (9, 2, "unknown service: corndogs")


async def test_another_version_is_told_without_an_id(line: Line) -> None:
    answer = await line.told(envelope("GetQueues", b"\xa0", id=9, v=2))

    assert (answer["status"], answer["error"]) == (1, "unsupported transport version 2")
    assert "id" not in answer


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xf6",
        b"\x18",
        b"\xa1",
        dump([1]),
        dump({}),
        envelope("GetQueues", b"\xa0", payload=...),
        envelope("GetQueues", b"\xa0", payload=b"\xa0"),
        envelope("GetQueues", b"\xa0", payload=Tagged(25, b"\xa0")),
        envelope("GetQueues", b"\xa0", payload=Tagged(24, "text")),
        envelope("GetQueues", b"\xa0", op=...),
        envelope("GetQueues", b"\xa0", op=7),
        envelope("GetQueues", b"\xa0", service=...),
        envelope("GetQueues", b"\xa0") + b"\x00",
        envelope("GetQueues", b"\xa0")[:-1],
        dump({"x": 0})[:-1] + b"\xf5",
        dump({"x": 0})[:-1] + b"\xf9\x00\x00",
        b"\xbf\xff",
        b"\x9f\xff",
        b"\x9b" + b"\xff" * 8,
        b"\xbb\x7f" + b"\xff" * 7,
        b"\x5b\x7f" + b"\xff" * 7 + b"x",
        b"\x81" * 100_000,
        b"\xd8\x18" * 5_000 + b"\x40",
        b"\xa1\x61\xff\x00",
        dump({"x": 0}).replace(b"\x61x", b"\x01"),
    ],
)
async def test_a_malformed_envelope_is_told_without_an_id_and_ends_nothing(line: Line, frame: bytes) -> None:
    answer = await line.told(frame)

    assert answer["status"] == 1
    assert "id" not in answer
    assert (await line.call("GetQueues"))["status"] == 0


@pytest.mark.parametrize(
    ("number", "answered"), [(0, 0), (2**64 - 1, 2**64 - 1), (-1, ...), ("1", ...), (..., ...)]
)
async def test_an_id_is_echoed_if_it_is_one(line: Line, number: object, answered: object) -> None:
    answer = await line.told(envelope("GetQueues", b"\xa0", id=number))

    assert answer["status"] == 0
    assert answer.get("id", ...) == answered


async def test_keys_in_any_order_and_unknown_ones_are_taken(line: Line) -> None:
    frame = envelope(
        "GetTaskStateCounts", dump({"queue": "ci", "more": [1]}), id=9, more={"x": 1}, auth="key"
    )
    pairs: dict[str, Any] = load(frame)  # type: ignore[assignment]
    upside_down = bytes([0xA0 | len(pairs)]) + b"".join(
        dump(key) + dump(value) for key, value in reversed(pairs.items())
    )

    answers = [await line.ask(frame), await line.ask(upside_down)]

    assert answers[0] == answers[1]
    assert opened(answers[0])["status"] == 0


async def test_frames_may_come_in_pieces_and_many_at_once(line: Line) -> None:
    frames = b"".join(framed(envelope("$ping", b"", id=number)) for number in range(100))
    rest = frames
    while rest:
        size = random.randint(1, 97)
        line.send(rest[:size])
        rest = rest[size:]
        await asyncio.sleep(0)

    answers = [opened(await line.receive())["id"] for _ in range(100)]

    assert sorted(answers) == list(range(100))


# -- requests --------------------------------------------------------------------------------------------

STRICT: list[tuple[str, dict[str, object]]] = [
    ("SubmitTask", SUBMIT),
    ("GetTaskStateByID", {"uuid": "x", "queue": "ci"}),
    ("GetNextTask", CLAIM | {"queue": "ci"}),
    ("GetNextTaskGroup", CLAIM | {"queues": ["ci"]}),
    ("UpdateTask", UPDATE | {"uuid": "x"}),
    ("CompleteTask", {"uuid": "x", "queue": "ci", "current_state": ""}),
    ("CancelTask", {"uuid": "x", "queue": "ci", "current_state": ""}),
    ("CleanUpTimedOut", {"at_time": 0, "queue": ""}),
    ("GetTaskStateCounts", {"queue": "ci"}),
]


@pytest.mark.parametrize(
    ("operation", "fields", "name"),
    [(operation, fields, name) for operation, fields in STRICT for name in fields],
)
async def test_a_field_that_is_missing_or_of_another_kind_is_refused(
    line: Line, operation: str, fields: dict[str, object], name: str
) -> None:
    without = await line.call(operation, **{key: value for key, value in fields.items() if key != name})
    other = await line.call(operation, **fields | {name: {"a": "map"}})

    assert (without["status"], without["error"]) == (6, f'csil cbor: missing field "{name}"')
    assert other["status"] == 6


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -(2**63) - 1])
async def test_integers_beyond_64_bits_with_a_sign_are_refused(line: Line, number: int) -> None:
    assert (await line.call("SubmitTask", **SUBMIT | {"priority": number}))["status"] == 6
    assert (await line.call("GetQueues"))["payload"]["total_task_count"] == 0


async def test_priorities_of_64_bits_are_kept(line: Line) -> None:
    assert [(await submitted(line, priority=number))["priority"] for number in (2**63 - 1, -(2**63))] == [
        2**63 - 1,
        -(2**63),
    ]


@pytest.mark.parametrize("message", [b"", b"\xf6", b"\x01", b"\xa1\x65queue", b"\xa0\x00"])
async def test_a_body_that_is_no_map_is_refused_with_the_id(line: Line, message: bytes) -> None:
    answer = await line.told(envelope("GetQueues", message, id=5))

    assert (answer["id"], answer["status"]) == (5, 6)


async def test_queues_that_are_no_texts_are_refused(line: Line) -> None:
    assert (await line.call("GetNextTaskGroup", **CLAIM | {"queues": ["ci", 1]}))["status"] == 6


async def test_no_queue_is_the_default_one(line: Line) -> None:
    first, second = await submitted(line, queue="", priority=9), await submitted(line, queue="default")

    claimed = [
        (await line.call("GetNextTask", **CLAIM | {"queue": ""}))["payload"]["delivery"]["task"],
        (await line.call("GetNextTaskGroup", **CLAIM | {"queues": []}))["payload"]["delivery"]["task"],
    ]

    assert [task["uuid"] for task in claimed] == [first["uuid"], second["uuid"]]
    assert {task["queue"] for task in claimed} == {"default"}


@pytest.mark.parametrize("uuid", ["", "no uuid", "x\0y"])
async def test_what_is_no_uuid_is_no_task(line: Line, uuid: str) -> None:
    await submitted(line)
    named = {"uuid": uuid, "queue": "ci", "current_state": ""}

    answers = [
        await line.call("GetTaskStateByID", uuid=uuid, queue="ci"),
        await line.call("CompleteTask", **named),
        await line.call("CancelTask", **named),
        await line.call("UpdateTask", **UPDATE | {"uuid": uuid, "payload": b"x"}),
    ]

    assert [(answer["status"], answer["payload"]) for answer in answers] == [(0, {})] * 4


async def test_a_nul_moves_the_border_between_queue_and_state(line: Line) -> None:
    await submitted(line, queue="q\0z")

    counted = (await line.call("GetQueueAndStateCounts"))["payload"]["queue_and_state_counts"]

    assert counted == {"q": {"queue": "q", "count": 1, "state_counts": {"z": 1}}}


async def test_a_timeout_that_is_too_long_for_64_bits_is_over_at_once(line: Line) -> None:
    task = await submitted(line, timeout=7 * 10**9)
    await submitted(line, timeout=8 * 10**9)

    swept = await line.call("CleanUpTimedOut", at_time=task["update_time"], queue="ci")

    assert swept["payload"] == {"timed_out": 1}


async def test_a_sweep_of_no_queue_is_one_of_all(line: Line) -> None:
    for queue in ("a", "b"):
        task = await submitted(line, queue=queue, timeout=1)

    swept = await line.call("CleanUpTimedOut", at_time=task["update_time"] + 2 * 10**9, queue="")

    assert swept["payload"] == {"timed_out": 2}


# -- what the two shapes do otherwise --------------------------------------------------------------------


@SHAPES
async def test_payloads_are_in_every_task_of_the_older_shape_and_beside_claimed_ones_of_the_newer(
    shape: str,
) -> None:
    async with CorndogsServer(shape=shape) as server, connected(server.port) as line:
        task = await submitted(line)
        claimed = (await line.call("GetNextTask", **CLAIM | {"queue": "ci"}))["payload"]
        named = {"uuid": task["uuid"], "queue": "ci"}
        found = (await line.call("GetTaskStateByID", **named))["payload"]["task"]
        ended = (await line.call("CompleteTask", **named, current_state=""))["payload"]["task"]

    if shape == SPLIT:
        assert claimed["delivery"]["payload"] == b"hi"
        assert not [told for told in (task, claimed["delivery"]["task"], found, ended) if "payload" in told]
    else:
        assert [told["payload"] for told in (task, claimed["task"], found, ended)] == [b"hi"] * 3 + [b""]


@pytest.mark.parametrize(
    ("shape", "changes", "kept"),
    [
        (SPLIT, {}, b"hi"),
        (SPLIT, {"payload": b""}, b""),
        (SPLIT, {"payload": b"new"}, b"new"),
        (WHOLE, {}, None),
        (WHOLE, {"payload": b""}, b"hi"),
        (WHOLE, {"payload": b"new"}, b"new"),
    ],
)
async def test_what_an_update_does_to_the_payload(
    shape: str, changes: dict[str, object], kept: bytes | None
) -> None:
    async with CorndogsServer(shape=shape) as server, connected(server.port) as line:
        task = await submitted(line)

        answer = await line.call("UpdateTask", **UPDATE | changes | {"uuid": task["uuid"]})

        assert (answer["status"] == 6) == (kept is None)
        assert server.store.live[task["uuid"]].payload == (b"hi" if kept is None else kept)


async def test_the_newer_shape_has_a_limit_for_payloads() -> None:
    async with CorndogsServer(max_payload_bytes=100) as server, connected(server.port) as line:
        await submitted(line, payload=bytes(100))
        answer = await line.call("SubmitTask", **SUBMIT | {"payload": bytes(101)})

    assert (answer["status"], answer["error"]) == (6, "payload is 101 bytes; maximum is 100 bytes")


@SHAPES
async def test_a_frame_beyond_the_limit_cuts_the_line_and_no_other(shape: str) -> None:
    limit = {SPLIT: 17, WHOLE: 16}[shape] * 2**20
    async with (
        CorndogsServer(shape=shape) as server,
        connected(server.port) as line,
        connected(server.port) as other,
        connected(server.port) as third,
    ):
        line.send((limit + 1).to_bytes(4, "big"))
        other.send(limit.to_bytes(4, "big"))

        assert await line.is_cut()
        assert (await third.call("GetQueues"))["status"] == 0
        assert len(server._connections) == 2


async def test_an_answer_beyond_the_limit_is_never_sent_though_the_task_is_claimed() -> None:
    async with CorndogsServer(max_payload_bytes=0) as server, connected(server.port) as line:
        server.store.submit("ci", "submitted", "working", 0, bytes(2**20), 0)
        line.send(framed(envelope("GetNextTask", dump(CLAIM | {"queue": "ci"}), id=1)))

        answer = await line.call("GetTaskStateCounts", queue="ci")

    assert answer["payload"]["state_counts"] == {"working": 1}
