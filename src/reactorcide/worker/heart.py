"""The heart of a worker: it keeps the leases alive, and brings the orders of the coordinator."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog

from reactorcide.domain.errors import NotFound, ReactorcideError, Superseded, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.workers import Registration, WorkerReport
from reactorcide.worker.attempt import Attempt
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.shipping import pause_before_retry

log = structlog.get_logger()

# Below the minute after which proxies on the way like to give a silent answer up.
ORDERS_WAIT = timedelta(seconds=50)
CALL_LIMIT_SECONDS = 15.0
"""A heartbeat without an answer by then, or within a quarter of a lease, is given up and made again."""


class Heart:
    """Beats for all attempts of a worker at once.

    Args:
        attempts: those the worker has, which come and go.
        report: what there is to tell of the worker besides.
        is_seen: whether the coordinator sees the worker anyway, because it waits for work there.
        step_down: what to do when another process has the worker's name.
    """

    def __init__(
        self,
        gateway: Gateway,
        registration: Registration,
        attempts: Mapping[Claim, Attempt],
        *,
        report: Callable[[], Awaitable[WorkerReport]],
        is_seen: Callable[[], bool],
        step_down: Callable[[], None],
    ) -> None:
        self.registration = registration
        self.beat_soon = asyncio.Event()
        self.holds_some = asyncio.Event()
        """Set while the worker has attempts: only then orders are listened for."""
        self._gateway = gateway
        self._attempts = attempts
        self._report = report
        self._is_seen = is_seen
        self._step_down = step_down
        self._told: tuple[str, WorkerReport] | None = None

    async def beat(self) -> None:
        """Renew the leases every interval, and at once when there is something to tell or to hear."""
        interval = self.registration.heartbeat_seconds
        # A call that hangs must leave time for another one before the fence of a job that may run again.
        limit = min(CALL_LIMIT_SECONDS, self.registration.lease_seconds / 4)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self.beat_soon.wait()
            self.beat_soon.clear()
            try:
                async with asyncio.timeout(limit):
                    await self._beat_once()
            except Superseded:
                self._step_down()
            except (ReactorcideError, TimeoutError) as error:
                held = len(self._attempts)
                log.warning("worker.heartbeat_failed", error=str(error) or "no answer", held=held)
                await asyncio.sleep(min(1.0, interval))
                self.beat_soon.set()
            except Exception:
                log.exception("worker.heartbeat_crashed")

    async def hear_orders(self) -> None:
        """Beat at once when the coordinator has an order for an attempt."""
        failures = 0
        while True:
            await self.holds_some.wait()
            try:
                if await self._gateway.wait_for_orders(self.registration.worker_id, ORDERS_WAIT):
                    self.beat_soon.set()
                failures = 0
            except Superseded:
                self._step_down()
                return
            except (Unavailable, NotFound):
                failures += 1
                await pause_before_retry(failures)
            except Exception:
                failures += 1
                log.exception("worker.orders_crashed")
                await pause_before_retry(failures)

    async def _beat_once(self) -> None:
        worker_id = self.registration.worker_id
        held = [claim for claim, attempt in self._attempts.items() if attempt.is_held]
        report = await self._report()
        if not held and self._is_seen() and self._told == (worker_id, report):
            return
        sent_at = time.monotonic()
        orders = await self._gateway.heartbeat(worker_id, held, report)
        self._told = (worker_id, report)
        for answer in orders:
            attempt = self._attempts.get(answer.claim)
            if attempt is None:
                continue
            if answer.order != "abandon":
                attempt.renew(sent_at)
            if answer.order != "go_on":
                attempt.obey(answer.order)
            if answer.is_watched:
                attempt.hurry_log()
