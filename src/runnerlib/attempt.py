"""The program ``python -m runnerlib.attempt``: one attempt, from a spec on standard input to a result file.

See `runnerlib.spec.messages` for what goes in and comes out. Exit code 0: a result was written,
whatever it says; 1: none could be; 2: the spec was refused.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from runnerlib.executors.processes import wait_readable
from runnerlib.guardian import Guardian
from runnerlib.run import Phase, Run, RunListener, RunReport
from runnerlib.spec import (
    LogGrew,
    PhaseEntered,
    RunnerEvent,
    RunResult,
    RunSpec,
    SourceResolved,
    decode_spec,
    encode_line,
)
from runnerlib.spool import Spool

_HINT_SECONDS = 0.01
_LONGEST_SPEC_BYTES = 16 * 1024**2
_STANDARD_INPUT = 0


class EventChannel:
    """Tells the worker how things go; hints only, so one who does not listen holds nothing up."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._length = 0
        self._grew = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, event: RunnerEvent) -> None:
        """Send an event, if there is room for it."""
        line = encode_line(event)
        with self._lock:
            if self._descriptor < 0 or not _has_room(self._descriptor):
                return
            try:
                os.write(self._descriptor, line)
            except OSError:
                self._descriptor = -1

    def grew(self, length: int) -> None:
        """Tell, soon, that the log is this long; many of these become one event."""
        self._length = length
        if not self._grew.is_set():
            self._grew.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._hint, name="hints", daemon=True)
                self._thread.start()

    def _hint(self) -> None:
        while True:
            self._grew.wait()
            self._grew.clear()
            self.send(LogGrew(self._length))
            time.sleep(_HINT_SECONDS)


def main() -> int:
    """Run the attempt whose spec is on standard input."""
    os.umask(0o022)
    events = EventChannel(_take_standard_output())
    _load_what_jobs_need()
    line, said_after = _read_line(_STANDARD_INPUT)
    if line is None:
        return 2
    try:
        spec = decode_spec(line)
    except ValueError as error:
        _complain(f"the spec is refused: {error}")
        return 2
    _outlive_signals()
    guardian = make_guardian(spec, _STANDARD_INPUT, said_after)
    try:
        run_attempt(spec, guardian, on_growth=events.grew, on_event=events.send)
    except OSError as error:
        _complain(f"no result could be written: {error}")
        return 1
    return 0


def make_guardian(spec: RunSpec, control: int, said_already: bytes = b"") -> Guardian:
    """Return the guardian of an attempt, which listens on ``control`` from now on."""
    return Guardian(
        control,
        timeout_seconds=spec.timeout_seconds,
        silence_seconds=spec.silence_timeout_seconds,
        fence_seconds=spec.fence_seconds,
        fence_used_seconds=spec.fence_used_seconds,
        grace_seconds=spec.host.cancel_grace_seconds,
        said_already=said_already,
    )


def run_attempt(
    spec: RunSpec,
    guardian: Guardian,
    *,
    on_growth: Callable[[int], None],
    on_event: Callable[[RunnerEvent], None] = lambda _: None,
) -> RunResult:
    """Run an attempt and keep its result in the spool.

    Args:
        on_growth: called with each new length of the log; must not block.

    Raises:
        OSError: the spool cannot be made, or the result not be written.
    """
    spool = Spool(Path(spec.spool_dir), limit_bytes=spec.host.log_limit_bytes, on_growth=on_growth)
    try:

        def enter(phase: Phase) -> None:
            on_event(PhaseEntered(phase))

        listener = RunListener(enter, lambda sha: on_event(SourceResolved(sha)))
        report = Run(spec, spool, guardian, listener).execute()
        return spool.finish(lambda length, digest: compose_result(report, length, digest))
    finally:
        spool.close()


def compose_result(report: RunReport, log_length: int, log_sha256: str) -> RunResult:
    """Return the result as it goes over the wire."""
    outcome = report.outcome
    return RunResult(
        status=outcome.status,
        reason=outcome.reason,
        fault=outcome.fault,
        message=outcome.message,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        resolved_sha=report.resolved_sha,
        log_length=log_length,
        log_sha256=log_sha256,
        isolation=report.isolation,
        image_digest=report.image_digest,
        artifacts=report.artifacts,
        limits=report.limits,
    )


def _load_what_jobs_need() -> None:
    """Import ahead what one job or another needs, as far as nobody waits for it yet."""
    import runnerlib.executors.process

    if not wait_readable([_STANDARD_INPUT], 0):
        import runnerlib.env_file
        import runnerlib.source  # noqa: F401


def _take_standard_output() -> int:
    """Keep standard output for events alone: what else is printed goes to standard error."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor


def _read_line(descriptor: int) -> tuple[bytes | None, bytes]:
    """Read up to the first newline, and what came with it; None: the worker ended or sent no spec."""
    data = b""
    while b"\n" not in data:
        chunk = os.read(descriptor, 65536)
        data += chunk
        if not chunk or len(data) > _LONGEST_SPEC_BYTES:
            return None, b""
    line, _, rest = data.partition(b"\n")
    return line, rest


def _outlive_signals() -> None:
    """The worker's word ends a job, on standard input; a signal meant for the worker does not.

    Handled rather than ignored: what is ignored would stay so in the job.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


def _has_room(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # All is written and closed; taking the interpreter apart would hold up the end of every job.
    os._exit(code)
