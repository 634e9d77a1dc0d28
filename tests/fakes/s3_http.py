"""The HTTP of a store for objects: bodies that come and go as its faults want it."""

import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

from fakes import s3_wire as wire
from fakes.s3_faults import UPLOADS, ActiveFault, Effect
from fakes.s3_wire import Answer, Call

if TYPE_CHECKING:
    from fakes.s3_stub import S3Stub

PIECE_BYTES = 65_536
PACES_A_SECOND = 10
REFUSALS = {
    Effect.SLOW_DOWN: (503, "SlowDown", "Please reduce your request rate."),
    Effect.BREAK: (500, "InternalError", "We encountered an internal error. Please try again."),
    Effect.DENY: (403, "AccessDenied", "Access Denied"),
}


class _Reset(Exception):
    """The connection is to be reset."""


class StubServer(ThreadingHTTPServer):
    """Answers for a stub."""

    daemon_threads = True
    # Its threads wait for clients that keep connections; they are not waited for.
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, stub: "S3Stub") -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stub = stub
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that clients have broken off."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def reset_all(self) -> None:
        """Reset every open connection."""
        with self._lock:
            for connection in self._open:
                _make_reset(connection)
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue


def _make_reset(connection: socket.socket) -> None:
    """Let the end of a connection be a reset, which loses what is on its way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        stub = cast(StubServer, self.server).stub
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = wire.read_call(self.command, self.path, headers)
        if call is None:
            self._read(None, None)
            self._give(wire.error(501, "NotImplemented", "not known here"), None, None)
            return
        stub.note(call)
        try:
            self._give(self._answer(stub, call), *self._hindrances(stub, call, is_upload=False))
        except _Reset:
            _make_reset(self.connection)
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - http.server's names

    def _answer(self, stub: "S3Stub", call: Call) -> Answer:
        def take(*effects: Effect) -> ActiveFault | None:
            return stub.faults.take(call.operation, call.key, *effects)

        delay = take(Effect.DELAY)
        if delay is not None:
            delay.wait(delay.amount)
        # A call for many keys fails for each of them alone, unless it is meant as a whole.
        refusal = take(*REFUSALS)
        pace, reset = self._hindrances(stub, call, is_upload=True) if refusal is None else (None, None)
        body = self._read(pace, reset)
        if refusal is not None:
            return wire.error(*REFUSALS[refusal.effect])
        answer = stub.answer(call, body)
        if take(Effect.LOSE_ANSWER) is not None:
            raise _Reset
        return answer

    def _hindrances(
        self, stub: "S3Stub", call: Call, *, is_upload: bool
    ) -> tuple[ActiveFault | None, ActiveFault | None]:
        """Return what slows a body down, and what breaks it off."""
        if is_upload != (call.operation in UPLOADS):
            return None, None
        pace, reset = (
            (Effect.PACE_UPLOAD, Effect.RESET_UPLOAD)
            if is_upload
            else (Effect.PACE_DOWNLOAD, Effect.RESET_DOWNLOAD)
        )
        return (
            stub.faults.take(call.operation, call.key, pace),
            stub.faults.take(call.operation, call.key, reset),
        )

    def _read(self, pace: ActiveFault | None, reset: ActiveFault | None) -> bytes:
        size, body = int(self.headers.get("Content-Length", 0)), bytearray()
        end = size if reset is None else min(size, int(reset.amount))
        while len(body) < end:
            piece = self.rfile.read(min(_piece_bytes(pace), end - len(body)))
            if not piece:
                raise ConnectionResetError("the client broke off")
            body += piece
            _keep_pace(pace)
        if reset is not None:
            raise _Reset
        return bytes(body)

    def _give(self, answer: Answer, pace: ActiveFault | None, reset: ActiveFault | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(answer.body) if reset is None else min(len(answer.body), int(reset.amount))
        done = 0
        while done < end:
            piece = answer.body[done : min(end, done + _piece_bytes(pace))]
            self.wfile.write(piece)
            done += len(piece)
            _keep_pace(pace)
        if reset is not None:
            # A reset loses what the client has not read; some of it is to arrive.
            time.sleep(1 / PACES_A_SECOND)
            raise _Reset

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _piece_bytes(pace: ActiveFault | None) -> int:
    return PIECE_BYTES if pace is None or pace.wait(0) else max(1, int(pace.amount / PACES_A_SECOND))


def _keep_pace(pace: ActiveFault | None) -> None:
    if pace is not None:
        pace.wait(1 / PACES_A_SECOND)
