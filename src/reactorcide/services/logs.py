"""Taking in the log of an attempt, sealing it after the end, and removing it with its job."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
from reactorcide.observability.metrics import Metrics
from reactorcide.services import log_chunks
from reactorcide.services.log_chunks import Chunk, ChunkedLog, LogBytesMissing
from reactorcide.services.purging import delete_owed
from reactorcide.store import logs, outbox
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database, Transaction
from reactorcide.store.logs import LogRow
from reactorcide.store.outbox import OutboxEntry

TAIL_BYTES = 64 * 1024
"""A last chunk shorter than this is replaced by one that holds the next bytes too."""
UNPROMISED_AFTER = timedelta(minutes=10)
"""The log of an attempt whose worker was lost is sealed as it is so long after the end."""
PROMISED_AFTER = timedelta(hours=24)
"""Bytes that a worker has promised are waited for so long after the end."""
PURGE_AGAIN_AFTER = timedelta(seconds=20)
"""A removal whose process died, or whose store was away, is taken up so late."""
SEALING_SECONDS = 1.0
"""A call of `LogService.seal_due` waits so long for what it began."""
MAX_MILLISECONDS = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_REMEMBERED_TAILS = 256
_APPEND_TRIES = 5
_SEALS_A_ROUND = 20
_MAX_DOUBTFUL = 1_000

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
        self, database: Database, objects: ObjectStore, bell: Bell, *, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or Metrics()
        self._database = database
        self._objects = objects
        self._bell = bell
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tails: OrderedDict[Claim, _Tail] = OrderedDict()
        self._doubtful: set[tuple[str, int]] = set()
        self._sealing: asyncio.Task[int] | None = None

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
                await asyncio.to_thread(self._delete, [chunk.key for chunk in made])
                raise
        raise Unavailable("log")

    async def seal_due(self) -> int:
        """Seal logs of ended attempts that are whole, and return how many were; 0 if it takes long.

        A log is whole when all that its worker promised is stored. What was not promised, or did not
        come for a day, is no longer waited for. Doing this twice at once is harmless. What takes long
        goes on meanwhile and is told by the next call, so that no other chore waits for it.

        Raises:
            Unavailable: the database cannot be reached. Without the object store, nothing is sealed.
        """
        sealing = self._sealing or asyncio.create_task(self._seal_round())
        self._sealing = sealing
        done, _ = await asyncio.wait({sealing}, timeout=SEALING_SECONDS)
        if not done:
            return 0
        self._sealing = None
        return sealing.result()

    async def close(self) -> None:
        """Break off a sealing that goes on; the next process takes it up."""
        if self._sealing is not None:
            self._sealing.cancel()
            await asyncio.wait({self._sealing})
            if not self._sealing.cancelled():
                self._sealing.exception()  # looked at, or asyncio complains that nobody did

    async def purge(self, job_id: str) -> None:
        """Delete every log and artifact of a job. Raises Unavailable."""
        await asyncio.to_thread(delete_owed, self._objects, {"job_id": job_id})

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
        await asyncio.to_thread(delete_owed, self._objects, entry.payload)
        await self._database.run(partial(outbox.mark_done, entry_id=entry.entry_id))

    async def _append_once(
        self, claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece], made: list[Chunk]
    ) -> int | None:
        """Append from what is known of the log. None: it has changed meanwhile, look again."""
        tail = self._tails.pop(claim, None)
        if tail is None or tail.length != offset:
            row = await self._find(claim)
            if offset > row.length:
                raise OffsetGap(row.length)
            try:
                stored = await asyncio.to_thread(self._compare, row, offset, data)
                tail = await asyncio.to_thread(self._read_tail, row)
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
        if not await self._database.run(lambda tx: logs.grow_log(tx, claim, tail.length, grown.length)):
            return None
        self._metrics.log_appended(grown.length - tail.length)
        self._bell.ring(f"log:{claim.job_id}")
        self._remember(claim, grown)
        if replaced is not None:
            await asyncio.to_thread(self._delete, [replaced])
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

    def _read_tail(self, row: LogRow) -> _Tail:
        chunks = ChunkedLog(self._objects, row.job_id, row.attempt)
        chunk = chunks.last(row.length)
        if chunk is None or chunk.length >= TAIL_BYTES:
            return _Tail(row.length)
        try:
            content = self._objects.read(chunk.key)
        except ObjectNotFound:
            raise LogBytesMissing from None
        return _Tail(row.length, chunk, content[: chunk.length], content[chunk.length :])

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
        await asyncio.gather(*(asyncio.to_thread(self._put, *chunk, made) for chunk in chunks))
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

    async def _seal_round(self) -> int:
        frozen = await self._database.run(
            partial(logs.freeze_logs, unpromised_after=UNPROMISED_AFTER, promised_after=PROMISED_AFTER)
        )
        for row in frozen:
            self._doubtful.discard((row.job_id, row.attempt))
            log.info("log.frozen", job_id=row.job_id, attempt=row.attempt, log_length=row.length)
        whole = await self._database.run(
            partial(logs.list_logs_to_seal, without=self._doubtful, limit=_SEALS_A_ROUND)
        )
        sealed = 0
        try:
            for row in whole:
                sealed += await self._seal(row)
        except StoreUnavailable as error:
            log.warning("log.sealing_postponed", detail=error.detail)
        return sealed

    async def _seal(self, row: LogRow) -> bool:
        known = log.bind(job_id=row.job_id, attempt=row.attempt, log_length=row.length)
        try:
            sha256 = await asyncio.to_thread(self._write_sealed, row)
        except LogBytesMissing:
            if await self._is_waiting(row):
                self._doubt(row)
                known.error("log.bytes_missed")
            return False
        if row.final_sha256 not in (None, sha256):
            self._doubt(row)
            promised = row.final_sha256.hex() if row.final_sha256 else None
            known.error("log.digest_mismatched", promised=promised, stored=sha256.hex())
            return False
        if not await self._database.run(lambda tx: self._mark_sealed(tx, row, sha256)):
            return False
        self._bell.ring(f"log:{row.job_id}", f"job:{row.job_id}")
        known.info("log.sealed")
        return True

    def _write_sealed(self, row: LogRow) -> bytes:
        """Write the two objects of a sealed log from its chunks, and return the SHA-256 of the log."""
        chunks, digest = ChunkedLog(self._objects, row.job_id, row.attempt), hashlib.sha256()

        def index() -> Iterator[bytes]:
            position = 0
            while position < row.length:
                position, pieces = chunks.read_index(position, row.length)
                yield log_chunks.encode_index(pieces)

        def data() -> Iterator[bytes]:
            position = 0
            while position < row.length:
                part = chunks.read(position, row.length, row.length)
                digest.update(part)
                yield part
                position += len(part)

        self._objects.put(log_chunks.sealed_index_key(row.job_id, row.attempt), index())
        self._objects.put(log_chunks.sealed_key(row.job_id, row.attempt), data())
        return digest.digest()

    async def _mark_sealed(self, tx: Transaction, row: LogRow, sha256: bytes) -> bool:
        """Let the sealed objects count and owe the removal of the chunks. False: no longer as it was."""
        key = log_chunks.sealed_key(row.job_id, row.attempt)
        if not await logs.seal_log(tx, row, sha256, key):
            return False
        await outbox.add_entry(
            tx,
            outbox.PURGE_OBJECTS,
            f"purge_chunks:{row.job_id}:{row.attempt}",
            {"job_id": row.job_id, "attempt": row.attempt},
        )
        return True

    async def _is_waiting(self, row: LogRow) -> bool:
        now = await self._database.run(lambda tx: logs.read_log(tx, row.job_id, row.attempt))
        return now is not None and not now.is_sealed

    def _doubt(self, row: LogRow) -> None:
        """Leave a log alone that a person must look at: until it is frozen, or for this process's life."""
        if len(self._doubtful) >= _MAX_DOUBTFUL:
            self._doubtful.clear()
        self._doubtful.add((row.job_id, row.attempt))

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
