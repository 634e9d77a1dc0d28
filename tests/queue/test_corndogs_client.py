"""The client of Corndogs: one connection, many calls, and services that are down, moved, mute or others."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from certificates import make_certificate
from fakes.corndogs_server import SPLIT, WHOLE, CorndogsServer
from fakes.csil_bytes import Tagged, dump
from reactorcide.domain.errors import Misconfigured
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.client import Address, parse_address
from reactorcide.queue.corndogs.errors import (
    CallRefused,
    OutcomeUnknown,
    SpeaksGrpc,
    UnknownOperation,
    Unreachable,
    WrongService,
)
from reactorcide.queue.corndogs.messages import CorndogsClient, NewTask, Override, TaskUpdate

TASK = NewTask("ci", b"payload", "submitted", "working")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def client_of(
    *seeds: str, seconds: float = 5, ca_file: Path | None = None, api_key: str | None = None
) -> CorndogsClient:
    return open_client(seeds, api_key=api_key, ca_file=ca_file, call_timeout=timedelta(seconds=seconds))


@pytest.fixture
async def server() -> AsyncIterator[CorndogsServer]:
    async with CorndogsServer() as running:
        yield running


@pytest.fixture
async def client(server: CorndogsServer) -> AsyncIterator[CorndogsClient]:
    made = client_of(server.address)
    yield made
    await made.close()


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """Yield the address of a server that does with connections what it is told."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()
        await listening.wait_closed()


async def read_call(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def framed(envelope: bytes) -> bytes:
    return len(envelope).to_bytes(4, "big") + envelope


def pong(call_id: int) -> bytes:
    return framed(dump({"v": 1, "id": call_id, "status": 0, "payload": Tagged(24, b""), "variant": "$pong"}))


async def test_many_calls_at_once_share_one_connection(
    server: CorndogsServer, client: CorndogsClient
) -> None:
    server.faults.delay_seconds = 0.2
    begun = time.monotonic()

    tasks = await asyncio.gather(*(client.submit_task(TASK) for _ in range(50)))

    assert len({task.uuid for task in tasks}) == 50
    assert len(server._connections) == 1
    assert time.monotonic() - begun < 5


async def test_answers_out_of_order_find_their_calls() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await read_call(reader)
        for number in (2, 3, 1):
            counted = dump({"queue": str(number), "count": number, "state_counts": {}})
            answer = {"v": 1, "id": number, "status": 0, "payload": Tagged(24, counted), "variant": "x"}
            writer.write(framed(dump(answer)))
        await reader.read()

    async with raw_server(serve) as address:
        client = client_of(f"tcp://{address}")
        counts = await asyncio.gather(*(client.count_states("ci") for _ in range(3)))
        await client.close()

    assert [counted.count for counted in counts] == [1, 2, 3]


async def test_a_frame_may_come_in_pieces() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_call(reader)
        for byte in pong(1):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with raw_server(serve) as address:
        client = client_of(f"tcp://{address}")
        await client.ping()
        await client.close()


async def test_a_call_that_is_never_answered_ends_by_its_deadline(server: CorndogsServer) -> None:
    server.faults.is_silent = True
    client = client_of(server.address, seconds=0.3)

    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)
    took = time.monotonic() - begun
    server.faults.is_silent = False
    await client.ping()
    await client.close()

    assert 0.2 < took < 3


async def test_a_late_answer_disturbs_nobody(server: CorndogsServer) -> None:
    client = client_of(server.address, seconds=0.3)
    await client.ping()
    server.faults.delay_seconds = 0.5
    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)
    server.faults.delay_seconds = 0.0

    found = [await client.count_states("ci") for _ in range(5)]
    await client.close()

    assert {counted.queue for counted in found} == {"ci"}


async def test_a_cancelled_caller_disturbs_nobody(server: CorndogsServer, client: CorndogsClient) -> None:
    await client.ping()
    server.faults.delay_seconds = 0.3
    calls = [asyncio.create_task(client.submit_task(TASK)) for _ in range(4)]
    await asyncio.sleep(0)
    calls[1].cancel()

    ended = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(end).__name__ for end in ended] == ["Task", "CancelledError", "Task", "Task"]


