"""A connection on which a test sends frames of CSIL-RPC as it likes, and reads what comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fakes.csil_bytes import Tagged, dump, load

BOUND = 20.0
"""Seconds that an answer may take on a busy machine."""


def envelope(operation: str, message: bytes, **changes: object) -> bytes:
    fields: dict[str, object] = {"v": 1, "op": operation, "service": "CorndogsService"}
    fields |= {"payload": Tagged(24, message)} | changes
    return dump({name: value for name, value in fields.items() if value is not ...})


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


class Line:
    """A connection, on which frames are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> bytes:
        """Return the next frame. Raises IncompleteReadError or ConnectionError where the line was cut."""
        async with asyncio.timeout(BOUND):
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            return await self._reader.readexactly(length)

    async def ask(self, frame: bytes) -> bytes:
        self.send(framed(frame))
        return await self.receive()

    async def told(self, frame: bytes) -> dict[str, Any]:
        """Return what a frame is answered with: the envelope, and in place of its payload what that holds."""
        return opened(await self.ask(frame))

    async def call(self, operation: str, **fields: object) -> dict[str, Any]:
        """Return the envelope that answers a call."""
        self._number += 1
        return await self.told(envelope(operation, dump(fields), id=self._number))

    async def is_cut(self) -> bool:
        """Wait for the end of the line; False: something came instead."""
        async with asyncio.timeout(BOUND):
            try:
                return not await self._reader.read(1)
            except ConnectionError:
                return True

    def hang_up(self) -> None:
        self._writer.transport.abort()


def opened(frame: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = load(frame)  # type: ignore[assignment]
    message = answer["payload"].value
    answer["payload"] = load(message) if message else None
    return answer


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = Line(reader, writer)
    try:
        yield line
    finally:
        line.hang_up()
