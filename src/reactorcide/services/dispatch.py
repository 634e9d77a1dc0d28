"""Dispatch: ready jobs on their way to workers that wait for them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.retry import retry_delay
from reactorcide.queue.port import ReadyQueue

MAX_BATCH = 100
MAX_WAIT = timedelta(seconds=60)
_REPORT_SECONDS = 5.0
"""Who was woken has looked by then, or is waited for no longer."""
_FRUITLESS_PAUSE = timedelta(seconds=0.05)
_LONGEST_PAUSE = timedelta(seconds=2)
_OUTAGE_PAUSE_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(eq=False)
class _Waiter:
    """A worker in the line of those that take from the same queues."""

    worker_id: str
    is_awake: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_woken_by(self, deadline: float) -> bool:
        """Wait to be woken. False: the loop's clock reached ``deadline`` first."""
        try:
            async with asyncio.timeout_at(deadline):
                await self.woken.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        self.is_awake = True
        self.woken.set()

    def lie_down(self) -> None:
        self.is_awake = False
        self.woken.clear()


class _Line:
    """Workers that wait for the same queues, longest first."""

    def __init__(self) -> None:
        self.waiters: list[_Waiter] = []
        self.is_rung = False
        """Something may be ready, and all that could have looked were looking already."""

    @property
    def has_sleepers(self) -> bool:
        """Whether somebody waits here for a ring: then nothing is ready that one could take before them."""
        return any(not waiter.is_awake for waiter in self.waiters)

    def wake_next(self) -> _Waiter | None:
        """Wake who sleeps longest."""
        waiter = next((waiter for waiter in self.waiters if not waiter.is_awake), None)
        if waiter is None:
            self.is_rung = True
        else:
            waiter.wake()
        return waiter


