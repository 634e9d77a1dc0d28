"""Taking what a coordinator sends as the body of an answer, without ever holding it whole."""

import asyncio
from collections.abc import Callable, Mapping

import httpx2

DOWNLOADS_AT_ONCE = 2
"""Of one worker; heartbeats and logs have their own connections, but share the line."""
STALL_SECONDS = 30.0
"""A coordinator that sends nothing for so long is tried again later."""
_TAKEN_BYTES = 512 * 1024


class Downloads:
    """Makes calls whose answers are many bytes through one client, few at a time."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

    async def fetch(
        self, path: str, content: bytes, headers: Mapping[str, str], take: Callable[[bytes], None]
    ) -> httpx2.Response:
        """POST ``content`` and give what comes, piece by piece, to ``take``, in a thread.

        The answer to a call that succeeded is returned without what was taken of it.

        Raises:
            httpx2.RequestError; and what ``take`` raises.
        """
        timeout = httpx2.Timeout(STALL_SECONDS, connect=5.0, pool=None)
        async with (
            self._turns,
            self._client.stream(
                "POST", path, content=content, headers=dict(headers), timeout=timeout
            ) as response,
        ):
            if not response.is_success:
                await response.aread()
                return response
            part = bytearray()
            async for piece in response.aiter_raw():
                part += piece
                if len(part) >= _TAKEN_BYTES:
                    await asyncio.to_thread(take, bytes(part))
                    part.clear()
            await asyncio.to_thread(take, bytes(part))
            return response
