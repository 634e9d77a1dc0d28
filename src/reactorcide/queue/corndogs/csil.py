"""CSIL-RPC: envelopes and messages as bytes, in the two shapes that servers speak.

Servers up to 0.7.0 put a task's payload into the task and answer a claim under `task`; later ones answer
it under `delivery`, beside the task. Both are read; what is sent is right for both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import cbor2

from reactorcide.queue.corndogs.messages import Delivery, NewTask, Override, StateCounts, Task, TaskUpdate

SERVICE = "CorndogsService"
VERSION = 1
PING = "$ping"
_EMBEDDED = 24
"""The tag around the bytes of a message (RFC 8949, 3.4.5.1)."""
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_MAX_ID = 2**64 - 1
_TEXT, _MAP, _TAG = 3, 5, 6
"""Major types (RFC 8949, 3): strings up to the first, containers from there on to the last."""
_MAX_LENGTH_CODE = 27
"""Of how a length is written; those above are of indefinite ones, or reserved."""
_MAX_DEPTH = 8
"""Answers need four."""
_MAX_ITEMS = 1_000_000
"""In one message: as many take a second, in which nothing else is done."""

Fields: TypeAlias = Mapping[str, Any]


class Malformed(Exception):
    """These bytes are not what a server of this wire sends."""


@dataclass(frozen=True)
class Reply:
    """An answer: its correlation id (None: it names none), status, and message or error text."""

    call_id: int | None
    status: int
    message: bytes
    error: str


def encode_request(call_id: int, operation: str, message: bytes, *, auth: str | None = None) -> bytes:
    """Return the envelope of a call."""
    envelope: dict[str, object] = {
        "v": VERSION,
        "id": call_id,
        "op": operation,
        "payload": cbor2.CBORTag(_EMBEDDED, message),
        "service": SERVICE,
    }
    if auth is not None:
        envelope["auth"] = auth
    return _encode(envelope)


def decode_reply(data: bytes) -> Reply:
    """Return the reply of an envelope. Raises Malformed."""
    envelope = _decode_map(data, is_envelope=True)
    if envelope.get("v") != VERSION:
        raise Malformed(f"an envelope of version {envelope.get('v')!r}")
    call_id = envelope.get("id")
    if call_id is not None and not (isinstance(call_id, int) and 0 <= call_id <= _MAX_ID):
        raise Malformed("an envelope's id is no number from 0")
    payload = envelope.get("payload")
    if not (
        isinstance(payload, cbor2.CBORTag) and payload.tag == _EMBEDDED and isinstance(payload.value, bytes)
    ):
        raise Malformed("an envelope without its payload")
    status = envelope.get("status")
    if not _is_int(status):
        raise Malformed("an envelope without its status")
    if status == 0 and envelope.get("variant") == "ServiceError":
        fault = _decode_map(payload.value)
        return Reply(call_id, _int(fault, "code") or 6, b"", _text(fault, "message"))
    error = _text(envelope, "error") if "error" in envelope else ""
    return Reply(call_id, status, payload.value, error)


def encode_submit(task: NewTask) -> bytes:
    """Return the message of SubmitTask."""
    return _encode(
        {
            "queue": task.queue,
            "current_state": task.current_state,
            "auto_target_state": task.auto_target_state,
            "timeout": task.timeout,
            "payload": task.payload,
            "priority": task.priority,
        }
    )


def encode_find(uuid: str, queue: str) -> bytes:
    """Return the message of GetTaskStateByID."""
    return _encode({"uuid": uuid, "queue": queue})


def encode_claim(queues: str | Sequence[str], state: str, override: Override) -> bytes:
    """Return the message of GetNextTask, or of GetNextTaskGroup if ``queues`` is a sequence."""
    asked: dict[str, object] = {"queue": queues} if isinstance(queues, str) else {"queues": list(queues)}
    return _encode(
        {
            **asked,
            "current_state": state,
            "override_timeout": override.timeout,
            "override_current_state": override.current_state,
            "override_auto_target_state": override.auto_target_state,
        }
    )


def encode_update(update: TaskUpdate, *, payload: bytes | None) -> bytes:
    """Return the message of UpdateTask. Without a payload, a server up to 0.7.0 refuses it."""
    fields: dict[str, object] = {
        "uuid": update.uuid,
        "queue": update.queue,
        "current_state": "",
        "auto_target_state": update.auto_target_state,
        "timeout": update.timeout,
        "new_state": update.new_state,
        "priority": update.priority,
    }
    if payload is not None:
        fields["payload"] = payload
    return _encode(fields)


def encode_end(uuid: str, queue: str, state: str) -> bytes:
    """Return the message of CompleteTask and of CancelTask."""
    return _encode({"uuid": uuid, "queue": queue, "current_state": state})


def encode_sweep(queue: str, at_time: int) -> bytes:
    """Return the message of CleanUpTimedOut."""
    return _encode({"at_time": at_time, "queue": queue})


def encode_queue(queue: str) -> bytes:
    """Return the message of GetTaskStateCounts."""
    return _encode({"queue": queue})


EMPTY = cbor2.dumps({})
"""The message of calls that ask for nothing in particular."""


def decode_task(message: bytes) -> Task | None:
    """Return the task of an answer, None if it holds none. Raises Malformed."""
    fields = _decode_map(message).get("task")
    return None if fields is None else _task(fields)


def decode_delivery(message: bytes) -> Delivery | None:
    """Return the claimed task of an answer in either shape, None if it holds none. Raises Malformed."""
    answer = _decode_map(message)
    if (delivery := answer.get("delivery")) is not None:
        return Delivery(_task(_map(delivery).get("task")), _bytes(_map(delivery), "payload"))
    if (fields := answer.get("task")) is not None:
        return Delivery(_task(fields), _bytes(_map(fields), "payload"))
    return None


def decode_swept(message: bytes) -> int:
    """Return how many tasks a sweep has swapped. Raises Malformed."""
    return _int(_decode_map(message), "timed_out")


def decode_queues(message: bytes) -> list[str]:
    """Return the names of queues. Raises Malformed."""
    names = _decode_map(message).get("queues")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Malformed("queues is no list of names")
    return names


def decode_queue_counts(message: bytes) -> dict[str, int]:
    """Return the live tasks by queue. Raises Malformed."""
    return _counts(_decode_map(message), "queue_counts")


def decode_states(message: bytes) -> StateCounts:
    """Return the live tasks of a queue by state. Raises Malformed."""
    return _states(_decode_map(message))


def decode_all_states(message: bytes) -> dict[str, StateCounts]:
    """Return the live tasks of every queue by state. Raises Malformed."""
    found = _map(_decode_map(message).get("queue_and_state_counts"))
    return {name: _states(_map(counted)) for name, counted in found.items()}


def _encode(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def _decode_map(data: bytes, *, is_envelope: bool = False) -> Fields:
    _check_items(data, is_envelope=is_envelope)
    try:
        return _map(cbor2.loads(data))
    except Malformed:
        raise
    except Exception as error:
        # The decoder raises many kinds for bytes that it does not like, and none of them is our caller's.
        raise Malformed(f"no CBOR: {error}") from error


def _check_items(data: bytes, *, is_envelope: bool) -> None:
    """Refuse what is not exactly one item of this wire's CBOR, before anything is made of it.

    The decoder would read more: regular expressions, dates, references within the data, endless strings.
    A message may hold floats, booleans and nulls, in fields that are new to us.
    """
    at, size, items = 0, len(data), 0
    # What is still to come on each level.
    owed = [1]
    while owed:
        if not owed[-1]:
            owed.pop()
            continue
        owed[-1] -= 1
        if at >= size:
            break
        major, number = data[at] >> 5, data[at] & 31
        at += 1
        if number >= 24:
            if number > _MAX_LENGTH_CODE:
                raise Malformed("an item of indefinite length")
            width = 1 << number - 24
            number = int.from_bytes(data[at : at + width], "big")
            at += width
        if 1 < major <= _TEXT:
            at += number
        elif _TEXT < major <= _TAG:
            if major == _TAG and number != _EMBEDDED:
                raise Malformed(f"an item under tag {number}")
            owed.append(1 if major == _TAG else number * 2 if major == _MAP else number)
            items += owed[-1]
            if len(owed) > _MAX_DEPTH or items > _MAX_ITEMS:
                raise Malformed("items nested too deep, or too many")
        elif major > _TAG and is_envelope:
            raise Malformed("an envelope that holds a float, a boolean or a null")
    if owed or at != size:
        raise Malformed("an item cut short" if owed or at > size else "bytes behind the item")


def _map(value: object) -> Fields:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise Malformed("something else where fields by name were expected")
    return value


def _task(value: object) -> Task:
    fields = _map(value)
    return Task(
        uuid=_text(fields, "uuid"),
        queue=_text(fields, "queue"),
        current_state=_text(fields, "current_state"),
        auto_target_state=_text(fields, "auto_target_state"),
        submit_time=_int(fields, "submit_time"),
        update_time=_int(fields, "update_time"),
        timeout=_int(fields, "timeout"),
        priority=_int(fields, "priority"),
    )


def _states(fields: Fields) -> StateCounts:
    return StateCounts(_text(fields, "queue"), _int(fields, "count"), _counts(fields, "state_counts"))


def _counts(fields: Fields, name: str) -> dict[str, int]:
    counts = _map(fields.get(name))
    return {key: _int(counts, key) for key in counts}


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Malformed(f"{name} is no text")
    return value


def _int(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if not _is_int(value):
        raise Malformed(f"{name} is no 64-bit number")
    return value


def _bytes(fields: Fields, name: str) -> bytes:
    value = fields.get(name)
    if not isinstance(value, bytes):
        raise Malformed(f"{name} is no byte string")
    return value


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and _MIN_INT <= value <= _MAX_INT
