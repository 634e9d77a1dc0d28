"""The sandbox of a plain host: bubblewrap, in namespaces of its own, under limits, and its end.

Run by root, the sandbox has a host user of its own: one that the kernel's limits hold for, and that
owns nothing if it ever got out. Run by anybody else, it is that user, shut in.
"""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from stat import S_ISUID

import msgspec

from runnerlib.executors.anteroom import Anteroom
from runnerlib.executors.bubblewrap import (
    TEMPORARY_FOLDERS,
    Bubblewrap,
    SandboxPlan,
    Shelf,
    compose_options,
    find_bubblewrap,
    memory_file,
    open_files,
)
from runnerlib.executors.cgroups import Controllers, JobGroup, find_controllers
from runnerlib.executors.landlock import has_scopes, scope_of_a_child
from runnerlib.executors.launch import Doorway, apply_limits, output_pipes, shell_argv
from runnerlib.executors.measures import sandbox_measures
from runnerlib.executors.port import CHANNEL, JobCommand, JobEnd, Limits, SandboxUnavailable
from runnerlib.executors.processes import (
    ProcessWatch,
    children_of,
    descendants_of,
    kill_group_quietly,
    temporary_files_of,
    use_more_than,
    wait_readable,
)
from runnerlib.executors.seccomp import find_filter
from runnerlib.spec import Measure

