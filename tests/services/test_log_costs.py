"""What a log asks of the object store and of the memory."""

import hashlib
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.measured import MeasuredStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.log_chunks import MAX_CHUNK_BYTES, SEGMENT_BYTES, make_chunk, split_chunks
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import LogService
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from services.log_fixtures import Rows, bell, piece, rows, whole

__all__ = ["bell", "rows"]

END = """
    UPDATE attempts
       SET log_length = %(length)s, final_log_length = %(length)s, final_log_sha256 = %(sha256)s,
           ended_at = now()
     WHERE lease_id = %(lease_id)s
"""


class CountedStore(MeasuredStore):
    """A store whose calls are counted."""

    def __init__(self, store: MemoryObjectStore | FilesystemObjectStore) -> None:
        self.made: list[str] = []
        super().__init__(store, lambda operation, *_: self.made.append(operation))

    def count(self) -> Counter[str]:
        """Return the calls since this was asked last."""
        counted = Counter(self.made)
        self.made.clear()
        return counted


@pytest.fixture
def objects() -> CountedStore:
    return CountedStore(MemoryObjectStore())


async def lay_down(
    database: Database, rows: Rows, objects: CountedStore, chunks: int, pieces: int = 1
) -> tuple[Claim, bytes]:
    """Leave an ended attempt with a log of so many full chunks, each of so many pieces."""
    claim, digest = await rows.running(), hashlib.sha256()
    size = MAX_CHUNK_BYTES // pieces
    told = [LogPiece(1_700_000_000_000 + number, "o", size) for number in range(pieces)]
    for number in range(chunks):
        data = b"%07d\n" % number * (MAX_CHUNK_BYTES // 8)
        digest.update(data)
        for part, index in split_chunks(data, told):
            chunk, content = make_chunk(claim.job_id, 1, number * MAX_CHUNK_BYTES, part, index)
            objects.put(chunk.key, content)
    async with database.transaction() as tx:
        facts = {"length": chunks * MAX_CHUNK_BYTES, "sha256": digest.digest(), "lease_id": claim.lease_id}
        await tx.execute(END, facts)
    objects.count()
    return claim, digest.digest()


async def sealed(service: LogService) -> int:
    """Seal what is due, however long it takes."""
    for _ in range(60):
        if count := await service.seal_due():
            return count
    return 0


async def test_sealing_reads_each_chunk_once_and_lists_each_segment_once(
    database: Database, bell: Bell, rows: Rows, objects: CountedStore
) -> None:
    chunks = 40
    await lay_down(database, rows, objects, chunks)

    count = await sealed(LogService(database, objects, bell))

    asked = objects.count()
    assert count == 1
    assert (asked["read"], asked["put"]) == (chunks, 2)
    assert asked["list"] <= 2 * (chunks * MAX_CHUNK_BYTES // SEGMENT_BYTES + 1)


async def test_a_large_log_is_sealed_in_little_memory(
    database: Database, bell: Bell, rows: Rows, tmp_path: Path
) -> None:
    objects = CountedStore(FilesystemObjectStore(tmp_path))
    claim, sha256 = await lay_down(database, rows, objects, chunks=96, pieces=4_096)
    service = LogService(database, objects, bell)

    tracemalloc.start()
    try:
        count = await sealed(service)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    log = await LogReader(database, objects, bell).find(claim.job_id)
    assert (count, log.is_sealed, log.sha256) == (1, True, sha256)
    assert peak < 16 * 1024 * 1024


async def test_where_there_is_no_room_for_the_index_sealing_waits(
    database: Database,
    bell: Bell,
    rows: Rows,
    objects: CountedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await lay_down(database, rows, objects, chunks=1, pieces=MAX_CHUNK_BYTES // 16)
    service = LogService(database, objects, bell)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    full = [await service.seal_due() for _ in range(3)]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    roomy = await sealed(service)

    assert (full, roomy) == ([0, 0, 0], 1)


async def test_who_reads_a_log_elsewhere_lists_each_part_of_it_once(
    database: Database, bell: Bell, rows: Rows, objects: CountedStore
) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 4_096 * 8
    writer, reader = LogService(database, objects, bell), LogReader(database, objects, bell)
    for offset in range(0, len(data), MAX_CHUNK_BYTES):
        part = data[offset : offset + MAX_CHUNK_BYTES]
        await writer.append(claim, offset, part, piece(part))
    objects.count()

    same = [await whole(reader, claim) == data for _ in range(2)]

    assert same == [True, True]
    assert objects.count()["list"] == 1


async def test_coordinators_that_take_turns_do_not_list(
    database: Database, bell: Bell, rows: Rows, objects: CountedStore
) -> None:
    claim, data = await rows.running(), b"a line\n" * 200
    one, other = (LogService(database, objects, bell) for _ in range(2))
    for number in range(2):
        await (one, other)[number].append(claim, number * 70, data[:70], piece(data[:70]))
    objects.count()

    for number in range(2, 20):
        await (one, other)[number % 2].append(claim, number * 70, data[:70], piece(data[:70]))

    asked = objects.count()
    assert (asked["list"], asked["read"], asked["put"]) == (0, 18, 18)
    assert await whole(LogReader(database, objects, bell), claim) == data[:1_400]


async def test_a_repeat_of_the_last_append_changes_nothing(
    database: Database, bell: Bell, rows: Rows, objects: CountedStore
) -> None:
    claim, service = await rows.running(), LogService(database, objects, bell)
    await service.append(claim, 0, b"one\n", piece(b"one\n"))
    await service.append(claim, 4, b"two\n", piece(b"two\n"))

    again = await service.append(claim, 4, b"two\n", piece(b"two\n"))
    objects.count()
    length = await service.append(claim, 8, b"three\n", piece(b"three\n"))

    assert (again, length) == (8, 14)
    assert not objects.count().keys() - {"put", "delete"}
