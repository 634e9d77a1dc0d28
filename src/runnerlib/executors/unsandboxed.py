"""No isolation: the operator said in as many words that jobs may do all that the worker can.

The job is a plain process in a session of its own. Its descendants are ours to find and to kill even
if they left that session, as long as this process lives: orphans come to us, not to the host's init.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM

from runnerlib.executors.launch import Doorway, apply_limits, output_pipes, shell_argv
from runnerlib.executors.measures import no_measures
from runnerlib.executors.port import JobCommand, JobEnd, Limits, SandboxUnavailable
from runnerlib.executors.processes import (
    ProcessWatch,
    children_of,
    descendants_of,
    kill_group_quietly,
    kill_quietly,
    use_more_than,
    wait_readable,
)
from runnerlib.spec import Measure

START_SECONDS = 10.0
END_SECONDS = 5.0
_PR_SET_CHILD_SUBREAPER = 36


class UnsandboxedExecutor:
    """Runs jobs as plain processes of our own user."""

    isolation = "unsandboxed"
    provides_path = False
    owner: tuple[int, int] | None = None

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def measures(self) -> tuple[Measure, ...]:
        """Return that there is next to nothing."""
        return no_measures()

    def take_image(
        self, image: str | None, tell: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> str | None:
        """Return None: the job has the host's own programs."""
        del image, tell, should_stop
        return None

    def open_workspace(self, path: Path) -> Path:
        """Return the workspace as it is."""
        return path

    def open_channel(self, path: Path) -> str:
        """Return the folder as it is."""
        return str(path)

    def job_root(self, workspace: Path) -> str:
        """Return the real path: there is no other view of it."""
        return str(workspace)

    def start(self, command: JobCommand, workspace: Path) -> "PlainJob":
        """Start the command.

        Raises:
            SandboxUnavailable: there is no shell, or the directory is not ours to enter.
        """
        del workspace
        before = frozenset(children_of(os.getpid()))
        doorway = Doorway()
        try:
            with output_pipes() as (out_read, out_write, err_read, err_write):
                process = subprocess.Popen(
                    shell_argv(command),
                    stdin=doorway.theirs.fileno(),
                    stdout=out_write,
                    stderr=err_write,
                    env=dict(command.environment),
                    cwd=command.directory,
                    start_new_session=True,
                )
                doorway.close_theirs()
                job = PlainJob(process, out_read, err_read, before, command.limits)
                # Without a user namespace the kernel would count all processes of this user.
                apply_limits(process.pid, command.limits, owner=None, counts_own=False)
                doorway.wait_ready(START_SECONDS)
                doorway.let_in()
                return job
        except OSError as error:
            raise SandboxUnavailable(f"the job cannot be started: {error.strerror or error}") from error
        finally:
            doorway.close()


class PlainJob:
    """A job without a sandbox; see `RunningJob`. Children in ``spared`` were there before."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdout: int,
        stderr: int,
        spared: frozenset[int],
        limits: Limits,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self._process = process
        self._watch = ProcessWatch(process.pid)
        self._spared = spared
        self._limits = limits
        self._end: JobEnd | None = None

    def wait(self, timeout_seconds: float, wake: int | None = None) -> bool:
        """Wait for the end of the main process or for ``wake``."""
        waited = [self._watch.descriptor, *([] if wake is None else [wake])]
        return self._watch.descriptor in wait_readable(waited, timeout_seconds)

    def ask_to_end(self) -> None:
        """Send TERM to the job's process group."""
        if not self._watch.has_ended():
            kill_group_quietly(self._process.pid, SIGTERM)

    def kill(self) -> None:
        """Kill every descendant there is now; `close` goes on until there are none."""
        for pid in self._descendants():
            kill_quietly(pid, SIGKILL)

    def is_over_memory(self) -> bool:
        """Add up what the job's processes use: nothing else limits it."""
        limit = self._limits.memory_bytes
        return limit is not None and use_more_than(limit, self._descendants())

    def close(self) -> JobEnd:
        """Kill what is left until nothing is, and say how the main process ended."""
        if self._end is None:
            end = time.monotonic() + END_SECONDS
            while True:
                self.kill()
                self._reap()
                if not self._descendants() or time.monotonic() > end:
                    break
                time.sleep(0.005)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            self._end = self._judge()
            self._watch.close()
        return self._end

    def _judge(self) -> JobEnd:
        code = self._process.returncode
        if code is None:
            return JobEnd(None)
        return JobEnd(128 - code, -code) if code < 0 else JobEnd(code)

    def _descendants(self) -> list[int]:
        spared = {pid for spared in self._spared for pid in (spared, *descendants_of(spared))}
        return [pid for pid in descendants_of(os.getpid()) if pid not in spared]

    def _reap(self) -> None:
        """Take leave of dead orphans; the main process is left to its own `wait`."""
        for pid in children_of(os.getpid()):
            if pid != self._process.pid and pid not in self._spared:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        self._process.poll()
