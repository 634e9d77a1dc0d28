"""A TCP proxy that does to connections what bad networks do, told to while it runs.

It lives in the event loop of the test. `heal` takes back every fault; until the next one it carries
bytes as they come. A fault hits the connections there are as well as those to come.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

CHUNK_BYTES = 65_536


class Direction(StrEnum):
    """Which way bytes go: to the server behind the proxy, or back to the client."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


class Flow(StrEnum):
    """What becomes of the bytes that come: carried, held back until healed, or swallowed."""

    CARRIED = "carried"
    HELD = "held"
    SWALLOWED = "swallowed"


@dataclass
class Cut:
    """Cuts a connection when bytes have gone one way: after a number of them, or at a pattern.

    ``after`` counts the bytes from the connection's beginning. A pattern is found over the borders of
    packets too, and goes through itself only if ``is_let_through``. ``times`` is how often it still
    happens; None: always.
    """

    direction: Direction
    after: int | bytes
    times: int | None = 1
    is_let_through: bool = True

    def place(self, seen: int, tail: bytes, chunk: bytes) -> int | None:
        """Return how many bytes of ``chunk`` still pass before the cut; None: no cut in it."""
        if self.times == 0:
            return None
        if isinstance(self.after, int):
            return max(self.after - seen, 0) if seen + len(chunk) >= self.after else None
        tail = tail[-(len(self.after) - 1) :] if len(self.after) > 1 else b""
        found = (tail + chunk).find(self.after)
        if found < 0:
            return None
        end = found + (len(self.after) if self.is_let_through else 0)
        return max(end - len(tail), 0)


class FaultProxy:
    """Stands between clients, who connect to ``port`` on loopback, and one server.

    Args:
        target: host and port of the server, or the path of its Unix socket.
        port: where to listen; 0: any free port, the same one for this object's life.
    """

    def __init__(self, target: tuple[str, int] | Path, port: int = 0) -> None:
        self.target = target
        self.port = port
        self.accepted = 0
        self.delay_seconds = 0.0
        """How long every packet waits on its way, in both directions."""
        self._flow = dict.fromkeys(Direction, Flow.CARRIED)
        self._is_resetting = False
        self._cuts: list[Cut] = []
        self._links: set[_Link] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and cut what is open."""
        self.refuse()
        await asyncio.gather(*(link.ended.wait() for link in [*self._links]))

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    async def heal(self) -> None:
        """Take back every fault. What was held goes on its way; who lost bytes to a hole is cut."""
        self._flow = dict.fromkeys(Direction, Flow.CARRIED)
        self._cuts, self._is_resetting, self.delay_seconds = [], False, 0.0
        self._announce()
        self._close_links(lambda link: link.has_lost_bytes)
        if self._server is None:
            await self.start()

    def cut(self) -> None:
        """Close every open connection; new ones pass."""
        self._close_links(lambda _: True)

    def reset(self) -> None:
        """Reset every open connection and, until healed, each new one as it comes."""
        self._is_resetting = True
        for link in [*self._links]:
            link.close(is_reset=True)

    def refuse(self) -> None:
        """Close every open connection and, until healed, take no new one."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def hold(self, *directions: Direction) -> None:
        """Hold back all bytes, or those of some directions, as a network does that comes back later."""
        self._set_flow(Flow.HELD, directions)

    def swallow(self, *directions: Direction) -> None:
        """Be a black hole for all bytes, or those of some directions: connections open, nothing comes."""
        self._set_flow(Flow.SWALLOWED, directions)

    def cut_after(
        self,
        direction: Direction,
        after: int | bytes,
        *,
        times: int | None = 1,
        is_let_through: bool = True,
    ) -> Cut:
        """Cut connections after a number of bytes or at a pattern; see `Cut`."""
        cut = Cut(direction, after, times, is_let_through)
        self._cuts.append(cut)
        return cut

    def _set_flow(self, flow: Flow, directions: tuple[Direction, ...]) -> None:
        self._flow |= dict.fromkeys(directions or Direction, flow)
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _close_links(self, chosen: Callable[["_Link"], bool]) -> None:
        for link in [*self._links]:
            if chosen(link):
                link.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer)
        self._links.add(link)
        try:
            if self._is_resetting:
                return link.close(is_reset=True)
            # Nobody answers in a black hole; a connection made in one is open to its client only.
            while self._flow[Direction.TO_SERVER] is not Flow.CARRIED and not link.is_closed:
                await self._next_change(link)
            await self._join(link, reader)
        except OSError:
            link.close(is_reset=True)
        finally:
            link.close()
            self._links.discard(link)
            link.ended.set()
        return None

    async def _join(self, link: "_Link", reader: asyncio.StreamReader) -> None:
        if isinstance(self.target, Path):
            back, forth = await asyncio.open_unix_connection(str(self.target))
        else:
            back, forth = await asyncio.open_connection(*self.target)
        link.writers.append(forth)
        if link.is_closed:
            return link.close()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(link, Direction.TO_SERVER, reader, forth))
            group.create_task(self._carry(link, Direction.TO_CLIENT, back, link.writers[0]))
        return None

    async def _carry(
        self, link: "_Link", way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        seen, tail = 0, b""
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                while self._flow[way] is Flow.HELD and not link.is_closed:
                    await self._next_change(link)
                if self._flow[way] is Flow.SWALLOWED:
                    link.has_lost_bytes = True
                    continue
                place, cut = self._find_cut(way, seen, tail, chunk)
                writer.write(chunk if place is None else chunk[:place])
                await writer.drain()
                if cut is not None:
                    cut.times = None if cut.times is None else cut.times - 1
                    return link.close()
                seen, tail = seen + len(chunk), (tail + chunk)[-1024:]
            # One side has said all it had to say; the other may still talk.
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            link.close(is_reset=True)
        return None

    def _find_cut(
        self, way: Direction, seen: int, tail: bytes, chunk: bytes
    ) -> tuple[int | None, Cut | None]:
        for cut in self._cuts:
            if cut.direction is way and (place := cut.place(seen, tail, chunk)) is not None:
                return place, cut
        return None, None

    async def _next_change(self, link: "_Link") -> None:
        waits = {asyncio.create_task(event.wait()) for event in (self._changed, link.closing)}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


class _Link:
    """One client's connection and, once joined, the one to the server."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.has_lost_bytes = False
        self.closing = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        return self.closing.is_set()

    def close(self, *, is_reset: bool = False) -> None:
        """Close both ends; what was written before still goes out unless it is a reset."""
        self.closing.set()
        for writer in self.writers:
            if is_reset:
                linger: socket.socket = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
