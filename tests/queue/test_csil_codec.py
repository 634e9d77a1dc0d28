"""CSIL-RPC on the wire: bytes captured from real servers, and bytes that no server should send."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.corndogs_server import SPLIT, WHOLE, CorndogsServer
from fakes.corndogs_store import CorndogsStore
from fakes.csil_bytes import Tagged, dump, load
from reactorcide.queue.corndogs import csil
from reactorcide.queue.corndogs.csil import Malformed
from reactorcide.queue.corndogs.messages import Delivery, NewTask, Override, StateCounts, Task

UUID = "6edf5920-b06c-42fb-b786-9d774bc7b071"
SUBMIT = (
    "a561760162696401626f706a5375626d69745461736b677061796c6f6164d818585aa6657175657565626369677061796c6f6164"
    "4268696774696d656f757420687072696f72697479056d63757272656e745f7374617465697375626d6974746564716175746f5f"
    "7461726765745f737461746567776f726b696e6767736572766963656f436f726e646f677353657276696365"
)
SUBMITTED = (
    "a5617601626964016673746174757300677061796c6f6164d81858aaa1647461736ba86475756964782436656466353932302d62"
    "3036632d343266622d623738362d396437373462633762303731657175657565626369"
    "6774696d656f757400687072696f72697479056b7375626d69745f74696d651b18ea70ecfbd8dc1d6b7570646174655f74696d65"
    "1b18ea70ecfbd8dc1d6d63757272656e745f7374617465697375626d6974746564716175746f5f7461726765745f737461746567"
    "776f726b696e676776617269616e74725375626d69745461736b526573706f6e7365"
)
PING = (
    "a561760162696402626f70652470696e67677061796c6f6164d8184067736572766963656f436f726e646f677353657276696365"
)
PONG = "a5617601626964026673746174757300677061796c6f6164d818406776617269616e746524706f6e67"
CLAIM = (
    "a561760162696403626f706b4765744e6578745461736b677061796c6f6164d818586aa56571756575656263696d63757272656e"
    "745f7374617465697375626d6974746564706f766572726964655f74696d656f7574183c766f766572726964655f63757272656e"
    "745f737461746560781a6f766572726964655f6175746f5f7461726765745f7374617465606773657276696365"
    "6f436f726e646f677353657276696365"
)
CLAIMED_SPLIT = (
    "a5617601626964036673746174757300677061796c6f6164d81858c0a16864656c6976657279a2647461736ba864757569647824"
    "66383562346131622d643634372d343163352d393435612d61363232623431626633383065717565756562636967"
    "74696d656f7574183c687072696f72697479056b7375626d69745f74696d651b18ea71a2f61f0f9f6b7570646174655f74696d65"
    "1b18ea71a2f64472066d63757272656e745f737461746567776f726b696e67716175746f5f7461726765745f7374617465697375"
    "626d6974746564677061796c6f61644268696776617269616e74734765744e6578745461736b526573706f6e7365"
)
CLAIMED_WHOLE = (
    "a5617601626964036673746174757300677061796c6f6164d81858b6a1647461736ba964757569647824"
    "34666233316337322d393666302d346138622d616161362d636332343937313933336565"
    "657175657565626369677061796c6f61644268696774696d656f7574183c687072696f72697479056b7375626d69745f74696d65"
    "1b18ea71a2f6a9683b6b7570646174655f74696d651b18ea71a2f6b5f0956d63757272656e745f737461746567776f726b696e67"
    "716175746f5f7461726765745f7374617465697375626d69747465646776617269616e74734765744e6578745461736b52657370"
    "6f6e7365"
)
NOTHING = (
    "a5617601626964046673746174757300677061796c6f6164d81841a06776617269616e74734765744e6578745461736b52657370"
    "6f6e7365"
)
NOPE = (
    "a561760162696407626f70644e6f7065677061796c6f6164d81841a067736572766963656f436f726e646f677353657276696365"
)
UNKNOWN = (
    "a561760162696407656572726f7270756e6b6e6f776e206f703a204e6f70656673746174757302677061796c6f6164d81840"
)
WITHOUT_UUID = (
    "a561760162696408626f70704765745461736b537461746542794944677061796c6f6164d8184aa1657175657565626369677365"
    "72766963656f436f726e646f677353657276696365"
)
MISSING = (
    "a561760162696408656572726f72781f6373696c2063626f723a206d697373696e67206669656c6420227575696422667374617475"
    "7306677061796c6f6164d81840"
)
COUNTS = (
    "a561760162696409626f707247657451756575655461736b436f756e7473677061796c6f6164d81841a067736572766963656f43"
    "6f726e646f677353657276696365"
)
NO_COUNTS = (
    "a5617601626964096673746174757300677061796c6f6164d8185821a26c71756575655f636f756e7473a070746f74616c5f7461"
    "736b5f636f756e74006776617269616e74781a47657451756575655461736b436f756e7473526573706f6e7365"
)
GROUP = (
    "a56176016269640a626f70704765744e6578745461736b47726f7570677061796c6f6164d8185864a56671756575657382626369"
    "61626d63757272656e745f737461746560706f766572726964655f74696d656f757400766f766572726964655f63757272656e74"
    "5f737461746560781a6f766572726964655f6175746f5f7461726765745f73746174656067736572766963656f436f726e646f67"
    "7353657276696365"
)
NO_GROUP = (
    "a56176016269640a6673746174757300677061796c6f6164d81841a06776617269616e7478184765744e6578745461736b47726f"
    "7570526573706f6e7365"
)
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


@pytest.mark.parametrize("shape", [SPLIT, WHOLE])
def test_the_server_of_the_tests_answers_with_the_bytes_of_real_ones(shape: str) -> None:
    stamps = iter([1_795_371_564_600_450_077])
    store = CorndogsStore(clock=lambda: next(stamps), make_uuid=lambda: UUID)
    server = CorndogsServer(shape=shape, store=store)
    answers: list[bytes] = []

    class Writer:
        def write(self, data: bytes) -> None:
            answers.append(data[4:])

    same_on_both = [
        (PING, PONG),
        (NOPE, UNKNOWN),
        (WITHOUT_UUID, MISSING),
        (COUNTS, NO_COUNTS),
        (GROUP, NO_GROUP),
    ]
    for asked, _ in [*same_on_both, (SUBMIT, SUBMITTED)]:
        server._answer(bytes.fromhex(asked), Writer())  # type: ignore[arg-type]

    assert [answer.hex() for answer in answers[:5]] == [told for _, told in same_on_both]
    if shape == SPLIT:
        assert answers[5].hex() == SUBMITTED


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
    ],
)
def test_a_frame_that_is_no_reply_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(Malformed):
        csil.decode_reply(data)


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
