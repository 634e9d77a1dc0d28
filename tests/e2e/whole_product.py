"""The whole product as a user has it: `reactorcide up` with a data directory of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m", "reactorcide"]


@dataclass
class Product:
    """One `up`; `run` and `start` are the command line against it."""

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REACTORCIDE_")}
        return {
            **kept,
            "REACTORCIDE_DATA_DIR": str(self.data_dir),
            "REACTORCIDE_PORT": "0",
            "REACTORCIDE_WORKER_CONCURRENCY": "2",
            **self.settings,
        }

    def up(self) -> None:
        with (self.data_dir / "up.out").open("ab") as out:
            self.process = subprocess.Popen(
                [*PROGRAM, "up"], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        wait_until(self._is_ready, 60, lambda: (self.data_dir / "up.out").read_text(errors="replace"))

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.data_dir / "up.out").read_text(errors="replace")
        try:
            told = json.loads((self.data_dir / "server.json").read_text())
        except (OSError, ValueError):
            return False
        return bool(told["pid"] == self.process.pid) and self.run("me", timeout=30).returncode == 0

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def run(
        self, *arguments: str, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def submit(self, command: str, *flags: str) -> str:
        return str(self.json("submit", "--name", "e2e", *flags, "--command", command)["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("jobs", "get", job_id)
        return found

    def log(self, job_id: str) -> str:
        return self.run("logs", job_id).stdout


def wait_until(holds: Any, seconds: float, explain: Any = lambda: "") -> None:
    """Poll until ``holds()``; fail after ``seconds`` with what ``explain()`` says."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {explain()}")
        time.sleep(0.05)


def processes_holding(mark: str) -> list[int]:
    """Return the processes whose command line holds ``mark``."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in cmdline.read_bytes():
                found.append(int(cmdline.parent.name))
        except OSError:
            continue
    return found
