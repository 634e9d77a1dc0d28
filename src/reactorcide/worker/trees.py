"""Brings the tree that a job has for its source to this host, before its runner is started."""

import asyncio
import hashlib
from collections.abc import Mapping
from errno import EDQUOT, ENOSPC
from typing import Literal
from weakref import WeakValueDictionary

import structlog

from reactorcide.domain.errors import InvalidInput, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.reasons import Reason
from reactorcide.domain.trees import MAX_FETCHED_BLOBS, blobs_of, read_tree
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.shipping import NOT_OURS, pause_before_retry
from reactorcide.worker.tree_cache import BadPack, Shelf, TreeCache
from runnerlib.spec import RunResult

_MOST_BYTES_A_CALL = 64 * 1024 * 1024

log = structlog.get_logger()


class TreeRefused(Exception):
    """The tree cannot be had, however often it is asked for; the text is for the job's owner."""


async def bring_in_time(
    porter: "TreePorter", claim: Claim, tree: str, *, ordered: asyncio.Event, limit_seconds: float
) -> Shelf | RunResult:
    """Return the shelf of a tree; else how the attempt ended that it could not be brought for.

    Args:
        ordered: set when the attempt is to stop; it then counts as cancelled.
    """
    bringing = asyncio.create_task(porter.bring(claim, tree))
    waiting = asyncio.create_task(ordered.wait())
    try:
        await asyncio.wait({bringing, waiting}, timeout=limit_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if not bringing.done():
            bringing.cancel()
            await asyncio.wait({bringing})
    try:
        return bringing.result()
    except asyncio.CancelledError:
        if ordered.is_set():
            return _end("cancelled", Reason.CANCELLED_USER, "none", "stopped while its tree was fetched")
        text = f"the tree could not be fetched within {limit_seconds:g} seconds"
        return _end("failed", Reason.SOURCE_FAILED, "infra", text)
    except (TreeRefused, *NOT_OURS) as error:
        return _end("failed", Reason.SOURCE_FAILED, "infra", f"the tree cannot be fetched: {error}")
    except OSError as error:
        reason = Reason.WORKER_DISK if error.errno in (ENOSPC, EDQUOT) else Reason.INTERNAL
        return _end("failed", reason, "infra", f"the tree cannot be kept: {error.strerror or error}")


class TreePorter:
    """Fetches trees through a gateway into a cache, each once however many slots want it."""

    def __init__(self, gateway: Gateway, cache: TreeCache) -> None:
        self._gateway = gateway
        self._cache = cache
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._opening = asyncio.Lock()

    async def bring(self, claim: Claim, tree: str) -> Shelf:
        """Return a shelf that holds the manifest and all contents of a tree. The caller removes it.

        It is tried for as long as the coordinator is out of reach.

        Raises:
            TreeRefused: what came is no tree.
            ClaimLost, Superseded, NotFound: the attempt is not this process's any more.
            OSError: this host's disk failed or is full.
        """
        async with self._opening:
            await asyncio.to_thread(self._cache.open)
        turn = self._turns.setdefault(tree, asyncio.Lock())
        shelf = await asyncio.to_thread(self._cache.make_shelf)
        try:
            async with turn:
                await self._fill(claim, tree, shelf)
        except BaseException:
            await asyncio.to_thread(shelf.remove)
            raise
        return shelf

    async def _fill(self, claim: Claim, tree: str, shelf: Shelf) -> None:
        try:
            fetched = await self._fetch(claim, {tree: None}, shelf)
            manifest = await asyncio.to_thread((shelf.path / tree).read_bytes)
            entries = await asyncio.to_thread(read_tree, tree, manifest)
            fetched += await self._fetch(claim, dict(blobs_of(tree, manifest, entries)), shelf)
        except (InvalidInput, BadPack) as error:
            # If the cache is what is wrong, the next attempt shall not find it so.
            await asyncio.to_thread(shelf.drop, tree)
            raise TreeRefused(str(error)) from error
        log.info("tree.brought", job_id=claim.job_id, tree=tree, entries=len(entries), fetched=fetched)

    async def _fetch(self, claim: Claim, wanted: Mapping[str, int | None], shelf: Shelf) -> int:
        """Bring contents onto the shelf, from the cache or else the coordinator; return how many came."""
        missing = await asyncio.to_thread(shelf.link, wanted)
        came, tries = len(missing), 0
        while missing:
            tries += 1
            batch = _first_batch(missing, wanted)
            delivery = shelf.receive(batch)
            try:
                await self._gateway.fetch_blobs(claim, list(batch), delivery.take)
                tries = 0
            except Unavailable as error:
                log.warning("tree.not_brought", job_id=claim.job_id, part=error.part, tries=tries)
                await pause_before_retry(tries)
            finally:
                await asyncio.to_thread(delivery.close)
            missing = await asyncio.to_thread(shelf.link, dict.fromkeys(missing))
        return came


def _first_batch(missing: list[str], wanted: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return what is asked for at once: so much that a call broken off has not lost much."""
    batch: dict[str, int | None] = {}
    size = 0
    for sha256 in missing:
        size += wanted[sha256] or 0
        if batch and (len(batch) == MAX_FETCHED_BLOBS or size > _MOST_BYTES_A_CALL):
            break
        batch[sha256] = wanted[sha256]
    return batch


def _end(
    status: Literal["failed", "cancelled"], reason: Reason, fault: Literal["infra", "none"], message: str
) -> RunResult:
    return RunResult(
        status=status,
        reason=reason.value,
        fault=fault,
        message=message,
        log_length=0,
        log_sha256=hashlib.sha256().hexdigest(),
        isolation="none",
    )
