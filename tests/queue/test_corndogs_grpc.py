"""The client of Corndogs' gRPC wire."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from certificates import make_certificate
from fakes.corndogs_grpc import CorndogsGrpcServer
from fakes.corndogs_server import CorndogsServer
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.errors import (
    CallRefused,
    OutcomeUnknown,
    QueueUnavailable,
    UnknownOperation,
    Unreachable,
    WrongService,
)
from reactorcide.queue.corndogs.grpc_messages import message_class
from reactorcide.queue.corndogs.messages import CorndogsClient, NewTask

TASK = NewTask("ci", b"payload", "submitted", "working")


def client_of(
    *seeds: str, seconds: float = 5, ca_file: Path | None = None, api_key: str | None = None
) -> CorndogsClient:
    return open_client(seeds, api_key=api_key, ca_file=ca_file, call_timeout=timedelta(seconds=seconds))


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


async def test_a_server_killed_in_the_middle_of_a_call_leaves_its_outcome_unknown(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    await client.ping()
    server.is_silent = True
    calling = asyncio.create_task(client.submit_task(TASK))
    async with asyncio.timeout(10):
        while not server.calls["SubmitTask"]:
            await asyncio.sleep(0.01)

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


async def test_a_server_that_is_no_corndogs_is_told(
    server: CorndogsGrpcServer, client: CorndogsClient
) -> None:
    server.unknown = ("GetTaskStateByID",)

    with pytest.raises(WrongService) as told:
        await client.ping()

    assert "no Corndogs" in told.value.detail


async def test_a_server_of_the_other_wire_is_unreachable_by_this_one() -> None:
    async with CorndogsServer() as other:
        client = client_of(other.address.replace("tcp://", "grpc://"), seconds=1)
        with pytest.raises(QueueUnavailable):
            await client.ping()
        await client.close()


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_a_bare_address_is_found_to_speak_grpc(server: CorndogsGrpcServer, scheme: str) -> None:
    client = client_of(server.address.replace("grpc://", scheme))

    await client.submit_task(TASK)
    await client.close()

    assert len(server.store.live) == 1


async def test_the_key_is_passed_on(server: CorndogsGrpcServer) -> None:
    client = client_of(server.address, api_key="the key")
    await client.ping()
    await client.close()

    assert server.authorizations == {"Bearer the key"}


async def test_tls_is_spoken_to_who_has_a_certificate_of_ours(tmp_path: Path) -> None:
    paths = make_certificate(tmp_path, ["127.0.0.1"], 2)
    pair = (paths["tls_key_file"].read_bytes(), paths["tls_cert_file"].read_bytes())
    async with CorndogsGrpcServer(credentials=grpc.ssl_server_credentials([pair])) as server:
        trusting = client_of(server.address, ca_file=paths["tls_cert_file"])
        await trusting.submit_task(TASK)
        wary = client_of(server.address, seconds=2)
        with pytest.raises(Unreachable):
            await wary.ping()
        await trusting.close()
        await wary.close()

        assert len(server.store.live) == 1


async def test_a_closed_client_makes_no_more_calls(client: CorndogsClient) -> None:
    await client.ping()
    await client.close()

    with pytest.raises(Unreachable):
        await client.ping()