async def test_a_cut_connection_tells_its_callers_and_the_next_call_connects_anew(
    server: CorndogsServer, client: CorndogsClient
) -> None:
    server.faults.lose_replies = {"SubmitTask": 1}
    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)

    await client.submit_task(TASK)

    assert server.store.count_states("ci") == {"submitted": 2}


async def test_a_read_is_made_again_when_its_connection_was_cut(
    server: CorndogsServer, client: CorndogsClient
) -> None:
    server.faults.lose_replies = {"GetTaskStateCounts": 1}

    counted = await client.count_states("ci")

    assert counted.count == 0
    assert server.calls["GetTaskStateCounts"] == 2


@pytest.mark.parametrize("operation", ["SubmitTask", "GetNextTask", "CompleteTask"])
async def test_what_changes_something_is_never_sent_twice(
    server: CorndogsServer, client: CorndogsClient, operation: str
) -> None:
    server.faults.lose_replies = {operation: 1}
    calls = {
        "SubmitTask": lambda: client.submit_task(TASK),
        "GetNextTask": lambda: client.claim_task(["ci"], "submitted"),
        "CompleteTask": lambda: client.complete_task("x", "ci", "working"),
    }

    with pytest.raises(OutcomeUnknown):
        await calls[operation]()

    assert server.calls[operation] == 1


async def test_an_answer_cut_in_its_middle_is_an_unknown_outcome(
    server: CorndogsServer, client: CorndogsClient
) -> None:
    server.faults.cut_frames = 1

    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)


async def test_a_service_that_is_down_is_unreachable_and_found_again(server: CorndogsServer) -> None:
    client = client_of(server.address)
    await client.ping()
    await server.stop()
    for _ in range(3):
        with pytest.raises((Unreachable, OutcomeUnknown)):
            await client.submit_task(TASK)

    await server.start()
    await client.submit_task(TASK)
    await client.close()

    assert len(server.store.live) == 1


async def test_a_closed_client_makes_no_more_calls(client: CorndogsClient) -> None:
    await client.ping()
    await client.close()

    with pytest.raises(Unreachable):
        await client.ping()


async def test_an_error_without_an_id_ends_every_call_under_way() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read_call(reader)
        error = {"v": 1, "status": 1, "error": "malformed envelope", "payload": Tagged(24, b"")}
        writer.write(framed(dump(error)))
        await reader.read()

    async with raw_server(serve) as address:
        client = client_of(f"tcp://{address}", seconds=20)
        begun = time.monotonic()
        ended = await asyncio.gather(*(client.submit_task(TASK) for _ in range(2)), return_exceptions=True)
        took = time.monotonic() - begun
        await client.close()

    assert [type(end) for end in ended] == [OutcomeUnknown, OutcomeUnknown]
    assert took < 10


async def test_a_call_that_the_service_fails_is_refused_with_its_words(
    server: CorndogsServer, client: CorndogsClient
) -> None:
    server.faults.refuse = {"SubmitTask": 1}

    with pytest.raises(CallRefused) as refused:
        await client.submit_task(TASK)

    assert "scripted failure" in refused.value.detail


async def test_the_next_seed_is_tried_when_the_first_is_down(server: CorndogsServer) -> None:
    async with CorndogsServer() as down:
        pass
    client = client_of(down.address, server.address)

    await client.submit_task(TASK)
    await client.close()

    assert len(server.store.live) == 1


@pytest.mark.parametrize("scheme", ["", "tcp://", "http://"])
async def test_a_member_that_does_not_lead_names_the_one_that_does(
    server: CorndogsServer, scheme: str
) -> None:
    async with CorndogsServer() as follower:
        follower.faults.leader = server.address.replace("tcp://", scheme)
        client = client_of(follower.address)
        await client.submit_task(TASK)
        await client.submit_task(TASK)
        await client.close()

    assert len(server.store.live) == 2
    assert follower.calls["SubmitTask"] == 1


