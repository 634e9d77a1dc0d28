"""Reading a log: whole or in part, by lines, or following it while it grows.

To a reader it is all one whether a log is still written, being sealed or sealed: a place in it has one value.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from reactorcide.domain.errors import Gone, NotFound, Unavailable
from reactorcide.domain.jobs import Job
from reactorcide.domain.removals import RemovedThing
from reactorcide.objects.port import ObjectNotFound, ObjectStore
from reactorcide.objects.threads import StoreThreads
from reactorcide.services.log_chunks import ChunkedLog, LogBytesMissing, sealed_key
from reactorcide.services.log_lines import IndexedLog, LineCutter, LogLine, StreamName
from reactorcide.services.log_pace import SWIFT, LogPace
from reactorcide.services.log_watching import LogWatch
from reactorcide.services.recent_chunks import RecentChunks
from reactorcide.store import jobs, logs
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.logs import LogProgress, LogRow

__all__ = [
    "LogAttempt",
    "LogChunk",
    "LogEnded",
    "LogIdle",
    "LogLine",
    "LogNews",
    "LogPlace",
    "LogReader",
    "StoredLog",
]

T = TypeVar("T")

BLOCK_BYTES = 256 * 1024
_TRIES = 5
_KEPT_BLOCKS = 64
_REMEMBERED_LISTINGS = 64


@dataclass(frozen=True)
class StoredLog:
    """The log of one attempt as it was when it was looked up."""

    job_id: str
    attempt: int
    """0: the job has had no attempt."""
    length: int
    is_sealed: bool
    sha256: bytes | None
    """Of the whole log, once it is sealed."""


@dataclass(frozen=True)
class LogPlace:
    """A place in the log of an attempt; attempt 0 stands for the newest there is."""

    attempt: int = 0
    offset: int = 0


@dataclass(frozen=True)
class LogAttempt:
    """From here on it is the log of this attempt, from its start."""

    attempt: int


@dataclass(frozen=True)
class LogChunk:
    """Bytes of a followed log; ``offset`` is the end of the chunk before, 0 after a `LogAttempt`."""

    attempt: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class LogIdle:
    """Nothing new for a while; the log is still followed."""


@dataclass(frozen=True)
class LogEnded:
    """The job has ended and all of its log was given."""

    job: Job


LogNews: TypeAlias = LogAttempt | LogChunk | LogIdle | LogEnded


@dataclass
class _Cursor:
    """How far a follower has come."""

    attempt: int
    position: int


class LogReader:
    """Reads logs for any number of callers; whether they may, they have asked `JobService.get`.

    Followers of one log share their looks at the database and what they read.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        bell: Bell,
        *,
        poll: timedelta = timedelta(seconds=1),
        idle_after: timedelta = timedelta(seconds=15),
        late_for: timedelta = timedelta(seconds=10),
        pace: LogPace = SWIFT,
        recent: RecentChunks | None = None,
        calls: StoreThreads | None = None,
    ) -> None:
        """Make a reader.

        Args:
            poll: a follower looks so often even if the bell is silent.
            idle_after: a follower says so after this time without news.
            late_for: after the end of a job, its last bytes are waited for so long.
            pace: as the service has it that takes logs in; ``recent``: what that appended in this process.
            calls: where the object store is called; None: in threads of its own.
        """
        self._database = database
        self._objects = objects
        self._bell = bell
        self._poll = poll
        self._idle_after = idle_after.total_seconds()
        self._late_for = late_for
        self._watch = LogWatch(database, bell, pace)
        self._recent = recent or RecentChunks()
        self._calls = calls or StoreThreads()
        self._chunked: OrderedDict[tuple[str, int], ChunkedLog] = OrderedDict()
        self._looks: dict[str, asyncio.Task[LogProgress | None]] = {}
        self._looking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._blocks: OrderedDict[tuple[object, ...], asyncio.Task[bytes]] = OrderedDict()

    async def find(self, job_id: str, attempt: int | None = None) -> StoredLog:
        """Return the log of an attempt (None: of the newest); an empty one if there is none.

        Raises:
            Gone: it was removed, or lost.
            Unavailable.
        """
        row = await self._database.run(partial(logs.read_log, job_id=job_id, attempt=attempt))
        if row is None:
            return StoredLog(job_id, attempt or 0, 0, is_sealed=False, sha256=None)
        return _as_stored(row)

    async def read(self, log: StoredLog, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start``, at most ``length`` of them and none behind ``log.length``.

        Raises:
            NotFound: the job was deleted meanwhile.
            Gone: the log was removed meanwhile, or the object store has lost it.
            Unavailable: the database or the object store cannot be reached, or has lost bytes.
        """
        position, end, tries = start, min(start + length, log.length), 0
        while position < end:
            try:
                data = await self._read_some(log, position, end)
            except (LogBytesMissing, ObjectNotFound):
                tries += 1
                log = await self._find_again(log, tries)
                continue
            yield data
            position += len(data)
            tries = 0

    async def tail_start(self, log: StoredLog, lines: int) -> int:
        """Return the offset at which the last ``lines`` lines begin.

        Raises:
            NotFound, Gone, Unavailable: as `read`.
        """
        end, wanted, is_first = log.length, lines, True
        while wanted > 0 and end > 0:
            start = max(0, end - BLOCK_BYTES)
            block = b"".join([data async for data in self.read(log, start, end - start)])
            # The newline at the very end belongs to the last line and begins none.
            searched = len(block) - 1 if is_first and block.endswith(b"\n") else len(block)
            newlines = block.count(b"\n", 0, searched)
            if newlines >= wanted:
                for _ in range(wanted):
                    searched = block.rfind(b"\n", 0, searched)
                return start + searched + 1
            end, wanted, is_first = start, wanted - newlines, False
        return end

    async def lines(self, log: StoredLog, *, stream: StreamName = "combined") -> AsyncIterator[LogLine]:
        """Yield the lines of one stream, or of all and the platform's, in the order of their ends.

        Takes bounded memory however long a line is; see `LogLine`.

        Raises:
            NotFound, Gone, Unavailable: as `read`.
        """
        cutter, position, end, tries = LineCutter(stream), 0, log.length, 0
        source = self._open(log, position)

        def step() -> tuple[int, list[LogLine]]:
            data, pieces = source.read(position, end)
            return len(data), cutter.feed(position, data, pieces)

        while position < end:
            try:
                length, lines = await self._calls.run(step)
            except (LogBytesMissing, ObjectNotFound):
                tries += 1
                log = await self._find_again(log, tries)
                source = self._open(log, position)
                continue
            for line in lines:
                yield line
            position += length
            tries = 0
        for line in cutter.close():
            yield line

    async def follow(self, job_id: str, start: LogPlace = LogPlace()) -> AsyncIterator[LogNews]:
        """Yield the log of a job from ``start`` on, as it grows, until the job's end.

        If the job is run again meanwhile, or has been since ``start`` was reached, the rest of the old
        attempt's log comes first, then a `LogAttempt`, and then the newest one's log from its start. Who
        begins with the newest is told which it is, unless it is the first. An offset that a log has not
        reached is none of ours: the log comes from its start.

        Raises:
            NotFound: there is no such job (any more).
            Gone, Unavailable: as `read`; begin again from the last offset.
        """
        clock, cursor = asyncio.get_running_loop().time, _Cursor(start.attempt, start.offset)
        with self._bell.listen(f"log:{job_id}", f"job:{job_id}") as ear:
            last_news = clock()
            while True:
                progress = await self._look(job_id)
                if progress.ended_for is None and progress.log is not None:
                    await self._watch.say(progress.log)
                async for item in self._news(job_id, cursor, progress.log):
                    yield item
                    last_news = clock()
                if self._is_over(progress, cursor):
                    job = await self._database.run(partial(jobs.find_job, job_id=job_id))
                    if job is None:
                        raise NotFound("job", job_id)
                    yield LogEnded(job)
                    return
                if clock() - last_news >= self._idle_after:
                    yield LogIdle()
                    last_news = clock()
                await ear.wait(self._poll)

    async def _news(
        self, job_id: str, cursor: _Cursor, row: LogRow | None
    ) -> AsyncIterator[LogChunk | LogAttempt]:
        if row is None:
            return
        if row.attempt != cursor.attempt:
            if cursor.attempt:
                old = await self.find(job_id, cursor.attempt)
                async for chunk in self._rest(old, cursor):
                    yield chunk
                cursor.position = 0
            if cursor.attempt or row.attempt > 1:
                yield LogAttempt(row.attempt)
            cursor.attempt = row.attempt
        if cursor.position > row.length:
            cursor.position = 0
        async for chunk in self._rest(_as_stored(row), cursor):
            yield chunk

    async def _rest(self, log: StoredLog, cursor: _Cursor) -> AsyncIterator[LogChunk]:
        while cursor.position < log.length:
            data = await self._shared_block(log, cursor.position)
            chunk = LogChunk(log.attempt, cursor.position, data)
            cursor.position += len(data)
            yield chunk

    def _is_over(self, progress: LogProgress, cursor: _Cursor) -> bool:
        if progress.ended_for is None:
            return False
        row = progress.log
        if row is None or row.is_sealed or not row.is_started:
            return True
        if row.final_length is not None and cursor.position >= row.final_length:
            return True
        return progress.ended_for >= self._late_for

    async def _look(self, job_id: str) -> LogProgress:
        """Return how a job's log stands now; who asks at the same time gets the same look."""
        look = self._looks.get(job_id)
        if look is None:
            look = self._looks[job_id] = _share(self._look_next(job_id))
        progress = await asyncio.shield(look)
        if progress is None:
            raise NotFound("job", job_id)
        return progress

    async def _look_next(self, job_id: str) -> LogProgress | None:
        lock = self._looking.setdefault(job_id, asyncio.Lock())
        async with lock:
            # From here on the answer may be too old for one who asks: the next one takes a new look.
            del self._looks[job_id]
            return await self._database.run(partial(logs.read_progress, job_id=job_id))

    async def _shared_block(self, log: StoredLog, position: int) -> bytes:
        """Read some bytes from ``position`` on; those just read are still there for the next follower."""
        end = min(log.length, position + BLOCK_BYTES)
        key = (log.job_id, log.attempt, position, end)
        block = self._blocks.get(key)
        if block is None or (block.done() and (block.cancelled() or block.exception() is not None)):
            block = self._blocks[key] = _share(self._first_block(log, position, end))
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return await asyncio.shield(block)

    async def _first_block(self, log: StoredLog, position: int, end: int) -> bytes:
        return b"".join([data async for data in self.read(log, position, end - position)])

    async def _read_some(self, log: StoredLog, position: int, end: int) -> bytes:
        end = min(end, position + BLOCK_BYTES)
        if not log.is_sealed:
            known = self._recent.read(log.job_id, log.attempt, position, end)
            if known is not None:
                return known
            return await self._calls.run(self._chunks_of(log).read, position, end, log.length)
        return await self._calls.run(self._read_sealed, log, position, end)

    def _chunks_of(self, log: StoredLog) -> ChunkedLog:
        """Return the chunks of a log, with what is known of them from the last reads."""
        key = (log.job_id, log.attempt)
        chunks = self._chunked.pop(key, None) or ChunkedLog(self._objects, log.job_id, log.attempt)
        self._chunked[key] = chunks
        if len(self._chunked) > _REMEMBERED_LISTINGS:
            self._chunked.popitem(last=False)
        return chunks

    def _read_sealed(self, log: StoredLog, position: int, end: int) -> bytes:
        data = self._objects.read(sealed_key(log.job_id, log.attempt), start=position, length=end - position)
        if not data:
            raise LogBytesMissing
        return data

    def _open(self, log: StoredLog, position: int) -> IndexedLog:
        return IndexedLog(
            self._objects, log.job_id, log.attempt, log.length, is_sealed=log.is_sealed, position=position
        )

    async def _find_again(self, log: StoredLog, tries: int) -> StoredLog:
        """Look where the bytes of a log have gone that are not where they were."""
        if tries > _TRIES:
            if log.is_sealed and await self._calls.run(self._is_gone, log):
                raise Gone("the log was lost: the object store does not have it any more")
            raise Unavailable("log")
        row = await self._database.run(partial(logs.read_log, job_id=log.job_id, attempt=log.attempt))
        if row is None:
            raise NotFound("log", log.job_id)
        return _as_stored(row)

    def _is_gone(self, log: StoredLog) -> bool:
        try:
            self._objects.size(sealed_key(log.job_id, log.attempt))
        except ObjectNotFound:
            return True
        return False


def _as_stored(row: LogRow) -> StoredLog:
    """Return the log of a row. Raises Gone if it was removed."""
    if row.loss is not None:
        raise row.loss.error(RemovedThing.LOG)
    sha256 = row.final_sha256 if row.is_sealed else None
    return StoredLog(row.job_id, row.attempt, row.length, row.is_sealed, sha256)


def _share(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start what several callers will wait for; its error is theirs, and nobody's if all have gone."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
