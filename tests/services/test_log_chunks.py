"""The index of a log and how it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from reactorcide.domain.jobs import LogPiece
from reactorcide.services.log_chunks import cut_pieces, decode_index, encode_index

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
