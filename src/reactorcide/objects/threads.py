"""The threads in which asynchronous code calls an object store: few, its own, and not waited for long.

Were they those of `asyncio.to_thread`, a store that hangs would soon hold all of them, and with them
everything else that needs one.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from reactorcide.objects.port import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

CALLS_AT_ONCE = 16
MOST_WAITING = 512
"""More calls than these are refused at once: each may hold the bytes that it is to store."""
LONGEST_WAIT_SECONDS = 2.0
"""A call that no thread has begun by then is refused. With a store that answers, none waits so long."""


THREADS = "objects"
"""The names of threads that call an object store begin so."""


def are_calls_hanging(seconds: float) -> bool:
    """Wait so long for threads that call an object store, their pools closed; tell if some go on."""
    ends_at = time.monotonic() + seconds
    calling = [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]
    for thread in calling:
        thread.join(max(0.0, ends_at - time.monotonic()))
    return any(thread.is_alive() for thread in calling)


class StoreThreads:
    """Runs calls of an object store. Close it at the end."""

    def __init__(
        self,
        *,
        at_once: int = CALLS_AT_ONCE,
        most_waiting: int = MOST_WAITING,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
    ) -> None:
        self._executor = ThreadPoolExecutor(at_once, thread_name_prefix=THREADS)
        self._most = at_once + most_waiting
        self._longest_wait_seconds = longest_wait_seconds
        self._lock = threading.Lock()
        self._held = 0

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``call`` returns, from a thread.

        A caller who stops waiting does not stop the call: its thread is free when it ends.

        Raises:
            StoreUnavailable: too many calls are under way; this one was not begun.
        """
        context = contextvars.copy_context()
        future = self._submit(partial(context.run, partial(call, *args, **kwargs)))
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait({waiting}, timeout=self._longest_wait_seconds)
        except asyncio.CancelledError:
            # Or its error, which nobody will look at, would be complained of.
            waiting.cancel()
            raise
        # Only one that has not begun can be cancelled.
        if not done and future.cancel():
            raise StoreUnavailable(f"no thread was free in {self._longest_wait_seconds:g} s")
        return await waiting

    async def close(self) -> None:
        """Begin no call any more. Those that run come to their own end, and nobody waits for them here."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._held >= self._most:
                raise StoreUnavailable(f"{self._held} calls of the object store are under way")
            self._held += 1
        try:
            future = self._executor.submit(call)
        except RuntimeError:
            self._let_go()
            raise StoreUnavailable("the program is ending") from None
        future.add_done_callback(self._let_go)
        return future

    def _let_go(self, _: object = None) -> None:
        with self._lock:
            self._held -= 1
