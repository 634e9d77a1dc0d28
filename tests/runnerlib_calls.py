"""The command `runnerlib` as a user calls it, with a home and a cache of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

Done = subprocess.CompletedProcess[bytes]


class Here:
    """Calls runnerlib with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "cache" / "reactorcide" / "runs"
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = kept | {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}

    def use_engine(self, environment: Mapping[str, str]) -> None:
        """Call with a container engine's variables; without root it also needs the home of its storage."""
        self.environment |= {"HOME": os.environ["HOME"], **environment}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-P", "-m", "runnerlib.cli", *arguments]
        streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
        return subprocess.Popen(argv, env=self.environment, cwd=self.folder, **streams | options)

    def call(self, *arguments: str, said: bytes = b"") -> Done:
        process = self.start(*arguments)
        stdout, stderr = process.communicate(said, 60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def leftovers(self) -> list[Path]:
        return list(self.runs.iterdir()) if self.runs.exists() else []


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    assert made.leftovers() == []
