"""The index of a log and how it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from reactorcide.domain.jobs import LogPiece
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.log_chunks import ChunkedLog, cut_pieces, decode_index, encode_index, make_chunk

PIECES = st.lists(
    st.builds(LogPiece, st.integers(0, 3), st.sampled_from("oep"), st.integers(1, 9)), max_size=20
)


def spread(pieces: list[LogPiece]) -> list[tuple[int, str]]:
    """Return time and stream of every single byte."""
    return [(piece.at_milliseconds, piece.stream) for piece in pieces for _ in range(piece.length)]


@given(PIECES)
def test_an_index_keeps_time_and_stream_of_every_byte(pieces: list[LogPiece]) -> None:
    again = decode_index(encode_index(pieces))

    assert spread(again) == spread(pieces)
    assert len(again) <= len(pieces)


@given(PIECES, st.integers(0, 60), st.integers(0, 60))
def test_a_cut_keeps_time_and_stream_of_every_byte_in_it(
    pieces: list[LogPiece], start: int, end: int
) -> None:
    cut = list(cut_pieces(pieces, start, end))

    assert spread(cut) == spread(pieces)[start:end]


def test_neighbours_of_one_time_and_stream_take_one_line() -> None:
    pieces = [LogPiece(5, "o", 3), LogPiece(5, "o", 4), LogPiece(5, "e", 1), LogPiece(6, "e", 1)]

    assert encode_index(pieces) == b"5 o 7\n5 e 1\n6 e 1\n"


def test_who_knows_an_older_length_reads_to_it_from_the_longer_chunk_that_took_the_place() -> None:
    objects, job_id = MemoryObjectStore(), "01a2051c-ed9f-723e-8951-00fabfc71da3"
    pieces = [LogPiece(1, "o", 3), LogPiece(2, "e", 4)]
    chunk, content = make_chunk(job_id, 1, 0, b"abcdefg", encode_index(pieces))
    objects.put(chunk.key, content)

    late = ChunkedLog(objects, job_id, 1)

    assert late.read(1, 5, 5) == b"bcde"
    assert late.read_with_index(1, 5) == (b"bcde", [LogPiece(1, "o", 2), LogPiece(2, "e", 2)])
    assert late.read_encoded(1, 5) == (b"bcde", b"1 o 2\n2 e 2\n")
    assert late.read_encoded(0, 7) == (b"abcdefg", b"1 o 3\n2 e 4\n")
