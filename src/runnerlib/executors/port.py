"""The port of executors: something that runs one command of a job, shut off from everything else.

What an implementer keeps:

- the command is run by ``/bin/sh -c`` byte for byte, with the given environment and nothing else,
  standard input empty, no open descriptor besides 0 to 2;
- limits hold from the command's first instruction;
- whatever the command started dies with `RunningJob.kill`, with the runner's own death, and when
  its main process ends and `RunningJob.close` is called;
- nothing is started at all if the isolation cannot be had: `SandboxUnavailable`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from runnerlib.spec import Measure

CHANNEL = "/run/reactorcide"
"""Where a sandboxed job sees the folder in which it meets its runner (`Executor.open_channel`)."""


class SandboxUnavailable(Exception):
    """The isolation cannot be had on this host; nothing of the job was run."""


class ImageUnavailable(Exception):
    """The image of the job cannot be had; the text has the registry's own words. Nothing was run."""


class Interrupted(Exception):
    """``should_stop`` said so before the work was done."""


@dataclass(frozen=True)
class Limits:
    """What a job may use at most. None: no limit of ours."""

    memory_bytes: int | None
    pids: int | None
    cpu: float | None
    open_files: int
    file_bytes: int


@dataclass(frozen=True)
class JobCommand:
    """What to run. ``directory`` is as the job sees it, inside `Executor.job_root`."""

    text: str
    directory: str
    environment: Mapping[str, str] = field(repr=False)
    limits: Limits
    network: Literal["default", "none"]


@dataclass(frozen=True)
class JobEnd:
    """How the main process of a job ended.

    ``exit_code`` is 128 + n for death by signal n; None: the sandbox died first, nobody knows.
    """

    exit_code: int | None
    signal: int | None = None
    is_out_of_memory: bool = False


class RunningJob(Protocol):
    """A started command. Used by one thread."""

    stdout: int
    """The read ends of the job's pipes, blocking; whoever reads them closes them."""
    stderr: int

    def wait(self, timeout_seconds: float, wake: int | None = None) -> bool:
        """Wait for the end of the main process, or until ``wake`` can be read. True: it has ended."""
        ...

    def ask_to_end(self) -> None:
        """Send TERM to the process group of the job."""
        ...

    def kill(self) -> None:
        """Kill everything the command started; returns at once."""
        ...

    def is_over_memory(self) -> bool:
        """Whether the job uses more memory than it may, where nothing but this look limits it."""
        ...

    def close(self) -> JobEnd:
        """Kill what is left, wait until it is gone, give back what the job held; say how it ended.

        Bounded by a few seconds. Calling it again returns the same.
        """
        ...


class Executor(Protocol):
    """One way to run jobs on this host."""

    isolation: str
    """Name of the isolation, as kept in the result."""
    owner: tuple[int, int] | None
    """Host user and group id of the job, None: our own. The workspace has to belong to them."""

    provides_path: bool
    """The sandbox brings a ``PATH`` of its own, such as an image's."""

    def measures(self) -> tuple[Measure, ...]:
        """Return what keeps jobs apart here, each of `MEASURES` once."""
        ...

    def take_image(
        self, image: str | None, tell: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> str | None:
        """Have the image of the job here; return its digest, ``sha256:…``. Called before `start`.

        An executor without images returns None, whatever is asked for.

        Args:
            tell: takes lines on the progress for the job's log.
            should_stop: asked many times a second.

        Raises:
            ImageUnavailable: it cannot be had.
            SandboxUnavailable: what would fetch and run it is not here.
            Interrupted: ``should_stop`` said so.
        """
        ...

    def open_workspace(self, path: Path) -> Path:
        """Make the workspace at ``path`` reachable for the job's user; return where we reach it now."""
        ...

    def open_channel(self, path: Path) -> str:
        """Let the job reach a folder of ours, owned by ``owner``; return where the job will see it.

        Called once, before `start`.
        """
        ...

    def job_root(self, workspace: Path) -> str:
        """Return where the job sees the workspace."""
        ...

    def start(self, command: JobCommand, workspace: Path) -> RunningJob:
        """Start the command.

        Raises:
            SandboxUnavailable: the sandbox could not be built.
        """
        ...
