"""The ledger: what jobs say of themselves, by a way that no fault touches.

A job opens a connection to it as the first thing it does and keeps it open; when the last process of its
sandbox is gone the connection ends. So the ledger knows when each attempt was alive, whoever killed it.
The first word of a kind counts; a second one is kept as a fault of the product.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Life:
    """One run of an attempt, by the monotonic clock; ``ended_at`` None: it lives."""

    started_at: float
    ended_at: float | None = None
    has_end: bool = False
    lines: list[tuple[float, int]] = field(default_factory=list)
    """When it had printed how many lines."""

    def lines_before(self, moment: float) -> int:
        """Return how many lines it is known to have printed by ``moment``."""
        return max((count for at, count in self.lines if at <= moment), default=0)


class Ledger:
    """A TCP server on loopback that takes `start|line|end <number> <job> <attempt>` and answers `ok`."""

    def __init__(self) -> None:
        self.lives: dict[tuple[str, int], list[Life]] = defaultdict(list)
        self.port = 0
        self.connections = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def alive(self) -> list[tuple[str, int]]:
        """Return the attempts that live now."""
        return [key for key, lives in self.lives.items() if any(life.ended_at is None for life in lives)]

    def of_job(self, job_id: str) -> Iterator[tuple[int, Life]]:
        """Yield attempt and life of each run of a job."""
        for (found, attempt), lives in sorted(self.lives.items()):
            if found == job_id:
                yield from ((attempt, life) for life in lives)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        life: Life | None = None
        try:
            while line := await reader.readline():
                life = self._note(line.decode().split(), life)
                writer.write(b"ok\n")
                await writer.drain()
        except OSError:
            pass  # a killed job resets it
        finally:
            if life is not None:
                life.ended_at = time.monotonic()
            self.connections -= 1
            writer.close()

    def _note(self, words: list[str], life: Life | None) -> Life:
        now = time.monotonic()
        word, number, job_id, attempt = words
        if word == "start" or life is None:
            life = Life(now)
            self.lives[job_id, int(attempt)].append(life)
        elif word == "line":
            life.lines.append((now, int(number)))
        elif word == "end":
            life.has_end = True
        return life


TELL = (
    "exec 3<>/dev/tcp/127.0.0.1/$NEM_LEDGER || exec 3<>/dev/null\n"
    'tell() { echo "$1 $2 $CI_JOB_ID $CI_JOB_ATTEMPT" >&3; read -r -t 10 _ <&3; }\n'
)
"""The beginning of a job's script for bash: a lost ledger never makes a job fail."""