async def test_a_service_without_a_leader_is_asked_again_until_it_has_one(server: CorndogsServer) -> None:
    async with CorndogsServer() as follower:
        follower.faults.leader = server.faults.leader = ""
        client = client_of(follower.address, server.address)
        submitting = asyncio.create_task(client.submit_task(TASK))
        async with asyncio.timeout(10):
            while server.calls["SubmitTask"] + follower.calls["SubmitTask"] < 2:
                await asyncio.sleep(0.01)
        server.faults.leader = None
        follower.faults.leader = server.address
        await submitting
        await client.close()

    assert len(server.store.live) == 1


async def test_members_that_name_each_other_are_given_up() -> None:
    async with CorndogsServer() as one, CorndogsServer() as other:
        one.faults.leader, other.faults.leader = other.address, one.address
        client = client_of(one.address)
        with pytest.raises(Unreachable):
            await client.submit_task(TASK)
        await client.close()

        assert one.calls["SubmitTask"] + other.calls["SubmitTask"] < 10


async def test_a_seed_that_is_mute_is_left_for_the_next(server: CorndogsServer) -> None:
    async with CorndogsServer() as mute:
        mute.faults.is_silent = True
        client = client_of(mute.address, server.address, seconds=0.3)
        with pytest.raises(OutcomeUnknown):
            await client.submit_task(TASK)

        await client.submit_task(TASK)
        await client.close()

    assert len(server.store.live) == 1


async def test_many_callers_of_a_dead_service_fail_together() -> None:
    async with CorndogsServer() as dead:
        pass
    client = client_of(dead.address)

    begun = time.monotonic()
    ended = await asyncio.gather(*(client.submit_task(TASK) for _ in range(32)), return_exceptions=True)
    took = time.monotonic() - begun
    await client.close()

    assert {type(end) for end in ended} == {Unreachable}
    assert took < 10


async def test_trouble_at_the_probe_of_payloads_is_not_taken_for_an_old_server(
    server: CorndogsServer, client: CorndogsClient
) -> None:
    task = await client.submit_task(TASK)
    server.faults.refuse = {"UpdateTask": 1}
    update = TaskUpdate(task.uuid, "ci", "submitted", "working", timeout=0, priority=3)
    with pytest.raises(CallRefused):
        await client.update_task(update)

    await client.update_task(update)
    delivery = await client.claim_task(["ci"], "submitted")

    assert delivery is not None
    assert delivery.payload == b"payload"


async def test_calls_on_a_member_that_is_left_come_to_their_end(server: CorndogsServer) -> None:
    async with CorndogsServer() as follower:
        client = client_of(follower.address)
        await client.ping()
        follower.faults.delay_seconds = 0.3
        reading = asyncio.create_task(client.count_states("ci"))
        await asyncio.sleep(0)
        follower.faults.leader = server.address
        await client.submit_task(TASK)

        assert (await reading).count == 0
        await client.close()


async def test_the_key_is_passed_on(server: CorndogsServer) -> None:
    client = client_of(server.address, api_key="the key")
    await client.submit_task(TASK)
    await client.close()

    assert server.auths == {"the key"}


@pytest.mark.parametrize("shape", [WHOLE, SPLIT])
async def test_an_update_without_a_payload_keeps_it_on_both_shapes(shape: str) -> None:
    async with CorndogsServer(shape=shape) as server:
        client = client_of(server.address)
        task = await client.submit_task(TASK)
        await client.update_task(TaskUpdate(task.uuid, "ci", "submitted", "working", timeout=0, priority=3))
        delivery = await client.claim_task(["ci"], "submitted")
        await client.close()

    assert delivery is not None
    assert (delivery.payload, delivery.task.priority) == (b"payload", 3)


