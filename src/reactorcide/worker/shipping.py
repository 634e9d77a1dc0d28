"""Brings what an attempt left in its spool to the coordinator: the log by offset, and the outcome."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import Enum

import msgspec
import structlog

from reactorcide.domain.errors import (
    ClaimLost,
    InvalidInput,
    LogMismatch,
    NotFound,
    OffsetGap,
    Superseded,
    Unavailable,
)
from reactorcide.domain.jobs import SHORTEST_PAUSE_SECONDS, AttemptLimits, AttemptOutcome, Claim
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.retry import retry_delay
from reactorcide.domain.status import JobStatus
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.spool import LogBatch, SpoolReader
from runnerlib.spec import RunResult

log = structlog.get_logger()

NOT_OURS = (ClaimLost, Superseded, NotFound)
"""The coordinator's answers that mean: this attempt is not, or no longer, this process's."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

MAX_BATCH_BYTES = 1024 * 1024
SWIFT_BATCH_BYTES = MAX_BATCH_BYTES // 4
"""What does not wait even for the shortest pause."""
LOOK_SECONDS = 0.5
"""While bytes are gathered for longer, it is looked so often whether a full batch lies ready."""
LONGEST_PAUSE_SECONDS = 60.0
FALLBACK_SECONDS = 1.0
"""The runner's hints may be lost; the files are looked at this often anyway."""


class ShippingEnd(Enum):
    """Why no more log bytes are sent."""

    SHIPPED = "shipped"
    REFUSED = "refused"
    """The attempt is not ours any more, or its log is sealed."""
    MISMATCHED = "mismatched"
    """The coordinator holds other bytes than we do."""


async def pause_before_retry(tries: int) -> None:
    """Sleep before try number ``tries`` + 1: from 0.1 s, doubling to 5 s, with jitter."""
    delay = retry_delay(tries, base=timedelta(seconds=0.2), ceiling=timedelta(seconds=5))
    await asyncio.sleep(delay.total_seconds() * random.uniform(0.5, 1))


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event. False: it did not come in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class LogShipper:
    """Ships the log of one attempt while it grows.

    An outage never loses a byte and never stops the job: the spool keeps, and sending goes on.

    Args:
        clock: seconds that only grow; ``wait`` waits by it, as `wait_for` does by the usual one.
    """

    def __init__(
        self,
        gateway: Gateway,
        claim: Claim,
        reader: SpoolReader,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float], Awaitable[bool]] = wait_for,
    ) -> None:
        self._gateway = gateway
        self._claim = claim
        self._reader = reader
        self._clock = clock
        self._wait = wait
        self._grew = asyncio.Event()
        self._ended = asyncio.Event()
        self._pause_seconds = SHORTEST_PAUSE_SECONDS
        self._is_wanted = asyncio.Event()

    def hint(self) -> None:
        """Tell that the log may have grown."""
        self._grew.set()

    def end(self) -> None:
        """Tell that the log will not grow any more: `run` returns when all is sent."""
        self._ended.set()
        self._grew.set()
        self._is_wanted.set()

    def hurry(self) -> None:
        """Tell that somebody waits for the log: what lies ready goes at once, and what comes goes soon."""
        # Whatever the pause is now: an append that is under way may bring a longer one, not knowing of this.
        self._is_wanted.set()

    async def run(self) -> ShippingEnd:
        """Send until the log has ended and all of it is stored, or until nobody wants it."""
        while True:
            # Looked at before reading: what is written later than the read comes in the next one.
            ended = self._ended.is_set()
            self._grew.clear()
            batch = await asyncio.to_thread(self._reader.read, MAX_BATCH_BYTES, ended=ended)
            if batch is None:
                if ended:
                    return ShippingEnd.SHIPPED
                await self._wait(self._grew, FALLBACK_SECONDS)
                continue
            refusal = await self._send(batch)
            if refusal is not None:
                return refusal
            await self._gather()

    async def _gather(self) -> None:
        """Let more come before the next append, as long as the coordinator says.

        Not so long if somebody waits for it, or if a batch that is worth an append lies ready.
        """
        is_swift = self._pause_seconds <= SHORTEST_PAUSE_SECONDS
        enough = SWIFT_BATCH_BYTES if is_swift else MAX_BATCH_BYTES
        until = self._clock() + self._pause_seconds
        while not self._ended.is_set() and (left := until - self._clock()) > 0:
            if await asyncio.to_thread(self._reader.unread_bytes) >= enough:
                return
            if await self._wait(self._is_wanted, min(left, LOOK_SECONDS)):
                self._is_wanted.clear()
                return

    async def _send(self, batch: LogBatch) -> ShippingEnd | None:
        tries = 0
        while True:
            tries += 1
            try:
                appended = await self._gateway.append_log(self._claim, batch.offset, batch.data, batch.pieces)
            except Unavailable as error:
                log.warning("log.not_shipped", **_ids(self._claim), part=error.part, tries=tries)
                await pause_before_retry(tries)
            except OffsetGap as gap:
                log.warning("log.rewound", **_ids(self._claim), offset=batch.offset, length=gap.length)
                await asyncio.to_thread(self._reader.rewind, gap.length)
                return None
            except NOT_OURS:
                return ShippingEnd.REFUSED
            except LogMismatch:
                log.error("log.mismatched", **_ids(self._claim), offset=batch.offset)
                return ShippingEnd.MISMATCHED
            else:
                told = max(appended.pause_seconds, SHORTEST_PAUSE_SECONDS)
                self._pause_seconds = min(told, LONGEST_PAUSE_SECONDS)
                return None


