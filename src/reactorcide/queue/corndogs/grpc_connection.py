"""One gRPC channel to one member of a Corndogs service: calls on a connection that stands, and on no other.

So a server that is away is told from one that went away, which gRPC gives the same status.
"""

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from reactorcide.queue.corndogs.errors import (
    CallRefused,
    OutcomeUnknown,
    QueueUnavailable,
    UnknownOperation,
    Unreachable,
    WrongService,
)
from reactorcide.queue.corndogs.grpc_messages import METHODS, SERVICE, message_class
from reactorcide.queue.corndogs.messages import NOBODY

_MAX_MESSAGE_BYTES = 17 * 1024 * 1024
_OPTIONS = (
    # A call that may have happened is its caller's to judge.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Two clients of one process shall not share a connection that one of them closes.
    ("grpc.use_local_subchannel_pool", 1),
    # The address says where the service is, and no variable of the environment.
    ("grpc.enable_http_proxy", 0),
)
_SETTLED = frozenset(
    {
        grpc.ChannelConnectivity.READY,
        grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        grpc.ChannelConnectivity.SHUTDOWN,
    }
)
_UNKNOWN = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of HTTP/2 begins: its preface and empty settings (RFC 9113, 3.4)."""
_FOREIGN = {
    b"HTTP": "it answers in HTTP/1, as web servers and Corndogs 0.4 to 0.6 do",
    b"\x15\x03": "it speaks TLS: use grpcs://",
    b"SSH-": "it speaks SSH",
}


class GrpcConnection:
    """A connection to one member; it is `open`ed once, and lives until it is lost, left or closed.

    Args:
        target: ``host:port`` of the member.
        credentials: of TLS; None: none is spoken.
    """

    def __init__(self, target: str, *, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._target = target
        self._is_plain = credentials is None
        # Its scheme is named, since a host may have the name of one.
        uri = f"dns:///{target}"
        self._channel = (
            grpc.aio.insecure_channel(uri, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(uri, credentials, options=_OPTIONS)
        )
        self._methods = {
            name: self._channel.unary_unary(
                f"/{SERVICE}/{name}", request_serializer=message_class(f"{name}Request").SerializeToString
            )
            for name in METHODS
        }
        self._under_way = 0
        self._heard_at = 0.0
        self._is_retired = False

    @property
    def is_open(self) -> bool:
        """Whether calls can be made on it."""
        return not self._is_retired and self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def open(self, timeout: timedelta) -> None:
        """Connect. Should it fail, the connection is closed.

        Raises:
            Unreachable: nobody answers, or not within ``timeout``.
            WrongService: who answers does not speak gRPC.
        """
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                failure = await self._fail_to_open()
        except TimeoutError:
            failure = Unreachable(f"{self._target}: no answer in HTTP/2 within {timeout.total_seconds():g} s")
        except (grpc.aio.UsageError, asyncio.CancelledError):
            if _is_cancelled():
                await self.close()
                raise
            failure = Unreachable("the client was closed")
        if failure is not None:
            await self.close()
            raise failure

    async def call(self, method: str, fields: dict[str, Any], *, timeout: timedelta, metadata: Any) -> Any:
        """Make a call and return its answer.

        Raises:
            Unreachable: the connection was lost before anything was sent.
            OutcomeUnknown: it was sent, and no answer came within ``timeout``, or none will.
            CallRefused: the service answered that it failed.
            UnknownOperation: the service does not know the method.
        """
        begun = asyncio.get_running_loop().time()
        self._under_way += 1
        try:
            answer = await self._methods[method](
                message_class(f"{method}Request")(**fields),
                timeout=timeout.total_seconds(),
                metadata=metadata,
            )
            self._heard_at = asyncio.get_running_loop().time()
            return message_class(f"{method}Response").FromString(answer)
        except grpc.aio.AioRpcError as error:
            self._note(error.code(), begun)
            raise _failure(method, error) from error
        except DecodeError as error:
            raise OutcomeUnknown(f"the answer of {method} cannot be read: {error}") from error
        except grpc.aio.UsageError as error:
            # Closed between the look at the connection and the call.
            raise Unreachable(str(error)) from error
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise OutcomeUnknown(f"{method}: the connection was closed") from None
        finally:
            self._under_way -= 1
            if self._is_retired and not self._under_way:
                await self.close()

    async def retire(self) -> None:
        """Let the calls under way come to their end, and hang up then."""
        self._is_retired = True
        if not self._under_way:
            await self.close()

    async def close(self) -> None:
        """Hang up; calls under way end as `OutcomeUnknown`."""
        self._is_retired = True
        await self._channel.close()

    def _note(self, status: grpc.StatusCode, begun: float) -> None:
        """Leave the connection if a call that ``begun`` then has found it lost, or nothing was heard since.

        gRPC finds out a moment later than the call that a connection was cut, and only after many minutes
        that a host died in silence.
        """
        if status not in _UNKNOWN:
            self._heard_at = asyncio.get_running_loop().time()
        elif status is grpc.StatusCode.UNAVAILABLE or self._heard_at < begun:
            self._is_retired = True

    async def _fail_to_open(self) -> QueueUnavailable | None:
        """Connect. None: the connection stands."""
        while (state := self._channel.get_state(try_to_connect=True)) not in _SETTLED:
            await self._channel.wait_for_state_change(state)
        if state is grpc.ChannelConnectivity.READY:
            return None
        if state is grpc.ChannelConnectivity.SHUTDOWN:
            return Unreachable("the client was closed")
        greeting = await self._read_greeting() if self._is_plain else None
        if greeting == b"":
            return Unreachable(
                f"{self._target}: it hangs up on HTTP/2; Corndogs 0.7 and newer do so, use tcp://"
            )
        for beginning, words in _FOREIGN.items():
            if greeting is not None and greeting.startswith(beginning):
                return WrongService(f"{self._target}: {words}")
        return Unreachable(f"{self._target}: {await self._ask_why()}")

    async def _ask_why(self) -> str:
        """Return why there is no connection. gRPC tells it to a call alone; this one reads, and of nobody."""
        request = message_class("GetTaskStateByIDRequest")(uuid=NOBODY)
        try:
            await self._methods["GetTaskStateByID"](request)
        except grpc.aio.AioRpcError as error:
            return str(error.details())
        return "it could not be reached at first"

    async def _read_greeting(self) -> bytes | None:
        """Return how the server answers to HTTP/2, empty if by hanging up. None: it is not there."""
        host, _, port = self._target.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return None
        try:
            writer.write(_PREFACE)
            return await reader.read(4)
        except OSError:
            return b""
        finally:
            writer.transport.abort()


def tls_credentials(ca_file: Path | None) -> grpc.ChannelCredentials:
    """Return credentials that trust a file's certificates (PEM), or the system's.

    Raises:
        OSError: the file cannot be read.
    """
    if ca_file is not None:
        return grpc.ssl_channel_credentials(ca_file.read_bytes())
    # Without any, gRPC trusts a list of its own, which knows nothing of what an operator added here.
    system = ssl.create_default_context().get_ca_certs(binary_form=True)
    return grpc.ssl_channel_credentials("".join(map(ssl.DER_cert_to_PEM_cert, system)).encode() or None)


def _is_cancelled() -> bool:
    """Tell whether somebody cancelled this task: gRPC raises the same for a channel that was closed."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _failure(method: str, error: grpc.aio.AioRpcError) -> Exception:
    text = f"{method}: {error.code().name}: {error.details()}"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return UnknownOperation(text)
    return OutcomeUnknown(text) if error.code() in _UNKNOWN else CallRefused(text)