async def test_a_service_without_group_claims_says_so(server: CorndogsServer, client: CorndogsClient) -> None:
    assert await client.has_groups()
    server.faults.unknown = ("GetNextTaskGroup",)
    await server.stop()
    await server.start()
    await client.count_states("ci")

    with pytest.raises(UnknownOperation):
        await client.claim_task(["a", "b"], "submitted")
    assert not await client.has_groups()


@pytest.mark.parametrize(
    ("greeting", "error", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", WrongService, "HTTP"),
        (bytes.fromhex("000012040000000000") + bytes(18), SpeaksGrpc, "grpc://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", WrongService, "tls://"),
        (b"SSH-2.0-OpenSSH_9\r\n", WrongService, "does not speak"),
        (b"\x00\x00\x00\x01\xa0", WrongService, "it sent"),
    ],
    ids=["http", "grpc", "tls", "ssh", "no envelope"],
)
async def test_what_is_no_corndogs_is_told_in_words(
    greeting: bytes, error: type[WrongService], words: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        await reader.read()

    async with raw_server(serve) as address:
        client = client_of(f"tcp://{address}")
        with pytest.raises(error) as told:
            await client.ping()
        await client.close()

    assert words in told.value.detail


async def test_a_bare_address_is_asked_what_it_speaks(server: CorndogsServer) -> None:
    client = client_of(server.address.replace("tcp://", "http://"))

    await client.submit_task(TASK)
    await client.close()

    assert server.calls["$ping"] == 1


async def test_tls_is_spoken_to_who_has_a_certificate_of_ours(tmp_path: Path) -> None:
    paths = make_certificate(tmp_path, ["127.0.0.1"], 2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths["tls_cert_file"], paths["tls_key_file"])
    server = CorndogsServer()
    await server.start(ssl=context)
    address = server.address.replace("tcp://", "tls://")
    trusting = client_of(address, ca_file=paths["tls_cert_file"])
    wary = client_of(address)
    try:
        await trusting.submit_task(TASK)
        with pytest.raises(Unreachable, match="queue"):
            await wary.ping()
    finally:
        await trusting.close()
        await wary.close()
        await server.stop()

    assert len(server.store.live) == 1


def test_a_file_without_certificates_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="CORNDOGS_CA_FILE"):
        client_of("tls://127.0.0.1:1", ca_file=tmp_path / "none.pem")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.complete_task("", "ci", "working"),
        lambda client: client.cancel_task("", "ci", "working"),
        lambda client: client.find_task("a\0b", "ci"),
        lambda client: client.submit_task(NewTask("", b"x")),
        lambda client: client.submit_task(NewTask("a\0", b"x")),
        lambda client: client.submit_task(NewTask("ci", b"x", priority=2**31)),
        lambda client: client.submit_task(NewTask("ci", b"x", timeout=8 * 10**9)),
        lambda client: client.claim_task([], "submitted"),
        lambda client: client.claim_task(["a", ""], "submitted"),
        lambda client: client.claim_task(["a"], "submitted", Override(timeout=8 * 10**9)),
        lambda client: client.update_task(TaskUpdate("u", "q", "a", "b", 0, 0, payload=b"")),
        lambda client: client.sweep("", 1),
    ],
)
async def test_what_would_do_harm_is_not_sent(
    server: CorndogsServer, client: CorndogsClient, call: Callable[[CorndogsClient], Awaitable[object]]
) -> None:
    with pytest.raises(ValueError, match=r"must|cannot|empty|fit"):
        await call(client)

    assert server.frames == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a", Address("a", 7)),
        ("a:1", Address("a", 1)),
        ("tcp://a:1", Address("a", 1)),
        ("http://a/", Address("a", 7)),
        ("[::1]", Address("::1", 7)),
        ("[::1]:2", Address("::1", 2)),
        ("", None),
        ("a:0", None),
        ("a:x", None),
        ("a:99999", None),
    ],
)
def test_addresses_are_read_with_and_without_scheme_and_port(text: str, address: Address | None) -> None:
    assert parse_address(text, default_port=7) == address
