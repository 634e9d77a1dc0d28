"""The Corndogs server of the tests as a process of its own, for products that are processes too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self, cast

from fakes.corndogs_server import SPLIT

_SERVER = Path(__file__).with_name("corndogs_server.py")


class CorndogsProcess:
    """One server process; may end and begin again on its port, its tasks gone then."""

    def __init__(self, *, shape: str = SPLIT, port: int = 0) -> None:
        self.shape = shape
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as a setting."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process while it runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Begin, and return when it listens."""
        self._process = subprocess.Popen(
            [sys.executable, _SERVER, "--port", str(self.port), "--shape", self.shape],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        assert address, "the server did not start"
        self.port = int(address.rpartition(":")[2])

    def kill(self) -> None:
        """End without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def order(self, **changes: Any) -> dict[str, int]:
        """Change its faults, or let it ``wipe`` its tasks; return its calls so far by operation."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(changes) + "\n")
        self._process.stdin.flush()
        return cast(dict[str, int], json.loads(self._process.stdout.readline()))