START_SECONDS = 10.0
END_SECONDS = 5.0
_TEMP_BYTES = 1024**3
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BubblewrapExecutor:
    """Runs jobs in bubblewrap sandboxes.

    Args:
        name: of the attempt, also in the names of its control groups.
        run_as: host user and group id of the sandbox; only root can choose.

    Raises:
        SandboxUnavailable: there is no bubblewrap, or root may not make room for it.
    """

    isolation = "bubblewrap"
    provides_path = False

    def __init__(
        self, name: str, *, run_as: tuple[int, int] | None, read_only_paths: tuple[str, ...]
    ) -> None:
        found = find_bubblewrap()
        if found is None:
            raise SandboxUnavailable(
                "bubblewrap is not installed: install the system's package, 0.8 or newer"
            )
        self.bubblewrap: Bubblewrap = found
        self.controllers: Controllers = find_controllers()
        # A bubblewrap of root's would be none any more.
        self.can_scope: bool = has_scopes() and not found.path.stat().st_mode & S_ISUID
        self.owner = run_as
        self._name = name
        self._anteroom: Anteroom | None = None
        self._channel: Path | None = None
        self._program = found.path
        self._shelves = tuple(Shelf(path, path) for path in read_only_paths)
        if run_as is not None:
            self._anteroom = Anteroom()
            self._program = self._anteroom.install(found)
            self._shelves = self._anteroom.shelve(read_only_paths)

    def measures(self) -> tuple[Measure, ...]:
        """Return what keeps jobs apart here."""
        return sandbox_measures(
            self.controllers,
            has_own_user=self.owner is not None,
            has_filter=find_filter() is not None,
            has_scopes=self.can_scope,
        )

    def take_image(
        self, image: str | None, tell: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> str | None:
        """Return None: the sandbox has the host's own programs, whatever image is named."""
        del image, tell, should_stop
        return None

    def open_workspace(self, path: Path) -> Path:
        """Return where the sandbox's user reaches the workspace."""
        return path if self._anteroom is None else self._anteroom.bind(path, "job")

    def open_channel(self, path: Path) -> str:
        """Let the job reach a folder of ours."""
        self._channel = path if self._anteroom is None else self._anteroom.bind(path, "channel")
        return CHANNEL

    def job_root(self, workspace: Path) -> str:
        """Return where the job sees the workspace: always the same."""
        del workspace
        return "/job"

    def start(self, command: JobCommand, workspace: Path) -> "SandboxedJob":
        """Build the sandbox and start the command in it.

        Raises:
            SandboxUnavailable: it could not be built; the text has bubblewrap's own words.
        """
        plan = SandboxPlan(
            workspace=str(workspace),
            directory=command.directory,
            environment=command.environment,
            shares_network=command.network == "default",
            shelves=self._shelves,
            channel=None if self._channel is None else str(self._channel),
            # Half of the memory, as it is memory too: it shall be full before the job has none left.
            temp_bytes=min(_TEMP_BYTES, (command.limits.memory_bytes or 2 * _TEMP_BYTES) // 2),
        )
        group = self._make_group(command.limits)
        try:
            return self._launch(command, plan, group)
        except BaseException:
            if group is not None:
                group.remove()
            raise

    def _make_group(self, limits: Limits) -> JobGroup | None:
        if self.controllers.version == 0:
            return None
        try:
            return JobGroup(
                self.controllers,
                self._name,
                memory_bytes=limits.memory_bytes,
                pids=limits.pids,
                cpu=limits.cpu,
            )
        except OSError as error:
            what = error.strerror or error
            raise SandboxUnavailable(f"the control group cannot be made: {what}") from error

    def _launch(self, command: JobCommand, plan: SandboxPlan, group: JobGroup | None) -> "SandboxedJob":
        doorway = Doorway()
        gate_read, gate_write = os.pipe()
        status_read, status_write = os.pipe()
        files = open_files()
        inside = [*(file.descriptor for file in files), gate_read, status_write]
        program = find_filter()
        call_filter = None if program is None else memory_file("filter", program)
        told = compose_options(plan, files, call_filter)
        options = memory_file("options", "\0".join(told).encode() + b"\0")
        inside += [options, *([] if call_filter is None else [call_filter])]
        channels = ["--args", options, "--block-fd", gate_read, "--json-status-fd", status_write]
        argv = [str(self._program), *map(str, channels), "--", *shell_argv(command)]
        try:
            with output_pipes() as (out_read, out_write, err_read, err_write):
                with self._scope(plan) as scope:
                    process = self._spawn(argv, doorway, (out_write, err_write), inside, group, scope=scope)
                for descriptor in inside:
                    os.close(descriptor)
                inside = []
                doorway.close_theirs()
                job = SandboxedJob(
                    process,
                    status=status_read,
                    stdout=out_read,
                    stderr=err_read,
                    group=group,
                    limits=command.limits,
                )
                job.take_hold(doorway, gate_write, self.owner)
                return job
        except (OSError, subprocess.SubprocessError) as error:
            what = getattr(error, "strerror", None) or error
            raise SandboxUnavailable(f"bubblewrap cannot be started: {what}") from error
        finally:
            doorway.close()
            for descriptor in (*inside, gate_write):
                os.close(descriptor)

    def _scope(self, plan: SandboxPlan) -> AbstractContextManager[Callable[[], None] | None]:
        # A network of its own has abstract sockets of its own.
        shares_sockets = plan.shares_network and self.can_scope
        return scope_of_a_child() if shares_sockets else nullcontext()

    def _spawn(
        self,
        argv: list[str],
        doorway: Doorway,
        outputs: tuple[int, int],
        inside: list[int],
        group: JobGroup | None,
        *,
        scope: Callable[[], None] | None,
    ) -> subprocess.Popen[bytes]:
        user, user_group = self.owner or (None, None)
        with group.joined() if group is not None else nullcontext():
            return subprocess.Popen(
                argv,
                stdin=doorway.theirs.fileno(),
                stdout=outputs[0],
                stderr=outputs[1],
                pass_fds=inside,
                # bubblewrap itself sees nothing of the job's variables, nor of ours.
                env={"PATH": _PATH},
                cwd="/",
                user=user,
                group=user_group,
                extra_groups=None if self.owner is None else [],
                # Two system calls, looked up beforehand.
                preexec_fn=scope,  # noqa: PLW1509
                # Ctrl-C at a terminal is for us to pass on; bubblewrap would end without any grace.
                start_new_session=True,
            )


@dataclass
class _Told:
    """What bubblewrap said on its status descriptor so far."""

    init_pid: int | None = None
    exit_code: int | None = None


class SandboxedJob:
    """A job in its sandbox; see `RunningJob`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        status: int,
        stdout: int,
        stderr: int,
        group: JobGroup | None,
        limits: Limits,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self._process = process
        self._watch = ProcessWatch(process.pid)
        self._status = status
        self._status_text = b""
        self._told = _Told()
        self._group = group
        self._limits = limits
        self._init: ProcessWatch | None = None
        self._main: ProcessWatch | None = None
        self._end: JobEnd | None = None

    def take_hold(self, doorway: Doorway, gate: int, owner: tuple[int, int] | None) -> None:
        """Limit the sandbox before anything of the job runs in it, then let the job begin.

        Raises:
            SandboxUnavailable: the sandbox was not built, or will not be limited.
        """
        try:
            self._limit(gate, owner)
            self._meet(doorway)
        except BaseException as error:
            self._abandon()
            if isinstance(error, OSError):
                what = error.strerror or error
                raise SandboxUnavailable(f"the sandbox cannot be limited: {what}") from error
            raise

    def wait(self, timeout_seconds: float, wake: int | None = None) -> bool:
        """Wait for the end of the main process or for ``wake``."""
        waited = [self._watch.descriptor, *([] if wake is None else [wake])]
        return self._watch.descriptor in wait_readable(waited, timeout_seconds)

    def ask_to_end(self) -> None:
        """Send TERM to the job's process group; the sandbox's init in it is immune."""
        if self._init is not None and not self._init.has_ended():
            kill_group_quietly(self._init.pid, SIGTERM)

    def kill(self) -> None:
        """Kill the sandbox's init: the kernel kills everything in its namespace."""
        if self._init is not None:
            self._init.send(SIGKILL)

    def is_over_memory(self) -> bool:
        """Add up what the job's processes use, if no control group does."""
        limit = self._limits.memory_bytes
        if limit is None or self._init is None or (self._group is not None and self._group.limits_memory):
            return False
        files = temporary_files_of(self._init.pid, TEMPORARY_FOLDERS)
        return use_more_than(limit, descendants_of(self._init.pid), besides_bytes=files)

    def close(self) -> JobEnd:
        """Destroy the sandbox and say how the job ended."""
        if self._end is None:
            self._end_sandbox()
            self._read_status()
            was_out_of_memory = self._group is not None and self._group.was_out_of_memory()
            self._end = self._judge(was_out_of_memory)
            self._release()
        return self._end

    def _limit(self, gate: int, owner: tuple[int, int] | None) -> None:
        end = time.monotonic() + START_SECONDS
        while self._told.init_pid is None:
            ready = wait_readable([self._status, self._watch.descriptor], end - time.monotonic())
            self._read_status()
            if self._told.init_pid is None and (self._watch.descriptor in ready or not ready):
                raise SandboxUnavailable(f"bubblewrap: {self._last_words()}")
        self._init = ProcessWatch(self._told.init_pid)
        apply_limits(self._init.pid, self._limits, owner=owner, counts_own=True)
        try:
            os.write(gate, b"\n")
        except BrokenPipeError:
            # It gave up on the way here, for a reason of its own.
            raise SandboxUnavailable(f"bubblewrap: {self._last_words()}") from None

    def _meet(self, doorway: Doorway) -> None:
        is_ready = doorway.wait_ready(START_SECONDS)
        # bubblewrap lets go of the doorway a moment before it has ended.
        if not is_ready and self.wait(1):
            self._read_status()
            if self._told.exit_code is None:
                raise SandboxUnavailable(f"bubblewrap: {self._last_words()}")
        for pid in children_of(self._told.init_pid or 0)[:1]:
            with suppress(OSError):
                self._main = ProcessWatch(pid)
        doorway.let_in()

    def _read_status(self) -> None:
        while wait_readable([self._status], 0):
            data = os.read(self._status, 4096)
            if not data:
                break
            self._status_text += data
        for line in self._status_text.splitlines():
            with suppress(ValueError):
                told = msgspec.json.decode(line, type=dict[str, int])
                self._told.init_pid = told.get("child-pid", self._told.init_pid)
                self._told.exit_code = told.get("exit-code", self._told.exit_code)

    def _last_words(self) -> str:
        words = b""
        while wait_readable([self.stderr], 0.2) and len(words) < 4096:
            data = os.read(self.stderr, 4096)
            if not data:
                break
            words += data
        return words.decode(errors="replace").strip().removeprefix("bwrap: ") or "ended without a word"

    def _judge(self, was_out_of_memory: bool) -> JobEnd:
        status = self._main.wait_status() if self._main is not None else None
        if status is not None:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            code = 128 + number if number is not None else os.WEXITSTATUS(status)
            return JobEnd(code, number, was_out_of_memory and code != 0)
        code_told = self._told.exit_code
        # A kernel before 6.15 does not tell: what looks like a signal by the shells' custom counts as one.
        looks_signalled = code_told is not None and 128 < code_told <= 128 + 31
        number = code_told - 128 if code_told is not None and looks_signalled else None
        return JobEnd(code_told, number, was_out_of_memory and code_told != 0)

    def _end_sandbox(self) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        if self._process.returncode is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        if self._init is not None:
            # The init of a namespace ends after everything else in it.
            wait_readable([self._init.descriptor], END_SECONDS)

    def _abandon(self) -> None:
        self._group = None  # it is the maker's
        self._end_sandbox()
        self._release()

    def _release(self) -> None:
        if self._group is not None:
            self._group.remove()
        for watch in (self._watch, self._init, self._main):
            if watch is not None:
                watch.close()
        os.close(self._status)
