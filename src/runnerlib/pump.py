"""Carries a job's output from its two pipes to the spool, masked, both at once.

A thread a pipe. Bytes pass through in the pieces they come in; they are looked at for secrets and
for endless lines, never decoded. When the spool keeps nothing more, the pipes are still emptied:
a job is never held up by its log.
"""

import os
import select
import threading
import time
from collections.abc import Callable

from runnerlib.masking import Masker, MaskingStream
from runnerlib.spool import Spool, StreamMark

LINE_LIMIT_BYTES = 1024 * 1024
CUT_MARKER = b" [reactorcide: the rest of this line is cut]"

_READ_BYTES = 256 * 1024
_IDLE_MILLISECONDS = 30


class OutputPump:
    """Pumps standard output and standard error of one job until both have ended.

    Args:
        on_output: called after each piece of output, in the pipe's thread.
    """

    def __init__(self, spool: Spool, masker: Masker, *, on_output: Callable[[], None] = lambda: None) -> None:
        self._spool = spool
        self._masker = masker
        self._on_output = on_output
        self._threads: list[threading.Thread] = []
        self._giving_up = threading.Event()
        self.last_output = time.monotonic()

    def start(self, stdout: int, stderr: int) -> None:
        """Begin; the descriptors are closed when their pipe has ended."""
        marks: tuple[tuple[int, StreamMark], ...] = ((stdout, "o"), (stderr, "e"))
        for descriptor, mark in marks:
            thread = threading.Thread(target=self._pump, args=(descriptor, mark), name=f"pump-{mark}")
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def finish(self, patience_seconds: float) -> bool:
        """Wait for the ends of both pipes; False: given up, something that escaped holds them open."""
        end = time.monotonic() + patience_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            return True
        self._giving_up.set()
        for thread in self._threads:
            thread.join(1)
        return False

    def _pump(self, descriptor: int, mark: StreamMark) -> None:
        masking, lines = self._masker.stream(), LineCap(LINE_LIMIT_BYTES)
        try:
            while data := self._read(descriptor, mark, masking, lines):
                self.last_output = time.monotonic()
                self._spool.write(mark, lines.feed(masking.feed(data)))
                self._on_output()
        finally:
            os.close(descriptor)
            self._spool.write(mark, lines.feed(masking.close()))

    def _read(self, descriptor: int, mark: StreamMark, masking: MaskingStream, lines: "LineCap") -> bytes:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        is_quiet = False
        while not self._giving_up.is_set():
            if poll.poll(250 if is_quiet else _IDLE_MILLISECONDS):
                return os.read(descriptor, _READ_BYTES)
            if not is_quiet:
                self._spool.write(mark, lines.feed(masking.flush_idle()))
                self._on_output()
                is_quiet = True
        return b""


class LineCap:
    """Cuts lines that are longer than ``limit`` bytes; a carriage return ends a line too."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._length = 0
        """Of the line so far."""

    def feed(self, data: bytes) -> bytes:
        """Return ``data`` without what exceeds the limit of its line; a marker stands for it."""
        if self._length + len(data) <= self._limit:
            last_end = _last_line_end(data)
            self._length = len(data) - last_end - 1 if last_end >= 0 else self._length + len(data)
            return data
        return b"".join(map(self._cut, _split_after_line_ends(data)))

    def _cut(self, line: bytes) -> bytes:
        is_whole = line.endswith((b"\n", b"\r"))
        body = line[:-1] if is_whole else line
        room = self._limit - self._length
        kept = body[: max(0, room)]
        if len(body) > room >= 0:
            kept += CUT_MARKER
        self._length = 0 if is_whole else (self._length + len(body) if len(body) <= room else self._limit + 1)
        return kept + line[-1:] if is_whole else kept


def _last_line_end(data: bytes) -> int:
    newline = data.rfind(b"\n")
    return newline if newline == len(data) - 1 else max(newline, data.rfind(b"\r"))


def _split_after_line_ends(data: bytes) -> list[bytes]:
    import re

    return re.findall(rb"[^\r\n]*[\r\n]|[^\r\n]+", data)
