"""What listens where a Corndogs on the gRPC wire should: nobody, one with TLS, or somebody else."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from certificates import make_certificate
from fakes.corndogs_grpc import CorndogsGrpcServer
from fakes.corndogs_server import CorndogsServer
from fakes.fault_proxy import FaultProxy
from reactorcide.domain.errors import Misconfigured
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.errors import (
    OutcomeUnknown,
    Unreachable,
    WrongService,
)
from reactorcide.queue.corndogs.grpc_messages import SERVICE
from reactorcide.queue.corndogs.messages import CorndogsClient, NewTask

TASK = NewTask("ci", b"payload", "submitted", "working")


def client_of(*seeds: str, seconds: float = 5, ca_file: Path | None = None) -> CorndogsClient:
    return open_client(seeds, api_key=None, ca_file=ca_file, call_timeout=timedelta(seconds=seconds))


@contextlib.asynccontextmanager
async def greeter(greeting: bytes) -> AsyncIterator[str]:
    """Yield the address of a server that sends this to who says something, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
            writer.write(greeting)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"grpc://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A host to which one can connect, and which then says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.setblocking(False)
        yield listening


def address_of(listening: socket.socket) -> str:
    return f"grpc://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
async def server() -> AsyncIterator[CorndogsGrpcServer]:
    async with CorndogsGrpcServer() as running:
        yield running


async def test_a_server_that_is_down_is_unreachable_and_found_again(server: CorndogsGrpcServer) -> None:
    client = client_of(server.address)
    await server.stop()
    begun = time.monotonic()
    for _ in range(3):
        with pytest.raises(Unreachable):
            await client.submit_task(TASK)
    took = time.monotonic() - begun

    await server.start()
    await client.submit_task(TASK)
    await client.close()

    assert took < 4
    assert len(server.store.live) == 1


async def test_the_next_seed_is_tried_when_the_first_is_down(server: CorndogsGrpcServer) -> None:
    async with CorndogsGrpcServer() as down:
        pass
    client = client_of(down.address, server.address)

    await client.submit_task(TASK)
    await client.close()

    assert len(server.store.live) == 1


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "HTTP/1"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "grpcs://"),
        (b"SSH-2.0-OpenSSH_9\r\n", "SSH"),
    ],
    ids=["http", "tls", "ssh"],
)
async def test_what_speaks_no_grpc_is_told_in_words(greeting: bytes, words: str) -> None:
    async with greeter(greeting) as address:
        client = client_of(address)
        with pytest.raises(WrongService) as told:
            await client.ping()
        await client.close()

    assert words in told.value.detail


async def test_a_grpc_server_without_the_service_is_told() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    client = client_of(f"grpc://127.0.0.1:{port}")

    with pytest.raises(WrongService) as told:
        await client.ping()
    await client.close()
    await other.stop(0)

    assert "no Corndogs" in told.value.detail


async def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown() -> None:
    async def babble(request: bytes, context: object) -> bytes:
        return b"\xff\xff\xff"

    handlers = {"SubmitTask": grpc.unary_unary_rpc_method_handler(babble)}
    other = grpc.aio.server()
    other.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    client = client_of(f"grpc://127.0.0.1:{port}")

    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)
    await client.close()
    await other.stop(0)


async def test_a_server_of_the_other_wire_is_unreachable_by_this_one() -> None:
    async with CorndogsServer() as other:
        client = client_of(other.address.replace("tcp://", "grpc://"))
        with pytest.raises(Unreachable) as told:
            await client.ping()
        await client.close()

    assert "tcp://" in told.value.detail


async def test_many_callers_wait_for_a_mute_host_together_and_no_longer_than_one(
    mute: socket.socket,
) -> None:
    client = client_of(address_of(mute), seconds=1)
    begun = time.monotonic()

    answers = await asyncio.gather(*(client.submit_task(TASK) for _ in range(32)), return_exceptions=True)
    took = time.monotonic() - begun
    await client.close()

    assert {type(answer) for answer in answers} == {Unreachable}
    assert took < 10


async def test_a_host_that_dies_in_silence_is_left_for_the_next(server: CorndogsGrpcServer) -> None:
    async with CorndogsGrpcServer() as dying, FaultProxy(("127.0.0.1", dying.port)) as network:
        client = client_of(f"grpc://127.0.0.1:{network.port}", server.address, seconds=1)
        await client.ping()
        network.swallow()

        with pytest.raises(OutcomeUnknown):
            await client.submit_task(TASK)
        await client.submit_task(TASK)
        await client.close()

    assert not dying.store.live
    assert len(server.store.live) == 1


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_a_bare_address_is_found_to_speak_grpc(server: CorndogsGrpcServer, scheme: str) -> None:
    client = client_of(server.address.replace("grpc://", scheme))

    await client.submit_task(TASK)
    await client.close()

    assert len(server.store.live) == 1


async def test_tls_is_spoken_to_who_has_a_certificate_of_ours(tmp_path: Path) -> None:
    paths = make_certificate(tmp_path, ["127.0.0.1"], 2)
    pair = (paths["tls_key_file"].read_bytes(), paths["tls_cert_file"].read_bytes())
    async with CorndogsGrpcServer(credentials=grpc.ssl_server_credentials([pair])) as server:
        trusting = client_of(server.address, ca_file=paths["tls_cert_file"])
        await trusting.submit_task(TASK)
        wary = client_of(server.address)
        with pytest.raises(Unreachable):
            await wary.ping()
        await trusting.close()
        await wary.close()

        assert len(server.store.live) == 1


async def test_a_client_that_is_closed_while_it_connects_gives_up_at_once(mute: socket.socket) -> None:
    client = client_of(address_of(mute), seconds=60)
    calling = asyncio.create_task(client.submit_task(TASK))
    connected, _ = await asyncio.get_running_loop().sock_accept(mute)

    with connected:
        await client.close()

        async with asyncio.timeout(10):
            with pytest.raises(Unreachable):
                await calling


async def test_what_the_system_trusts_is_trusted_where_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_certificate(tmp_path, ["127.0.0.1"], 2)
    pair = (paths["tls_key_file"].read_bytes(), paths["tls_cert_file"].read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(paths["tls_cert_file"]))
    async with CorndogsGrpcServer(credentials=grpc.ssl_server_credentials([pair])) as server:
        client = client_of(server.address)

        await client.ping()
        await client.close()


async def test_a_proxy_that_the_environment_names_is_not_used(
    server: CorndogsGrpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    client = client_of(server.address)

    await client.ping()
    await client.close()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("reactorcide.queue.corndogs.grpc_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)

    with pytest.raises(Misconfigured, match=r"reactorcide\[corndogs-grpc\]"):
        client_of("grpc://127.0.0.1:1")
