"""The runner of an attempt: one runnerlib process, which guards the job and outlives no worker.

Spec and control lines go in on its standard input, hints come out on its standard output, and what
it says on standard error goes to our own log. End of its input is the worker's death to it.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import structlog

from runnerlib.spec import (
    ControlMessage,
    RunnerEvent,
    RunSpec,
    decode_event,
    encode_line,
    encode_spec,
)

log = structlog.get_logger()

# `-P`: a module is never looked for in the directory the worker happens to stand in.
RUNNER_COMMAND = (sys.executable, "-P", "-m", "runnerlib.attempt")


class Runner:
    """A running runnerlib process that waits for its spec or works on it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._complaints = asyncio.create_task(self._pass_on_complaints())

    @classmethod
    async def spawn(cls, environment: Mapping[str, str]) -> "Runner":
        """Start a process that waits for its spec; ``environment`` is all it inherits.

        Raises:
            OSError: the process cannot be made.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *RUNNER_COMMAND,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=dict(environment),
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended yet, as far as we have heard."""
        return self._process.returncode is None

    def begin(self, spec: RunSpec) -> None:
        """Give the runner its one attempt. A runner that is dead shows it by its events' end."""
        self._write(encode_spec(spec))

    def send(self, message: ControlMessage) -> None:
        """Say something to the runner; one that is dead does not hear it, which is no error."""
        self._write(encode_line(message))

    async def events(self) -> AsyncIterator[RunnerEvent]:
        """Yield what the runner says until it closes its output."""
        assert self._process.stdout is not None  # noqa: S101 - made with a pipe
        async for line in self._process.stdout:
            try:
                yield decode_event(line)
            except ValueError:
                log.warning("runner.misspoke", length=len(line))

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code, negative for a signal."""
        code = await self._process.wait()
        # Something that escaped may hold the pipe open; its words are not worth a wait.
        _, unheard = await asyncio.wait({self._complaints}, timeout=1)
        for task in unheard:
            task.cancel()
        return code

    def kill(self) -> None:
        """Kill the process and its group at once; the sandbox dies with it."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kill the process if it lives, and wait until it is reaped."""
        self.kill()
        await self.wait()

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stdin.write(line)

    async def _pass_on_complaints(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - made with a pipe
        while chunk := await self._process.stderr.read(4096):
            text = chunk.decode(errors="backslashreplace").strip()
            log.warning("runner.complained", runner_pid=self._process.pid, text=text)


class RunnerPool:
    """Keeps one runner warm, its imports paid before the next job comes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._warm: Runner | None = None
        self._warming: asyncio.Task[None] | None = None
        self._is_closed = False

    def warm_up(self) -> None:
        """See to it that a runner will be waiting."""
        if self._warming is None and not self._is_closed:
            self._warming = asyncio.create_task(self._make_warm())

    async def take(self) -> Runner:
        """Return a runner that waits for its spec: the warm one, else a new one.

        Raises:
            OSError: the process cannot be made.
        """
        runner, self._warm = self._warm, None
        if runner is not None and runner.is_alive:
            self.warm_up()
            return runner
        fresh = await Runner.spawn(self._environment)
        self.warm_up()
        return fresh

    async def close(self) -> None:
        """End the warm runner and make no more."""
        self._is_closed = True
        if self._warming is not None:
            await self._warming
        if self._warm is not None:
            await self._warm.close()
            self._warm = None

    async def _make_warm(self) -> None:
        try:
            if self._warm is None or not self._warm.is_alive:
                self._warm = await Runner.spawn(self._environment)
        except OSError as error:
            log.warning("runner.not_warmed", error=str(error))
        finally:
            self._warming = None
