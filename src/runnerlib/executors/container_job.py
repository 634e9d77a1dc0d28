"""One container from its start to its end: what is said to it, how it is ended, how it is judged.

Three processes of ours belong to it: the engine's client, whose input and output are the container's;
a watcher, which removes the container when it is told so or when this process is gone; and, where
something went wrong, a question to the engine.
"""

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runnerlib.executors.container_entry import OUT_OF_MEMORY, READY, TERM
from runnerlib.executors.engine import Engine, call_engine, last_words
from runnerlib.executors.launch import output_pipes
from runnerlib.executors.port import JobEnd, Limits, SandboxUnavailable
from runnerlib.executors.processes import ProcessWatch, descendants_of, use_more_than, wait_readable

START_SECONDS = 60.0
END_SECONDS = 5.0
ASK_SECONDS = 3.0
_LONGEST_WORDS = 8192
_NOT_FOUND = 127
_LARGEST_SIGNAL = 31
# A word means that nobody starts this container any more; without one, a start may still be under way.
_WATCH = (
    'read -r word; "$0" rm --force --volumes "$1"; [ -n "$word" ] && exit;'
    ' sleep 3; exec "$0" rm --force --volumes "$1"'
)
_STATE = (
    '{"running":{{json .State.Running}},"code":{{json .State.ExitCode}},"oom":{{json .State.OOMKilled}},'
    '"pid":{{json .State.Pid}}}'
)


class _State(msgspec.Struct):
    """What an engine tells of a container."""

    running: bool = False
    code: int | None = None
    oom: bool = False
    pid: int = 0


class Watcher:
    """A process in a session of its own that removes a container, at the latest when we are gone."""

    def __init__(self, engine_path: str, container: str) -> None:
        ours, theirs = os.pipe()[::-1]
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, theirs, 0), *((os.POSIX_SPAWN_DUP2, nothing, n) for n in (1, 2))]
            argv = ["/bin/sh", "-c", _WATCH, engine_path, container]
            self._pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
            os.close(nothing)
        self._pipe = ours
        self._watch = ProcessWatch(self._pid)
        self._is_closed = False

    def remove(self) -> None:
        """Have the container killed, if it runs, and removed; returns at once."""
        if self._pipe >= 0:
            with suppress(OSError):
                os.write(self._pipe, b"now\n")
            os.close(self._pipe)
            self._pipe = -1

    def close(self, timeout_seconds: float) -> None:
        """Wait for the container to be removed, for as long as that; go on without it after that.

        Calling it again does nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self.remove()
        wait_readable([self._watch.descriptor], timeout_seconds)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)
        self._watch.close()


@dataclass(frozen=True)
class Container:
    """A container to be started."""

    engine: Engine
    name: str
    argv: list[str]
    """The engine's arguments."""
    entry: bytes
    """What its first process is told."""
    limits: Limits
    channel: Path | None


def start_container(container: Container) -> "ContainerJob":
    """Start a container and return when the job in it begins.

    Raises:
        SandboxUnavailable: it does not come to that; the text has the engine's own words.
    """
    path = container.engine.path
    try:
        watcher = Watcher(path, container.name)
        try:
            return _launch(container, watcher)
        except BaseException:
            watcher.close(END_SECONDS)
            raise
    except OSError as error:
        raise SandboxUnavailable(f"{path} cannot be started: {error.strerror or error}") from error


def _launch(container: Container, watcher: Watcher) -> "ContainerJob":
    with output_pipes() as (out_read, out_write, err_read, err_write):
        client = subprocess.Popen(
            [container.engine.path, *container.argv],
            stdin=subprocess.PIPE,
            stdout=out_write,
            stderr=err_write,
            cwd="/",
            start_new_session=True,
        )
        job = ContainerJob(container, client, watcher, (out_read, err_read))
        try:
            job.bring_in(container.entry)
        except BaseException:
            job.abandon()
            raise
        return job


