"""Sending a file to a coordinator as the body of a request, without ever holding it whole."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx2

PIECE_BYTES = 1024 * 1024
UPLOADS_AT_ONCE = 2
"""Of one worker; heartbeats and logs have their own connections, but share the line."""
WRITE_SECONDS = 30.0
"""A coordinator that takes nothing for so long is tried again later."""
ANSWER_SECONDS = 600.0
"""Behind the last byte a coordinator brings the whole file to its disk before it answers."""


class Uploads:
    """Sends files through one client, few at a time."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def send(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], file: Path, size_bytes: int
    ) -> httpx2.Response:
        """PUT the content of ``file``, of which ``size_bytes`` are announced.

        Raises:
            OSError: the file cannot be read.
            httpx2.RequestError.
        """
        async with self._turns:
            return await self._client.put(
                path,
                params=dict(query),
                content=_pieces(file),
                headers={
                    **headers,
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(size_bytes),
                },
                timeout=httpx2.Timeout(ANSWER_SECONDS, connect=5.0, write=WRITE_SECONDS, pool=None),
            )


def read_pieces(file: Path) -> Iterator[bytes]:
    """Yield the content of ``file``, at most 1 MiB at once."""
    with file.open("rb", buffering=0) as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    pieces = read_pieces(file)
    try:
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece
    finally:
        pieces.close()  # type: ignore[attr-defined]
