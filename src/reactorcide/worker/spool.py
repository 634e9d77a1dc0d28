"""The spool of a worker: one owner-only directory an attempt, kept until its result and log are delivered.

A runner writes ``log``, ``index``, ``artifacts.json`` with the folder ``artifacts`` and, last,
``result.json`` (see `runnerlib.spec.messages`); the worker adds only ``worker``, the id under which it
holds the attempt. No secret is ever in here, unless a job has put one into an artifact.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from reactorcide.domain.jobs import Claim, LogPiece
from runnerlib.spec import RunResult, decode_result, encode_line

_NAME = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,6})\.([0-9a-f-]{36})")
_INDEX_READ_BYTES = 64 * 1024
_MOST_PIECES = 4_096


@dataclass(frozen=True)
class LogBatch:
    """A run of log bytes that starts at ``offset``, and when and on which stream its parts came."""

    offset: int
    data: bytes
    pieces: tuple[LogPiece, ...]


@dataclass(frozen=True)
class AttemptSpool:
    """What one attempt left on this host."""

    claim: Claim
    path: Path

    def read_result(self) -> RunResult | None:
        """Return how the attempt ended, None if nobody wrote it down, or not whole."""
        try:
            return decode_result((self.path / "result.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def keep_result(self, result: RunResult) -> None:
        """Write down a result that the worker decided, in place of what the runner said."""
        part = self.path / "result.part"
        with part.open("wb") as file:
            file.write(encode_line(result))
            file.flush()
            os.fsync(file.fileno())
        # Renamed into place, so that a later boot never meets half a result.
        part.replace(self.path / "result.json")
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def measure_log(self) -> tuple[int, str]:
        """Return length in bytes and SHA-256 (hexadecimal) of the log as it is now."""
        try:
            with (self.path / "log").open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
                return file.tell(), digest.hexdigest()
        except FileNotFoundError:
            return 0, hashlib.sha256().hexdigest()

    def remove(self) -> None:
        """Delete the directory; one that is gone counts as deleted."""
        shutil.rmtree(self.path, ignore_errors=True)


class Spool:
    """The directory that holds the spools of all attempts of a worker."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, claim: Claim) -> AttemptSpool:
        """Make the directory of an attempt.

        Raises:
            OSError: it cannot be made, e.g. because the disk is full; nothing of it is left.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = AttemptSpool(claim, self.root / f"{claim.job_id}.{claim.attempt}.{claim.lease_id}")
        made.path.mkdir(mode=0o700, exist_ok=True)
        try:
            (made.path / "worker").write_text(claim.worker_id)
        except OSError:
            made.remove()
            raise
        return made

    def leftovers(self) -> list[AttemptSpool]:
        """Return what an earlier process left behind, oldest job first. Foreign names are let alone."""
        if not self.root.is_dir():
            return []
        return [spool for path in sorted(self.root.iterdir()) if (spool := _read_spool(path)) is not None]

    def measure(self) -> tuple[int, int]:
        """Return how many attempts are in the spool, and their bytes in all."""
        attempts = size = 0
        with contextlib.suppress(FileNotFoundError):
            for folder in os.scandir(self.root):
                if _NAME.fullmatch(folder.name):
                    attempts += 1
                    # Removed under our eyes, it counts as far as it was seen.
                    with contextlib.suppress(FileNotFoundError):
                        size += _size_below(folder.path)
        return attempts, size


def _size_below(folder: str) -> int:
    size = 0
    for entry in os.scandir(folder):
        is_folder = entry.is_dir(follow_symlinks=False)
        size += _size_below(entry.path) if is_folder else entry.stat(follow_symlinks=False).st_size
    return size


def _read_spool(path: Path) -> AttemptSpool | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        worker_id = (path / "worker").read_text()
    except FileNotFoundError:
        # The crash came before the runner was started: nothing to deliver.
        shutil.rmtree(path, ignore_errors=True)
        return None
    return AttemptSpool(Claim(match[1], int(match[2]), match[3], worker_id), path)


class SpoolReader:
    """Reads log and index of a spool side by side while the runner writes them.

    Gives only bytes of which the index tells already; its last line may be half written.
    Synchronous: asynchronous callers use a thread, one call at a time.
    """

    def __init__(self, spool: AttemptSpool) -> None:
        self._log = spool.path / "log"
        self._index = spool.path / "index"
        self._offset = 0
        self._index_offset = 0
        self._half_line = b""
        self._known: deque[LogPiece] = deque()

    def read(self, limit: int, *, ended: bool) -> LogBatch | None:
        """Return the next bytes, at most ``limit``; None: nothing new.

        ``ended``: the runner is gone, so bytes that its index misses will never be told of; they
        are given as output of the platform.
        """
        pieces = self._take_pieces(limit)
        wanted = sum(piece.length for piece in pieces)
        data = self._read_log(wanted)
        if len(data) < wanted:
            pieces = self._give_back(pieces, wanted - len(data))
        if not data and ended:
            data = self._read_log(limit)
            pieces = [LogPiece(self._written_at(), "p", len(data))] if data else []
        if not data:
            return None
        batch = LogBatch(self._offset, data, tuple(pieces))
        self._offset += len(data)
        return batch

    def unread_bytes(self) -> int:
        """Return how many bytes lie behind what was read."""
        try:
            return max(0, self._log.stat().st_size - self._offset)
        except FileNotFoundError:
            return 0

    def rewind(self, offset: int) -> None:
        """Read again from ``offset``, which was read before."""
        self._index_offset = self._offset = 0
        self._half_line = b""
        self._known.clear()
        while self._offset < offset:
            pieces = self._take_pieces(offset - self._offset)
            if not pieces:
                break
            self._offset += sum(piece.length for piece in pieces)
        self._offset = offset

    def _take_pieces(self, limit: int) -> list[LogPiece]:
        taken: list[LogPiece] = []
        while limit > 0 and len(taken) < _MOST_PIECES:
            if not self._known and not self._read_index():
                break
            piece = self._known.popleft()
            if piece.length > limit:
                self._known.appendleft(LogPiece(piece.at_milliseconds, piece.stream, piece.length - limit))
                piece = LogPiece(piece.at_milliseconds, piece.stream, limit)
            limit -= piece.length
            taken.append(piece)
        return taken

    def _give_back(self, pieces: list[LogPiece], surplus: int) -> list[LogPiece]:
        while surplus > 0:
            piece = pieces.pop()
            kept = max(0, piece.length - surplus)
            surplus -= piece.length - kept
            self._known.appendleft(LogPiece(piece.at_milliseconds, piece.stream, piece.length - kept))
            if kept:
                pieces.append(LogPiece(piece.at_milliseconds, piece.stream, kept))
        return pieces

    def _read_index(self) -> bool:
        """Take up further whole lines of the index; False: there are none yet."""
        chunk = _read_at(self._index, self._index_offset, _INDEX_READ_BYTES)
        self._index_offset += len(chunk)
        *lines, self._half_line = (self._half_line + chunk).split(b"\n")
        pieces = (_parse_piece(line) for line in lines if line)
        self._known.extend(piece for piece in pieces if piece.length > 0)
        return bool(self._known)

    def _read_log(self, length: int) -> bytes:
        return _read_at(self._log, self._offset, length) if length else b""

    def _written_at(self) -> int:
        return int(self._log.stat().st_mtime * 1000)


def _parse_piece(line: bytes) -> LogPiece:
    at, stream, length = line.decode("ascii").split(" ")
    return LogPiece(int(at), cast(Literal["o", "e", "p"], stream), int(length))


def _read_at(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)
    except FileNotFoundError:
        return b""
