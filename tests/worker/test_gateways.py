"""Both ways to a coordinator, held against the contract of the port."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from worker_fixtures import variables

from contracts.gateway_pace import LogPaceContract
from contracts.gateway_trees import TreesContract
from fixture_types import MakeUser
from reactorcide.config import load_settings
from reactorcide.domain.accounts import Principal, TokenKind
from reactorcide.wiring.api import serving
from reactorcide.wiring.core import Core, open_core
from reactorcide.wiring.worker import direct_gateway, remote_gateway
from reactorcide.worker.gateway.port import Gateway

# What goes on by itself is not to meddle, however slow the machine is.
PATIENT = {
    "REACTORCIDE_LEASE": "60",
    "REACTORCIDE_HEARTBEAT": "10",
    "REACTORCIDE_LOST_AFTER": "300",
    "REACTORCIDE_START_DEADLINE": "60",
    "REACTORCIDE_CANCEL_GRACE": "7",
    "REACTORCIDE_LOG_FLUSH": "5",
    "REACTORCIDE_PORT": "0",
    "REACTORCIDE_PUBLIC_URL": "https://ci.example.org",
}


@pytest.fixture
async def core(dsn: str, tmp_path: Path) -> AsyncIterator[Core]:
    settings = load_settings(variables(tmp_path, **PATIENT)).settings
    async with open_core(settings, dsn, objects_dir=tmp_path / "objects") as made:
        yield made


@dataclass
class DirectBench:
    """A worker in the coordinator's own process."""

    core: Core
    user: Principal
    postgres: str

    async def connect(self) -> Gateway:
        return direct_gateway(self.core)

    async def cut_off(self) -> None:
        name = sql.Identifier(str(conninfo_to_dict(self.core.dsn)["dbname"]))
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [name.as_string()[1:-1]],
            )


class TestDirectGateway(TreesContract, LogPaceContract):
    @pytest.fixture
    async def bench(self, core: Core, make_user: MakeUser, postgres: str) -> DirectBench:
        return DirectBench(core, await make_user(), postgres)


@dataclass
class HttpBench:
    """Workers on the other side of a socket, with one token."""

    core: Core
    user: Principal
    token: str
    serving: AsyncExitStack
    clients: AsyncExitStack = field(default_factory=AsyncExitStack)
    url: str = ""

    async def connect(self) -> Gateway:
        gateway = remote_gateway(self.core.settings, self.url, lambda: self.token)
        return await self.clients.enter_async_context(gateway)

    async def cut_off(self) -> None:
        await self.serving.aclose()


class TestHttpGateway(TreesContract, LogPaceContract):
    @pytest.fixture
    async def bench(self, core: Core, make_user: MakeUser) -> AsyncIterator[HttpBench]:
        # The fixture's token text is the token's id.
        token = (await make_user(kind=TokenKind.WORKER)).token_id
        async with AsyncExitStack() as server:
            made = HttpBench(core, await make_user(), token, server)
            made.url = await server.enter_async_context(serving(core, "127.0.0.1"))
            async with made.clients:
                yield made
