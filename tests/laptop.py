"""Somebody's laptop: the commands as real processes, with a data directory and no coordinator."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attempt_runs import processes_running, wait_until

# A test run in the background may have Ctrl-C switched off for all its children.
PROGRAM = ["env", "--default-signal=INT", sys.executable, "-m", "reactorcide"]
NOBODY = "http://127.0.0.1:9"
"""Where no coordinator answers."""


@dataclass
class Done:
    """A command that ended."""

    code: int
    output: bytes
    talk: str

    @property
    def lines(self) -> list[Any]:
        """What was written for programs."""
        return [json.loads(line) for line in self.output.splitlines()]

    @property
    def end(self) -> dict[str, Any]:
        """How the job ended, as told to a program."""
        (found,) = [line["job"] for line in self.lines if line["type"] == "end"]
        return dict(found)


@dataclass
class Laptop:
    """One person's machine; `close` ends what a failed test left."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "REACTORCIDE_DATA_DIR": str(self.data_dir),
            "REACTORCIDE_CANCEL_GRACE": "1",
            **self.settings,
        }

    def start(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, **environ: str
    ) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env=self.environment | environ,
            cwd=self.folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> Done:
        return ended(self.start(*arguments, **environ))

    def local(self, *arguments: str, **environ: str) -> Done:
        return self.run("run", "--local", *arguments, **environ)

    def begin(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a job here that writes a first line; return once it is shown."""
        process = self.start("run", "--local", *arguments)
        assert process.stdout is not None
        assert process.stdout.readline(), process.communicate(timeout=20)
        return process

    def leftovers(self) -> list[Path]:
        """What runs left in the data directory."""
        return [path for path in self.data_dir.rglob("*") if path != self.data_dir / "local"]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)


def ended(process: "subprocess.Popen[bytes]", seconds: float = 60) -> Done:
    output, talk = process.communicate(timeout=seconds)
    return Done(process.returncode, output, talk.decode())


def nothing_runs(mark: str) -> None:
    """Wait until no process holds ``mark`` in its arguments."""
    wait_until(lambda: not processes_running(mark), 10, lambda: str(processes_running(mark)))
