"""A Corndogs server for tests: CSIL-RPC over TCP in both of its shapes, and faults when it is told to.

As a process of its own: ``python tests/fakes/corndogs_server.py --port N [--shape 0.7.3]``. It then prints a
line when it listens, and takes orders as lines of JSON on standard input, each the fields of `Faults` to
change, or ``{"wipe": true}``; each is answered by a line with what was called so far.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.corndogs_calls import READS, REQUESTS
from fakes.corndogs_store import CorndogsStore, StoredTask
from fakes.csil_bytes import BadBytes, Tagged, dump, load

SPLIT, WHOLE = "0.7.3", "0.7.0"
"""Shapes: with the payload beside the task, at a claim alone; and within the task, in every answer."""
MAX_FRAME_BYTES = 17 * 1024 * 1024
_MAX_AT_ONCE = 256
_INTEGERS = range(-(2**63), 2**63)
_SERVICE = "CorndogsService"
_CONTROL = {"$ping": "$pong", "$hello": "$hello-ack"}


@dataclass
class Faults:
    """What the server does wrong; counts go down by one with each time."""

    delay_seconds: float = 0.0
    """Before every answer."""
    is_silent: bool = False
    """Calls are read, and neither done nor answered: half-open, as its clients see it."""
    lose_replies: dict[str, int] = field(default_factory=dict)
    """By operation: so many are done, and the connection is cut instead of an answer."""
    lose_calls: dict[str, int] = field(default_factory=dict)
    """By operation: of so many nothing is done, and the connection is cut."""
    refuse: dict[str, int] = field(default_factory=dict)
    """By operation: so many fail with status 6."""
    leader: str | None = None
    """This member does not lead, and names who does; empty: nobody is known."""
    copies: int = 1
    """So many claims get the same task."""
    cut_frames: int = 0
    """So many answers end in their middle, and the connection with them."""
    unknown: tuple[str, ...] = ()
    """Operations that it does not know."""


class _Refused(Exception):
    """A call that is answered by a status other than 0."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class CorndogsServer:
    """A server in the event loop of who enters it; may be stopped and started again on its port.

    Its store outlives a stop.
    """

    def __init__(self, *, shape: str = SPLIT, port: int = 0, store: CorndogsStore | None = None) -> None:
        self.shape = shape
        self.port = port
        self.store = store or CorndogsStore()
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        """What it has begun to do, by operation."""
        self.frames = 0
        """What it has read, answered or not."""
        self.auths: set[str | None] = set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._copies: list[StoredTask] = []

    @property
    def address(self) -> str:
        """Where it listens, as a setting."""
        return f"tcp://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, **options: Any) -> None:
        """Listen; ``options`` go to `asyncio.start_server`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, **options)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection and listen no more."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Cut every connection."""
        for writer in list(self._connections):
            writer.transport.abort()

    def wipe(self) -> None:
        """Lose every task."""
        self.store.wipe()
        self._copies.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        door = asyncio.Semaphore(_MAX_AT_ONCE)
        answering: set[asyncio.Task[None]] = set()
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                if length > MAX_FRAME_BYTES:
                    return
                frame = await reader.readexactly(length)
                self.frames += 1
                if not self.faults.delay_seconds:
                    self._answer(frame, writer)
                    await writer.drain()
                    continue
                async with door:
                    task = asyncio.create_task(self._answer_later(frame, writer))
                answering.add(task)
                task.add_done_callback(answering.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for task in answering:
                task.cancel()
            self._connections.discard(writer)
            writer.transport.abort()

    async def _answer_later(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.faults.delay_seconds)
        self._answer(frame, writer)

    def _answer(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        if self.faults.is_silent:
            return
        try:
            call_id, operation, service, message = self._open(frame)
        except _Refused as refusal:
            self._send(writer, {"v": 1, "status": refusal.status, "error": refusal.error}, b"")
            return
        head: dict[str, object] = {"v": 1} | ({} if call_id is None else {"id": call_id})
        if operation in _CONTROL:
            self.calls[operation] += 1
            self._send(writer, head | {"status": 0, "variant": _CONTROL[operation]}, b"")
            return
        self.calls[operation] += 1
        if _used_up(self.faults.lose_calls, operation):
            writer.transport.abort()
            return
        try:
            if service != _SERVICE:
                raise _Refused(2, f"unknown service: {service}")
            answer = dump(self._do(operation, message))
        except _Refused as refusal:
            self._send(writer, head | {"status": refusal.status, "error": refusal.error}, b"")
            return
        if _used_up(self.faults.lose_replies, operation):
            writer.transport.abort()
            return
        self._send(writer, head | {"status": 0, "variant": f"{operation}Response"}, answer)

    def _open(self, frame: bytes) -> tuple[int | None, str, str, bytes]:
        """Return id, operation, service and message of an envelope."""
        try:
            envelope = load(frame)
        except BadBytes as error:
            raise _Refused(1, f"malformed envelope: {error}") from error
        if not isinstance(envelope, dict):
            raise _Refused(1, "malformed envelope: no map")
        if (version := envelope.get("v")) != 1:
            raise _Refused(1, f"unsupported transport version {version}")
        payload = envelope.get("payload")
        if not (isinstance(payload, Tagged) and payload.tag == 24 and isinstance(payload.value, bytes)):
            raise _Refused(1, "malformed envelope: payload")
        operation, service = envelope.get("op"), envelope.get("service")
        if not isinstance(operation, str) or not isinstance(service, str):
            raise _Refused(1, "malformed envelope: op or service")
        call_id = envelope.get("id")
        auth = envelope.get("auth")
        self.auths.add(auth if isinstance(auth, str) else None)
        known_id = call_id if isinstance(call_id, int) and call_id >= 0 else None
        return known_id, operation, service, payload.value

    def _send(self, writer: asyncio.StreamWriter, envelope: dict[str, object], message: bytes) -> None:
        frame = dump(envelope | {"payload": Tagged(24, message)})
        data = len(frame).to_bytes(4, "big") + frame
        if self.faults.cut_frames > 0:
            self.faults.cut_frames -= 1
            writer.write(data[: len(data) // 2])
            writer.close()
            return
        writer.write(data)

    def _do(self, operation: str, message: bytes) -> Mapping[str, object]:
        if operation not in REQUESTS or operation in self.faults.unknown:
            raise _Refused(2, f"unknown op: {operation}")
        fields = self._read(operation, message)
        if self.faults.leader is not None and operation not in READS:
            raise _Refused(6, f"not-leader leader={self.faults.leader}")
        if _used_up(self.faults.refuse, operation):
            raise _Refused(6, "scripted failure")
        do: Callable[[dict[str, Any]], Mapping[str, object]] = getattr(self, f"_do_{operation}")
        return do(fields)

    def _read(self, operation: str, message: bytes) -> dict[str, Any]:
        try:
            fields = load(message)
        except BadBytes as error:
            raise _Refused(6, f"csil cbor: {error}") from error
        if not isinstance(fields, dict):
            raise _Refused(6, "csil cbor: expected a map")
        read: dict[str, Any] = {}
        for name, kind in REQUESTS[operation].items():
            if name not in fields:
                if (operation, name, self.shape) == ("UpdateTask", "payload", SPLIT):
                    read[name] = None
                    continue
                raise _Refused(6, f'csil cbor: missing field "{name}"')
            value = fields[name]
            if not isinstance(value, kind) or (isinstance(value, int) and value not in _INTEGERS):
                raise _Refused(6, f'csil cbor: field "{name}"')
            read[name] = value
        return read

    def _task(self, task: StoredTask | None) -> Mapping[str, object]:
        return {} if task is None else {"task": self._show(task)}

    def _show(self, task: StoredTask) -> dict[str, object]:
        shown = dict(vars(task))
        if self.shape == SPLIT:
            del shown["payload"]
        return shown

    def _do_SubmitTask(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802 - the wire's name
        return self._task(self.store.submit(**given))

    def _do_GetTaskStateByID(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        return self._task(self.store.find(given["uuid"]))

    def _do_GetNextTask(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        return self._claim([given["queue"]], given)

    def _do_GetNextTaskGroup(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        if not all(isinstance(queue, str) for queue in given["queues"]):
            raise _Refused(6, 'csil cbor: field "queues"')
        return self._claim(given["queues"], given)

    def _claim(self, queues: list[str], given: dict[str, Any]) -> Mapping[str, object]:
        if self._copies:
            return self._deliver(self._copies.pop())
        task = self.store.claim(
            queues,
            given["current_state"],
            given["override_timeout"],
            given["override_current_state"],
            given["override_auto_target_state"],
        )
        if task is None:
            return {}
        self._copies = [task] * (self.faults.copies - 1)
        return self._deliver(task)

    def _deliver(self, task: StoredTask) -> Mapping[str, object]:
        if self.shape == WHOLE:
            return {"task": self._show(task)}
        return {"delivery": {"task": self._show(task), "payload": task.payload}}

    def _do_UpdateTask(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        payload = given["payload"]
        if self.shape == WHOLE and not payload:
            payload = None
        return self._task(
            self.store.update(
                given["uuid"],
                given["new_state"],
                given["auto_target_state"],
                given["timeout"],
                given["priority"],
                payload,
            )
        )

    def _do_CompleteTask(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        return self._task(self.store.complete(given["uuid"]))

    def _do_CancelTask(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        return self._task(self.store.cancel(given["uuid"]))

    def _do_CleanUpTimedOut(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        return {"timed_out": self.store.sweep(given["at_time"], given["queue"])}

    def _do_GetQueues(self, _: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        counts = self.store.count_all_states()
        return {"queues": list(counts), "total_task_count": len(self.store.live)}

    def _do_GetQueueTaskCounts(self, _: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        counts = self.store.count_all_states()
        by_queue = {queue: sum(states.values()) for queue, states in counts.items()}
        return {"queue_counts": by_queue, "total_task_count": len(self.store.live)}

    def _do_GetTaskStateCounts(self, given: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        return _counted(given["queue"], self.store.count_states(given["queue"]))

    def _do_GetQueueAndStateCounts(self, _: dict[str, Any]) -> Mapping[str, object]:  # noqa: N802
        counts = self.store.count_all_states()
        return {
            "queue_and_state_counts": {queue: _counted(queue, states) for queue, states in counts.items()}
        }


def _counted(queue: str, states: Mapping[str, int]) -> dict[str, object]:
    return {"queue": queue, "count": sum(states.values()), "state_counts": dict(states)}


def _used_up(counts: dict[str, int], operation: str) -> bool:
    """Tell whether a scripted fault hits this call, and count it."""
    if counts.get(operation, 0) < 1:
        return False
    counts[operation] -= 1
    return True


async def _run(arguments: argparse.Namespace) -> None:
    server = CorndogsServer(shape=arguments.shape, port=arguments.port)
    async with server:
        print(server.address, flush=True)  # noqa: T201 - it is what a process has to say
        with contextlib.suppress(asyncio.CancelledError):
            await _obey(server)


async def _obey(server: CorndogsServer) -> None:
    """Take orders until standard input ends, and serve on if it was empty from the beginning."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if order.pop("wipe", False):
            server.wipe()
        server.faults = replace(server.faults, **order)
        print(json.dumps(server.calls), flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser()
    _parser.add_argument("--port", type=int, default=0)
    _parser.add_argument("--shape", choices=(SPLIT, WHOLE), default=SPLIT)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(_parser.parse_args()))
