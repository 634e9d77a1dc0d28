"""CSIL-RPC on the wire: bytes captured from real servers, and bytes that no server should send."""

import time

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.corndogs_captures import (
    CLAIM,
    CLAIMED_SPLIT,
    CLAIMED_WHOLE,
    ON_EMPTY_STORES,
    SUBMIT,
    SUBMITTED,
)
from fakes.csil_bytes import Tagged, dump, load
from reactorcide.queue.corndogs import csil
from reactorcide.queue.corndogs.csil import Malformed
from reactorcide.queue.corndogs.messages import Delivery, NewTask, Override, StateCounts, Task

UUID = "6edf5920-b06c-42fb-b786-9d774bc7b071"
PING, PONG = ON_EMPTY_STORES["ping"]
NOTHING = ON_EMPTY_STORES["claim"][1]
NOPE, UNKNOWN = ON_EMPTY_STORES["unknown op"]
WITHOUT_UUID, MISSING = ON_EMPTY_STORES["no uuid"]
COUNTS, NO_COUNTS = ON_EMPTY_STORES["counts"]
GROUP, NO_GROUP = ON_EMPTY_STORES["group"]
TASK = NewTask("ci", b"hi", "submitted", "working", timeout=-1, priority=5)
KEPT = Override()


@pytest.mark.parametrize(
    ("request_bytes", "captured"),
    [
        (csil.encode_request(1, "SubmitTask", csil.encode_submit(TASK)), SUBMIT),
        (csil.encode_request(2, "$ping", b""), PING),
        (
            csil.encode_request(3, "GetNextTask", csil.encode_claim("ci", "submitted", Override(timeout=60))),
            CLAIM,
        ),
        (csil.encode_request(7, "Nope", csil.EMPTY), NOPE),
        (csil.encode_request(9, "GetQueueTaskCounts", csil.EMPTY), COUNTS),
        (csil.encode_request(10, "GetNextTaskGroup", csil.encode_claim(["ci", "b"], "", KEPT)), GROUP),
    ],
    ids=["submit", "ping", "claim", "unknown", "counts", "group"],
)
def test_calls_are_the_bytes_that_real_servers_were_sent(request_bytes: bytes, captured: str) -> None:
    assert request_bytes.hex() == captured


def test_answers_of_real_servers_are_understood() -> None:
    submitted = csil.decode_reply(bytes.fromhex(SUBMITTED))
    stamp = 1_795_371_564_600_450_077
    task = Task(UUID, "ci", "submitted", "working", stamp, stamp, timeout=0, priority=5)

    assert (submitted.call_id, submitted.status) == (1, 0)
    assert csil.decode_task(submitted.message) == task
    assert csil.decode_reply(bytes.fromhex(PONG)).message == b""
    assert csil.decode_delivery(csil.decode_reply(bytes.fromhex(NOTHING)).message) is None
    assert csil.decode_delivery(csil.decode_reply(bytes.fromhex(NO_GROUP)).message) is None
    assert csil.decode_queue_counts(csil.decode_reply(bytes.fromhex(NO_COUNTS)).message) == {}
    unknown, missing = (csil.decode_reply(bytes.fromhex(text)) for text in (UNKNOWN, MISSING))
    assert (unknown.call_id, unknown.status, unknown.error) == (7, 2, "unknown op: Nope")
    assert (missing.status, missing.error) == (6, 'csil cbor: missing field "uuid"')


@pytest.mark.parametrize("captured", [CLAIMED_SPLIT, CLAIMED_WHOLE], ids=["split", "whole"])
def test_a_claim_is_understood_in_both_shapes(captured: str) -> None:
    delivery = csil.decode_delivery(csil.decode_reply(bytes.fromhex(captured)).message)

    assert isinstance(delivery, Delivery)
    assert delivery.payload == b"hi"
    task = delivery.task
    assert (task.queue, task.current_state, task.auto_target_state) == ("ci", "working", "submitted")
    assert (task.timeout, task.priority) == (60, 5)
    assert task.update_time > task.submit_time


