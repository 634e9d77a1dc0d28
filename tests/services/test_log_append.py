"""Taking in a log: offsets, repeats, races, outages."""

import asyncio
import os
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reactorcide.domain.errors import ClaimLost, InvalidInput, LogMismatch, OffsetGap, Unavailable
from reactorcide.domain.jobs import LogPiece
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import ObjectInfo, StoreUnavailable
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import TAIL_BYTES, LogService
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from services.log_fixtures import Rows, bell, objects, piece, random_cuts, reader, rows, service, whole

__all__ = ["bell", "objects", "reader", "rows", "service"]


async def test_log_21_what_is_appended_in_order_is_stored(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()

    lengths = [await service.append(claim, offset, b"abc", piece(b"abc")) for offset in (0, 3, 6)]

    assert lengths == [3, 6, 9]
    assert await whole(reader, claim) == b"abcabcabc"


async def test_log_21_a_repeat_or_an_overlap_stores_nothing_twice(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"0123456789", piece(b"0123456789"))

    repeated = await service.append(claim, 0, b"0123456789", piece(b"0123456789"))
    inside = await service.append(claim, 2, b"234", piece(b"234"))
    over = await service.append(claim, 8, b"89abc", [LogPiece(1, "e", 3), LogPiece(2, "o", 2)])

    assert (repeated, inside, over) == (10, 10, 13)
    assert await whole(reader, claim) == b"0123456789abc"
    lines = [line async for line in reader.lines(await reader.find(claim.job_id))]
    assert [(line.stream, line.data) for line in lines] == [("stdout", b"0123456789bc"), ("stderr", b"a")]


async def test_log_21_a_gap_is_answered_with_the_stored_length(service: LogService, rows: Rows) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))

    with pytest.raises(OffsetGap) as gap:
        await service.append(claim, 4, b"e", piece(b"e"))

    assert gap.value.length == 3


@pytest.mark.parametrize(("offset", "data"), [(0, b"xbc"), (2, b"Xdef"), (0, b"abX")])
async def test_log_21_other_bytes_for_a_stored_place_are_a_mismatch(
    service: LogService, reader: LogReader, rows: Rows, offset: int, data: bytes
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))

    with pytest.raises(LogMismatch):
        await service.append(claim, offset, data, piece(data))

    assert await whole(reader, claim) == b"abc"


async def test_log_21_a_claim_that_does_not_hold_the_attempt_is_lost(
    service: LogService, rows: Rows, objects: MemoryObjectStore
) -> None:
    claim, other = await rows.running(), await rows.running()

    for wrong in (
        replace(claim, lease_id=other.lease_id),
        replace(claim, attempt=2),
        replace(claim, job_id=other.job_id),
        replace(claim, lease_id="none"),
        replace(claim, job_id="../../x"),
    ):
        with pytest.raises(ClaimLost):
            await service.append(wrong, 0, b"abc", piece(b"abc"))

    assert list(objects.list("")) == []


async def test_log_21_after_the_seal_the_claim_is_lost(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abc")
    assert await service.seal_due() == 1

    for offset, data in ((3, b"d"), (0, b"abc")):
        with pytest.raises(ClaimLost):
            await service.append(claim, offset, data, piece(data))

    await service.purge_due()
    assert await whole(reader, claim) == b"abc"


async def test_log_21_bytes_behind_the_promised_end_are_a_mismatch(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abcdef")

    with pytest.raises(LogMismatch):
        await service.append(claim, 3, b"defg", piece(b"defg"))

    assert await service.append(claim, 3, b"def", piece(b"def")) == 6
    assert await service.seal_due() == 1
    assert await whole(reader, claim) == b"abcdef"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [LogPiece(1, "o", 2)],
        [LogPiece(1, "o", 4)],
        [LogPiece(1, "o", 3), LogPiece(1, "o", 0)],
        [LogPiece(1, "o", 4), LogPiece(1, "o", -1)],
        [LogPiece(1, "x", 3)],  # type: ignore[arg-type]
        [LogPiece(-1, "o", 3)],
        [LogPiece(10**15, "o", 3)],
    ],
)
async def test_pieces_must_fit_the_data(service: LogService, rows: Rows, pieces: list[LogPiece]) -> None:
    claim = await rows.running()

    with pytest.raises(InvalidInput):
        await service.append(claim, 0, b"abc", pieces)


