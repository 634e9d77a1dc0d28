"""Sealing: the chunks of a log that is whole become one object, with its length and digest."""

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import structlog

from reactorcide.objects.port import ObjectStore, StoreUnavailable
from reactorcide.objects.threads import StoreThreads
from reactorcide.services import log_chunks
from reactorcide.services.log_chunks import ChunkedLog, LogBytesMissing
from reactorcide.store import logs, outbox
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database, Transaction
from reactorcide.store.logs import LogRow

UNPROMISED_AFTER = timedelta(minutes=10)
"""The log of an attempt whose worker was lost is sealed as it is so long after the end."""
PROMISED_AFTER = timedelta(hours=24)
"""Bytes that a worker has promised are waited for so long after the end."""
SEALING_SECONDS = 1.0
"""A call of `LogSealing.seal_due` waits so long for what it began."""
_SEALS_A_ROUND = 20
_MAX_DOUBTFUL = 1_000
_INDEX_IN_MEMORY = 1024 * 1024
_INDEX_PART_BYTES = 256 * 1024

log = structlog.get_logger()


class LogSealing:
    """Seals logs in rounds. What became of the chunks is owed to the outbox."""

    def __init__(self, database: Database, objects: ObjectStore, bell: Bell, calls: StoreThreads) -> None:
        self._database = database
        self._objects = objects
        self._bell = bell
        self._calls = calls
        self._doubtful: set[tuple[str, int]] = set()
        self._sealing: asyncio.Task[int] | None = None

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
        except OSError as error:
            # The index did not fit on this machine's disk.
            log.warning("log.sealing_postponed", detail=str(error))
        return sealed

    async def _seal(self, row: LogRow) -> bool:
        known = log.bind(job_id=row.job_id, attempt=row.attempt, log_length=row.length)
        try:
            sha256 = await self._calls.run(self._write_sealed, row)
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
        """Write the two objects of a sealed log from its chunks, and return the SHA-256 of the log.

        Each chunk is read once, and neither object is ever held whole in memory.

        Raises:
            LogBytesMissing, StoreUnavailable.
            OSError: no room for the index, which lies in a temporary file if it is long.
        """
        chunks, digest = ChunkedLog(self._objects, row.job_id, row.attempt), hashlib.sha256()
        with tempfile.SpooledTemporaryFile(_INDEX_IN_MEMORY) as index:

            def data() -> Iterator[bytes]:
                position = 0
                while position < row.length:
                    part, its_index = chunks.read_encoded(position, row.length)
                    digest.update(part)
                    index.write(its_index)
                    yield part
                    position += len(part)

            self._objects.put(log_chunks.sealed_key(row.job_id, row.attempt), data())
            index.seek(0)
            parts = iter(lambda: index.read(_INDEX_PART_BYTES), b"")
            self._objects.put(log_chunks.sealed_index_key(row.job_id, row.attempt), parts)
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
