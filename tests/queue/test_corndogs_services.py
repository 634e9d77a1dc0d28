"""Every Corndogs keeps the contract: ours, by each wire and shape, and a real one if it is named."""

import os
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from contracts.corndogs_service import CorndogsServiceContract
from fakes.corndogs_grpc import CorndogsGrpcServer
from fakes.corndogs_server import SPLIT, WHOLE, CorndogsServer
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.messages import CorndogsClient

REAL = os.environ.get("CORNDOGS_TEST_ADDR")


async def connected(address: str) -> AsyncIterator[CorndogsClient]:
    client = open_client([address], api_key=None, ca_file=None, call_timeout=timedelta(seconds=20))
    yield client
    await client.close()


class TestOurServer(CorndogsServiceContract):
    @pytest.fixture(params=[WHOLE, SPLIT])
    async def service(self, request: pytest.FixtureRequest) -> AsyncIterator[CorndogsClient]:
        async with CorndogsServer(shape=request.param) as server:
            async for client in connected(server.address):
                yield client


class TestOurGrpcServer(CorndogsServiceContract):
    @pytest.fixture
    async def service(self) -> AsyncIterator[CorndogsClient]:
        async with CorndogsGrpcServer() as server:
            async for client in connected(server.address):
                yield client


if REAL:

    class TestRealServer(CorndogsServiceContract):
        @pytest.fixture
        async def service(self) -> AsyncIterator[CorndogsClient]:
            async for client in connected(REAL or ""):
                yield client
else:

    def test_a_real_server_keeps_the_contract() -> None:
        pytest.skip("CORNDOGS_TEST_ADDR names no Corndogs to be tried")