def envelope(**changes: object) -> bytes:
    fields: dict[str, object] = {"v": 1, "id": 4, "status": 0, "payload": cbor2.CBORTag(24, b"\xa0")}
    fields |= changes
    return cbor2.dumps({name: value for name, value in fields.items() if value is not ...})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa0",
        b"\xff\xff",
        b"\x9b" + b"\xff" * 8,
        b"\xbb\x7f" + b"\xff" * 7,
        b"\x5b\x7f" + b"\xff" * 7 + b"x",
        b"\xa1" * 5_000,
        b"\x81" * 100_000,
        b"\xd8\x18" * 5_000 + b"\x40",
        cbor2.dumps([1, 2]),
        cbor2.dumps({1: 2}),
        envelope(v=2),
        envelope(v=...),
        envelope(status=...),
        envelope(status="0"),
        envelope(status=True),
        envelope(status=2**70),
        envelope(payload=...),
        envelope(payload=b"\xa0"),
        envelope(payload=cbor2.CBORTag(25, b"\xa0")),
        envelope(payload=cbor2.CBORTag(24, "text")),
        envelope(id="4"),
        envelope(id=-1),
        envelope(id=2**64),
        envelope(status=6, error=7),
        envelope(v=1.0),
        envelope(v=True),
        envelope(id=None),
        envelope(new=1.5),
        envelope(new=None),
        envelope(new=False),
        envelope(new=cbor2.undefined),
        envelope() + b"\0",
        b"\xbf" + envelope()[1:] + b"\xff",
        envelope().replace(b"\x41\xa0", b"\x5f\x41\xa0\xff"),
        envelope().replace(b"\x61v", b"\x7f\x61v\xff"),
        envelope().replace(b"\x61v\x01", b"\x61v\xc2\x41\x01"),
        b"\xd9\xd9\xf7" + envelope(),
        envelope(new=cbor2.CBORTag(0, "2026-11-23T00:00:00Z")),
        envelope(new=cbor2.CBORTag(35, "(a+)+")),
        envelope(new=cbor2.CBORTag(28, [1])),
        envelope(new=[[[[[[[[1]]]]]]]]),
        envelope(status=6, error="ab").replace(b"\x62ab", b"\x62\xff\xfe"),
    ],
)
def test_a_frame_that_is_no_reply_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(Malformed):
        csil.decode_reply(data)


@pytest.mark.parametrize("captured", [SUBMITTED, CLAIMED_SPLIT, CLAIMED_WHOLE, UNKNOWN])
def test_a_reply_cut_short_anywhere_is_refused_as_such(captured: str) -> None:
    whole = bytes.fromhex(captured)

    for size in range(len(whole)):
        with pytest.raises(Malformed):
            csil.decode_reply(whole[:size])


def test_a_message_that_is_all_items_is_refused_before_it_takes_long() -> None:
    number, count = 5_000_000, b"\x9a" + (5_000_000).to_bytes(4, "big")
    begun = time.process_time()

    with pytest.raises(Malformed, match="too many"):
        csil.decode_queues(b"\xa1\x66queues" + count + b"\0" * number)

    assert time.process_time() - begun < 1


def test_fields_that_are_new_to_us_are_passed_over() -> None:
    task = TASK_FIELDS | {"is_new": True, "weight": 1.5, "parent": None, "tags": ["a", {"b": 1}]}

    answered = csil.decode_task(cbor2.dumps({"task": task, "warnings": []}))

    assert answered is not None
    assert answered.uuid == UUID
    assert csil.decode_reply(envelope(region="eu", hops=[1, 2])).status == 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xa0\0",
        b"\xbf\xff",
        b"\x9f\xff",
        b"\xa1\x64task\xa0" + b"\0",
        b"\xf6",
        b"\x80",
        b"\xa1\x00\x00",
    ],
)
def test_a_message_that_is_no_map_of_fields_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        csil.decode_task(message)


