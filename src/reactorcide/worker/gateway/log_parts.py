"""Cutting a log append into parts that one call may carry."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reactorcide.domain.errors import InputFault, InvalidInput
from reactorcide.domain.jobs import LogPiece
from reactorcide.protocol import MAX_LOG_DATA_BYTES, MAX_LOG_PIECES


@dataclass(frozen=True)
class LogPart:
    """Bytes of a log from ``offset`` on; the lengths of ``pieces`` add up to theirs."""

    offset: int
    data: bytes
    pieces: list[LogPiece]


def split_append(offset: int, data: bytes, pieces: Sequence[LogPiece]) -> Iterator[LogPart]:
    """Yield the parts of an append, in order; one, if it is empty.

    Raises:
        InvalidInput: the pieces do not add up to the data.
    """
    if sum(piece.length for piece in pieces) != len(data):
        raise InvalidInput([InputFault("/pieces", "the lengths must add up to the data's")])
    if len(data) <= MAX_LOG_DATA_BYTES and len(pieces) <= MAX_LOG_PIECES:
        yield LogPart(offset, data, list(pieces))
        return
    position, size, part = 0, 0, list[LogPiece]()
    for piece in pieces:
        rest = piece.length
        while rest > 0:
            taken = min(rest, MAX_LOG_DATA_BYTES - size)
            part.append(LogPiece(piece.at_milliseconds, piece.stream, taken))
            size += taken
            rest -= taken
            if size == MAX_LOG_DATA_BYTES or len(part) == MAX_LOG_PIECES:
                yield LogPart(offset + position, data[position : position + size], part)
                position, size, part = position + size, 0, []
    if part:
        yield LogPart(offset + position, data[position:], part)
