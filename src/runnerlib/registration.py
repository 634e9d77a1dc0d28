"""Secrets that a running job registers: a Unix stream socket in a folder that only this job can reach.

A request is four bytes, big-endian: the length of what follows, at most 1 MiB of JSON,
``{"action": "register", "secrets": ["…", "…"]}`` or ``"secrets": "one"``. The answer is a line,
``{"status":"ok","registered":N}``, given when the masker holds them: whatever the job writes from then
on shows none. N counts those of the request that are masked; secrets under 6 bytes, or blank, are
not. Anything else is answered by ``ERROR: …``, and registers nothing of its request. Several requests
may follow each other on one connection.

One thread serves all connections and never waits for one of them. Whatever a job does here costs
bounded memory and leaves its output flowing.
"""

import os
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from runnerlib.executors.processes import wait_readable
from runnerlib.masking import Masker
from runnerlib.secret_forms import is_maskable

SOCKET_NAME = "secrets.sock"
LONGEST_REQUEST_BYTES = 1024 * 1024
MOST_SECRETS = 10_000
MOST_BYTES = 512 * 1024
"""Of all secrets that a job registers. With the worst of contents the masker takes about 100 MiB for them."""
MOST_CONNECTIONS = 16
REQUEST_SECONDS = 10.0
"""From the first byte of a request until its answer is taken."""
QUIET_SECONDS = 1.0
"""Who was quiet for so long makes room when others wait."""

_LENGTH_BYTES = 4
_READ_BYTES = 64 * 1024
_WAITING = 128
_PAUSE_SECONDS = 0.05
_END_SECONDS = 5.0
_LONGEST_PATH_BYTES = 107
"""What fits into the address of a Unix socket."""


class RequestRefused(Exception):
    """A request registers nothing; the text, a line without values, says why."""


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    action: Literal["register"]
    secrets: list[str] | str


