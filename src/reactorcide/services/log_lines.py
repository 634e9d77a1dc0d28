"""The lines of a log: its bytes cut by its index into streams, and these at their newlines.

Nothing in a line is read for a meaning; time and stream come from the index alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from reactorcide.domain.jobs import LogPiece
from reactorcide.objects.port import ObjectStore
from reactorcide.services.log_chunks import (
    ChunkedLog,
    LogBytesMissing,
    cut_pieces,
    decode_index,
    sealed_index_key,
    sealed_key,
)

StreamName = Literal["stdout", "stderr", "combined"]
STREAMS = {"o": "stdout", "e": "stderr", "p": "platform"}
MAX_LINE_BYTES = 256 * 1024
"""A longer line comes in several parts, so that no line decides how much memory a reader takes."""
_BATCH_BYTES = 256 * 1024


@dataclass(frozen=True)
class LogLine:
    """A line of one stream, its newline included, with the time and the place of its first byte.

    Data without a newline at its end is the last line of the stream, or a part of an over-long one
    that the next line of the same stream continues.
    """

    at: datetime
    stream: str
    """``stdout``, ``stderr`` or ``platform``."""
    data: bytes
    offset: int


@dataclass
class _OpenLine:
    offset: int
    at_milliseconds: int
    data: bytearray


class LineCutter:
    """Puts the lines of each stream together from pieces that come in the order of the log.

    A line is given out when its newline has come, so lines are in the order of their ends.
    """

    def __init__(self, stream: StreamName) -> None:
        self._wanted = {short for short, name in STREAMS.items() if stream in (name, "combined")}
        self._open: dict[str, _OpenLine] = {}

    def feed(self, offset: int, data: bytes, pieces: Sequence[LogPiece]) -> list[LogLine]:
        """Take bytes that begin at ``offset`` of the log, and return the lines that they end."""
        lines: list[LogLine] = []
        start = 0
        for piece in pieces:
            if piece.stream in self._wanted:
                lines.extend(self._cut(piece, offset + start, data[start : start + piece.length]))
            start += piece.length
        return lines

    def close(self) -> list[LogLine]:
        """Return what no newline ended, in the order of the log."""
        rest = [_as_line(stream, line) for stream, line in self._open.items() if line.data]
        self._open.clear()
        return sorted(rest, key=lambda line: line.offset)

    def _cut(self, piece: LogPiece, offset: int, data: bytes) -> Iterator[LogLine]:
        start = 0
        while start < len(data):
            line = self._open.get(piece.stream)
            if line is None:
                line = self._open[piece.stream] = _OpenLine(
                    offset + start, piece.at_milliseconds, bytearray()
                )
            elif not line.data:
                line.offset = offset + start
            room = MAX_LINE_BYTES - len(line.data)
            newline = data.find(b"\n", start, start + room)
            end = min(len(data), start + room) if newline < 0 else newline + 1
            line.data += data[start:end]
            start = end
            if newline >= 0:
                yield _as_line(piece.stream, self._open.pop(piece.stream))
            elif len(line.data) >= MAX_LINE_BYTES:
                yield _as_line(piece.stream, line)
                line.data = bytearray()


class IndexedLog:
    """Reads the bytes of a log together with their pieces, from the start to the end.

    For one thread at a time. A log that was not sealed when this was made is read from its chunks.
    """

    def __init__(
        self, objects: ObjectStore, job_id: str, attempt: int, length: int, *, is_sealed: bool, position: int
    ) -> None:
        """Read on from ``position``; ``length`` bytes of the log are acknowledged."""
        self._objects = objects
        self._length = length
        self._chunks = None if is_sealed else ChunkedLog(objects, job_id, attempt)
        self._key = sealed_key(job_id, attempt)
        self._pieces = _pieces_from(objects, sealed_index_key(job_id, attempt), position)
        self._rest: LogPiece | None = None

    def read(self, position: int, end: int) -> tuple[bytes, list[LogPiece]]:
        """Return some bytes from ``position``, at most to ``end``, and their pieces.

        ``position`` is where the last call ended.

        Raises:
            LogBytesMissing, ObjectNotFound, StoreUnavailable.
        """
        if self._chunks is not None:
            data, pieces = self._chunks.read_with_index(position, self._length)
            return data[: end - position], list(cut_pieces(pieces, 0, end - position))
        data = self._objects.read(self._key, start=position, length=min(_BATCH_BYTES, end - position))
        if not data:
            raise LogBytesMissing
        return data, self._take(len(data))

    def _take(self, length: int) -> list[LogPiece]:
        taken: list[LogPiece] = []
        while length:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                raise LogBytesMissing
            part = min(length, piece.length)
            length -= part
            taken.append(LogPiece(piece.at_milliseconds, piece.stream, part))
            left = piece.length - part
            self._rest = LogPiece(piece.at_milliseconds, piece.stream, left) if left else None
        return taken


def _pieces_from(objects: ObjectStore, key: str, position: int) -> Iterator[LogPiece]:
    """Yield the pieces of a sealed log that lie behind ``position``."""
    for piece in _pieces_of(objects, key):
        if position >= piece.length:
            position -= piece.length
        else:
            yield LogPiece(piece.at_milliseconds, piece.stream, piece.length - position)
            position = 0


def _pieces_of(objects: ObjectStore, key: str) -> Iterator[LogPiece]:
    rest = b""
    for block in objects.stream(key):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        lines = iter((whole + newline).splitlines(keepends=True))
        # Decoded some at a time: a block may hold a hundred thousand pieces.
        while some := b"".join(islice(lines, 1_000)):
            yield from decode_index(some)


def _as_line(stream: str, line: _OpenLine) -> LogLine:
    at = datetime.fromtimestamp(line.at_milliseconds / 1000, UTC)
    return LogLine(at, STREAMS[stream], bytes(line.data), line.offset)
