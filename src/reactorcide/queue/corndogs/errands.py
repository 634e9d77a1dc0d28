"""Errands: calls that tidy up behind what was decided already, so that nobody waits for them."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from reactorcide.domain.errors import Misconfigured
from reactorcide.queue.corndogs.errors import QueueUnavailable

Errand = Callable[[], Awaitable[object]]

_AT_ONCE = 16
_MAX_WAITING = 10_000

log = structlog.get_logger()


class Errands:
    """Runs errands beside their senders, each once and in about the order they came.

    One that fails is dropped, and so is what comes when there are very many: an errand must be something
    that mends itself otherwise.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Errand] = asyncio.Queue(_MAX_WAITING)
        self._runners: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def send(self, errand: Errand) -> None:
        """Have it done soon."""
        if self._is_closed or self._waiting.full():
            log.warning("errand.dropped", waiting=self._waiting.qsize())
            return
        self._waiting.put_nowait(errand)
        if len(self._runners) < _AT_ONCE:
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)

    async def close(self, seconds: float) -> None:
        """Let those under way and those that wait be done, for at most so long; then drop them."""
        self._is_closed = True
        if self._runners:
            _, late = await asyncio.wait(set(self._runners), timeout=seconds)
            for runner in late:
                runner.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self) -> None:
        while not self._waiting.empty():
            errand = self._waiting.get_nowait()
            try:
                await errand()
            except (QueueUnavailable, Misconfigured) as error:
                log.info("errand.failed", detail=str(error))
            except Exception:
                log.exception("errand.crashed")
