"""Ears on the bell for callers who come again and again: what rings between two waits is kept."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from reactorcide.store.bell import Bell, Ear

_KEPT_SECONDS = 120.0
"""Who has not come again by then hears nothing of what rang meanwhile."""


@dataclass
class _KeptEar:
    ear: Ear
    stack: ExitStack
    used_at: float
    waiting: int = 0


class KeptEars:
    """One ear a topic, made when it is first waited for."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._ears: dict[str, _KeptEar] = {}

    async def wait(self, topic: str, timeout: timedelta) -> bool:
        """Wait for a ring since the last wait. False: ``timeout`` passed first."""
        now = asyncio.get_running_loop().time()
        kept = self._ears.get(topic)
        if kept is None:
            stack = ExitStack()
            kept = _KeptEar(stack.enter_context(self._bell.listen(topic)), stack, now)
            self._ears[topic] = kept
        self._drop_old(now)
        kept.waiting += 1
        try:
            return await kept.ear.wait(timeout)
        finally:
            kept.waiting -= 1
            kept.used_at = asyncio.get_running_loop().time()

    def _drop_old(self, now: float) -> None:
        for topic, kept in list(self._ears.items()):
            if not kept.waiting and now - kept.used_at > _KEPT_SECONDS:
                kept.stack.close()
                del self._ears[topic]
