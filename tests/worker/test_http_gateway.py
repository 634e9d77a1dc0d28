"""The gateway over HTTP: what it makes of answers, certificates and tokens."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from worker_fixtures import Coordinator, settings, until

from certificates import make_certificate
from fixture_types import MakeUser
from job_desk import outcome
from reactorcide.config import Settings
from reactorcide.domain.accounts import TokenKind
from reactorcide.domain.errors import (
    ClaimLost,
    Forbidden,
    InvalidInput,
    LogMismatch,
    Misconfigured,
    NotFound,
    OffsetGap,
    ReactorcideError,
    Superseded,
    Unavailable,
)
from reactorcide.domain.jobs import AttemptLimits, Claim, LogPiece
from reactorcide.domain.reasons import Reason
from reactorcide.domain.workers import WorkerIdentity, WorkerReport
from reactorcide.protocol import MAX_LOG_DATA_BYTES, MAX_LOG_PIECES
from reactorcide.wiring.api import serving
from reactorcide.wiring.core import Core, maintaining, open_core
from reactorcide.wiring.worker import make_worker, remote_gateway, working
from reactorcide.worker.gateway import http
from reactorcide.worker.gateway.http import HttpGateway
from reactorcide.worker.gateway.log_parts import split_append

__all__ = ["settings"]

CLAIM = Claim(str(uuid.uuid4()), 1, str(uuid.uuid4()), str(uuid.uuid4()))
IDENTITY = WorkerIdentity("far", str(uuid.uuid4()), ("reactorcide-jobs",), 2, "1", "bubblewrap")
REGISTERED = (
    b'{"protocol":1,"registration":{"worker_id":"w","lease_seconds":60,"heartbeat_seconds":10,'
    b'"lost_after_seconds":300,"cancel_grace_seconds":10,"a_later_field":1}}'
)


@dataclass
class Impostor:
    """Answers HTTP requests as told; what it was asked is kept."""

    url: str = ""
    answers: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def says(self, status: int, body: bytes = b"", **headers: str) -> None:
        head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self.answers.append("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                self.bodies.append(await reader.readexactly(length))
                self.asked.append(head)
                if not self.answers:
                    await asyncio.sleep(3600)
                answer = self.answers.pop(0)
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def impostor() -> AsyncIterator[Impostor]:
    made = Impostor()
    tasks: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(made.serve(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def gateway_to(
    url: str, *, token: Callable[[], str | None] = lambda: "secret-token", ca_file: Path | None = None
) -> AsyncIterator[HttpGateway]:
    gateway = HttpGateway(url, token, slots=2, ca_file=ca_file)
    try:
        yield gateway
    finally:
        await gateway.close()


def problem(cause: str, **more: object) -> bytes:
    told = {"message": "so it is", "cause": cause} | more
    return str(told).replace("'", '"').encode()


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (409, problem("claim_lost"), ClaimLost),
        (409, problem("log_mismatch"), LogMismatch),
        (409, problem("superseded"), Superseded),
        (416, problem("offset_gap", length=7), OffsetGap),
        (404, problem("worker_unknown"), NotFound),
        (400, b'{"errors":[{"pointer":"/outcome","detail":"no"}]}', InvalidInput),
        (413, b"", InvalidInput),
        (404, b"<html>", Unavailable),
        (409, b"{}", Unavailable),
        (416, problem("offset_gap"), Unavailable),
        (401, b"{}", Unavailable),
        (403, b"{}", Unavailable),
        (408, b"", Unavailable),
        (429, b"", Unavailable),
        (500, b"", Unavailable),
        (502, b"<html>", Unavailable),
        (503, b"", Unavailable),
        (200, b"<html>", Unavailable),
        (200, b"{}", Unavailable),
    ],
)
async def test_each_answer_has_one_meaning(
    impostor: Impostor, status: int, body: bytes, meant: type[ReactorcideError]
) -> None:
    impostor.says(status, body)

    async with gateway_to(impostor.url) as gateway:
        with pytest.raises(meant) as raised:
            await gateway.append_log(CLAIM, 0, b"x", [LogPiece(1, "o", 1)])

    assert type(raised.value) is meant
    assert len(impostor.asked) == 1, "a gateway tries nothing again"
    if isinstance(raised.value, OffsetGap):
        assert raised.value.length == 7


@pytest.mark.parametrize(("spoken", "is_told"), [(1, False), (2, True)])
async def test_a_coordinator_is_told_only_what_its_protocol_has_words_for(
    impostor: Impostor, spoken: int, is_told: bool
) -> None:
    impostor.says(200, b'{"turn":1}')
    impostor.says(200, REGISTERED.replace(b'"protocol":1', b'"protocol":%d' % spoken))
    impostor.says(204)
    told = replace(
        outcome(), image_digest=f"sha256:{'ab' * 32}", limits=AttemptLimits(60, "none", memory_mb=512)
    )

    async with gateway_to(impostor.url) as gateway:
        await gateway.register(IDENTITY, [])
        await gateway.finish(CLAIM, told)

    sent = json.loads(impostor.bodies[-1])["outcome"]
    assert ("image_digest" in sent, "limits" in sent) == (is_told, is_told)


async def test_a_redirect_is_not_followed_with_the_token(impostor: Impostor) -> None:
    impostor.says(307, Location=f"{impostor.url}/elsewhere")

    async with gateway_to(impostor.url) as gateway:
        with pytest.raises(Misconfigured, match="redirects to"):
            await gateway.register(IDENTITY, [])

    assert len(impostor.asked) == 1
    assert b"Bearer secret-token" in impostor.asked[0]


@pytest.mark.parametrize(
    ("status", "body", "meant", "words"),
    [
        (401, b"{}", Misconfigured, "tokens create NAME --kind worker"),
        (403, b'{"message":"the name is taken"}', Forbidden, "the name is taken"),
        (400, b'{"message":"bring the older of the two up to date"}', Misconfigured, "bring the older"),
        (404, b"", Misconfigured, "COORDINATOR_URL"),
        (200, b"<html>", Misconfigured, "no coordinator"),
    ],
)
async def test_a_first_registration_in_vain_says_what_to_mend(
    impostor: Impostor, status: int, body: bytes, meant: type[Exception], words: str
) -> None:
    impostor.says(status, body)

    async with gateway_to(impostor.url) as gateway:
        with pytest.raises(meant, match=words):
            await gateway.register(IDENTITY, [])


async def test_a_worker_without_a_token_asks_nobody(impostor: Impostor) -> None:
    gateway = HttpGateway(impostor.url, lambda: "", slots=1)

    with pytest.raises(Misconfigured, match="there is no token"):
        await gateway.register(IDENTITY, [])
    await gateway.close()

    assert impostor.asked == []


async def test_a_token_that_is_refused_later_stops_nothing(impostor: Impostor) -> None:
    impostor.says(200, b'{"turn":7}')
    impostor.says(200, REGISTERED)
    impostor.says(401, b"{}")
    impostor.says(401, b"{}")
    impostor.says(200, b'{"orders":[]}')

    async with gateway_to(impostor.url) as gateway:
        await gateway.register(IDENTITY, [])
        with pytest.raises(Unavailable):
            await gateway.heartbeat("w", [], WorkerReport())
        with pytest.raises(Unavailable):
            await gateway.register(IDENTITY, [])

        assert await gateway.heartbeat("w", [], WorkerReport()) == []


async def test_a_call_without_an_answer_is_over_in_time(
    impostor: Impostor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", 0.3)

    async with gateway_to(impostor.url) as gateway, asyncio.timeout(10):
        for call in (
            gateway.start(CLAIM),
            gateway.wait_for_orders("w", timedelta(seconds=0.1)),
            gateway.claim("w", 1, timedelta(seconds=0.1)),
            gateway.append_log(CLAIM, 0, b"", []),
        ):
            with pytest.raises(Unavailable):
                await call


async def test_an_answer_that_breaks_off_is_unavailable(impostor: Impostor) -> None:
    impostor.answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{")

    async with gateway_to(impostor.url) as gateway:
        with pytest.raises(Unavailable):
            await gateway.start(CLAIM)


async def test_a_token_that_was_replaced_is_taken_up_without_a_loss(
    dsn: str, settings: Settings, tmp_path: Path, make_user: MakeUser
) -> None:
    async with _coordinator(settings, dsn, tmp_path) as (core, url):
        first = await make_user(kind=TokenKind.WORKER)
        second = str(uuid.uuid4())
        tokens = [first.token_id]
        async with gateway_to(url, token=lambda: tokens[-1]) as gateway:
            registration = await gateway.register(IDENTITY, [])
            async with core.database.transaction() as tx:
                await tx.execute(
                    "INSERT INTO api_tokens (token_id, user_id, token_hash, name, kind)"
                    " VALUES (%s, %s, sha256(%s), 'second', 'worker')",
                    [second, first.user_id, second.encode()],
                )
                await tx.execute(
                    "UPDATE api_tokens SET is_active = false WHERE token_id = %s", [first.token_id]
                )
            with pytest.raises(Unavailable):
                await gateway.heartbeat(registration.worker_id, [], WorkerReport())

            tokens.append(second)

            assert await gateway.heartbeat(registration.worker_id, [], WorkerReport()) == []
            assert await gateway.claim(registration.worker_id, 1, timedelta()) == []


@pytest.mark.parametrize(
    ("names", "days", "words"),
    [
        (["ci.example.org"], 2, "(?i)mismatch"),
        (["127.0.0.1"], -1, "expired"),
    ],
)
async def test_net_06_a_wrong_certificate_is_refused_in_words(
    dsn: str, settings: Settings, tmp_path: Path, names: list[str], days: int, words: str
) -> None:
    tls = make_certificate(tmp_path, names, days)
    async with (
        _coordinator(replace(settings, **tls), dsn, tmp_path) as (_, url),
        gateway_to(url, ca_file=tls["tls_cert_file"]) as gateway,
    ):
        with pytest.raises(Misconfigured, match=words):
            await gateway.register(IDENTITY, [])


async def test_net_06_a_private_certificate_is_trusted_only_when_named(
    dsn: str, settings: Settings, tmp_path: Path, make_user: MakeUser
) -> None:
    token = (await make_user(kind=TokenKind.WORKER)).token_id
    tls = make_certificate(tmp_path, ["127.0.0.1"], 2)
    async with _coordinator(replace(settings, **tls), dsn, tmp_path) as (_, url):
        assert url.startswith("https://")
        async with gateway_to(url, token=lambda: token) as gateway:
            with pytest.raises(Misconfigured, match="COORDINATOR_CA_FILE"):
                await gateway.register(IDENTITY, [])

        async with gateway_to(url, token=lambda: token, ca_file=tls["tls_cert_file"]) as gateway:
            assert (await gateway.register(IDENTITY, [])).worker_id


async def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    for path in (tmp_path / "ca.pem", tmp_path / "none.pem"):
        with pytest.raises(Misconfigured, match=path.name):
            HttpGateway("https://ci.example.org", lambda: "t", slots=1, ca_file=path)


async def test_a_certificate_without_its_key_is_told_at_the_start(
    dsn: str, settings: Settings, tmp_path: Path
) -> None:
    tls = make_certificate(tmp_path, ["127.0.0.1"], 2)
    (tmp_path / "key.pem").write_text("")

    with pytest.raises(Misconfigured, match="no certificate with its key"):
        async with _coordinator(replace(settings, **tls), dsn, tmp_path):
            pass


async def test_an_append_is_cut_so_that_no_call_is_too_large() -> None:
    data = bytes(3 * MAX_LOG_DATA_BYTES + 5)
    pieces = [LogPiece(1, "o", 1)] * (MAX_LOG_PIECES + 1) + [LogPiece(2, "e", len(data) - MAX_LOG_PIECES - 1)]

    parts = list(split_append(10, data, pieces))

    assert b"".join(part.data for part in parts) == data
    assert [part.offset for part in parts] == [
        10 + sum(len(part.data) for part in parts[:number]) for number in range(len(parts))
    ]
    for part in parts:
        assert 0 < len(part.data) <= MAX_LOG_DATA_BYTES
        assert 0 < len(part.pieces) <= MAX_LOG_PIECES
        assert sum(piece.length for piece in part.pieces) == len(part.data)
    streams = [(piece.stream, piece.length) for part in parts for piece in part.pieces]
    assert sum(length for stream, length in streams if stream == "o") == MAX_LOG_PIECES + 1


@asynccontextmanager
async def _coordinator(settings: Settings, dsn: str, tmp_path: Path) -> AsyncIterator[tuple[Core, str]]:
    settings = replace(settings, port=0)
    async with (
        open_core(settings, dsn, objects_dir=tmp_path / "objects") as core,
        serving(core, "127.0.0.1") as url,
    ):
        yield core, url


async def test_net_01_a_remote_worker_runs_a_job_through_an_outage_of_its_coordinator(
    dsn: str, settings: Settings, tmp_path: Path, make_user: MakeUser
) -> None:
    token = (await make_user(kind=TokenKind.WORKER)).token_id
    settings = replace(settings, port=0, lease=timedelta(seconds=30), lost_after=timedelta(seconds=60))
    go_on = tmp_path / "go-on"
    async with open_core(settings, dsn, objects_dir=tmp_path / "objects") as core, maintaining(core):
        user = Coordinator(core, await make_user(), tmp_path)
        async with AsyncExitStack() as far:
            async with serving(core, "127.0.0.1") as url:
                gateway = await far.enter_async_context(remote_gateway(settings, url, lambda: token))
                worker = make_worker(gateway, replace(settings, unsandboxed=True), os.environ, "none", url)
                await far.enter_async_context(working(worker))
                job_id = await user.submit(
                    f"echo before; while [ ! -e {go_on} ]; do sleep 0.1; done; echo after; exit 7"
                )
                await user.printed(job_id, b"before\n")
            go_on.touch()
            await until(lambda: _spooled(tmp_path, b"after\n"))
            same_port = replace(settings, port=int(url.rpartition(":")[2]))
            async with serving(replace(core, settings=same_port), "127.0.0.1"):
                job = await user.ended(job_id)
                await user.printed(job_id, b"after\n")

    assert (job.reason, job.exit_code, job.runs) == (Reason.EXIT_NONZERO, 7, 1)


def _spooled(folder: Path, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in (folder / "spool").rglob("log") if path.is_file())


def test_a_remote_worker_loads_neither_database_nor_server() -> None:
    command = (
        "import sys, reactorcide.cli.worker, reactorcide.cli.service, reactorcide.wiring.worker,"
        " reactorcide.worker.gateway.http\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )

    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)

    assert "httpx2" in loaded.stdout.split()
    heavy = {"psycopg", "fastapi", "starlette", "pydantic", "uvicorn", "cryptography"}
    assert heavy.isdisjoint(loaded.stdout.split())
