"""One TCP connection that carries many calls at once: frames out, frames in, matched by correlation id."""

import asyncio
import itertools
import ssl
from collections.abc import Callable
from datetime import timedelta

from reactorcide.queue.corndogs.csil import Malformed, Reply, decode_reply, encode_request
from reactorcide.queue.corndogs.errors import OutcomeUnknown, SpeaksGrpc, Unreachable, WrongService

MAX_FRAME_BYTES = 17 * 1024 * 1024
"""The largest that a server sends by default; a longer announcement is none of this wire."""
_LENGTH_BYTES = 4
_CBOR_MAP = 5
"""The major type of an envelope (RFC 8949, 3)."""
_HTTP2_SETTINGS = b"\x04\0\0\0\0\0"
"""Type, flags and stream of the first frame of a server's HTTP/2 (RFC 9113, 4.1), behind its length."""
_FOREIGN = {
    b"HTTP": "it answers in HTTP, as releases 0.4 to 0.6 and web servers do:"
    " Corndogs 0.7 or newer is needed, or one of the gRPC releases by grpc://",
    b"\x15\x03": "it speaks TLS: use tls://",
}


class Connection(asyncio.Protocol):
    """A connection to one member of a service. Made by `Connection.open`; lives until it is lost or closed.

    A call that fails after it was sent is never sent again here: whether it has happened is not known.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._ids = itertools.count(1)
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._lost: str | None = None
        self._is_retired = False
        self._heard_at = 0.0
        self.is_foreign = False
        """What answers is no server of this wire."""

    @classmethod
    async def open(
        cls, host: str, port: int, *, timeout: timedelta, tls: ssl.SSLContext | None = None
    ) -> "Connection":
        """Connect. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                _, connection = await loop.create_connection(
                    cls, host, port, ssl=tls, server_hostname=host if tls else None
                )
        except TimeoutError:
            raise Unreachable(f"{host}:{port}: no connection within {timeout.total_seconds():g} s") from None
        except (OSError, ValueError) as error:
            raise Unreachable(f"{host}:{port}: {error}") from error
        return connection

    @property
    def is_open(self) -> bool:
        """Whether calls can be made on it."""
        return self._lost is None and not self._is_retired

    async def call(
        self, operation: str, message: bytes, *, timeout: timedelta, auth: str | None = None
    ) -> Reply:
        """Send a call and return its answer, whatever status that has.

        Raises:
            Unreachable: the connection was lost before anything was sent.
            OutcomeUnknown: it was sent, and no answer came within ``timeout``, or none will.
            WrongService: the answer is none of this wire.
        """
        await self._wait_for_room(timeout)
        call_id, loop = next(self._ids), asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        self._waiting[call_id] = answer
        expiry = loop.call_later(timeout.total_seconds(), self._expire, answer, loop.time())
        try:
            self._send(encode_request(call_id, operation, message, auth=auth))
            return await answer
        finally:
            expiry.cancel()
            self._waiting.pop(call_id, None)
            if self._is_retired and not self._waiting:
                self.close()

    def close(self, reason: str = "the connection was closed") -> None:
        """Hang up; calls under way end as `OutcomeUnknown`."""
        self._fail(OutcomeUnknown, reason)

    def retire(self) -> None:
        """Let the calls under way come to their end, and hang up then."""
        self._is_retired = True
        if not self._waiting:
            self.close()

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream has no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_at = asyncio.get_running_loop().time()
        self._received += data
        position = 0
        while len(self._received) - position >= _LENGTH_BYTES:
            start = bytes(self._received[position : position + _LENGTH_BYTES])
            length = int.from_bytes(start, "big")
            body = self._received[position + _LENGTH_BYTES : position + _LENGTH_BYTES + 1]
            if length > MAX_FRAME_BYTES or (body and body[0] >> 5 != _CBOR_MAP):
                self._turn_away(bytes(self._received[position:]))
                return
            end = position + _LENGTH_BYTES + length
            if len(self._received) < end:
                break
            if not self._take_frame(bytes(self._received[position + _LENGTH_BYTES : end])):
                return
            position = end
        del self._received[:position]

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.set()
        self._fail(OutcomeUnknown, f"the connection was lost: {exc}" if exc else "the server hung up")

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.set()

    async def _wait_for_room(self, timeout: timedelta) -> None:
        """Wait until the socket takes more. Raises Unreachable: it did not in time, or was lost."""
        if not self._may_write.is_set():
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    await self._may_write.wait()
            except TimeoutError:
                raise Unreachable("the server takes no more calls") from None
        if self._lost is not None:
            raise Unreachable(self._lost)

    def _send(self, envelope: bytes) -> None:
        if not self._unsent:
            # All calls of this turn of the loop go in one write.
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(len(envelope).to_bytes(_LENGTH_BYTES, "big"))
        self._unsent.append(envelope)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and self._lost is None:
            self._transport.write(b"".join(unsent))

    def _take_frame(self, frame: bytes) -> bool:
        """Give an answer to who waits for it. False: the connection is of no more use."""
        try:
            reply = decode_reply(frame)
        except Malformed as error:
            self.is_foreign = True
            self._fail(WrongService, f"it sent {error}")
            return False
        if reply.call_id is None:
            # To which call it belongs is not told, so it may be any.
            self._fail(OutcomeUnknown, f"the server could not read a call: {reply.error}")
            return False
        answer = self._waiting.get(reply.call_id)
        if answer is not None and not answer.done():
            answer.set_result(reply)
        return True

    def _expire(self, answer: "asyncio.Future[Reply]", sent_at: float) -> None:
        if answer.done():
            return
        waited = asyncio.get_running_loop().time() - sent_at
        answer.set_exception(OutcomeUnknown(f"no answer within {waited:.1f} s"))
        if self._heard_at < sent_at:
            # Half open, most likely: who comes next shall not wait as long.
            self.close("the server has gone silent")

    def _turn_away(self, received: bytes) -> None:
        self.is_foreign = True
        if received[3:9] == _HTTP2_SETTINGS:
            self._fail(SpeaksGrpc, "it speaks HTTP/2, as the gRPC releases do: use grpc://")
        else:
            reasons = (reason for start, reason in _FOREIGN.items() if received.startswith(start))
            self._fail(WrongService, next(reasons, "it does not speak Corndogs' wire"))

    def _fail(self, error: Callable[[str], Exception], reason: str) -> None:
        if self._lost is None:
            self._lost = reason
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error(reason))
        self._received.clear()
        if self._transport is not None:
            self._transport.abort()
