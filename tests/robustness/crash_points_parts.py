"""The parts of a case: processes that are started again, and a ledger that jobs tell of themselves."""

import asyncio
import signal
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from crash_points_hooks import Plan
from crash_points_nursery import Child, Nursery

from reactorcide.worker.cancelling import cancel_tasks

LINES = 5


class Broken(AssertionError):
    """Something that must hold does not."""


@dataclass
class Ledger:
    """Hears, over a socket, when jobs begin and come to their own end."""

    said: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    port: int = 0

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                word, job, attempt = line.decode().split()
                self.said[job].append(f"{word} {attempt}")
        except ConnectionError:
            return
        finally:
            writer.close()

    def count(self, job: str, word: str) -> int:
        return sum(entry.startswith(word) for entry in self.said[job])

    def command(self, name: str, *, exit_code: int = 0, stream: int = 1, lasts: str = "") -> str:
        """Return a job that tells the ledger, prints `LINES` numbered lines one by one, and ends."""
        script = (
            f"exec 3<>/dev/tcp/127.0.0.1/{self.port}; echo start {name} $CI_JOB_ATTEMPT >&3; "
            f"for i in $(seq 1 {LINES}); do echo {name} line $i >&{stream}; sleep 0.15; done; {lasts} "
            f"echo end {name} $CI_JOB_ATTEMPT >&3; exit {exit_code}"
        )
        return f"bash -c '{script}'"


def lines_of(name: str) -> bytes:
    return b"".join(b"%s line %d\n" % (name.encode(), number) for number in range(1, LINES + 1))


@dataclass
class Part:
    """A process of the product that is started again whenever it ends, until it is stopped."""

    nursery: Nursery
    role: str
    plan: Plan
    environment: dict[str, str]
    output: Path
    exits: list[int] = field(default_factory=list)
    child: Child | None = None
    keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self.child = await self.nursery.make(self.role, self.plan, self.environment, self.output)
            self.exits.append(await self.child.wait())
            await asyncio.sleep(0.1)

    async def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it by a signal and return its exit code; None if it was not running."""
        if self.keeper is not None:
            await cancel_tasks({self.keeper})
        if self.child is None or not self.child.is_alive:
            return None
        self.child.signal(number)
        try:
            async with asyncio.timeout(20):
                return await self.child.wait()
        except TimeoutError:
            self.child.signal(signal.SIGKILL)
            raise Broken(f"{self.role} does not end") from None


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