TASK_FIELDS: dict[str, object] = {
    "uuid": UUID,
    "queue": "ci",
    "current_state": "a",
    "auto_target_state": "b",
    "submit_time": 1,
    "update_time": 2,
    "timeout": 0,
    "priority": 0,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, kept in TASK_FIELDS.items()
        for value in (None, 1.5, "x", 7, b"x", 2**64, [])
        if type(value) is not type(kept) or value == 2**64
    ],
)
def test_a_task_with_a_field_of_another_kind_is_refused(name: str, value: object) -> None:
    task = TASK_FIELDS | {name: value}

    with pytest.raises(Malformed):
        csil.decode_task(cbor2.dumps({"task": task}))
    with pytest.raises(Malformed):
        csil.decode_delivery(cbor2.dumps({"delivery": {"task": task, "payload": b""}}))


numbers = st.integers(-(2**63), 2**63 - 1)
tasks = st.builds(
    Task, st.text(), st.text(), st.text(), st.text(), numbers, numbers, timeout=numbers, priority=numbers
)


@given(tasks, st.binary(max_size=70_000))
def test_every_task_is_read_as_a_server_writes_it_in_either_shape(task: Task, payload: bytes) -> None:
    split = {"delivery": {"task": vars(task), "payload": payload}}
    whole = {"task": vars(task) | {"payload": payload}}

    assert csil.decode_task(dump({"task": vars(task)})) == task
    for message in (split, whole):
        reply = dump({"v": 1, "id": 2**64 - 1, "status": 0, "payload": Tagged(24, dump(message))})
        assert csil.decode_delivery(csil.decode_reply(reply).message) == Delivery(task, payload)


@given(numbers, st.text(), st.binary(max_size=300), st.none() | st.text())
def test_every_call_is_written_as_a_server_reads_it(
    number: int, text: str, payload: bytes, auth: str | None
) -> None:
    task = NewTask(text, payload, text, text, timeout=number, priority=number)

    envelope = load(csil.encode_request(7, "SubmitTask", csil.encode_submit(task), auth=auth))

    assert isinstance(envelope, dict)
    assert load(envelope.pop("payload").value) == {
        "queue": text,
        "current_state": text,
        "auto_target_state": text,
        "timeout": number,
        "payload": payload,
        "priority": number,
    }
    told = {} if auth is None else {"auth": auth}
    assert envelope == told | {"v": 1, "id": 7, "op": "SubmitTask", "service": "CorndogsService"}


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_but_malformed(data: bytes) -> None:
    for decode in (
        csil.decode_reply,
        csil.decode_task,
        csil.decode_delivery,
        csil.decode_swept,
        csil.decode_queues,
        csil.decode_queue_counts,
        csil.decode_states,
        csil.decode_all_states,
    ):
        try:
            decode(data)
        except Malformed:
            continue


def test_an_error_under_status_0_is_an_error() -> None:
    told = cbor2.dumps({"code": 6, "message": "no room"})

    reply = csil.decode_reply(envelope(variant="ServiceError", payload=cbor2.CBORTag(24, told)))

    assert (reply.status, reply.error) == (6, "no room")


def test_counts_come_by_queue_and_state() -> None:
    counted = {"queue": "ci", "count": 3, "state_counts": {"a": 1, "b": 2}}

    assert csil.decode_states(cbor2.dumps(counted)) == StateCounts("ci", 3, {"a": 1, "b": 2})
    assert csil.decode_all_states(cbor2.dumps({"queue_and_state_counts": {"ci": counted}})) == {
        "ci": StateCounts("ci", 3, {"a": 1, "b": 2})
    }


values = st.recursive(
    st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_the_two_codecs_write_and_read_the_same(value: object) -> None:
    assert dump(value) == cbor2.dumps(value, canonical=True)
    assert load(cbor2.dumps(value, canonical=True)) == value
    assert cbor2.loads(dump({"x": Tagged(24, b"x")})) == {"x": cbor2.CBORTag(24, b"x")}
