"""The spool of one attempt: its log and index while it runs, its result at the end.

The directory is made by the worker, owner-only. What is written here is masked already. Log bytes
are written before the index line that tells of them, so a reader never meets a line without its bytes.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from runnerlib.spec import RunResult, encode_line

StreamMark = Literal["o", "e", "p"]
"""Standard output, standard error, platform."""

SYNC_SECONDS = 0.5
_RESULT_ROOM = 16 * 1024
_HASH_BYTES = 1024 * 1024


class SpoolBroken(OSError):
    """The log cannot be kept any more, for instance because the disk is full."""


class Spool:
    """Writes log and index; threads may write at the same time.

    Args:
        limit_bytes: of output kept; past it one notice is written, then the job's bytes are dropped.
        on_growth: called with the log's length after each write, under the lock: must not block.
        now_milliseconds: wall clock of the index.
    """

    def __init__(
        self,
        directory: Path,
        *,
        limit_bytes: int,
        on_growth: Callable[[int], None] = lambda _: None,
        now_milliseconds: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._directory = directory
        self._limit = limit_bytes
        self._on_growth = on_growth
        self._now = now_milliseconds
        self._lock = threading.Lock()
        self.length = 0
        self.is_truncated = False
        self.fault: OSError | None = None
        """Why the log is not kept any more; set once."""
        self._is_at_line_start = True
        flags = os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._log = os.open(directory / "log", flags, 0o600)
        self._index = os.open(directory / "index", flags, 0o600)
        self._result = os.open(directory / "result.part", flags, 0o600)
        # The result must fit in, whatever the job did to the disk meanwhile.
        with contextlib.suppress(OSError):
            os.posix_fallocate(self._result, 0, _RESULT_ROOM)
        self._keeper = _Keeper(self._log, self._index, lambda: self.length)

    def write(self, mark: StreamMark, data: bytes) -> None:
        """Append masked output of the job. Never raises: a log that cannot be kept sets `fault`."""
        if not data:
            return
        with self._lock:
            if self.is_truncated or self.fault is not None:
                return
            room = self._limit - self.length
            if len(data) <= room:
                self._append(mark, data)
                return
            if room > 0:
                self._append(mark, data[:room])
            self.is_truncated = True
            self._append_line(f"the log limit of {self._limit} bytes is reached: later output is dropped")

    def tell(self, text: str) -> None:
        """Append a line of the platform, on a line of its own; control characters are made visible."""
        with self._lock:
            self._append_line(text)

    def finish(self, compose: Callable[[int, str], RunResult]) -> RunResult:
        """Sync the log, then put the result into place; return it.

        Args:
            compose: given length and SHA-256 (hexadecimal) of the log, says how the attempt ended.

        Raises:
            OSError: the result cannot be written.
        """
        digest = self._keeper.finish()
        result = compose(self.length, digest)
        data = encode_line(result)
        _write_all(self._result, data)
        os.ftruncate(self._result, len(data))
        os.fsync(self._result)
        # Renamed into place last: who sees a result sees the whole of it and of its log.
        (self._directory / "result.part").rename(self._directory / "result.json")
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return result

    def close(self) -> None:
        """Close the files."""
        self._keeper.stop()
        for descriptor in (self._log, self._index, self._result):
            os.close(descriptor)

    def _append_line(self, text: str) -> None:
        if self.fault is not None:
            return
        plain = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
        start = b"" if self._is_at_line_start else b"\n"
        self._append("p", start + f"reactorcide: {plain}\n".encode(errors="backslashreplace"))

    def _append(self, mark: StreamMark, data: bytes) -> None:
        try:
            _write_all(self._log, data)
            _write_all(self._index, b"%d %s %d\n" % (self._now(), mark.encode(), len(data)))
        except OSError as error:
            self.fault = error
            # What the index does not tell of was never logged.
            with contextlib.suppress(OSError):
                os.ftruncate(self._log, self.length)
            return
        self.length += len(data)
        self._is_at_line_start = data.endswith(b"\n")
        self._keeper.wake()
        self._on_growth(self.length)


class _Keeper:
    """Syncs what was written at least every second, and hashes it on the way, in a thread of its own."""

    def __init__(self, log: int, index: int, length: Callable[[], int]) -> None:
        import hashlib

        self._log = log
        self._index = index
        self._length = length
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._written = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Tell that something was written."""
        if not self._written.is_set():
            self._written.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="spool-keeper", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self._written.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> str:
        """Sync all that was written; return the SHA-256 of the log."""
        self.stop()
        self._hash()
        os.fsync(self._log)
        os.fsync(self._index)
        return self._digest.hexdigest()

    def _keep(self) -> None:
        # Looked at after the clearing below, which may have taken back what `stop` has set.
        while not self._ending.is_set():
            self._written.wait()
            if self._ending.wait(SYNC_SECONDS):
                return
            self._written.clear()
            self._hash()
            # A disk that fails shows it to the next write, or to the last sync of all.
            with contextlib.suppress(OSError):
                os.fdatasync(self._log)
                os.fdatasync(self._index)

    def _hash(self) -> None:
        end = self._length()
        while self._hashed < end:
            data = os.pread(self._log, min(_HASH_BYTES, end - self._hashed), self._hashed)
            if not data:
                return
            self._digest.update(data)
            self._hashed += len(data)


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.write(descriptor, view[written:])