async def deliver_result(gateway: Gateway, claim: Claim, result: RunResult) -> bool:
    """Tell the coordinator how the attempt ended, again and again until it has heard.

    False: someone else has decided this attempt.
    """
    try:
        return await _deliver(gateway, claim, _outcome_of(result))
    except (InvalidInput, ValueError) as error:
        log.error("attempt.result_refused", **_ids(claim), detail=str(error))
        doubtful = msgspec.structs.replace(
            result,
            status="failed",
            reason=Reason.INTERNAL.value,
            fault="infra",
            message=f"the runner's result makes no sense: {error}",
            log_sha256=result.log_sha256 if _SHA256.fullmatch(result.log_sha256) else "0" * 64,
            image_digest=None,
            limits=None,
        )
        return await _deliver(gateway, claim, _outcome_of(doubtful))


async def _deliver(gateway: Gateway, claim: Claim, outcome: AttemptOutcome) -> bool:
    tries = 0
    while True:
        tries += 1
        try:
            await gateway.finish(claim, outcome)
        except NOT_OURS:
            log.warning("attempt.outcome_refused", **_ids(claim), status=outcome.status)
            return False
        except Unavailable as error:
            log.warning("attempt.outcome_not_delivered", **_ids(claim), part=error.part, tries=tries)
            await pause_before_retry(tries)
        else:
            return True


def _outcome_of(result: RunResult) -> AttemptOutcome:
    """Return what a result file says in the coordinator's words."""
    return AttemptOutcome(
        status=JobStatus(result.status),
        reason=Reason(result.reason),
        fault=Fault(result.fault),
        log_length=result.log_length,
        log_sha256=bytes.fromhex(result.log_sha256),
        message=result.message,
        exit_code=result.exit_code,
        signal=result.signal,
        resolved_sha=result.resolved_sha,
        isolation=result.isolation,
        artifacts=result.artifacts,
        image_digest=result.image_digest,
        limits=AttemptLimits(**msgspec.structs.asdict(result.limits)) if result.limits else None,
    )


def _ids(claim: Claim) -> dict[str, str | int]:
    return {"job_id": claim.job_id, "attempt": claim.attempt}
