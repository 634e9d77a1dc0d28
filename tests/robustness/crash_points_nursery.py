"""Processes of the product, quickly: a program that has imported it all forks one for each order.

As a program (`crash_points_nursery.py`) it reads orders on standard input, a line of JSON each, and
tells on standard output which process it made and how each ended. `Nursery` is the other end.
"""

import asyncio
import json
import os
import random
import select
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from crash_points_hooks import Plan

_LONGEST_LINE = 1024 * 1024


@dataclass
class Child:
    """A process that the nursery made."""

    pid: int
    ended: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_alive(self) -> bool:
        return not self.ended.done()

    def signal(self, number: int) -> None:
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> int:
        """Return the exit code, negative for a signal."""
        return await asyncio.shield(self.ended)


class Nursery:
    """Makes processes. `start` before, `close` after; what lives then is killed."""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._children: dict[int, Child] = {}
        self._made: asyncio.Queue[Child] = asyncio.Queue()
        self._ordering = asyncio.Lock()
        self._hearing = asyncio.create_task(self._hear())

    async def make(self, role: str, plan: Plan, environment: dict[str, str], output: Path) -> Child:
        """Start ``role`` in a new process."""
        order = {"role": role, "plan": plan.encode(), "environment": environment, "output": str(output)}
        assert self._process.stdin is not None
        async with self._ordering:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            return await self._made.get()

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._hearing

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            word, pid, *code = line.split()
            if word == b"made":
                child = self._children[int(pid)] = Child(int(pid))
                self._made.put_nowait(child)
            else:
                self._children.pop(int(pid)).ended.set_result(int(code[0]))


def main() -> None:
    """Obey orders until there are no more; forks and never starts a thread."""
    from crash_points_launcher import import_services

    import_services()
    wakeup, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    unread, is_over = b"", False
    children: set[int] = set()
    while children or not is_over:
        ready, _, _ = select.select([wakeup] if is_over else [wakeup, 0], [], [])
        if wakeup in ready:
            with suppress(BlockingIOError):
                os.read(wakeup, 4096)
            _tell_ends(children)
        if 0 in ready:
            said = os.read(0, 65536)
            is_over = not said
            if is_over:
                # Whoever gave the orders is gone, and nobody will look after these.
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
            *lines, unread = (unread + said).split(b"\n")
            for line in lines:
                pid = _fork(json.loads(line))
                children.add(pid)
                os.write(1, b"made %d\n" % pid)
                _tell_ends(children)


def _tell_ends(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        os.write(1, b"ended %d %d\n" % (pid, os.waitstatus_to_exitcode(status)))


def _fork(order: dict[str, object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _be_child(order)
    finally:
        os._exit(70)


def _be_child(order: dict[str, object]) -> None:
    """Become what was ordered, as if started by itself. Never returns."""
    from crash_points_launcher import run_role

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open("/dev/null", os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    os.closerange(3, 256)
    environment = order["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    try:
        run_role(str(order["role"]), Plan.decode(str(order["plan"])))
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    main()
