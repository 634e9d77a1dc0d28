"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

_PATIENCE_SECONDS = 0.5
_MOST_ROUNDS = 20


async def cancel_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait, within bounds, until they have ended; how they ended is not told.

    A cancellation that comes in the moment in which a wait is over may be swallowed by it
    (`asyncio.wait_for` of Python 3.11 does that), so it is repeated.
    """
    pending = {task for task in tasks if not task.done()}
    for _ in range(_MOST_ROUNDS):
        if not pending:
            return
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=_PATIENCE_SECONDS)
        for task in ended:
            if not task.cancelled():
                task.exception()  # looked at, or asyncio complains that nobody did
