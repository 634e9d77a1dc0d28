"""Taking in the log of an attempt, sealing it after the end, and removing it with its job."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from weakref import WeakValueDictionary

import structlog

from reactorcide.domain.errors import (
    ClaimLost,
    InputFault,
    InvalidInput,
    LogMismatch,
    OffsetGap,
    Unavailable,
)
from reactorcide.domain.ids import is_id
from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.objects.port import ObjectExists, ObjectNotFound, ObjectStore, StoreUnavailable
from reactorcide.objects.threads import StoreThreads
from reactorcide.observability.metrics import Metrics
from reactorcide.services import log_chunks
from reactorcide.services.log_chunks import Chunk, ChunkedLog, LogBytesMissing
from reactorcide.services.log_pace import SWIFT, LogPace
from reactorcide.services.log_sealing import LogSealing
from reactorcide.services.purging import delete_owed
from reactorcide.services.recent_chunks import RecentChunks
from reactorcide.store import logs, outbox
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.logs import LogRow
from reactorcide.store.outbox import OutboxEntry

TAIL_BYTES = 64 * 1024
"""A last chunk shorter than this is replaced by one that holds the next bytes too."""
PURGE_AGAIN_AFTER = timedelta(seconds=20)
"""A removal whose process died, or whose store was away, is taken up so late."""
MAX_MILLISECONDS = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_REMEMBERED_TAILS = 256
_REMEMBERED_CLAIMS = 10_000
_APPEND_TRIES = 5

log = structlog.get_logger()


@dataclass(frozen=True)
class _Tail:
    """How a log ends: its length, and the last chunk's content if that is still short."""

    length: int
    chunk: Chunk | None = None
    data: bytes = b""
    index: bytes = b""


