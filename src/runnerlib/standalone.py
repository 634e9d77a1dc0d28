"""A run without a worker: its log on our standard output, its end as our exit code.

The phases, the guardian and the spool are those of an attempt under a worker; only who orders differs:
the first SIGINT or SIGTERM cancels the job, with its grace time, and each further one kills it.
"""

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from runnerlib.attempt import make_guardian, run_attempt
from runnerlib.configuration import RunConfig
from runnerlib.spec import JobSource, Resources, RunResult, RunSpec, Stop, encode_line
from runnerlib.spec.artifacts import ARTIFACTS_FILE, ARTIFACTS_FOLDER, decode_artifacts
from runnerlib.spec.rules import is_credential_name
from runnerlib.validation import host_policy

EXIT_REFUSED = 1
EXIT_TIMEOUT = 124
EXIT_TROUBLE = 125
EXIT_INTERRUPTED = 130
_READ_BYTES = 256 * 1024
_LONGEST_NAME = 60


def run_spec(spec: RunSpec, output: int) -> RunResult:
    """Run an attempt in this process, in the main thread, and show its log while it grows.

    Args:
        output: descriptor that takes the bytes of the log, masked. When nobody reads it any more, the job
            is cancelled.

    Raises:
        OSError: the spool cannot be made, or the result not be written.
    """
    with _control_pipe() as (control, orders):
        show = _LogShow(Path(spec.spool_dir) / "log", output, on_lost=lambda: orders.send("cancel"))
        with _obeying_signals(orders):
            result = run_attempt(spec, make_guardian(spec, control), on_growth=show.grew)
        show.finish(result.log_length)
        return result


def compose_spec(config: RunConfig, spool_dir: Path) -> RunSpec:
    """Return the frozen spec of a configured run; ``job_command`` must be there."""
    command = config.job_command or ""
    first = next((line.strip() for line in command.splitlines() if line.strip()), "job")
    return RunSpec(
        job_id=str(uuid.uuid4()),
        job_name=config.name or first[:_LONGEST_NAME],
        attempt=1,
        command=command,
        source=JobSource(
            type=config.source_type,
            url=config.git_url,
            ref=config.git_ref,
            path=None if config.source_path is None else str(config.source_path),
        ),
        code_dir=config.code_dir,
        job_dir=config.job_dir,
        environment={k: v for k, v in config.job_env.items() if not is_credential_name(k)},
        secrets={k: v for k, v in config.job_env.items() if is_credential_name(k)} | dict(config.secrets),
        masked=config.secrets_list,
        env_file=config.env_file,
        image=config.runner_image,
        timeout_seconds=config.timeout_seconds,
        silence_timeout_seconds=config.silence_timeout_seconds,
        network=config.network,
        resources=Resources(cpu=config.cpu, memory_mb=config.memory_mb, pids=config.pids),
        artifacts=config.artifact_globs,
        plugins=config.plugins,
        spool_dir=str(spool_dir),
        workspace_root=str(config.work_dir),
        host=host_policy(config),
    )


def put_artifacts(spool_dir: Path, folder: Path) -> int:
    """Put the artifacts of an ended run into ``folder``; return how many there were.

    What is there already under one of their names is replaced; nothing is written through a link.

    Raises:
        OSError: they cannot be put there.
    """
    listed = spool_dir / ARTIFACTS_FILE
    if not listed.exists():
        return 0
    found = decode_artifacts(listed.read_bytes())
    for artifact in found:
        target = folder.joinpath(*artifact.path.split("/"))
        for parent in reversed(target.relative_to(folder).parents):
            place = folder / parent
            if place.is_symlink() and place != folder:
                place.unlink()
            place.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(spool_dir / ARTIFACTS_FOLDER / str(artifact.number), target, follow_symlinks=False)
    return len(found)


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
        try:
            while view:
                view = view[os.write(self._output, view) :]
        except OSError:
            with suppress(OSError):
                self._on_lost()
            return False
        return True


@contextmanager
def _control_pipe() -> Iterator[tuple[int, _Orders]]:
    read, write = os.pipe()
    try:
        yield read, _Orders(write)
    finally:
        os.close(read)
        os.close(write)


@contextmanager
def _obeying_signals(orders: _Orders) -> Iterator[None]:
    """Handled rather than ignored: what is ignored would stay so in the job."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: orders.interrupt()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
