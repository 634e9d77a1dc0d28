"""A run without a worker: its log on our standard output, its end as our exit code.

The phases, the guardian and the spool are those of an attempt under a worker; only who orders differs:
the first SIGINT, SIGTERM or SIGHUP cancels the job, with its grace time, and each further one kills it.
"""

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from runnerlib.attempt import make_guardian, run_attempt
from runnerlib.spec import RunResult, RunSpec, Stop, encode_line

EXIT_REFUSED = 1
EXIT_TIMEOUT = 124
EXIT_TROUBLE = 125
EXIT_INTERRUPTED = 130
_READ_BYTES = 256 * 1024
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_spec(spec: RunSpec, output: int) -> RunResult:
    """Run an attempt in this process, in the main thread, and show its log while it grows.

    Args:
        output: descriptor that takes the bytes of the log, masked. When nobody reads it any more, the job
            is cancelled.

    Raises:
        LogUnshown: ``output`` took no more, but for a reader who went away.
        OSError: the spool cannot be made, or the result not be written.
    """
    with _control_pipe() as (control, orders):
        show = _LogShow(Path(spec.spool_dir) / "log", output, on_lost=lambda: orders.send("cancel"))
        with _obeying_signals(orders):
            result = run_attempt(spec, make_guardian(spec, control), on_growth=show.grew)
        show.finish(result.log_length)
    if show.fault is not None and not isinstance(show.fault, BrokenPipeError):
        raise LogUnshown(result, show.fault)
    return result


def exit_code_of(result: RunResult) -> int:
    """Return the exit code that stands for the result: the job's own where it is the job's doing."""
    if result.status == "completed":
        return 0
    if result.status == "timeout":
        return EXIT_TIMEOUT
    if result.status == "cancelled":
        return EXIT_INTERRUPTED
    if result.fault == "infra":
        return EXIT_TROUBLE
    return result.exit_code or EXIT_REFUSED


class LogUnshown(Exception):
    """The log could not be shown to its end; the job was cancelled for it."""

    def __init__(self, result: RunResult, cause: OSError) -> None:
        super().__init__(f"the log cannot be shown: {cause.strerror or cause}")
        self.result = result


class _Orders:
    """Our end of the guardian's control lines; safe in a signal handler."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.count = 0

    def send(self, how: Literal["cancel", "kill"]) -> None:
        """Order the end of the job."""
        os.write(self._descriptor, encode_line(Stop(how)))

    def interrupt(self) -> None:
        """Order it as a signal does: the first one gently."""
        self.count += 1
        self.send("cancel" if self.count == 1 else "kill")


class _LogShow:
    """Copies the log from the spool to a descriptor, in a thread of its own."""

    def __init__(self, log: Path, output: int, *, on_lost: Callable[[], None]) -> None:
        self._log = log
        self._output = output
        self._on_lost = on_lost
        self.fault: OSError | None = None
        """Why not all of it was shown."""
        self._length = 0
        self._whole: int | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._show, name="show", daemon=True)
        self._thread.start()

    def grew(self, length: int) -> None:
        """The log is this long now."""
        with self._changed:
            self._length = length
            self._changed.notify()

    def finish(self, length: int) -> None:
        """Wait until all of the log is shown, as long as its reader takes."""
        with self._changed:
            self._length = self._whole = length
            self._changed.notify()
        self._thread.join()

    def _show(self) -> None:
        shown = 0
        while (end := self._wait_beyond(shown)) is not None:
            with self._log.open("rb", buffering=0) as log:
                log.seek(shown)
                while shown < end and (data := log.read(min(_READ_BYTES, end - shown))):
                    if not self._write(data):
                        return
                    shown += len(data)

    def _wait_beyond(self, shown: int) -> int | None:
        """Wait for more of the log; None: all of it is shown."""
        with self._changed:
            self._changed.wait_for(lambda: self._length > shown or self._whole is not None)
            return self._length if self._length > shown else None

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                # Somebody made it so, who shares it with us.
                _wait_writable(self._output)
            except OSError as error:
                self.fault = error
                with suppress(OSError):
                    self._on_lost()
                return False
        return True


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


@contextmanager
def _control_pipe() -> Iterator[tuple[int, _Orders]]:
    read, write = os.pipe()
    try:
        yield read, _Orders(write)
    finally:
        os.close(read)
        os.close(write)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals raise KeyboardInterrupt outside of a run, so that everything is removed on the way out."""
    numbers = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _obeying_signals(orders: _Orders) -> Iterator[None]:
    """What our caller had us ignore, as nohup does, stays ignored."""
    numbers = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: orders.interrupt()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
