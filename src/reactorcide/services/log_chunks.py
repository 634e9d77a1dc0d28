"""The shape of a log in the object store, before and after it is sealed.

While an attempt runs its log is a row of chunks, each an object that never changes:
``logs/<job>/<attempt>/<segment>/<start>-<end>`` holds the bytes from ``start`` to ``end`` of the log
and behind them their index, a line a piece: ``<milliseconds since epoch> <o|e|p> <length>``.
Which chunks count is told by the acknowledged length in the attempt's row alone: a chunk that ends
behind it was not acknowledged (its writer died, or is not done); of those that overlap, any will
do, for a place in a log has one value. Segments keep a listing short however long the log is.

A sealed log is two objects: ``logs/<job>/<attempt>.log``, the bytes and nothing else, and
``logs/<job>/<attempt>.index``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from reactorcide.domain.jobs import LogPiece
from reactorcide.objects.port import ObjectNotFound, ObjectStore

MAX_CHUNK_BYTES = 1024 * 1024
SEGMENT_BYTES = 16 * 1024 * 1024
_TRIES = 5
_REMEMBERED_SEGMENTS = 4


class LogBytesMissing(Exception):
    """Acknowledged bytes are in no chunk: the log was sealed or deleted meanwhile, or was damaged."""


@dataclass(frozen=True)
class Chunk:
    """Where a part of a log lies."""

    key: str
    start: int
    end: int

    @property
    def length(self) -> int:
        """Log bytes in it, without the index."""
        return self.end - self.start


def job_folder(job_id: str) -> str:
    """Return the prefix of everything kept of a job's logs."""
    return f"logs/{job_id}/"


def chunk_folder(job_id: str, attempt: int) -> str:
    """Return the prefix of the chunks of an attempt's log."""
    return f"logs/{job_id}/{attempt}/"


def sealed_key(job_id: str, attempt: int) -> str:
    """Return the key of a sealed log."""
    return f"logs/{job_id}/{attempt}.log"


def sealed_index_key(job_id: str, attempt: int) -> str:
    """Return the key of a sealed log's index."""
    return f"logs/{job_id}/{attempt}.index"


def encode_index(pieces: Iterable[LogPiece]) -> bytes:
    """Return the index of ``pieces``, neighbours of one time and stream made one."""
    lines, last = [], None
    for piece in pieces:
        if last is None or (last.at_milliseconds, last.stream) != (piece.at_milliseconds, piece.stream):
            if last is not None:
                lines.append(_encode(last))
            last = piece
        else:
            last = LogPiece(last.at_milliseconds, last.stream, last.length + piece.length)
    if last is not None:
        lines.append(_encode(last))
    return b"".join(lines)


def decode_index(index: bytes) -> list[LogPiece]:
    """Return the pieces of an index made of whole lines."""
    pieces = []
    for line in index.splitlines():
        at, stream, length = line.decode().split(" ")
        pieces.append(LogPiece(int(at), stream, int(length)))  # type: ignore[arg-type]
    return pieces


def cut_pieces(pieces: Iterable[LogPiece], start: int, end: int) -> Iterator[LogPiece]:
    """Yield what of ``pieces`` lies between two offsets, both counted from the first piece."""
    position = 0
    for piece in pieces:
        if position >= end:
            return
        length = min(end, position + piece.length) - max(start, position)
        position += piece.length
        if length > 0:
            yield LogPiece(piece.at_milliseconds, piece.stream, length)


def make_chunk(job_id: str, attempt: int, start: int, data: bytes, index: bytes) -> tuple[Chunk, bytes]:
    """Return the chunk for ``data`` from ``start`` on, and the content of its object."""
    return locate_chunk(job_id, attempt, start, start + len(data)), data + index


def locate_chunk(job_id: str, attempt: int, start: int, end: int) -> Chunk:
    """Return where the chunk from ``start`` to ``end`` lies, if there is one."""
    key = f"{_segment(job_id, attempt, start // SEGMENT_BYTES)}{start:016d}-{end:016d}"
    return Chunk(key, start, end)


def split_chunks(data: bytes, pieces: Sequence[LogPiece]) -> Iterator[tuple[bytes, bytes]]:
    """Yield data and index of each chunk that ``data`` makes."""
    for start in range(0, len(data), MAX_CHUNK_BYTES):
        part = data[start : start + MAX_CHUNK_BYTES]
        yield part, encode_index(cut_pieces(pieces, start, start + len(part)))