async def test_an_append_of_nothing_tells_the_length(service: LogService, rows: Rows) -> None:
    claim = await rows.running()

    assert await service.append(claim, 0, b"", []) == 0
    await service.append(claim, 0, b"abc", piece(b"abc"))
    assert await service.append(claim, 3, b"", []) == 3
    with pytest.raises(OffsetGap):
        await service.append(claim, 4, b"", [])


async def test_small_appends_gather_in_few_objects(
    service: LogService, reader: LogReader, rows: Rows, objects: MemoryObjectStore
) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 1_200

    for offset in range(0, len(data), 4_096):
        part = data[offset : offset + 4_096]
        await service.append(claim, offset, part, piece(part))

    assert len(list(objects.list(""))) <= len(data) // TAIL_BYTES + 1
    assert await whole(reader, claim) == data


async def test_large_appends_are_cut_into_objects_of_bounded_size(
    service: LogService, reader: LogReader, rows: Rows, objects: MemoryObjectStore
) -> None:
    claim, data = await rows.running(), bytes(range(251)) * 20_000
    await service.append(claim, 0, data[:10], piece(data[:10]))

    await service.append(claim, 10, data[10:], piece(data[10:]))

    assert max(info.size_bytes for info in objects.list("")) < 1_100_000
    assert await whole(reader, claim) == data


@pytest.mark.parametrize("seed", range(4))
async def test_log_21_any_order_of_repeats_by_two_coordinators_ends_in_the_exact_log(
    database: Database, objects: MemoryObjectStore, reader: LogReader, rows: Rows, seed: int
) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 2_000
    coordinators = [LogService(database, objects, Bell(database)) for _ in range(2)]
    parts = list(random_cuts(data, seed, largest=40_000))
    largest_seen = 0

    async def send(service: LogService, cuts: list[tuple[int, bytes]]) -> None:
        nonlocal largest_seen
        for offset, part in cuts:
            stored = 0
            while stored < offset + len(part):
                try:
                    stored = await service.append(claim, offset, part, piece(part))
                except (OffsetGap, Unavailable):
                    await asyncio.sleep(0)
                    continue
                # What was acknowledged once is there from then on, exactly.
                largest_seen = max(largest_seen, stored)
            known = largest_seen
            assert (await whole(reader, claim))[:known] == data[:known]

    await asyncio.gather(
        send(coordinators[0], parts),
        send(coordinators[1], parts),
        send(coordinators[1], list(random_cuts(data, seed + 100, largest=90_000))),
    )

    assert await whole(reader, claim) == data
    await rows.end(claim, data)
    assert await coordinators[0].seal_due() == 1


