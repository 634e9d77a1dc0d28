"""Waits that end when the server is to stop, or when nobody waits any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")


async def until_stopping(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what ``work`` returns; None if ``stopping`` is set first, and then ``work`` is cancelled."""
    task = asyncio.ensure_future(work)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def until_unwanted(
    request: Request, stopping: asyncio.Event, work: Coroutine[Any, Any, T]
) -> tuple[T | None, bool]:
    """As `until_stopping`; ``work`` is cancelled as well when the client has gone, which is told besides.

    The body of ``request`` must have been read.
    """
    task = asyncio.ensure_future(work)
    stop = asyncio.create_task(stopping.wait())
    gone = asyncio.create_task(_wait_for_departure(request))
    try:
        await asyncio.wait({task, stop, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None, gone.done()
    finally:
        stop.cancel()
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _wait_for_departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