class Dispatch:
    """Hands ready jobs to the workers that wait in this process.

    They share one look at the queue, however many they are: what is ready wakes the one of each line that
    has waited longest, and who finds a full hand wakes the next. While the queue is out of reach they go on
    waiting.

    Args:
        start_within: a claim that was not started by then goes back.
        mark_seen: told now and then, at most every ``seen_every``, which workers wait.
        give_back: told claims whose worker has stopped waiting while they were made.
    """

    def __init__(
        self,
        queue: ReadyQueue,
        *,
        start_within: timedelta,
        mark_seen: Callable[[Collection[str]], Awaitable[None]],
        seen_every: timedelta,
        give_back: Callable[[Sequence[Claim]], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._start_within = start_within
        self._mark_seen = mark_seen
        self._seen_every = seen_every
        self._give_back = give_back
        self._unwanted: set[asyncio.Task[None]] = set()
        self._lines: dict[tuple[str, ...], _Line] = {}
        self._has_changed = asyncio.Event()
        self._has_reported = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._seen_at = time.monotonic()

    async def claim(
        self, worker_id: str, queue_names: Sequence[str], free_slots: int, wait: timedelta
    ) -> list[Claim]:
        """Claim jobs for a worker's free slots, waiting for the first of them up to ``wait``.

        Never more than `MAX_BATCH` at once and never longer than `MAX_WAIT`.
        """
        limit = min(free_slots, MAX_BATCH)
        if limit < 1 or not queue_names:
            return []
        names = tuple(sorted(set(queue_names)))
        claims: list[Claim] = []
        if wait <= timedelta() or names not in self._lines or not self._lines[names].has_sleepers:
            claims = await self._take(worker_id, queue_names, limit)
        if claims or wait <= timedelta():
            return claims
        waiter = _Waiter(worker_id)
        line = self._join(names, waiter)
        clock = asyncio.get_running_loop()
        deadline = clock.time() + min(wait, MAX_WAIT).total_seconds()
        try:
            while not claims and await waiter.is_woken_by(deadline):
                claims = await self._look(line, waiter, queue_names, limit)
        finally:
            # Who leaves without having emptied the queue lets the next one look.
            self._leave(names, waiter, is_emptied=0 < len(claims) < limit)
        return claims

    async def close(self) -> None:
        """Stop looking. Those who wait still come back in their own time."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if self._unwanted:
            await asyncio.wait(self._unwanted, timeout=_REPORT_SECONDS)

    async def _look(
        self, line: _Line, waiter: _Waiter, queue_names: Sequence[str], limit: int
    ) -> list[Claim]:
        """Claim what is ready. Nothing: ``waiter`` sleeps again, unless the bell has rung meanwhile."""
        line.is_rung = False
        try:
            claims = await self._take(waiter.worker_id, queue_names, limit)
        except Unavailable as error:
            log.info("dispatch.postponed", part=error.part)
            claims = []
        if not claims and not line.is_rung:
            waiter.lie_down()
        self._has_reported.set()
        return claims

    async def _take(self, worker_id: str, queue_names: Sequence[str], limit: int) -> list[Claim]:
        taking = asyncio.ensure_future(
            self._queue.claim(worker_id, queue_names, limit, start_within=self._start_within)
        )
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # Whether it has claimed something only it can tell; nobody is there to start that.
            returning = asyncio.create_task(self._return(taking))
            self._unwanted.add(returning)
            returning.add_done_callback(self._unwanted.discard)
            raise

    async def _return(self, taking: Awaitable[list[Claim]]) -> None:
        try:
            claims = await taking
            if claims:
                await self._give_back(claims)
        except Unavailable as error:
            # They go back by their start deadline.
            log.info("dispatch.not_returned", part=error.part)
        except Exception:
            log.exception("dispatch.return_crashed")

    def _join(self, names: tuple[str, ...], waiter: _Waiter) -> _Line:
        if names not in self._lines:
            self._lines[names] = _Line()
            self._has_changed.set()
        line = self._lines[names]
        line.waiters.append(waiter)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        return line

    def _leave(self, names: tuple[str, ...], waiter: _Waiter, *, is_emptied: bool) -> None:
        line = self._lines[names]
        line.waiters.remove(waiter)
        if waiter.is_awake and not is_emptied:
            line.wake_next()
        self._has_reported.set()
        if not line.waiters:
            del self._lines[names]
            self._has_changed.set()

    async def _watch(self) -> None:
        """Wake waiters as long as there are any."""
        fruitless = 0
        while self._lines:
            self._has_changed.clear()
            try:
                await self._tell_who_waits()
                ready = await self._find_ready()
                fruitless = 0 if not ready or await self._wake(ready) else fruitless + 1
            except Unavailable as error:
                log.info("dispatch.postponed", part=error.part)
                await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)
            except Exception:
                log.exception("dispatch.crashed")
                await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)
            if fruitless:
                # Another process is about to take what we see.
                pause = retry_delay(fruitless, base=_FRUITLESS_PAUSE, ceiling=_LONGEST_PAUSE)
                await asyncio.sleep(pause.total_seconds())

    async def _tell_who_waits(self) -> None:
        now = time.monotonic()
        if now - self._seen_at >= self._seen_every.total_seconds():
            self._seen_at = now
            await self._mark_seen({w.worker_id for line in self._lines.values() for w in line.waiters})

    async def _find_ready(self) -> frozenset[str]:
        """Wait until something is ready; nothing: other queues are waited for now, or time has passed."""
        names = sorted({name for names in self._lines for name in names})
        looking = asyncio.ensure_future(self._queue.wait(names, self._seen_every))
        changing = asyncio.create_task(self._has_changed.wait())
        try:
            await asyncio.wait({looking, changing}, return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else frozenset()
        finally:
            looking.cancel()
            changing.cancel()

    async def _wake(self, ready: Collection[str]) -> bool:
        """Wake one of each line that ``ready`` concerns, and let them look. False: none found anything."""
        woken = [
            (line, waiter)
            for names, line in list(self._lines.items())
            if not set(names).isdisjoint(ready) and (waiter := line.wake_next()) is not None
        ]
        deadline = time.monotonic() + _REPORT_SECONDS
        while any(waiter.is_awake and waiter in line.waiters for line, waiter in woken):
            self._has_reported.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._has_reported.wait()
            except TimeoutError:
                return False
        return any(waiter not in line.waiters for line, waiter in woken)