class ContainerJob:
    """A job in its container; see `RunningJob`."""

    def __init__(
        self,
        container: Container,
        client: subprocess.Popen[bytes],
        watcher: Watcher,
        outputs: tuple[int, int],
    ) -> None:
        assert client.stdin is not None  # noqa: S101 - made with a pipe
        self.stdout, self.stderr = outputs
        self.name = container.name
        self._engine = container.engine
        self._client = client
        self._input = client.stdin
        self._watch = ProcessWatch(client.pid)
        self._watcher = watcher
        self._limits = container.limits
        self._channel = container.channel
        self._was_killed = False
        self._init_pid: int | None = None
        self._end: JobEnd | None = None

    def bring_in(self, entry: bytes) -> None:
        """Say the entry script to the container, and wait until the job begins.

        Raises:
            SandboxUnavailable: it does not.
        """
        descriptor = self._input.fileno()
        os.set_blocking(descriptor, False)
        left, heard, end = memoryview(entry), b"", time.monotonic() + START_SECONDS
        poll = select.poll()
        poll.register(self.stderr, select.POLLIN)
        poll.register(self._watch.descriptor, select.POLLIN)
        poll.register(descriptor, select.POLLOUT)
        while True:
            ready = {found for found, _ in poll.poll(max(0, int((end - time.monotonic()) * 1000)))}
            if not ready:
                said = last_words(heard) or "it said nothing"
                raise SandboxUnavailable(
                    f"{self._engine.name} did not start the container in {START_SECONDS:g} seconds: {said}"
                )
            if self.stderr in ready:
                # One byte at a time: what follows the line is the job's own output.
                piece = os.read(self.stderr, 1)
                heard = (heard + piece)[-_LONGEST_WORDS:]
                if heard.endswith(READY):
                    return
                if not piece:
                    poll.unregister(self.stderr)
            elif self._watch.descriptor in ready:
                raise SandboxUnavailable(self._why_not(heard))
            if descriptor in ready:
                left = self._write(left)
                if not left:
                    poll.unregister(descriptor)

    def wait(self, timeout_seconds: float, wake: int | None = None) -> bool:
        """Wait for the end of the container or for ``wake``."""
        waited = [self._watch.descriptor, *([] if wake is None else [wake])]
        return self._watch.descriptor in wait_readable(waited, timeout_seconds)

    def ask_to_end(self) -> None:
        """Have TERM sent to the job's process group, by the listener in the container."""
        self._write(memoryview(TERM))

    def kill(self) -> None:
        """Have the container removed by force."""
        self._was_killed = True
        self._watcher.remove()

    def is_over_memory(self) -> bool:
        """Add up what the job's processes use, if the engine limits nothing."""
        limit = self._limits.memory_bytes
        if limit is None or self._engine.enforces_memory:
            return False
        if self._init_pid is None:
            self._init_pid = self._ask().pid
        return self._init_pid > 0 and use_more_than(limit, descendants_of(self._init_pid))

    def close(self) -> JobEnd:
        """Remove the container and say how the job ended."""
        if self._end is None:
            if not self.wait(0):
                self.kill()
            self._end = self._judge()
            self._release(END_SECONDS if self._was_killed or self._end.exit_code is None else 0)
        return self._end

    def abandon(self) -> None:
        """Give up a container that did not come to its job."""
        self._was_killed = True
        self._release(END_SECONDS)

    def _judge(self) -> JobEnd:
        code = self._code_of_client()
        if code == 0:
            return JobEnd(0)
        if self._was_killed:
            return JobEnd(128 + signal.SIGKILL, signal.SIGKILL)
        if code is None or code < 0:
            # Without its client a job is ended by its own listener: no end of its own.
            return JobEnd(None)
        state = self._ask()
        if state.running or state.code is None:
            # The client is gone and the job is not, or the engine knows of none: nobody can tell.
            return JobEnd(None)
        code = state.code
        number = code - 128 if 0 < code - 128 <= _LARGEST_SIGNAL else None
        return JobEnd(code, number, code != 0 and (state.oom or self._was_told_of_memory()))

    def _code_of_client(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._client.wait(END_SECONDS)
        self._client.kill()
        with suppress(subprocess.TimeoutExpired):
            self._client.wait(END_SECONDS)
        return None

    def _ask(self) -> _State:
        arguments = ["container", "inspect", "--format", _STATE, self.name]
        answer = call_engine(self._engine.path, arguments, timeout_seconds=ASK_SECONDS)
        try:
            return msgspec.json.decode(answer.output, type=_State)
        except msgspec.DecodeError:
            return _State()

    def _was_told_of_memory(self) -> bool:
        return self._channel is not None and os.path.lexists(self._channel / OUT_OF_MEMORY)

    def _why_not(self, heard: bytes) -> str:
        words = last_words(heard) or "ended without a word"
        if self._client.wait(END_SECONDS) == _NOT_FOUND:
            return f"the image has no /bin/sh, which runs the job's command: {words}"
        return f"{self._engine.name}: {words}"

    def _write(self, data: memoryview) -> memoryview:
        """Write what fits; a container that has ended does not mind."""
        try:
            return data[os.write(self._input.fileno(), data) :]
        except BlockingIOError:
            return data
        except OSError:
            return data[:0]

    def _release(self, patience_seconds: float) -> None:
        self._watcher.close(patience_seconds)
        with suppress(OSError):
            self._input.close()
        if self._client.poll() is None:
            self._client.kill()
            with suppress(subprocess.TimeoutExpired):
                self._client.wait(END_SECONDS)
        self._watch.close()