class HeldStore(MemoryObjectStore):
    """A store whose next put waits to be let go: a slow coordinator."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = threading.Event()
        self.go_on = threading.Event()

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        self.is_held.set()
        assert self.go_on.wait(30)
        return super().put(key, data, create_only=create_only)


class SharedStore(HeldStore):
    def __init__(self, objects: MemoryObjectStore) -> None:
        super().__init__()
        self._objects = objects._objects
        self._lock = objects._lock


@pytest.mark.parametrize("late", [b"b", b"bcd", b"bcdefgh"])
async def test_a_late_writer_does_not_take_away_what_another_acknowledged(
    database: Database,
    objects: MemoryObjectStore,
    service: LogService,
    reader: LogReader,
    rows: Rows,
    late: bytes,
) -> None:
    claim, slow_objects = await rows.running(), SharedStore(objects)
    slow = LogService(database, slow_objects, Bell(database))
    await service.append(claim, 0, b"a", piece(b"a"))
    slow_append = asyncio.create_task(slow.append(claim, 1, late, piece(late)))
    await asyncio.to_thread(slow_objects.is_held.wait, 30)

    await service.append(claim, 1, b"bcd", piece(b"bcd"))
    slow_objects.go_on.set()
    length = await slow_append

    expected = max(b"abcd", b"a" + late, key=len)
    assert length == len(expected)
    assert await whole(reader, claim) == expected


async def test_a_late_writer_leaves_nothing_of_a_deleted_job(
    database: Database, objects: MemoryObjectStore, rows: Rows
) -> None:
    claim, slow_objects = await rows.running(), SharedStore(objects)
    slow = LogService(database, slow_objects, Bell(database))
    append = asyncio.create_task(slow.append(claim, 0, b"abc", piece(b"abc")))
    await asyncio.to_thread(slow_objects.is_held.wait, 30)
    await rows.delete_job(claim.job_id)
    slow_objects.go_on.set()

    with pytest.raises(ClaimLost):
        await append

    assert list(objects.list("")) == []


class FailingStore(MemoryObjectStore):
    """A store that is out of reach while ``is_down``."""

    is_down = False

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        if self.is_down:
            raise StoreUnavailable("as the test wishes")
        return super().put(key, data, create_only=create_only)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self.is_down:
            raise StoreUnavailable("as the test wishes")
        return super().list(prefix)


class StuckStore(MemoryObjectStore):
    """A store whose puts of sealed logs take for ever, until told."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        if key.endswith((".log", ".index")):
            self.goes_on.wait(20)
        return super().put(key, data, create_only=create_only)


async def test_a_sealing_that_goes_on_is_broken_off_at_the_stop_and_done_by_the_next_process(
    database: Database, rows: Rows
) -> None:
    objects = StuckStore()
    service = LogService(database, objects, Bell(database))
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abc")

    assert await service.seal_due() == 0
    await asyncio.wait_for(service.close(), 5)
    objects.goes_on.set()

    assert [task for task in asyncio.all_tasks() if "_seal_round" in repr(task.get_coro())] == []
    assert await LogService(database, objects, Bell(database)).seal_due() == 1


async def test_ost_04_a_removal_that_was_broken_off_is_taken_up_within_half_a_minute(
    database: Database, rows: Rows
) -> None:
    objects = FailingStore()
    service = LogService(database, objects, Bell(database))
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abc")
    await service.seal_due()
    objects.is_down = True

    purged = await service.purge_due()

    async with database.transaction() as tx:
        cursor = await tx.execute(
            "SELECT count(*) AS n FROM outbox WHERE done_at IS NULL AND not_before < now() + interval '21 s'"
        )
        row = await cursor.fetchone()
    assert row is not None
    assert (purged, row["n"]) == (0, 1)


async def test_an_unreachable_store_acknowledges_nothing_and_loses_nothing(
    database: Database, rows: Rows
) -> None:
    objects = FailingStore()
    service, reader = (
        LogService(database, objects, Bell(database)),
        LogReader(database, objects, Bell(database)),
    )
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))

    objects.is_down = True
    with pytest.raises(Unavailable):
        await service.append(claim, 3, b"def", piece(b"def"))
    assert (await reader.find(claim.job_id)).length == 3
    objects.is_down = False

    assert await service.append(claim, 3, b"def", piece(b"def")) == 6
    assert await whole(reader, claim) == b"abcdef"


