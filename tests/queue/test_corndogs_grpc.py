"""The client of Corndogs' gRPC wire."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest

from fakes.corndogs_grpc import CorndogsGrpcServer
from fakes.fault_proxy import FaultProxy
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.errors import (
    CallRefused,
    OutcomeUnknown,
    UnknownOperation,
    Unreachable,
)
from reactorcide.queue.corndogs.grpc_messages import message_class
from reactorcide.queue.corndogs.messages import CorndogsClient, NewTask, TaskUpdate

TASK = NewTask("ci", b"payload", "submitted", "working")


def client_of(*seeds: str, seconds: float = 5, api_key: str | None = None) -> CorndogsClient:
    return open_client(seeds, api_key=api_key, ca_file=None, call_timeout=timedelta(seconds=seconds))


async def calls_come(server: CorndogsGrpcServer, method: str) -> None:
    """Wait until the server has been called."""
    async with asyncio.timeout(10):
        while not server.calls[method]:
            await asyncio.sleep(0.01)


@pytest.fixture
async def server() -> AsyncIterator[CorndogsGrpcServer]:
    async with CorndogsGrpcServer() as running:
        yield running


@pytest.fixture
async def client(server: CorndogsGrpcServer) -> AsyncIterator[CorndogsClient]:
    made = client_of(server.address)
    yield made
    await made.close()


def test_a_call_is_the_bytes_of_the_wire() -> None:
    request = message_class("SubmitTaskRequest")(
        queue="ci",
        current_state="submitted",
        auto_target_state="working",
        timeout=-1,
        payload=b"hi",
        priority=5,
    )

    assert request.SerializeToString().hex() == (
        "0a02636912097375626d69747465641a07776f726b696e6720ffffffffffffffffff012a0268693005"
    )


async def test_32_callers_at_once_claim_every_task_once(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    submitted = await asyncio.gather(*(client.submit_task(TASK) for _ in range(64)))

    deliveries = await asyncio.gather(*(client.claim_task(["ci"], "submitted") for _ in range(64)))

    assert {delivery.task.uuid for delivery in deliveries if delivery} == {task.uuid for task in submitted}
    assert {delivery.payload for delivery in deliveries if delivery} == {b"payload"}


async def test_a_server_killed_in_the_middle_of_a_call_leaves_its_outcome_unknown(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    await client.ping()
    server.is_silent = True
    calling = asyncio.create_task(client.submit_task(TASK))
    await calls_come(server, "SubmitTask")

    await server.stop()

    with pytest.raises(OutcomeUnknown):
        await calling


async def test_a_call_that_is_never_answered_ends_by_its_deadline(server: CorndogsGrpcServer) -> None:
    client = client_of(server.address, seconds=0.5)
    await client.ping()
    server.is_silent = True

    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)

    await client.close()


async def test_what_changes_something_is_never_sent_twice(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    server.lose_replies = {"SubmitTask": 1}

    with pytest.raises(OutcomeUnknown):
        await client.submit_task(TASK)

    assert server.calls["SubmitTask"] == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNKNOWN, CallRefused),
        (grpc.StatusCode.INTERNAL, CallRefused),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, CallRefused),
        (grpc.StatusCode.INVALID_ARGUMENT, CallRefused),
        (grpc.StatusCode.UNAVAILABLE, OutcomeUnknown),
        (grpc.StatusCode.DEADLINE_EXCEEDED, OutcomeUnknown),
        (grpc.StatusCode.UNIMPLEMENTED, UnknownOperation),
    ],
)
async def test_each_status_is_told_by_what_to_do_next(
    server: CorndogsGrpcServer, client: CorndogsClient, status: grpc.StatusCode, error: type[Exception]
) -> None:
    server.fail = {"SubmitTask": status}

    with pytest.raises(error):
        await client.submit_task(TASK)


async def test_a_read_is_made_again_when_its_connection_was_cut(server: CorndogsGrpcServer) -> None:
    async with FaultProxy(("127.0.0.1", server.port)) as network:
        client = client_of(f"grpc://127.0.0.1:{network.port}")
        task = await client.submit_task(TASK)
        server.delay_seconds = 0.5
        reading = asyncio.create_task(client.find_task(task.uuid, "ci"))
        await calls_come(server, "GetTaskStateByID")

        network.cut()

        assert await reading == task
        await client.close()


async def test_a_cancelled_caller_is_cancelled_and_disturbs_nobody(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    await client.ping()
    server.is_silent = True
    calling = asyncio.create_task(client.submit_task(TASK))
    await calls_come(server, "SubmitTask")

    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await calling
    server.is_silent = False
    await client.submit_task(TASK)


async def test_an_update_without_a_payload_keeps_it(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    task = await client.submit_task(TASK)

    await client.update_task(TaskUpdate(task.uuid, "ci", "submitted", "working", 0, 0))

    delivery = await client.claim_task(["ci"], "submitted")
    assert delivery is not None
    assert delivery.payload == b"payload"


async def test_what_would_do_harm_is_not_sent(server: CorndogsGrpcServer, client: CorndogsClient) -> None:
    for call in (
        client.complete_task("", "ci", "working"),
        client.cancel_task("a\0b", "ci", "working"),
        client.submit_task(NewTask("ci", b"x", priority=2**31)),
        client.claim_task([], "submitted"),
        client.update_task(TaskUpdate("u", "q", "a", "b", 0, 0, payload=b"")),
        client.sweep("", 1),
    ):
        with pytest.raises(ValueError, match=r"must|empty|fit"):
            await call

    assert not server.calls


async def test_the_key_is_passed_on(server: CorndogsGrpcServer) -> None:
    client = client_of(server.address, api_key="the key")
    await client.ping()
    await client.close()

    assert server.authorizations == {"Bearer the key"}


async def test_a_closed_client_makes_no_more_calls(client: CorndogsClient) -> None:
    await client.ping()
    await client.close()

    with pytest.raises(Unreachable):
        await client.ping()


async def test_calls_under_way_end_as_unknown_when_the_client_is_closed(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    await client.ping()
    server.is_silent = True
    calling = asyncio.create_task(client.submit_task(TASK))
    await calls_come(server, "SubmitTask")

    await client.close()

    with pytest.raises(OutcomeUnknown):
        await calling


_THREE_LOOPS = """
import asyncio, sys
from datetime import timedelta
from reactorcide.queue.corndogs.addresses import open_client

async def ask():
    client = open_client([sys.argv[1]], api_key=None, ca_file=None, call_timeout=timedelta(seconds=20))
    await client.ping()
    await client.close()

for _ in range(3):
    asyncio.run(ask())
"""


async def test_a_program_uses_it_in_one_loop_after_another_and_ends_without_a_word(
    server: CorndogsGrpcServer,
) -> None:
    command = [sys.executable, "-W", "error", "-c", _THREE_LOOPS, server.address]

    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)

    # asyncio tells of a busy machine there.
    told = [line for line in ended.stderr.splitlines() if " took " not in line]
    assert (ended.returncode, ended.stdout, told) == (0, "", [])
    assert server.calls["GetTaskStateByID"] == 3
