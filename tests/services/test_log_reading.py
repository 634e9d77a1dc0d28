"""Sealing a log, and reading and following it before, during and after that."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from reactorcide.domain.errors import NotFound, Unavailable
from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.domain.status import JobStatus
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.log_lines import MAX_LINE_BYTES
from reactorcide.services.log_reading import (
    LogAttempt,
    LogChunk,
    LogEnded,
    LogIdle,
    LogNews,
    LogPlace,
    LogReader,
)
from reactorcide.services.logs import LogService
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from services.log_fixtures import Rows, bell, objects, piece, random_cuts, reader, rows, service, whole

SOON = timedelta(milliseconds=20)


__all__ = ["bell", "objects", "reader", "rows", "service"]


async def fill(service: LogService, claim: Claim, data: bytes, largest: int = 50_000) -> None:
    for offset, part in random_cuts(data, 7, largest):
        await service.append(claim, offset, part, piece(part))


async def test_a_whole_log_is_sealed_as_one_object(
    service: LogService, reader: LogReader, rows: Rows, objects: MemoryObjectStore
) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 8_000
    await fill(service, claim, data)
    await rows.end(claim, data)

    sealed = await service.seal_due()
    await service.purge_due()

    log, row = await reader.find(claim.job_id), await rows.attempt_row(claim)
    key = f"logs/{claim.job_id}/1.log"
    assert (sealed, row["logs_object_key"], log.is_sealed) == (1, key, True)
    assert log.sha256 == hashlib.sha256(data).digest()
    assert objects.read(key) == data
    assert [info.key for info in objects.list("")] == [f"logs/{claim.job_id}/1.index", key]
    assert await whole(reader, claim) == data
    assert (await service.seal_due(), await service.purge_due()) == (0, 0)


async def test_an_empty_log_is_sealed_too(
    service: LogService, reader: LogReader, rows: Rows, objects: MemoryObjectStore
) -> None:
    claim = await rows.running()
    await rows.end(claim, b"")

    assert await service.seal_due() == 1

    assert objects.read(f"logs/{claim.job_id}/1.log") == b""
    assert await whole(reader, claim) == b""


async def test_a_log_is_not_sealed_before_its_promise_is_met(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    running = await service.seal_due()
    await rows.end(claim, b"abcdef")
    promised = await service.seal_due()
    await service.append(claim, 3, b"def", piece(b"def"))

    met = await service.seal_due()

    assert (running, promised, met) == (0, 0, 1)
    assert await whole(reader, claim) == b"abcdef"


async def test_log_21_a_log_that_is_not_the_promised_one_stays_open_for_a_day(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"xyz")

    at_once = [await service.seal_due() for _ in range(2)]
    await rows.shift_end(claim, "25 hours")
    after_a_day = await service.seal_due()

    assert (at_once, after_a_day) == ([0, 0], 1)
    assert (await reader.find(claim.job_id)).sha256 == hashlib.sha256(b"abc").digest()


async def test_the_log_of_a_lost_worker_is_sealed_as_it_is_after_a_while(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, None)

    at_once = await service.seal_due()
    await rows.shift_end(claim, "11 minutes")
    later = await service.seal_due()

    assert (at_once, later) == (0, 1)
    assert await whole(reader, claim) == b"abc"
    assert (await rows.attempt_row(claim))["final_log_sha256"] == hashlib.sha256(b"abc").digest()


async def test_sealing_by_several_coordinators_at_once_is_harmless(
    database: Database, objects: MemoryObjectStore, bell: Bell, reader: LogReader, rows: Rows
) -> None:
    coordinators = [LogService(database, objects, bell) for _ in range(3)]
    logs = {await rows.running(): bytes([number]) * 200_000 for number in range(5)}
    for claim, data in logs.items():
        await fill(coordinators[0], claim, data)
        await rows.end(claim, data)

    sealed = await asyncio.gather(
        *(coordinator.seal_due() for coordinator in coordinators),
        *(coordinator.purge_due() for coordinator in coordinators),
    )
    await coordinators[0].purge_due()

    assert sum(sealed[:3]) == 5
    assert [await whole(reader, claim) == data for claim, data in logs.items()] == [True] * 5
    assert len(list(objects.list(""))) == 10


async def test_only_the_newest_attempts_log_is_named_as_the_jobs(service: LogService, rows: Rows) -> None:
    first = await rows.running()
    await rows.end(first, b"", is_job_over=False)
    second = await rows.running(first.job_id, attempt=2)

    await service.seal_due()
    before = (await rows.attempt_row(second))["logs_object_key"]
    await rows.end(second, b"")
    await service.seal_due()

    assert before is None
    assert (await rows.attempt_row(second))["logs_object_key"] == f"logs/{first.job_id}/2.log"


async def test_a_purge_leaves_nothing_of_a_job_and_all_of_the_others(
    service: LogService, reader: LogReader, rows: Rows, objects: MemoryObjectStore
) -> None:
    gone, kept = await rows.running(), await rows.running()
    for claim in (gone, kept):
        await service.append(claim, 0, b"abc", piece(b"abc"))
        objects.put(f"artifacts/{claim.job_id}/1/a", b"x")

    await service.purge(gone.job_id)
    await service.purge(gone.job_id)

    assert all(kept.job_id in info.key for info in objects.list(""))
    assert await whole(reader, kept) == b"abc"


async def test_a_read_goes_on_where_it_was_when_the_log_is_sealed_meanwhile(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 10_000
    await fill(service, claim, data, largest=300_000)
    log = await reader.find(claim.job_id)
    parts, lines = reader.read(log, 0, log.length), reader.lines(log)
    got = [await anext(parts)]
    got_lines = [(await anext(lines)).data]

    await rows.end(claim, data)
    await service.seal_due()
    await service.purge_due()

    assert b"".join([*got, *[part async for part in parts]]) == data
    assert b"".join([*got_lines, *[line.data async for line in lines]]) == data


async def test_a_read_of_a_deleted_job_ends_with_not_found(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    log = await reader.find(claim.job_id)
    await rows.delete_job(claim.job_id)
    await service.purge(claim.job_id)

    with pytest.raises(NotFound):
        await anext(reader.read(log, 0, 3))


async def test_lost_bytes_are_unavailable_and_not_an_empty_log(
    service: LogService, reader: LogReader, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await service.purge(claim.job_id)

    with pytest.raises(Unavailable):
        await anext(reader.read(await reader.find(claim.job_id), 0, 3))


async def test_a_range_is_what_lies_in_it(service: LogService, reader: LogReader, rows: Rows) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 9_000
    await fill(service, claim, data, largest=400_000)
    log = await reader.find(claim.job_id)

    for start, length in ((0, 1), (5, 1_500_000), (2_303_999, 10), (2_304_000, 5), (9_999_999, 5), (7, 0)):
        found = b"".join([part async for part in reader.read(log, start, length)])
        assert found == data[start : start + length]


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("end", [b"", b"\n", b"last"])
async def test_a_tail_begins_at_the_last_lines(
    service: LogService, reader: LogReader, rows: Rows, end: bytes, is_sealed: bool
) -> None:
    claim = await rows.running()
    data = b"".join(b"%0*d\n" % (1 + n * 37 % 300, n) for n in range(4_000)) + end
    await fill(service, claim, data)
    if is_sealed:
        await rows.end(claim, data)
        await service.seal_due()
    log = await reader.find(claim.job_id)

    for count in (0, 1, 2, 10, 2_000, 3_999, 4_000, 4_001, 5_000):
        start = await reader.tail_start(log, count)
        expected = data.splitlines(keepends=True)[-count:] if count else []
        assert data[start:] == b"".join(expected), count


@pytest.mark.parametrize("is_sealed", [False, True])
async def test_log_20_lines_have_the_time_and_stream_of_their_first_byte_and_no_other(
    service: LogService, reader: LogReader, rows: Rows, is_sealed: bool
) -> None:
    claim = await rows.running()
    forged = b'{"timestamp":"1999-01-01T00:00:00Z","stream":"stderr","level":"error"}\n::set-env name=A::b\n'
    data = b"out err one\n two\n" + forged + b"job completed"
    pieces = [
        LogPiece(1_000, "o", 4),
        LogPiece(2_000, "e", 4),
        LogPiece(3_000, "o", 4),
        LogPiece(4_000, "e", 5),
        LogPiece(5_000, "p", len(forged)),
        LogPiece(6_000, "o", 13),
    ]
    await service.append(claim, 0, data, pieces)
    if is_sealed:
        await rows.end(claim, data)
        await service.seal_due()

    lines = [line async for line in reader.lines(await reader.find(claim.job_id))]

    first, second = forged.splitlines(keepends=True)
    assert [(line.at.timestamp(), line.stream, line.data, line.offset) for line in lines] == [
        (1.0, "stdout", b"out one\n", 0),
        (2.0, "stderr", b"err  two\n", 4),
        (5.0, "platform", first, 17),
        (5.0, "platform", second, 17 + len(first)),
        (6.0, "stdout", b"job completed", 17 + len(forged)),
    ]
    assert {line.at.tzinfo for line in lines} == {UTC}


@pytest.mark.parametrize("is_sealed", [False, True])
async def test_log_17_any_bytes_come_back_as_they_were(
    service: LogService, reader: LogReader, rows: Rows, is_sealed: bool
) -> None:
    claim = await rows.running()
    data = b"\xef\xbb\xbfbom\n\x00nul\xff\xfe\n10%\r20%\r\n\x1b]52;c;x\x07\n\n\n\xed\xa0\x80 half \xe2\x82"
    for offset in range(len(data)):
        byte = data[offset : offset + 1]
        await service.append(claim, offset, byte, piece(byte, at=offset))
    if is_sealed:
        await rows.end(claim, data)
        await service.seal_due()

    lines = [line async for line in reader.lines(await reader.find(claim.job_id), stream="stdout")]

    assert await whole(reader, claim) == data
    assert b"".join(line.data for line in lines) == data
    assert [line.data.find(b"\n") for line in lines[:-1]] == [len(line.data) - 1 for line in lines[:-1]]
    assert [line.at for line in lines] == [datetime.fromtimestamp(line.offset / 1000, UTC) for line in lines]


@pytest.mark.parametrize("is_sealed", [False, True])
async def test_log_14_a_line_of_10_mib_comes_in_parts_and_hides_no_later_line(
    service: LogService, reader: LogReader, rows: Rows, is_sealed: bool
) -> None:
    claim, long = await rows.running(), b"x" * (10 * 1024 * 1024)
    data = long + b"between\n" + b"\nshort\n"
    pieces = [LogPiece(1, "o", len(long)), LogPiece(2, "e", 8), LogPiece(3, "o", 7)]
    await service.append(claim, 0, data, pieces)
    if is_sealed:
        await rows.end(claim, data)
        await service.seal_due()

    lines = [line async for line in reader.lines(await reader.find(claim.job_id))]

    assert max(len(line.data) for line in lines) == MAX_LINE_BYTES
    assert [line.data for line in lines if line.stream == "stderr"] == [b"between\n"]
    out = [line for line in lines if line.stream == "stdout"]
    assert b"".join(line.data for line in out) == long + b"\nshort\n"
    assert {line.at.timestamp() for line in out[:-1]} == {0.001}
    assert out[-1].data == b"short\n"


@pytest.fixture
def follow(reader: LogReader) -> Callable[..., Awaitable[list[LogNews]]]:
    """Follow a log in the background; what it returns waits for the end and gives all that came."""

    async def collect(job_id: str, start: LogPlace) -> list[LogNews]:
        async with aclosing(reader.follow(job_id, start)) as news:  # type: ignore[type-var]
            return [item async for item in news]

    return lambda job_id, attempt=0, offset=0: asyncio.wait_for(
        collect(job_id, LogPlace(attempt, offset)), 60
    )


def text_of(news: list[LogNews]) -> bytes:
    return b"".join(item.data for item in news if isinstance(item, LogChunk))


async def test_a_follower_gets_every_byte_and_then_the_end(
    service: LogService, rows: Rows, follow: Callable[..., Awaitable[list[LogNews]]], bell: Bell
) -> None:
    claim, data = await rows.running(), bytes(range(256)) * 500
    await service.append(claim, 0, data[:1_000], piece(data[:1_000]))
    following = [asyncio.ensure_future(follow(claim.job_id, offset=offset)) for offset in (0, 0, 1_000)]

    await fill(service, claim, data, largest=9_000)
    await rows.end(claim, data)
    bell.ring(f"job:{claim.job_id}")
    news = await asyncio.gather(*following)

    assert [text_of(items) for items in news] == [data, data, data[1_000:]]
    for items in news:
        assert isinstance(items[-1], LogEnded)
        assert items[-1].job.status is JobStatus.COMPLETED
        chunks = [item for item in items if isinstance(item, LogChunk)]
        assert all(one.offset + len(one.data) == two.offset for one, two in pairwise(chunks))


async def test_a_follower_waits_for_the_bytes_that_come_after_the_end(
    service: LogService, rows: Rows, follow: Callable[..., Awaitable[list[LogNews]]]
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abcdef")
    following = asyncio.ensure_future(follow(claim.job_id))

    await service.append(claim, 3, b"def", piece(b"def"))

    assert text_of(await following) == b"abcdef"


async def test_a_follower_does_not_wait_for_ever_for_promised_bytes(
    database: Database, objects: MemoryObjectStore, bell: Bell, service: LogService, rows: Rows
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abcdef")
    reader = LogReader(database, objects, bell, poll=SOON, late_for=SOON)

    news = [item async for item in reader.follow(claim.job_id)]

    assert text_of(news) == b"abc"
    assert isinstance(news[-1], LogEnded)


async def test_a_follower_is_told_that_nothing_comes(
    database: Database, objects: MemoryObjectStore, bell: Bell, rows: Rows
) -> None:
    claim = await rows.running()
    reader = LogReader(database, objects, bell, poll=SOON, idle_after=SOON)

    async with aclosing(reader.follow(claim.job_id)) as news:  # type: ignore[type-var]
        assert [await anext(news), await anext(news)] == [LogIdle(), LogIdle()]


async def test_a_follower_goes_over_to_the_next_attempt(
    service: LogService, rows: Rows, bell: Bell, reader: LogReader
) -> None:
    first = await rows.running()
    await service.append(first, 0, b"first", piece(b"first"))
    async with aclosing(reader.follow(first.job_id)) as news:  # type: ignore[type-var]
        assert await anext(news) == LogChunk(1, 0, b"first")
        await service.append(first, 5, b" more", piece(b" more"))
        await rows.end(first, None, is_job_over=False)
        second = await rows.running(first.job_id, attempt=2)
        await service.append(second, 0, b"second", piece(b"second"))
        rest = [await anext(news) for _ in range(3)]
        await rows.end(second, b"second")
        bell.ring(f"job:{first.job_id}")
        end = await anext(news)

    assert rest == [LogChunk(1, 5, b" more"), LogAttempt(2), LogChunk(2, 0, b"second")]
    assert isinstance(end, LogEnded)


@pytest.fixture
async def two_attempts(service: LogService, rows: Rows) -> str:
    """A job that has ended, with a log of two attempts."""
    first = await rows.running()
    await service.append(first, 0, b"first", piece(b"first"))
    await rows.end(first, None, is_job_over=False)
    second = await rows.running(first.job_id, attempt=2)
    await service.append(second, 0, b"second", piece(b"second"))
    await rows.end(second, b"second")
    return first.job_id


@pytest.mark.parametrize(
    ("attempt", "offset", "expected"),
    [
        (0, 0, [LogAttempt(2), LogChunk(2, 0, b"second")]),
        (1, 2, [LogChunk(1, 2, b"rst"), LogAttempt(2), LogChunk(2, 0, b"second")]),
        (1, 5, [LogAttempt(2), LogChunk(2, 0, b"second")]),
        (1, 999, [LogAttempt(2), LogChunk(2, 0, b"second")]),
        (2, 3, [LogChunk(2, 3, b"ond")]),
        (2, 6, []),
        (2, 999, [LogChunk(2, 0, b"second")]),
        (7, 3, [LogAttempt(2), LogChunk(2, 0, b"second")]),
    ],
)
async def test_a_follower_that_comes_back_after_a_re_run_misses_and_mixes_nothing(
    two_attempts: str,
    follow: Callable[..., Awaitable[list[LogNews]]],
    attempt: int,
    offset: int,
    expected: list[LogNews],
) -> None:
    *news, end = await follow(two_attempts, attempt, offset)

    assert news == expected
    assert isinstance(end, LogEnded)


async def test_a_place_that_the_log_has_not_reached_starts_it_anew(
    service: LogService, rows: Rows, follow: Callable[..., Awaitable[list[LogNews]]]
) -> None:
    claim = await rows.running()
    await service.append(claim, 0, b"abc", piece(b"abc"))
    await rows.end(claim, b"abc")

    news = await follow(claim.job_id, 1, 1_000)

    assert news[0] == LogChunk(1, 0, b"abc")


async def test_following_a_job_without_any_attempt_ends_with_the_job(
    rows: Rows, database: Database, follow: Callable[..., Awaitable[list[LogNews]]]
) -> None:
    claim = await rows.running()
    await rows.end(claim, None)
    async with database.transaction() as tx:
        await tx.execute("DELETE FROM attempts")

    (end,) = await follow(claim.job_id)

    assert isinstance(end, LogEnded)


async def test_following_a_deleted_job_ends_with_not_found(
    rows: Rows, follow: Callable[..., Awaitable[list[LogNews]]], bell: Bell
) -> None:
    claim = await rows.running()
    following = asyncio.ensure_future(follow(claim.job_id))
    await rows.delete_job(claim.job_id)
    bell.ring(f"job:{claim.job_id}")

    with pytest.raises(NotFound):
        await following