async def test_crd_02_bytes_written_before_a_crash_are_taken_up_or_passed_over(
    database: Database, tmp_path: Path, rows: Rows
) -> None:
    objects = FilesystemObjectStore(tmp_path)
    reader = LogReader(database, objects, Bell(database))
    claim = await rows.running()
    first = LogService(database, objects, Bell(database))
    await first.append(claim, 0, b"abc", piece(b"abc"))
    # As a process leaves it that dies between writing the bytes and acknowledging them.
    tail = await asyncio.to_thread(first._read_tail, await first._find(claim))
    await first._write(claim, tail, b"defgh", piece(b"defgh"), [])
    unacknowledged = await whole(reader, claim)

    second = LogService(database, objects, Bell(database))
    lengths = [
        await second.append(claim, offset, part, piece(part))
        for offset, part in ((3, b"de"), (5, b"fgh"), (8, b"ij"))
    ]

    assert unacknowledged == b"abc"
    assert lengths == [5, 8, 10]
    assert await whole(reader, claim) == b"abcdefghij"


APPENDER = """
import asyncio, sys
from pathlib import Path
from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.services.logs import LogService
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

async def main(dsn, root, job_id, lease_id, worker_id, offset):
    database = await Database.open(dsn, size=2)
    service = LogService(database, FilesystemObjectStore(Path(root)), Bell(database))
    claim = Claim(job_id, 1, lease_id, worker_id)
    while True:
        data = b"".join(b"%d\\n" % number for number in range(offset, offset + 3_000))
        start = int(offset)
        offset = await service.append(claim, start, data, [LogPiece(1, "o", len(data))])
        print(start, offset, flush=True)

asyncio.run(main(*sys.argv[1:6], int(sys.argv[6])))
"""
KILLS = int(os.environ.get("REACTORCIDE_TEST_KILLS", "30")) // 6


async def test_crd_02_what_was_acknowledged_survives_kill_9(
    database: Database, dsn: str, tmp_path: Path, rows: Rows
) -> None:
    reader = LogReader(database, FilesystemObjectStore(tmp_path), Bell(database))
    claim, expected = await rows.running(), b""

    for _ in range(KILLS):
        appender = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-c",
                APPENDER,
                dsn,
                tmp_path,
                claim.job_id,
                claim.lease_id,
                claim.worker_id,
                str(len(expected)),
            ),
            stdout=asyncio.subprocess.PIPE,
        )
        assert appender.stdout is not None
        told = [await appender.stdout.readline() for _ in range(random.randint(1, 12))]
        appender.kill()
        told += [line async for line in appender.stdout]
        await appender.wait()
        for start, end in (map(int, line.split()) for line in told):
            assert start == len(expected)
            expected += b"".join(b"%d\n" % number for number in range(start, start + 3_000))
            assert end == len(expected)
        stored = await whole(reader, claim)
        # An answer may have been cut off after its commit.
        assert stored.startswith(expected)
        assert len(stored) - len(expected) < 30_000
        expected = stored

    await rows.end(claim, expected)
    assert await LogService(database, FilesystemObjectStore(tmp_path), Bell(database)).seal_due() == 1
    assert await whole(reader, claim) == expected


def numbered(stream: bytes, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"%s %d\n" % (stream, number)


async def test_log_22_100_000_numbered_lines_keep_their_order_and_every_read_extends_the_last(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    lines = [
        line for pair in zip(numbered(b"out", 50_000), numbered(b"err", 50_000), strict=True) for line in pair
    ]
    written = asyncio.Event()
    reads = [b""]

    async def write() -> None:
        offset = 0
        for start in range(0, len(lines), 700):
            batch = lines[start : start + 700]
            pieces = [LogPiece(start, "o" if line.startswith(b"out") else "e", len(line)) for line in batch]
            offset = await service.append(claim, offset, b"".join(batch), pieces)
        written.set()

    async def poll() -> None:
        while not written.is_set():
            now = await whole(reader, claim)
            assert now.startswith(reads[-1])
            reads[-1:] = [now]

    await asyncio.gather(write(), poll())

    log = await reader.find(claim.job_id)
    assert await whole(reader, claim) == b"".join(lines)
    for name, text in (("stdout", b"out"), ("stderr", b"err")):
        found = [line.data async for line in reader.lines(log, stream=name)]  # type: ignore[arg-type]
        assert found == list(numbered(text, 50_000))