class ChunkedLog:
    """Reads the chunks of one attempt's log, in any threads. Remembers the last listings.

    What is remembered may be out of date: a chunk that is not there any more is looked for anew.
    """

    def __init__(self, objects: ObjectStore, job_id: str, attempt: int) -> None:
        self._objects = objects
        self._job_id = job_id
        self._attempt = attempt
        # Replaced and never changed, so that threads may share it; what they lose of it is listed anew.
        self._listed: Mapping[int, Sequence[Chunk]] = {}

    def read(self, position: int, end: int, length: int) -> bytes:
        """Return bytes from ``position`` on: at least one, to at most ``end``, at most a chunk's.

        ``length`` is the acknowledged length of the log, and not below ``end``.

        Raises:
            LogBytesMissing, StoreUnavailable.
        """
        chunk, data = self._read(position, length, size=end - position)
        return data[: min(end, chunk.end) - position]

    def read_with_index(self, position: int, length: int) -> tuple[bytes, list[LogPiece]]:
        """Return the bytes from ``position`` to the end of a chunk, and their pieces.

        Raises:
            LogBytesMissing, StoreUnavailable.
        """
        chunk, content = self._read(position, length)
        pieces = decode_index(content[chunk.end - position :])
        end = min(chunk.end, length)
        return content[: end - position], list(cut_pieces(pieces, position - chunk.start, end - chunk.start))

    def read_encoded(self, position: int, length: int) -> tuple[bytes, bytes]:
        """Return the bytes from ``position`` to the end of a chunk, and the index of these.

        Raises:
            LogBytesMissing, StoreUnavailable.
        """
        chunk, content = self._read(position, length)
        data, index = content[: chunk.end - position], content[chunk.end - position :]
        if chunk.start < position or chunk.end > length:
            end = min(chunk.end, length)
            pieces = cut_pieces(decode_index(index), position - chunk.start, end - chunk.start)
            return data[: end - position], encode_index(pieces)
        return data, index

    def last(self, length: int) -> Chunk | None:
        """Return a chunk that ends a log of ``length`` bytes; None if the log is empty.

        Raises:
            LogBytesMissing, StoreUnavailable.
        """
        if length == 0:
            return None
        chunk = self._covering(length - 1, length) or self._covering(length - 1, length, again=True)
        if chunk is None:
            raise LogBytesMissing
        return chunk

    def _read(self, position: int, length: int, *, size: int | None = None) -> tuple[Chunk, bytes]:
        """Read the object of the chunk at ``position``, from there on."""
        for turn in range(_TRIES):
            chunk = self._covering(position, length, again=turn > 0)
            if chunk is None:
                # The log may have grown since its length was told, and a longer chunk taken its place.
                chunk = _farthest(self._listed, position, None)
            if chunk is None:
                continue
            # A longer chunk may have taken its place; the next listing shows it.
            with suppress(ObjectNotFound):
                content = self._objects.read(chunk.key, start=position - chunk.start, length=size)
                if content:
                    return chunk, content
        raise LogBytesMissing

    def _covering(self, position: int, length: int, *, again: bool = False) -> Chunk | None:
        """Return an acknowledged chunk at ``position``: of those in one segment, that which reaches farthest.

        Args:
            again: list, whatever is remembered.
        """
        if not again and (known := _farthest(self._listed, position, length)) is not None:
            return known
        own, before = position // SEGMENT_BYTES, max(0, position - MAX_CHUNK_BYTES) // SEGMENT_BYTES
        # The first bytes of a segment may be in a chunk that begins in the one before.
        for segment in dict.fromkeys((own, before)):
            listed = {segment: tuple(self._list(segment))}
            others = [entry for entry in self._listed.items() if entry[0] != segment]
            self._listed = dict(others[1 - _REMEMBERED_SEGMENTS :]) | listed
            if (found := _farthest(listed, position, length)) is not None:
                return found
        return None

    def _list(self, segment: int) -> Iterator[Chunk]:
        for info in self._objects.list(_segment(self._job_id, self._attempt, segment)):
            start, _, end = info.key.rpartition("/")[2].partition("-")
            if start.isdecimal() and end.isdecimal():
                yield Chunk(info.key, int(start), int(end))


def _farthest(listed: Mapping[int, Sequence[Chunk]], position: int, length: int | None) -> Chunk | None:
    """Return the chunk at ``position`` that reaches farthest, not behind ``length`` if one is given."""
    found = (
        chunk
        for chunks in listed.values()
        for chunk in chunks
        if chunk.start <= position < chunk.end and (length is None or chunk.end <= length)
    )
    return max(found, key=lambda chunk: chunk.end, default=None)


def _segment(job_id: str, attempt: int, segment: int) -> str:
    return f"{chunk_folder(job_id, attempt)}{segment:08d}/"


def _encode(piece: LogPiece) -> bytes:
    return f"{piece.at_milliseconds} {piece.stream} {piece.length}\n".encode()
