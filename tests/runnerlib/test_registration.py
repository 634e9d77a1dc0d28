"""The registration socket by itself: protocol, hostile requests, bounds. LOG-11, S11, S12."""

import json
import random
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from attempt_runs import wait_until
from runnerlib import registration
from runnerlib.commands.secrets import register
from runnerlib.masking import Masker
from runnerlib.registration import (
    LONGEST_REQUEST_BYTES,
    MOST_BYTES,
    MOST_CONNECTIONS,
    MOST_SECRETS,
    SecretsChannel,
)

SECRET = "v3ry-s3cret-value"


@pytest.fixture
def masker() -> Masker:
    return Masker()


@pytest.fixture
def path(masker: Masker, tmp_path: Path) -> Iterator[str]:
    """The path of a socket that is served."""
    channel = SecretsChannel(tmp_path / "channel", masker, None)
    channel.open()
    yield channel.path_for(str(tmp_path / "channel"))
    channel.close()


class Client:
    """One connection, bytes in and lines out."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self._lines = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        return self._lines.readline()

    def ask(self, body: bytes) -> bytes:
        self.send(framed(body))
        return self.line()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


@pytest.fixture
def connect(path: str) -> Iterator[Callable[[], Client]]:
    with ExitStack() as stack:

        def make() -> Client:
            client = Client(path)
            stack.callback(client.close)
            return client

        yield make


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def request(secrets: object) -> bytes:
    return json.dumps({"action": "register", "secrets": secrets}).encode()


# --- what is asked for is done ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "count"),
    [
        (SECRET, 1),
        ([SECRET], 1),
        ([SECRET, "another-secret"], 2),
        ([SECRET, SECRET], 2),
        ([], 0),
        ("pässwörd \u2713", 1),
        ("with\0nul-and\nline", 1),
    ],
)
def test_a_request_is_answered_when_its_secrets_are_masked(
    connect: Callable[[], Client], masker: Masker, secrets: str | list[str], count: int
) -> None:
    answer = connect().ask(request(secrets))

    assert answer == b'{"status":"ok","registered":%d}\n' % count
    for secret in [secrets] if isinstance(secrets, str) else secrets:
        assert masker.mask(secret.encode()) == b"[REDACTED]"


def test_secrets_that_cannot_be_masked_are_taken_and_not_counted(
    connect: Callable[[], Client], masker: Masker
) -> None:
    answer = connect().ask(request(["short", "", "       ", SECRET]))

    assert answer == b'{"status":"ok","registered":1}\n'
    assert masker.mask(b"short        ") == b"short        "


def test_many_requests_are_served_on_one_connection_one_after_the_other_or_at_once(
    connect: Callable[[], Client],
) -> None:
    client = connect()

    first = [client.ask(request(f"secret-{number}")) for number in range(20)]
    client.send(b"".join(framed(request([f"secret-{number}", "x"])) for number in range(500)))
    at_once = [client.line() for _ in range(500)]

    assert set(first + at_once) == {b'{"status":"ok","registered":1}\n'}


def test_a_request_that_comes_byte_by_byte_is_served(connect: Callable[[], Client]) -> None:
    client = connect()

    for byte in framed(request(SECRET)):
        client.send(bytes([byte]))

    assert json.loads(client.line())["registered"] == 1


def test_a_client_that_says_it_has_nothing_more_still_gets_its_answer(connect: Callable[[], Client]) -> None:
    client = connect()

    client.send(framed(request(SECRET)))
    client.socket.shutdown(socket.SHUT_WR)

    assert json.loads(client.line())["registered"] == 1
    assert client.line() == b""


def test_a_request_of_the_longest_size_is_served(connect: Callable[[], Client], masker: Masker) -> None:
    body = request(["x" * 400_000])
    body += b" " * (LONGEST_REQUEST_BYTES - len(body))

    answer = connect().ask(body)

    assert json.loads(answer)["registered"] == 1
    assert masker.mask(b"x" * 400_000) == b"[REDACTED]"


# --- what is no request -----------------------------------------------------------------------------

NO_REQUESTS = [
    b"",
    b"null",
    b"[]",
    b'"secret"',
    b"{}",
    b"{",
    b"\0" * 40,
    b"\xff\xfe{}",
    b'{"action":"register"}',
    b'{"action":"register","secrets":null}',
    b'{"action":"register","secrets":1}',
    b'{"action":"register","secrets":{"a":"b"}}',
    b'{"action":"register","secrets":["fine-secret",1]}',
    b'{"action":"register","secrets":[["fine-secret"]]}',
    b'{"action":"register","secrets":"fine-secret","more":1}',
    b'{"action":"forget","secrets":"fine-secret"}',
    b'{"action":1,"secrets":"fine-secret"}',
    b'{"secrets":"fine-secret"}',
    b'{"action":"register","secrets":"fine-secret\xff"}',
    b'{"action":"register","secrets":"fine-secret\0"}',
    b'{"action":"register","secrets":"fine-secret\\ud800"}',
    b'{"action":"register","secrets":"fine-secret"}{"action":"register","secrets":"fine-secret"}',
    b'{"action":"register","secrets":"fine-secret","x\\ny":1}',
    b'{"action":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"action":"register","secrets":' + b"[" * 500_000,
    b'{"action":"register","secrets":' + b'{"a":' * 100_000,
]


@pytest.mark.parametrize("body", NO_REQUESTS, ids=range(len(NO_REQUESTS)))
def test_what_is_no_request_gets_an_error_and_registers_nothing(
    connect: Callable[[], Client], masker: Masker, body: bytes
) -> None:
    client = connect()

    answer = client.ask(body)

    assert answer.startswith(b"ERROR: ")
    assert answer.endswith(b"\n")
    assert masker.mask(b"fine-secret") == b"fine-secret"
    # The length was right, so the connection can go on.
    assert json.loads(client.ask(request(SECRET)))["registered"] == 1


@pytest.mark.parametrize(
    "data",
    [
        (LONGEST_REQUEST_BYTES + 1).to_bytes(4) + b"x" * 100_000,
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        request(SECRET),
    ],
    ids=["one-too-many", "largest", "http", "without-length"],
)
def test_a_request_that_is_too_long_is_refused_before_it_is_read(
    connect: Callable[[], Client], data: bytes
) -> None:
    client = connect()

    client.send(data)

    assert client.line().startswith(b"ERROR: a request has at most 1048576 bytes, not ")
    assert client.line() == b""
    assert json.loads(connect().ask(request(SECRET)))["registered"] == 1


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\x09", b"\0\0\0\x09{", framed(request(SECRET))[:-1]])
def test_a_request_that_is_not_whole_registers_nothing(
    connect: Callable[[], Client], masker: Masker, data: bytes
) -> None:
    client = connect()

    client.send(data)
    client.socket.shutdown(socket.SHUT_WR)

    assert client.line() == b"ERROR: the request was not whole\n"
    assert masker.mask(SECRET.encode()) == SECRET.encode()


def test_random_bytes_never_end_the_service(connect: Callable[[], Client]) -> None:
    randomness = random.Random(11)

    for _ in range(300):
        client = connect()
        noise = randomness.randbytes(randomness.randrange(200))
        client.send(framed(noise) if randomness.random() < 0.7 else noise)
        if randomness.random() < 0.5:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.line().startswith((b"ERROR: ", b""))
        client.close()

    assert json.loads(connect().ask(request(SECRET)))["registered"] == 1


# --- bounds -----------------------------------------------------------------------------------------


def test_clients_that_hang_do_not_hold_up_others(connect: Callable[[], Client]) -> None:
    began = time.monotonic()
    hanging = [connect() for _ in range(4 * MOST_CONNECTIONS)]
    for place, client in enumerate(hanging):
        client.send(framed(request(SECRET))[: place % 8])

    answer = connect().ask(request(SECRET))

    assert json.loads(answer)["registered"] == 1
    assert time.monotonic() - began < 15


def test_a_connection_that_is_not_quiet_is_not_given_up_for_others(connect: Callable[[], Client]) -> None:
    busy = connect()
    quiet = [connect() for _ in range(MOST_CONNECTIONS)]
    end = time.monotonic() + 2.5 * registration.QUIET_SECONDS

    answers = 0
    while time.monotonic() < end:
        answers += json.loads(busy.ask(request(SECRET)))["registered"]

    assert answers > 0
    assert b"connections" in quiet[0].line()


def test_a_request_that_trickles_is_given_up(
    connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "REQUEST_SECONDS", 0.3)
    client = connect()
    client.send(b"\0")
    data = iter(b"\0\xff\xff" + b" " * 10_000)

    def is_refused() -> bool:
        try:
            client.send(bytes([next(data)]))
        except OSError:
            return True
        return False

    wait_until(is_refused, 10)

    assert client.line() == b"ERROR: a request takes at most 0.3 seconds\n"


def test_answers_nobody_reads_hold_up_only_the_one_they_are_for(
    connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "REQUEST_SECONDS", 0.5)
    deaf = connect()
    deaf.socket.setblocking(False)
    flood = framed(b"")

    def is_full() -> bool:
        try:
            while True:
                deaf.socket.send(flood * 5_000)
        except BlockingIOError:
            return False
        except OSError:
            return True

    assert json.loads(connect().ask(request(SECRET)))["registered"] == 1
    wait_until(is_full, 15)
    assert json.loads(connect().ask(request(SECRET)))["registered"] == 1


def test_more_secrets_than_may_be_are_refused_and_what_was_there_stays(
    connect: Callable[[], Client], masker: Masker
) -> None:
    client = connect()
    many = [f"secret-{number:06}" for number in range(MOST_SECRETS)]

    assert json.loads(client.ask(request(many)))["registered"] == MOST_SECRETS
    refused = client.ask(request(["one-too-many", many[0]]))
    again = client.ask(request(many))

    assert refused == b"ERROR: a job can register %d secrets, not more\n" % MOST_SECRETS
    assert json.loads(again)["registered"] == MOST_SECRETS
    assert masker.mask(f"one-too-many {many[-1]}".encode()) == b"one-too-many [REDACTED]"


def test_more_bytes_of_secrets_than_may_be_are_refused(connect: Callable[[], Client], masker: Masker) -> None:
    client = connect()

    refused = client.ask(request(["x" * (MOST_BYTES // 2), "y" * (MOST_BYTES // 2 + 1)]))

    assert refused == b"ERROR: all secrets of a job together can have %d bytes, not more\n" % MOST_BYTES
    assert masker.mask(b"x" * MOST_BYTES) == b"x" * MOST_BYTES
    assert json.loads(client.ask(request(SECRET)))["registered"] == 1


# --- the socket itself ------------------------------------------------------------------------------


def test_only_its_user_can_reach_the_socket(path: str) -> None:
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_a_path_too_long_for_an_address_is_reached_another_way(masker: Masker, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 100] * 5)
    deep.mkdir(parents=True)
    channel = SecretsChannel(deep / "channel", masker, None)

    channel.open()
    path = channel.path_for(str(deep / "channel"))
    count = register(path, [SECRET])
    channel.close()

    assert len(path) <= 107
    assert count == 1
    assert masker.mask(SECRET.encode()) == b"[REDACTED]"


def test_after_the_end_the_socket_and_its_thread_are_gone(masker: Masker, tmp_path: Path) -> None:
    before = _open_descriptors()
    channel = SecretsChannel(tmp_path / "channel", masker, None)
    channel.open()
    path = channel.path_for(str(tmp_path / "channel"))
    client = Client(path)
    answer = client.ask(request(SECRET))

    channel.close()
    channel.close()

    assert answer.startswith(b"{")
    assert client.line() == b""
    client.close()
    assert not Path(path).exists()
    assert _open_descriptors() == before
    with pytest.raises(FileNotFoundError):
        Client(path)


def test_a_channel_that_cannot_be_made_leaves_nothing_open(masker: Masker, tmp_path: Path) -> None:
    before = _open_descriptors()
    channel = SecretsChannel(tmp_path / "none" / "channel", masker, None)

    with pytest.raises(FileNotFoundError):
        channel.open()
    channel.close()

    assert _open_descriptors() == before
