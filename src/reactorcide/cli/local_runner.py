"""A runner on this machine: a frozen job, run by runnerlib as a worker has it done, its log shown meanwhile.

Nothing of a coordinator is needed. Spool and workspace are in a folder of this run, which is removed with it;
what a run that was killed left behind is removed by the next one.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from reactorcide.cli import render
from reactorcide.cli.errors import CommandFailed, ExitCode
from reactorcide.cli.logs import LogOutput
from reactorcide.worker.host import inherited
from runnerlib.spec import RunResult, RunSpec, decode_result, encode_spec

LOCAL_FOLDER = "local"
_RUNNERLIB = (sys.executable, "-P", "-m", "runnerlib.cli")
_READ_BYTES = 64 * 1024
_END_SECONDS = 30.0
"""A runner that was told to end has so long beyond the grace time of its job."""
_CLEAN_SECONDS = 60.0
_SET_DEATH_SIGNAL = 1
_STANDARD_ERROR = 2


class RunnerDied(CommandFailed):
    """The runner ended and left no result: nobody knows how far the job came."""

    exit_code = ExitCode.HOST_TROUBLE


@dataclass(frozen=True)
class LocalFolder:
    """The folder of one run on this machine."""

    path: Path
    lock: int
    """Held by us and by the runner, so that nobody takes the folder for a dead one's."""

    @property
    def spool(self) -> Path:
        """Log, result and artifacts."""
        return self.path / "spool"

    @property
    def work(self) -> Path:
        """What holds the workspace."""
        return self.path / "work"


@dataclass(frozen=True)
class LocalEnd:
    """How a run on this machine ended."""

    job_id: str
    result: RunResult
    exit_code: int
    seconds: float


@contextmanager
def local_folder(data_dir: Path, name: str) -> Iterator[LocalFolder]:
    """Make the folder of a run, and remove it in the end; what dead runs left is removed first.

    Raises:
        CommandFailed: it cannot be made.
    """
    root = data_dir / LOCAL_FOLDER
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        _remove_dead_folders(root)
        folder = _make_folder(root / name)
    except OSError as error:
        raise CommandFailed(f"{root / name} cannot be made: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        _remove_folder(folder.path)
        os.close(folder.lock)


def run_here(spec: RunSpec, folder: LocalFolder, environ: Mapping[str, str], *, as_json: bool) -> LocalEnd:
    """Run an attempt and show its log.

    The first SIGINT, SIGTERM or SIGHUP cancels the job, the second kills it.

    Raises:
        RunnerDied: there is no result.
        BrokenPipeError: nobody reads the log any more; the job was cancelled.
    """
    began = time.monotonic()
    result_file = folder.path / "result.json"
    command = [*_RUNNERLIB, "run-spec", "--result", str(result_file)]
    orders = _Orders(grace_seconds=spec.host.cancel_grace_seconds)
    with _obeying(orders):
        runner = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=inherited(environ),
            pass_fds=(folder.lock,),
            # Ctrl-C at the terminal is ours to pass on, once.
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
        try:
            orders.take(runner)
            _give(runner, spec)
            _show_log(runner, as_json=as_json)
            code = orders.wait()
        finally:
            orders.end()
    seconds = time.monotonic() - began
    try:
        result = decode_result(result_file.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        if orders.count:
            raise KeyboardInterrupt from error
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise RunnerDied(f"the runner ended without a result ({end})") from error
    return LocalEnd(spec.job_id, result, code, seconds)


class _Orders:
    """Passes signals on to the runner. Safe in a signal handler."""

    def __init__(self, *, grace_seconds: float) -> None:
        self.runner: subprocess.Popen[bytes] | None = None
        self.count = 0
        self._patience = grace_seconds + _END_SECONDS

    def take(self, runner: subprocess.Popen[bytes]) -> None:
        """Pass on to ``runner`` what came, and what will come."""
        self.runner = runner
        for order in range(1, self.count + 1):
            self._send(order)

    def obey(self, number: int, frame: FrameType | None) -> None:
        """Take one signal: cancel, then kill, then kill the runner itself, and the sandbox with it."""
        del number, frame
        self.count += 1
        # Another signal may come in the midst of this, and is then obeyed first.
        order = self.count
        self._send(order)
        if order == 1:
            # A terminal shows ^C on the line we are on.
            start = b"\n" if os.isatty(_STANDARD_ERROR) else b""
            with suppress(OSError):
                os.write(_STANDARD_ERROR, start + b"cancelling the job; once more kills it\n")

    def wait(self) -> int:
        """Wait for the end of the runner, whose output is closed, and return its exit code."""
        assert self.runner is not None  # noqa: S101 - it was started
        with suppress(subprocess.TimeoutExpired):
            return self.runner.wait(self._patience)
        self._kill()
        return self.runner.wait()

    def end(self) -> None:
        """See to it that the runner is gone, as it is unless we were interrupted in our own work."""
        runner = self.runner
        if runner is None:
            return
        # First, so that it never waits for us to read what it still has to say.
        for pipe in (runner.stdin, runner.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if runner.poll() is None:
            self.count += 1
            self._send(self.count)
            self.wait()

    def _send(self, order: int) -> None:
        if self.runner is None or self.runner.returncode is not None:
            return
        if order > 2:
            self._kill()
        else:
            # First not SIGINT, of which an interpreter that is still being made would complain; and then
            # another one, as two of a kind that come at once are one.
            self.runner.send_signal(signal.SIGTERM if order == 1 else signal.SIGINT)

    def _kill(self) -> None:
        assert self.runner is not None  # noqa: S101 - it was started
        with suppress(ProcessLookupError):
            os.killpg(self.runner.pid, signal.SIGKILL)


@contextmanager
def _obeying(orders: _Orders) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, orders.obey) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> None:
    """Have the kernel cancel the job if we are killed."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


def _give(runner: subprocess.Popen[bytes], spec: RunSpec) -> None:
    assert runner.stdin is not None  # noqa: S101 - made with a pipe
    # A runner that is dead already is met when it is waited for.
    with suppress(BrokenPipeError):
        runner.stdin.write(encode_spec(spec))
    with suppress(BrokenPipeError):
        runner.stdin.close()


def _show_log(runner: subprocess.Popen[bytes], *, as_json: bool) -> None:
    assert runner.stdout is not None  # noqa: S101 - made with a pipe
    output, shown = LogOutput(as_json=as_json), 0
    try:
        while data := os.read(runner.stdout.fileno(), _READ_BYTES):
            shown += len(data)
            output.write(data, shown)
    finally:
        output.close()


def _make_folder(path: Path) -> LocalFolder:
    path.mkdir(mode=0o700)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = LocalFolder(path, lock)
        folder.spool.mkdir(mode=0o700)
    except OSError:
        os.close(lock)
        raise
    return folder


def _remove_dead_folders(root: Path) -> None:
    for path in root.iterdir():
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # nothing that we made, or another run has just removed it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_folder(path)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _remove_folder(path: Path) -> None:
    """Remove the folder of a run that has ended, by whatever."""
    work = path / "work"
    if work.is_dir() and any(work.iterdir()):
        # The runner could not tidy up: it was killed.
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*_RUNNERLIB, "cleanup", "--also-running", str(work)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=inherited(os.environ),
                timeout=_CLEAN_SECONDS,
                check=False,
            )
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        render.say(f"{path} cannot be removed whole: {error.strerror or error}")