class Registrar:
    """Answers requests of one job."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._taken: set[bytes] = set()
        self._bytes = 0

    def answer(self, body: bytes) -> bytes:
        """Do what a request asks for; return the answer, a line."""
        try:
            count = self._register(_secrets_in(body))
        except RequestRefused as error:
            return error_line(error)
        return b'{"status":"ok","registered":%d}\n' % count

    def _register(self, secrets: list[bytes]) -> int:
        masked = {secret for secret in secrets if is_maskable(secret)}
        new = masked - self._taken
        size = self._bytes + sum(map(len, new))
        if len(self._taken) + len(new) > MOST_SECRETS:
            raise RequestRefused(f"a job can register {MOST_SECRETS} secrets, not more")
        if size > MOST_BYTES:
            raise RequestRefused(f"all secrets of a job together can have {MOST_BYTES} bytes, not more")
        self._masker.add(new)
        self._taken |= new
        self._bytes = size
        return sum(secret in masked for secret in secrets)


def _secrets_in(body: bytes) -> list[bytes]:
    try:
        request = msgspec.json.decode(body, type=_Request)
    except (ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise RequestRefused(f"not a request to register secrets: {what}") from None
    secrets = [request.secrets] if isinstance(request.secrets, str) else request.secrets
    return [secret.encode() for secret in secrets]


def error_line(error: RequestRefused) -> bytes:
    """Return the answer to a request that is refused."""
    return f"ERROR: {error}\n".encode(errors="backslashreplace")


@dataclass
class _Client:
    """One connection: what came of a request, and what is still to be sent of an answer."""

    connection: socket.socket
    last_heard: float
    received: bytearray = field(default_factory=bytearray)
    answer: bytes = b""
    since: float | None = None
    """When the request that is being read or answered began."""
    is_refused: bool = False
    """Its answer is the last; what else it sends is thrown away, until it has read that."""

    def next_request(self) -> bytes | None:
        """Take the next request out of what was received; None: it is not whole yet.

        Raises:
            RequestRefused: it is too long, so where the next one begins is not known.
        """
        length = int.from_bytes(self.received[:_LENGTH_BYTES])
        if len(self.received) < _LENGTH_BYTES:
            return None
        if length > LONGEST_REQUEST_BYTES:
            raise RequestRefused(f"a request has at most {LONGEST_REQUEST_BYTES} bytes, not {length}")
        end = _LENGTH_BYTES + length
        if len(self.received) < end:
            return None
        body = bytes(self.received[_LENGTH_BYTES:end])
        del self.received[:end]
        return body


class SecretsChannel:
    """The socket of one attempt and the thread that serves it, from `open` to `close`.

    Args:
        folder: made here; it must be the attempt's own, and out of the reach of other jobs.
        owner: user and group id of the job, None: ours. Nobody else can reach the socket.
    """

    def __init__(self, folder: Path, masker: Masker, owner: tuple[int, int] | None) -> None:
        self._folder = folder
        self._owner = owner
        self._registrar = Registrar(masker)
        self._clients: dict[int, _Client] = {}
        self._ear: socket.socket | None = None
        self._folder_handle = -1
        self._wake = -1
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Make folder and socket, and begin to serve.

        Raises:
            OSError: they cannot be made.
        """
        self._folder.mkdir(mode=0o700)
        self._folder_handle = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        ear = self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # By this way, as the folder's own path may be too long for an address.
        path = f"/proc/self/fd/{self._folder_handle}/{SOCKET_NAME}"
        ear.bind(path)
        Path(path).chmod(0o600)
        ear.setblocking(False)
        ear.listen(_WAITING)
        if self._owner is not None:
            os.chown(path, *self._owner, follow_symlinks=False)
            os.chown(self._folder, *self._owner)
        self._thread = threading.Thread(target=self._serve, args=(ear,), name="secrets", daemon=True)
        self._thread.start()

    def path_for(self, seen_folder: str) -> str:
        """Return the socket's path for a job that sees the folder as ``seen_folder``.

        A job outside of any sandbox, whose path is too long for an address, gets one through us.
        """
        path = f"{seen_folder}/{SOCKET_NAME}"
        if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
            return path
        return f"/proc/{os.getpid()}/fd/{self._folder_handle}/{SOCKET_NAME}"

    def close(self) -> None:
        """End serving and take the socket away. Calling it again does nothing."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(_END_SECONDS)
            if self._thread.is_alive():
                return  # over a last large request; what it holds goes with this process
            self._thread = None
        for number in list(self._clients):
            self._drop(number)
        if self._ear is not None:
            self._ear.close()
            self._ear = None
            # The workspace goes soon, and this with it.
            with suppress(OSError):
                (self._folder / SOCKET_NAME).unlink()
        for descriptor in (self._wake, self._folder_handle):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake = self._folder_handle = -1

    def _serve(self, ear: socket.socket) -> None:
        while True:
            now = time.monotonic()
            self._drop_late(now)
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            if self._has_room(now):
                poll.register(ear, select.POLLIN)
            for number, client in self._clients.items():
                poll.register(number, select.POLLOUT if client.answer else select.POLLIN)
            ready = [number for number, _ in poll.poll(self._patience(now))]
            if self._wake in ready:
                return
            for number in ready:
                if number == ear.fileno():
                    self._accept(ear)
                elif number in self._clients:
                    self._attend(number)

    def _has_room(self, now: float) -> bool:
        return len(self._clients) < MOST_CONNECTIONS or now >= self._quietest().last_heard + QUIET_SECONDS

    def _quietest(self) -> _Client:
        return min(self._clients.values(), key=lambda client: client.last_heard)

    def _patience(self, now: float) -> float | None:
        """Return after how many milliseconds something is to be done although nothing came."""
        moments = [
            client.since + REQUEST_SECONDS for client in self._clients.values() if client.since is not None
        ]
        if not self._has_room(now):
            moments.append(self._quietest().last_heard + QUIET_SECONDS)
        return max(0.0, min(moments) - now) * 1000 + 1 if moments else None

    def _drop_late(self, now: float) -> None:
        for number, client in list(self._clients.items()):
            if client.since is not None and now >= client.since + REQUEST_SECONDS:
                self._dismiss(number, f"a request takes at most {REQUEST_SECONDS:g} seconds")

    def _accept(self, ear: socket.socket) -> None:
        try:
            connection, _ = ear.accept()
        except OSError:
            # It went away again, or we have no descriptor left: then others first.
            wait_readable([self._wake], _PAUSE_SECONDS)
            return
        if len(self._clients) >= MOST_CONNECTIONS:
            quietest = self._quietest().connection.fileno()
            self._dismiss(quietest, f"more than {MOST_CONNECTIONS} connections, and this one was quiet")
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection, time.monotonic())

    def _attend(self, number: int) -> None:
        client = self._clients[number]
        try:
            goes_on = self._send(client) if client.answer else self._receive(client)
        except BlockingIOError:
            return
        except OSError:
            goes_on = False
        if not goes_on:
            self._drop(number)

    def _receive(self, client: _Client) -> bool:
        """Read once, and answer what is whole by then. False: the connection has ended."""
        data = client.connection.recv(_READ_BYTES)
        if not data:
            if client.received:
                client.connection.send(error_line(RequestRefused("the request was not whole")))
            return False
        client.last_heard = time.monotonic()
        if client.since is None:
            client.since = client.last_heard
        if client.is_refused:
            return True
        client.received += data
        return self._answer(client)

    def _answer(self, client: _Client) -> bool:
        while not client.answer and not client.is_refused:
            try:
                body = client.next_request()
            except RequestRefused as error:
                client.received.clear()
                client.is_refused = True
                client.answer = error_line(error)
            else:
                if body is None:
                    client.since = client.since if client.received else None
                    return True
                client.answer = self._registrar.answer(body)
            self._send_some(client)
        return True

    def _send(self, client: _Client) -> bool:
        self._send_some(client)
        return self._answer(client)

    def _send_some(self, client: _Client) -> None:
        with suppress(BlockingIOError):
            client.answer = client.answer[client.connection.send(client.answer) :]
        if client.answer:
            return
        client.since = time.monotonic()
        if client.is_refused:
            # Whoever waits for the end sees it; whoever still sends is heard out, up to the deadline.
            client.connection.shutdown(socket.SHUT_WR)

    def _dismiss(self, number: int, why: str) -> None:
        with suppress(OSError):
            self._clients[number].connection.send(error_line(RequestRefused(why)))
        self._drop(number)

    def _drop(self, number: int) -> None:
        self._clients.pop(number).connection.close()
