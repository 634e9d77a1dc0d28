"""The fault proxy does what the tests of faults take for granted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fakes.fault_proxy import Direction, FaultProxy

PATIENCE_SECONDS = 10.0
SILENCE_SECONDS = 0.2
"""What has not come over loopback by then is not on its way."""


class Echo:
    """A server that answers each line with itself, and keeps what it heard."""

    def __init__(self) -> None:
        self.heard = b""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard += line
                writer.write(line)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    """A proxy before the echo server."""
    server = await asyncio.start_unix_server(echo.talk, str(tmp_path / "echo"))
    async with server, FaultProxy(tmp_path / "echo") as made:
        yield made


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, proxy: FaultProxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    def say(self, line: bytes) -> None:
        self.writer.write(line + b"\n")

    async def hear(self) -> bytes:
        """The next line, or what came before the end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self.reader.readline()).rstrip(b"\n")

    async def ask(self, line: bytes) -> bytes:
        self.say(line)
        return await self.hear()

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.reader.readline()
        except TimeoutError:
            return True
        return False


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect(proxy: FaultProxy) -> AsyncIterator[Connect]:
    """Make connections through the proxy; they are closed after the test."""
    made: list[Client] = []

    async def to_proxy() -> Client:
        made.append(await Client.connect(proxy))
        return made[-1]

    yield to_proxy
    for client in made:
        client.writer.close()


@pytest.fixture
async def client(connect: Connect) -> Client:
    """One connection through the proxy."""
    return await connect()


async def test_bytes_pass_both_ways(client: Client) -> None:
    assert await client.ask(b"hello") == b"hello"


async def test_a_cut_closes_what_is_open_and_lets_new_ones_pass(
    proxy: FaultProxy, connect: Connect, client: Client
) -> None:
    await client.ask(b"one")

    proxy.cut()

    assert await client.hear() == b""
    assert await (await connect()).ask(b"two") == b"two"


async def test_a_reset_hits_open_and_new_connections_until_healed(
    proxy: FaultProxy, connect: Connect, client: Client
) -> None:
    await client.ask(b"one")

    proxy.reset()

    with pytest.raises(ConnectionResetError):
        await client.hear()
    with pytest.raises(ConnectionResetError):
        await (await connect()).ask(b"two")
    await proxy.heal()
    assert await (await connect()).ask(b"three") == b"three"


async def test_refused_until_healed_on_the_same_port(
    proxy: FaultProxy, connect: Connect, client: Client
) -> None:
    await client.ask(b"one")

    proxy.refuse()

    assert await client.hear() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect()
    await proxy.heal()
    assert await (await connect()).ask(b"two") == b"two"


async def test_held_bytes_arrive_after_healing(
    proxy: FaultProxy, connect: Connect, client: Client, echo: Echo
) -> None:
    await client.ask(b"one")

    proxy.hold()
    client.say(b"late")
    newcomer = await connect()
    newcomer.say(b"later")

    assert await client.hears_nothing()
    assert echo.heard == b"one\n"
    await proxy.heal()
    assert await client.hear() == b"late"
    assert await newcomer.hear() == b"later"


async def test_a_black_hole_swallows_and_its_victims_are_cut_when_healed(
    proxy: FaultProxy, client: Client, echo: Echo
) -> None:
    await client.ask(b"one")

    proxy.swallow()
    client.say(b"gone")

    assert await client.hears_nothing()
    await proxy.heal()
    assert await client.hear() == b""
    assert echo.heard == b"one\n"


async def test_one_way_loses_the_answers_only(proxy: FaultProxy, client: Client, echo: Echo) -> None:
    await client.ask(b"one")

    proxy.swallow(Direction.TO_CLIENT)
    client.say(b"two")

    assert await client.hears_nothing()
    assert echo.heard == b"one\ntwo\n"


async def test_cut_after_so_many_bytes_of_a_connection(
    proxy: FaultProxy, connect: Connect, client: Client, echo: Echo
) -> None:
    proxy.cut_after(Direction.TO_CLIENT, 6)

    client.say(b"12345678")

    assert await client.hear() == b"123456"
    assert echo.heard == b"12345678\n"
    assert await (await connect()).ask(b"12345678") == b"12345678"


@pytest.mark.parametrize(("is_let_through", "heard"), [(True, b"to COMMIT"), (False, b"to ")])
async def test_cut_at_a_pattern_before_or_after_it(
    proxy: FaultProxy, client: Client, is_let_through: bool, heard: bytes
) -> None:
    proxy.cut_after(Direction.TO_CLIENT, b"COMMIT", is_let_through=is_let_through)

    client.say(b"to COMMIT or not")

    assert await client.hear() == heard


async def test_a_pattern_is_found_over_packets_and_each_time(
    proxy: FaultProxy, connect: Connect, echo: Echo
) -> None:
    proxy.cut_after(Direction.TO_SERVER, b"a\nb", times=None)

    for _ in range(2):
        client = await connect()
        assert await client.ask(b"a") == b"a"
        client.say(b"b and more")
        assert await client.hear() in (b"b", b"")

    assert echo.heard == b"a\nb" * 2


async def test_a_delay_is_told_in_seconds(proxy: FaultProxy, client: Client) -> None:
    proxy.delay_seconds = 0.1
    loop = asyncio.get_running_loop()
    began = loop.time()

    await client.ask(b"slow")

    assert loop.time() - began >= 0.2


async def test_stopping_ends_every_connection(proxy: FaultProxy, client: Client) -> None:
    await client.ask(b"one")
    assert proxy.connections == 1

    await proxy.stop()

    assert await client.hear() == b""
    assert proxy.connections == 0