class LogService:
    """Appends, seals and purges logs. The layout in the object store is that of `log_chunks`.

    An append writes its chunks first and then moves the acknowledged length in the attempt's row by one
    UPDATE that carries the fencing pair and the length it began from. So a crash between the two leaves
    chunks that do not count, and of two writers (a call that was made again while the first one still
    runs, in this process or another) one wins while the other looks again. No chunk is ever changed,
    so the one that lost has harmed nothing: where both wrote the same place they wrote the same
    object. A short last chunk is deleted only after the longer one was acknowledged.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        bell: Bell,
        *,
        metrics: Metrics | None = None,
        pace: LogPace = SWIFT,
        recent: RecentChunks | None = None,
        calls: StoreThreads | None = None,
    ) -> None:
        """Make a service.

        Args:
            pace: how long workers gather bytes.
            recent: remembers what was appended, for who reads it in this process.
            calls: where the object store is called; None: in threads of its own.
        """
        self._metrics = metrics or Metrics()
        self._database = database
        self._objects = objects
        self._bell = bell
        self._pace = pace
        self._recent = recent or RecentChunks()
        self._calls = calls or StoreThreads()
        self._sealing = LogSealing(database, objects, bell, self._calls)
        self._unwatched: OrderedDict[Claim, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tails: OrderedDict[Claim, _Tail] = OrderedDict()

    async def append(self, claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece]) -> int:
        """Append log bytes and return the length now stored; what is acknowledged is durable.

        Bytes that are stored already are compared and not stored again. An attempt that ended is
        appended to as long as its log is not sealed. Bytes that were never acknowledged may still be
        found stored; to send other ones for the same place is a mismatch.

        Raises:
            InvalidInput: ``pieces`` do not add up to ``data``, or are malformed.
            OffsetGap, LogMismatch, ClaimLost: as `Gateway.append_log`.
            Unavailable: the database or the object store cannot be reached.
        """
        _check_append(claim, offset, data, pieces)
        lock = self._locks.setdefault(claim.lease_id, asyncio.Lock())
        async with lock:
            made: list[Chunk] = []
            try:
                for _ in range(_APPEND_TRIES):
                    length = await self._append_once(claim, offset, data, pieces, made)
                    if length is not None:
                        return length
            except ClaimLost:
                # Sealed or deleted meanwhile: what this call wrote belongs to nobody.
                await self._calls.run(self._delete, [chunk.key for chunk in made])
                raise
        raise Unavailable("log")

    def pause_of(self, claim: Claim) -> float:
        """Return how many seconds the worker may gather bytes before it appends again.

        Each append may cost a put. While nobody follows the log, nobody waits for it; what the worker keeps
        meanwhile is durable in its spool.
        """
        pace = self._pace.unwatched if claim in self._unwatched else self._pace.watched
        return pace.total_seconds()

    async def seal_due(self) -> int:
        """See `LogSealing.seal_due`."""
        return await self._sealing.seal_due()

    async def close(self) -> None:
        """Break off a sealing that goes on; the next process takes it up."""
        await self._sealing.close()

    async def purge(self, job_id: str) -> None:
        """Delete every log and artifact of a job. Raises Unavailable."""
        await self._calls.run(delete_owed, self._objects, {"job_id": job_id})

    async def purge_due(self) -> int:
        """Delete objects that no row counts on any more, and return how many entries owed them.

        Raises:
            Unavailable: the database cannot be reached. Without the object store, it is tried later.
        """
        due = await self._database.run(
            lambda tx: outbox.take_due(tx, outbox.PURGE_OBJECTS, limit=20, busy_for=PURGE_AGAIN_AFTER)
        )
        purged = 0
        try:
            for entry in due:
                await self._purge_entry(entry)
                purged += 1
        except StoreUnavailable as error:
            log.warning("objects.purge_postponed", detail=error.detail)
        return purged

    async def _purge_entry(self, entry: OutboxEntry) -> None:
        await self._calls.run(delete_owed, self._objects, entry.payload)
        await self._database.run(partial(outbox.mark_done, entry_id=entry.entry_id))

    async def _append_once(
        self, claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece], made: list[Chunk]
    ) -> int | None:
        """Append from what is known of the log. None: it has changed meanwhile, look again."""
        known = tail = self._tails.pop(claim, None)
        if tail is None or tail.length != offset:
            row = await self._find(claim)
            if offset > row.length:
                raise OffsetGap(row.length)
            try:
                stored = await self._calls.run(self._compare, row, offset, data)
                tail = await self._calls.run(self._read_tail, row, known)
            except LogBytesMissing:
                return None
            if stored == len(data):
                self._remember(claim, tail)
                return row.length
            if row.final_length is not None and offset + len(data) > row.final_length:
                raise LogMismatch(f"the log was to end at {row.final_length} bytes")
            pieces = list(log_chunks.cut_pieces(pieces, stored, len(data)))
            data = data[stored:]
        if not data:
            self._remember(claim, tail)
            return tail.length
        try:
            grown, replaced = await self._write(claim, tail, data, pieces, made)
        except LogBytesMissing:
            return None
        grew = await self._database.run(lambda tx: logs.grow_log(tx, claim, tail.length, grown.length))
        if grew is None:
            return None
        self._note_watched(claim, is_watched=grew.is_watched)
        self._metrics.log_appended(grown.length - tail.length)
        self._bell.ring(f"log:{claim.job_id}")
        self._remember(claim, grown)
        if replaced is not None:
            await self._calls.run(self._delete, [replaced])
        return grown.length

    async def _find(self, claim: Claim) -> LogRow:
        row = await self._database.run(lambda tx: logs.read_held_log(tx, claim))
        if row is None or row.is_sealed:
            raise ClaimLost(claim.job_id, claim.attempt)
        return row

    def _remember(self, claim: Claim, tail: _Tail) -> None:
        self._tails[claim] = tail
        if len(self._tails) > _REMEMBERED_TAILS:
            self._tails.popitem(last=False)

    def _note_watched(self, claim: Claim, *, is_watched: bool) -> None:
        self._unwatched.pop(claim, None)
        if not is_watched:
            self._unwatched[claim] = None
            if len(self._unwatched) > _REMEMBERED_CLAIMS:
                self._unwatched.popitem(last=False)

    def _compare(self, row: LogRow, offset: int, data: bytes) -> int:
        """Return how many bytes of ``data`` are stored already. Raises LogMismatch for other ones."""
        end = min(row.length, offset + len(data))
        chunks, position = ChunkedLog(self._objects, row.job_id, row.attempt), offset
        while position < end:
            stored = chunks.read(position, end, row.length)
            if stored != data[position - offset : position - offset + len(stored)]:
                raise LogMismatch(f"other bytes are stored between {position} and {position + len(stored)}")
            position += len(stored)
        return end - offset

    def _read_tail(self, row: LogRow, known: _Tail | None = None) -> _Tail:
        """Read how a log ends now; ``known`` is how this process knew it before."""
        if known is not None and known.length == row.length:
            return known
        if known is not None and known.chunk is not None and row.length > known.length:
            # Another coordinator has most likely made the same chunk longer: that spares a listing.
            with suppress(ObjectNotFound):
                return self._read_chunk(
                    log_chunks.locate_chunk(row.job_id, row.attempt, known.chunk.start, row.length)
                )
        chunk = ChunkedLog(self._objects, row.job_id, row.attempt).last(row.length)
        if chunk is None:
            return _Tail(0)
        try:
            return self._read_chunk(chunk)
        except ObjectNotFound:
            raise LogBytesMissing from None

    def _read_chunk(self, chunk: Chunk) -> _Tail:
        if chunk.length >= TAIL_BYTES:
            return _Tail(chunk.end)
        content = self._objects.read(chunk.key)
        return _Tail(chunk.end, chunk, content[: chunk.length], content[chunk.length :])

    async def _write(
        self, claim: Claim, tail: _Tail, data: bytes, pieces: Sequence[LogPiece], made: list[Chunk]
    ) -> tuple[_Tail, str | None]:
        """Store ``data`` behind ``tail``; return the new tail and the key of the chunk it replaces.

        Raises:
            LogMismatch, LogBytesMissing, StoreUnavailable.
        """
        parts, position, replaced = list(log_chunks.split_chunks(data, pieces)), tail.length, None
        if tail.chunk is not None and len(tail.data) + len(data) <= log_chunks.MAX_CHUNK_BYTES:
            parts, position = [(tail.data + data, tail.index + parts[0][1])], tail.chunk.start
            replaced = tail.chunk.key
        chunks = []
        for part, index in parts:
            chunks.append(log_chunks.make_chunk(claim.job_id, claim.attempt, position, part, index))
            position += len(part)
        # At once, so that the store may sync them together.
        await asyncio.gather(*(self._calls.run(self._put, *chunk, made) for chunk in chunks))
        for chunk, content in chunks:
            self._recent.keep(claim.job_id, claim.attempt, chunk, content)
        last = chunks[-1][0]
        if last.length < TAIL_BYTES:
            return _Tail(position, last, *parts[-1]), replaced
        return _Tail(position), replaced

    def _put(self, chunk: Chunk, content: bytes, made: list[Chunk]) -> None:
        """Store a chunk, unless a call whose end we do not know has stored the same one."""
        try:
            self._objects.put(chunk.key, content, create_only=True)
        except ObjectExists:
            try:
                stored = self._objects.read(chunk.key, length=chunk.length)
            except ObjectNotFound:
                raise LogBytesMissing from None
            if stored != content[: chunk.length]:
                raise LogMismatch(f"other bytes are stored from {chunk.start} on") from None
        else:
            made.append(chunk)

    def _delete(self, keys: Sequence[str]) -> None:
        """Delete chunks that no longer count; what cannot be deleted now goes when the log is sealed."""
        try:
            for key in keys:
                self._objects.delete(key)
        except StoreUnavailable as error:
            log.warning("log.chunks_left", keys=keys, detail=error.detail)


def _check_append(claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece]) -> None:
    """Refuse what no honest worker sends. Raises InvalidInput, and ClaimLost for ids that are none."""
    faults = []
    if offset < 0:
        faults.append(InputFault("/offset", "must not be negative"))
    if sum(piece.length for piece in pieces) != len(data):
        faults.append(InputFault("/pieces", "the lengths must add up to the data's"))
    for number, piece in enumerate(pieces):
        if piece.length < 1 or piece.stream not in ("o", "e", "p"):
            faults.append(InputFault(f"/pieces/{number}", "must be at least one byte of stream o, e or p"))
        elif not 0 <= piece.at_milliseconds <= MAX_MILLISECONDS:
            faults.append(InputFault(f"/pieces/{number}", "must be from 1970 to 9999"))
    if faults:
        raise InvalidInput(faults[:20])
    if not all(map(is_id, (claim.job_id, claim.lease_id, claim.worker_id))):
        raise ClaimLost(claim.job_id, claim.attempt)
