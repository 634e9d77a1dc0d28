"""The body of a request that is not held whole: pieces for a thread, or all of it up to a limit."""

import asyncio
import concurrent.futures
from collections.abc import Iterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from reactorcide.domain.errors import TooLarge

PIECE_BYTES = 1024 * 1024
STALL_SECONDS = 30.0
"""A body of which nothing comes for so long is given up."""


class StreamedBody:
    """The body of a request for a thread that wants it piece by piece; the next one comes meanwhile."""

    def __init__(self, request: Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = request.stream()
        self._coming: concurrent.futures.Future[bytes] | None = None
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        self._coming = self._fetch()
        while piece := self._coming.result(2 * STALL_SECONDS):
            self._coming = self._fetch()
            yield piece

    def close(self) -> None:
        """Let the thread go, should it still wait."""
        self._is_closed = True
        if self._coming is not None:
            self._coming.cancel()

    async def read_whole(self, limit: int) -> bytes:
        """Return the whole body, in the event loop and not in a thread.

        Raises:
            TooLarge: it has more than ``limit`` bytes.
            HTTPException: 408, nothing of it came for a while; 400, it was cut off.
        """
        whole = bytearray()
        try:
            while piece := await self._gather():
                whole += piece
                if len(whole) > limit:
                    raise TooLarge(f"the body must be at most {limit} bytes")
        except ClientDisconnect:
            # Nobody reads the answer.
            raise HTTPException(400, "the body was cut off") from None
        return bytes(whole)

    def _fetch(self) -> "concurrent.futures.Future[bytes]":
        if self._is_closed:
            raise ClientDisconnect
        return asyncio.run_coroutine_threadsafe(self._gather(), self._loop)

    async def _gather(self) -> bytes:
        """Return the next bytes, about 1 MiB of them; none at the end."""
        piece = bytearray()
        try:
            while len(piece) < PIECE_BYTES:
                async with asyncio.timeout(STALL_SECONDS):
                    more = await anext(self._stream, None)
                if more is None:
                    break
                piece += more
        except TimeoutError:
            raise HTTPException(408, f"nothing of the body came for {STALL_SECONDS:g} seconds") from None
        return bytes(piece)
