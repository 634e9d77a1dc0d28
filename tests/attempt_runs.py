"""Real attempts for tests: a runner process as a worker starts it, and what it left in its spool."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnerlib.executors.cgroups import remove_stale_groups
from runnerlib.spec import (
    ControlMessage,
    HostPolicy,
    JobSource,
    RunResult,
    RunSpec,
    decode_result,
    encode_line,
    encode_spec,
)

IS_ROOT = os.geteuid() == 0


@dataclass
class Attempt:
    """One runner, running or ended."""

    process: subprocess.Popen[bytes]
    spool: Path
    work: Path
    name: str

    def send(self, message: ControlMessage) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encode_line(message))
        self.process.stdin.flush()

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, seconds: float = 30) -> RunResult:
        assert self.process.wait(seconds) == 0, self.complaints()
        return self.result

    @property
    def result(self) -> RunResult:
        return decode_result((self.spool / "result.json").read_bytes())

    @property
    def log(self) -> bytes:
        return (self.spool / "log").read_bytes()

    @property
    def output(self) -> str:
        """What the job itself wrote, on both streams."""
        return self.stream("oe").decode(errors="replace")

    def stream(self, marks: str) -> bytes:
        data, found, place = self.log, b"", 0
        for line in (self.spool / "index").read_text().splitlines():
            _, mark, length = line.split()
            if mark in marks:
                found += data[place : place + int(length)]
            place += int(length)
        assert place == len(data)
        return found

    def wait_for(self, text: bytes, seconds: float = 20) -> None:
        wait_until(lambda: (self.spool / "log").exists() and text in self.log, seconds, self.complaints)

    def events(self) -> list[dict[str, Any]]:
        assert self.process.stdout is not None
        return [json.loads(line) for line in self.process.stdout.read().splitlines()]

    def complaints(self) -> str:
        stderr = self.process.stderr
        if stderr is None or not select.select([stderr], [], [], 0)[0]:
            return ""
        return os.read(stderr.fileno(), 65536).decode(errors="replace")

    def close(self) -> None:
        # A runner whose worker hangs up tidies up; one that was killed by a test could not.
        if self.process.poll() is None:
            self.hang_up()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            remove_stale_groups(frozenset({self.name}))
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


class Attempts:
    """Starts attempts below one directory; `close` ends what still runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Attempt] = []

    def start(
        self,
        command: str,
        *,
        host: HostPolicy | None = None,
        source: JobSource | None = None,
        launcher: Sequence[str] = (),
        **asked: Any,
    ) -> Attempt:
        number = len(self._made) + 1
        spool = self._folder / f"spool-{number}"
        spool.mkdir(mode=0o700)
        spec = RunSpec(
            job_id=asked.pop("job_id", f"{os.getpid()}-{self._folder.name}-{number}"),
            job_name=asked.pop("job_name", "a job"),
            attempt=asked.pop("attempt", 1),
            command=command,
            source=source or JobSource(type="none"),
            spool_dir=str(spool),
            workspace_root=str(self._folder / "work"),
            host=host or HostPolicy(cancel_grace_seconds=1),
            **asked,
        )
        name = f"{spec.job_id}.{spec.attempt}"
        process = subprocess.Popen(
            [*launcher, sys.executable, "-P", "-m", "runnerlib.attempt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        attempt = Attempt(process, spool, self._folder / "work", name)
        self._made.append(attempt)
        assert process.stdin is not None
        process.stdin.write(encode_spec(spec))
        process.stdin.flush()
        return attempt

    def run(self, command: str, **asked: Any) -> Attempt:
        attempt = self.start(command, **asked)
        attempt.wait()
        return attempt

    def close(self) -> None:
        for attempt in self._made:
            attempt.close()


def wait_until(holds: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: "") -> None:
    """Poll until ``holds()``; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s {explain()}"
        time.sleep(0.01)


def processes_running(mark: str) -> list[int]:
    """Return the processes, zombies aside, whose arguments hold ``mark``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found
