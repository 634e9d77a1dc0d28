"""The spool: what a runner leaves on a host, read while it is written."""

import hashlib
from pathlib import Path

import pytest

from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.worker.spool import AttemptSpool, Spool, SpoolReader
from runnerlib.spec import RunResult

CLAIM = Claim(
    "01890000-0000-7000-8000-000000000001",
    3,
    "01890000-0000-7000-8000-000000000002",
    "01890000-0000-7000-8000-000000000003",
)
RESULT = RunResult(
    status="completed",
    reason="ok",
    fault="none",
    exit_code=0,
    log_length=0,
    log_sha256="00",
    isolation="none",
)


@pytest.fixture
def spool(tmp_path: Path) -> AttemptSpool:
    return Spool(tmp_path / "spool").create(CLAIM)


def write(spool: AttemptSpool, *pieces: tuple[int, str, bytes]) -> None:
    with (spool.path / "log").open("ab") as log, (spool.path / "index").open("a") as index:
        for at, stream, data in pieces:
            log.write(data)
            index.write(f"{at} {stream} {len(data)}\n")


def append(spool: AttemptSpool, data: bytes) -> None:
    with (spool.path / "log").open("ab") as log:
        log.write(data)


def read_all(reader: SpoolReader, limit: int) -> tuple[bytes, list[LogPiece]]:
    data, pieces = b"", []
    while (batch := reader.read(limit, ended=True)) is not None:
        assert batch.offset == len(data)
        assert sum(piece.length for piece in batch.pieces) == len(batch.data) <= limit
        data += batch.data
        pieces += batch.pieces
    return data, pieces


def test_a_spool_directory_is_for_its_owner_only(spool: AttemptSpool) -> None:
    assert spool.path.stat().st_mode & 0o777 == 0o700
    assert spool.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_spool_that_cannot_be_made_whole_leaves_nothing(spool: AttemptSpool) -> None:
    (spool.path / "worker").unlink()
    (spool.path / "worker").mkdir()

    with pytest.raises(OSError, match="directory"):
        Spool(spool.path.parent).create(CLAIM)

    assert not spool.path.exists()


def test_a_log_that_is_not_there_yet_gives_nothing(spool: AttemptSpool) -> None:
    assert SpoolReader(spool).read(100, ended=False) is None
    assert SpoolReader(spool).read(100, ended=True) is None


def test_pieces_come_with_their_time_and_stream(spool: AttemptSpool) -> None:
    write(spool, (1, "o", b"out\n"), (2, "e", b"error\n"))

    batch = SpoolReader(spool).read(100, ended=False)

    assert batch is not None
    assert batch.data == b"out\nerror\n"
    assert batch.pieces == (LogPiece(1, "o", 4), LogPiece(2, "e", 6))


def test_what_grows_later_is_read_from_where_the_last_batch_ended(spool: AttemptSpool) -> None:
    reader = SpoolReader(spool)
    write(spool, (1, "o", b"first"))
    reader.read(100, ended=False)
    write(spool, (2, "o", b"second"))

    batch = reader.read(100, ended=False)

    assert batch is not None
    assert (batch.offset, batch.data) == (5, b"second")


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_any_limit_gives_the_same_bytes_and_lengths(spool: AttemptSpool, limit: int) -> None:
    write(spool, (1, "o", b"abcde"), (2, "e", b"f"), (3, "p", b"ghijklmnop"))

    data, pieces = read_all(SpoolReader(spool), limit)

    assert data == b"abcdefghijklmnop"
    for stream, length in (("o", 5), ("e", 1), ("p", 10)):
        assert sum(piece.length for piece in pieces if piece.stream == stream) == length


def test_a_half_written_index_line_waits_for_its_other_half(spool: AttemptSpool) -> None:
    reader = SpoolReader(spool)
    write(spool, (1, "o", b"abc"))
    append(spool, b"defgh")
    with (spool.path / "index").open("a") as index:
        index.write("2 e ")
        index.flush()
        first = reader.read(100, ended=False)
        index.write("5\n")

    second = reader.read(100, ended=False)

    assert first is not None
    assert first.data == b"abc"
    assert second is not None
    assert (second.data, second.pieces) == (b"defgh", (LogPiece(2, "e", 5),))


def test_an_index_ahead_of_its_log_gives_only_the_bytes_that_are_there(spool: AttemptSpool) -> None:
    reader = SpoolReader(spool)
    (spool.path / "log").write_bytes(b"ab")
    (spool.path / "index").write_text("1 o 1\n2 e 4\n")
    first = reader.read(100, ended=False)
    (spool.path / "log").write_bytes(b"abcde")

    second = reader.read(100, ended=False)

    assert first is not None
    assert (first.data, first.pieces) == (b"ab", (LogPiece(1, "o", 1), LogPiece(2, "e", 1)))
    assert second is not None
    assert (second.data, second.pieces) == (b"cde", (LogPiece(2, "e", 3),))


def test_bytes_that_a_dead_runner_told_nobody_of_are_still_given(spool: AttemptSpool) -> None:
    write(spool, (1, "o", b"told"))
    append(spool, b"untold")

    data, pieces = read_all(SpoolReader(spool), 100)

    assert data == b"tolduntold"
    assert [(piece.stream, piece.length) for piece in pieces] == [("o", 4), ("p", 6)]


@pytest.mark.parametrize("offset", [0, 1, 5, 6, 9])
def test_a_rewound_reader_gives_the_same_bytes_again(spool: AttemptSpool, offset: int) -> None:
    write(spool, (1, "o", b"abcde"), (2, "e", b"f"), (3, "p", b"ghi"))
    reader = SpoolReader(spool)
    reader.read(100, ended=False)

    reader.rewind(offset)
    batch = reader.read(100, ended=False)

    if offset == 9:
        assert batch is None
    else:
        assert batch is not None
        assert (batch.offset, batch.data) == (offset, b"abcdefghi"[offset:])
        assert sum(piece.length for piece in batch.pieces) == 9 - offset


def test_a_later_process_finds_what_was_left_with_its_claim(spool: AttemptSpool) -> None:
    spool.keep_result(RESULT)
    (spool.path.parent / "notes").mkdir()

    (found,) = Spool(spool.path.parent).leftovers()

    assert found == spool
    assert found.read_result() == RESULT


def test_half_a_result_counts_as_none(spool: AttemptSpool) -> None:
    (spool.path / "result.json").write_bytes(b'{"status":"compl')

    assert spool.read_result() is None


def test_the_measured_log_is_the_log(spool: AttemptSpool) -> None:
    write(spool, (1, "o", b"abcde"))

    assert spool.measure_log() == (5, hashlib.sha256(b"abcde").hexdigest())


def test_a_removed_spool_is_gone_and_may_be_removed_again(spool: AttemptSpool) -> None:
    spool.remove()
    spool.remove()

    assert Spool(spool.path.parent).leftovers() == []
