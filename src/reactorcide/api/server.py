"""Serving an application over HTTP or HTTPS inside the running event loop, with every wait bounded."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import h11
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from reactorcide.api.auth import MALFORMED
from reactorcide.api.problems import problem
from reactorcide.domain.errors import Misconfigured

HEAD_SECONDS = 15.0
"""The head of a request is whole by then, or the connection is closed."""
KEEP_ALIVE_SECONDS = 75
MAX_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers; below, `Surroundings` has the smaller bound and says so."""
LINGER_SECONDS = 2.0
"""What a refused client still sends is read so long, for else it would never see the answer."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Tls:
    """What an API shows to be who it is.

    Raises:
        Misconfigured: the files are no certificate chain with its key.
    """

    cert_file: Path
    key_file: Path

    def __post_init__(self) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.cert_file, self.key_file, password=_no_password
            )
        except (OSError, ValueError) as error:
            raise Misconfigured(
                f"{self.cert_file} and {self.key_file} are no certificate with its key: {error}"
            ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")


class ApiServer:
    """One listening address. `start` returns when it accepts; `stop` when every answer was given or cut.

    Signals are left to the program.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        grace: timedelta = timedelta(seconds=5),
        head_timeout: timedelta = timedelta(seconds=HEAD_SECONDS),
        tls: "Tls | None" = None,
    ) -> None:
        self._app = app
        self._scheme = "http" if tls is None else "https"
        self._host = host
        self._port = port
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            loop="none",
            http=_protocol(head_timeout.total_seconds()),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=2048,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            # Rounded up: uvicorn counts in whole seconds.
            timeout_graceful_shutdown=max(1, -int(-grace.total_seconds() // 1)),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ssl_certfile=None if tls is None else tls.cert_file,
            ssl_keyfile=None if tls is None else tls.key_file,
        )
        self._server = _QuietServer(config)
        self._serving: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """The address it listens on; an address of all interfaces is given as loopback.

        Raises:
            RuntimeError: it was not started.
        """
        if self._socket is None:
            raise RuntimeError("the server was not started")
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - looked for, not bound
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Listen and serve, until `stop`.

        Raises:
            Misconfigured: the address cannot be had.
        """
        self._socket = self._bind()
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise RuntimeError("the server ended as it began")
            await asyncio.sleep(0.001)
        log.info("api.started", url=self.url)

    async def stop(self) -> None:
        """Accept no more, end long waits and streams, give other requests the grace time, and close."""
        if self._serving is None:
            return
        self._app.state.stopping.set()
        self._server.begin_stop()
        await self._serving
        self._serving = None
        log.info("api.stopped")

    async def wait(self) -> None:
        """Wait until the server has stopped; raises what ended it."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server((self._host, self._port), family=family, backlog=2048)
            # asyncio does this for sockets made with a protocol number only; connections inherit it.
            # Without it an answer's body waits 40 ms for the client's delayed acknowledgement of its head.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise Misconfigured(
                f"{self._host}:{self._port} cannot be listened on: {error.strerror or error}"
            ) from error
        return listener


class _QuietServer(uvicorn.Server):
    """A server inside a program that minds its own signals, and that sleeps while nothing happens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()

    def begin_stop(self) -> None:
        """Let `serve` come to its end."""
        self.should_exit = True
        self._stop.set()

    async def main_loop(self) -> None:
        """Keep the `Date` header right until the stop."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


def _protocol(head_seconds: float) -> type[H11Protocol]:
    class BoundedProtocol(_BoundedProtocol):
        head_seconds_allowed = head_seconds

    return BoundedProtocol


class _BoundedProtocol(H11Protocol):
    """A connection whose request heads must arrive in time, and whose malformed requests get an answer."""

    head_seconds_allowed = HEAD_SECONDS
    _deadline: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the watch."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; those of a refused client go nowhere."""
        if self._refused:
            return
        super().data_received(data)
        if not self._refused:
            self._watch_head()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or for the rest of one that was answered early."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.conn.their_state is h11.SEND_BODY:
            self._unset_keepalive_if_required()
            self._watch_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for it
        """Answer what is no HTTP request, or too large a one."""
        buffered = bytes(self.conn.trailing_data[0]) if self.conn.trailing_data else b""
        is_large = len(buffered) > MAX_HEAD_BYTES
        status, message, headers = 400, "this is not an HTTP request that can be understood", {}
        if is_large and _ends_in_authorization(buffered):
            status, message, headers = 401, MALFORMED, {"WWW-Authenticate": "Bearer"}
        elif is_large:
            status, message = 431, f"the head of a request must be at most {MAX_HEAD_BYTES} bytes"
        answer = problem(status, message, headers=headers)
        head = [*answer.raw_headers, (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
        for event in (
            h11.Response(status_code=status, headers=[*head, (b"connection", b"close")]),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self._refused = True
        self._unwatch()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _watch_head(self) -> None:
        """Keep the deadline while a head, or a body that nobody waits for, is outstanding; else forget it."""
        answered = self.cycle is None or self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and answered):
            if self._deadline is None and self.timeout_keep_alive_task is None:
                self._deadline = self.loop.call_later(self.head_seconds_allowed, self._on_overdue)
        else:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_overdue(self) -> None:
        log.debug("connection.overdue", seconds=self.head_seconds_allowed)
        self.transport.close()


def _ends_in_authorization(head: bytes) -> bool:
    """Tell whether the header that made a head too large is the credential."""
    lines: list[bytes] = head.split(b"\r\n")
    return max(lines, key=len)[:14].lower() == b"authorization:"
