"""A Corndogs server for tests: CSIL-RPC over TCP in both of its shapes, and faults when it is told to.

As a process of its own::

    python tests/fakes/corndogs_server.py --port N [--shape 0.7.3] [--control-port M]

It prints a line with its address when it listens, and takes orders on standard input and at the control
port; `corndogs_control` says which.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Protocol, Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.corndogs_calls import MAX_PAYLOAD_BYTES, READS, REQUESTS, SPLIT, WHOLE, Answer, Calls, Refused
from fakes.corndogs_faults import Faults, is_used_up
from fakes.corndogs_store import CorndogsStore
from fakes.csil_bytes import BadBytes, Tagged, dump, load

__all__ = ["SPLIT", "WHOLE", "CorndogsServer", "Faults"]

_MAX_AT_ONCE = 256
_SERVICE = "CorndogsService"
_CONTROL = {"$ping": "$pong", "$hello": "$hello-ack"}


class _Line(Protocol):
    """Where answers are written to."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class CorndogsServer:
    """A server in the event loop of who enters it; may be stopped and started again on its port.

    Its store outlives a stop; `wipe` empties it.
    """

    def __init__(
        self,
        *,
        shape: str = SPLIT,
        port: int = 0,
        store: CorndogsStore | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.port = port
        self.store = store or CorndogsStore()
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        """What it has begun to do, by operation."""
        self.frames = 0
        """What it has read, answered or not."""
        self.auths: set[str | None] = set()
        self.panics: list[Exception] = []
        """Its own errors, each answered with status 6. A test may hold it to none."""
        self._deeds = Calls(self.store, shape, max_payload_bytes)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def address(self) -> str:
        """Where it listens, as a setting."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def is_up(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, **options: Any) -> None:
        """Listen; ``options`` go to `asyncio.loop.create_server`."""
        if self.is_up:
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, **{"backlog": 1024, **options}
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection and listen no more: connecting is refused."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            connection.abort()

    def wipe(self) -> None:
        """Lose every task."""
        self.store.wipe()
        self._deeds.copies.clear()

    @property
    def _max_frame_bytes(self) -> int:
        return self._deeds.max_frame_bytes

    def _delay(self, frame: bytes) -> float:
        if not self.faults.delays:
            return self.faults.delay_seconds
        with contextlib.suppress(Refused):
            return self.faults.delays.get(_open(frame).operation, self.faults.delay_seconds)
        return self.faults.delay_seconds

    def _answer(self, frame: bytes, line: _Line) -> None:
        """Do what a frame says, and answer it. Nothing that a frame may hold is an error of ours."""
        if self.faults.is_silent:
            return
        head: dict[str, object] = {"v": 1}
        try:
            call = _open(frame)
            head |= {} if call.number is None else {"id": call.number}
            self.calls[call.operation] += 1
            self.auths.add(call.auth)
            if call.operation in _CONTROL:
                self._send(line, head | {"status": 0, "variant": _CONTROL[call.operation]}, b"")
                return
            if is_used_up(self.faults.lose_calls, call.operation):
                line.abort()
                return
            answer = dump(self._do(call))
            if is_used_up(self.faults.swallow_replies, call.operation):
                return
            if is_used_up(self.faults.lose_replies, call.operation):
                line.abort()
                return
        except Refused as refusal:
            self._send(line, head | {"status": refusal.status, "error": refusal.error}, b"")
        except Exception as error:
            self.panics.append(error)
            self._send(line, head | {"status": 6, "error": f"panic: {error!r}"}, b"")
        else:
            self._send(line, head | {"status": 0, "variant": f"{call.operation}Response"}, answer)

    def _do(self, call: "_Call") -> Answer:
        if call.service != _SERVICE:
            raise Refused(2, f"unknown service: {call.service}")
        if call.operation not in REQUESTS or call.operation in self.faults.unknown:
            raise Refused(2, f"unknown op: {call.operation}")
        given = self._deeds.read(call.operation, call.message)
        if self.faults.leader is not None and call.operation not in READS:
            raise Refused(6, f"not-leader leader={self.faults.leader}")
        if is_used_up(self.faults.refuse, call.operation):
            raise Refused(6, "scripted failure")
        return self._deeds.do(call.operation, given, copies=self.faults.copies)

    def _send(self, line: _Line, envelope: dict[str, object], message: bytes) -> None:
        frame = dump(envelope | {"payload": Tagged(24, message)})
        if len(frame) > self._max_frame_bytes:
            # As the real one: who asked waits for ever.
            return
        data = len(frame).to_bytes(4, "big") + frame
        if self.faults.cut_frames > 0:
            self.faults.cut_frames -= 1
            line.write(data[: len(data) // 2])
            line.close()
            return
        line.write(data)


class _Call:
    """An envelope, opened."""

    __slots__ = ("auth", "message", "number", "operation", "service")

    def __init__(self, number: int | None, operation: str, service: str, message: bytes, auth: str | None):
        self.number = number
        self.operation = operation
        self.service = service
        self.message = message
        self.auth = auth


def _open(frame: bytes) -> _Call:
    """Return the call of an envelope; raises Refused."""
    try:
        envelope = load(frame)
    except BadBytes as error:
        raise Refused(1, f"malformed envelope: {error}") from error
    if not isinstance(envelope, dict):
        raise Refused(1, "malformed envelope: no map")
    if (version := envelope.get("v")) != 1:
        raise Refused(1, f"unsupported transport version {version}")
    payload = envelope.get("payload")
    if not (isinstance(payload, Tagged) and payload.tag == 24 and isinstance(payload.value, bytes)):
        raise Refused(1, "malformed envelope: payload")
    operation, service = envelope.get("op"), envelope.get("service")
    if not isinstance(operation, str) or not isinstance(service, str):
        raise Refused(1, "malformed envelope: op or service")
    number, auth = envelope.get("id"), envelope.get("auth")
    return _Call(
        number if isinstance(number, int) and number >= 0 else None,
        operation,
        service,
        payload.value,
        auth if isinstance(auth, str) else None,
    )


class _Connection(asyncio.Protocol):
    """One connection: cuts what comes into frames, and has a number of them at work at once."""

    def __init__(self, server: CorndogsServer) -> None:
        self._server = server
        self._bytes = bytearray()
        self._waiting: set[asyncio.TimerHandle] = set()
        self._is_full = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._server._connections.discard(self)
        self._bytes.clear()
        for handle in self._waiting:
            handle.cancel()

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """Read no more from a client that does not read."""
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_full = False
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._bytes += data
        self._take_frames()

    def _take_frames(self) -> None:
        at = 0
        while len(self._bytes) - at >= 4 and not self._is_full and not self._transport.is_closing():
            if len(self._waiting) >= _MAX_AT_ONCE:
                self._transport.pause_reading()
                break
            end = at + 4 + int.from_bytes(self._bytes[at : at + 4], "big")
            if end - at - 4 > self._server._max_frame_bytes:
                self.abort()
                return
            if len(self._bytes) < end:
                break
            frame = bytes(self._bytes[at + 4 : end])
            at = end
            self._server.frames += 1
            self._begin(frame)
        del self._bytes[:at]

    def _begin(self, frame: bytes) -> None:
        seconds = self._server._delay(frame)
        if not seconds:
            self._server._answer(frame, self._transport)
            return

        def answer_late() -> None:
            self._waiting.discard(handle)
            self._server._answer(frame, self._transport)
            self._go_on()

        handle = asyncio.get_running_loop().call_later(seconds, answer_late)
        self._waiting.add(handle)

    def _go_on(self) -> None:
        if not self._is_full and not self._transport.is_closing():
            self._transport.resume_reading()
            self._take_frames()


async def _run(arguments: argparse.Namespace) -> None:
    from fakes.corndogs_control import obey_standard_input, open_control

    async with contextlib.AsyncExitStack() as stack:
        server = CorndogsServer(shape=arguments.shape, port=arguments.port)
        if arguments.control_port is not None:
            await stack.enter_async_context(await open_control(server, arguments.control_port))
        await stack.enter_async_context(server)
        print(server.address, flush=True)  # noqa: T201 - it is what a process has to say
        obey_standard_input(server)
        await asyncio.Event().wait()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser()
    _parser.add_argument("--port", type=int, default=0)
    _parser.add_argument("--shape", choices=(SPLIT, WHOLE), default=SPLIT)
    _parser.add_argument("--control-port", type=int)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(_parser.parse_args()))
