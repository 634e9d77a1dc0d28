"""A chore that may take long, in rounds of maintenance that must not wait for it."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 0.5
"""A round of maintenance waits so long for what it began."""


class SlowChore:
    """Goes on with one piece of work beside the rounds of maintenance; there is one at a time. Close it."""

    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self._work = work
        # By this the rounds of maintenance tell which chore failed.
        self.__qualname__ = getattr(work, "__qualname__", repr(work))
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Begin the work unless it goes on, and wait for a moment; what it raises is told by a later call."""
        task = self._task or asyncio.create_task(self._run())
        self._task = task
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if done:
            self._task = None
            task.result()

    async def close(self) -> None:
        """Break the work off where it is."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # looked at, or asyncio complains that nobody did

    async def _run(self) -> None:
        await self._work()
