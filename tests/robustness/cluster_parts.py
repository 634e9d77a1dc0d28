"""Processes of the product, each under an account of its own where we are root."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.02
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class Account:
    """Whom a process runs as; None: as ourselves."""

    uid: int | None = None

    def give(self, path: Path) -> None:
        """Make a directory this account's."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)

    def can_run(self, interpreter: str) -> bool:
        """Tell whether the account can run the product by an interpreter."""
        command = [interpreter, "-m", "reactorcide", "--version"]
        try:
            probe = subprocess.run(
                command, user=self.uid, group=self.uid, extra_groups=[], cwd="/", env={}, capture_output=True
            )
        except PermissionError:
            return False
        return probe.returncode == 0


def find_interpreter(account: Account, folder: Path) -> str | None:
    """Return an interpreter with the product that ``account`` can run, made in ``folder`` if ours is not.

    Ours may be in a home that others cannot enter, while the system has one of the same version.
    """
    if account.can_run(sys.executable):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (Path("/usr/local/bin") / version, Path("/usr/bin") / version):
        made = folder / "bin/python"
        if not found.exists():
            continue
        subprocess.run(
            [found, "-m", "venv", "--without-pip", "--clear", folder], check=True, capture_output=True
        )
        paths = [path for path in sys.path if path.endswith(("site-packages", "/src"))]
        (folder / "lib" / version / "site-packages" / "product.pth").write_text("\n".join(paths))
        folder.chmod(0o755)
        if account.can_run(str(made)):
            return str(made)
    return None


@dataclass
class Part:
    """One `serve` or `worker`, which may end and begin again; its output goes to one file."""

    name: str
    arguments: tuple[str, ...]
    settings: Mapping[str, str]
    home: Path
    log_path: Path
    account: Account = field(default_factory=Account)
    interpreter: str = sys.executable
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    unasked_ends: list[int] = field(default_factory=list)
    """Exit codes of when it ended although nobody had ended it."""
    is_wanted: bool = False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start it, unless it runs."""
        self.is_wanted = True
        if self.is_running:
            return
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        environment |= {"HOME": str(self.home)}
        environment |= {f"REACTORCIDE_{name}": value for name, value in self.settings.items()}
        is_other = self.account.uid is not None
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [self.interpreter, "-m", "reactorcide", *self.arguments],
                env=environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.account.uid,
                group=self.account.uid,
                extra_groups=[] if is_other else None,
            )
        self.starts += 1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone, not to what it started."""
        if self.process is not None:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """Kill it as if its host had lost it."""
        self.is_wanted = False
        self.signal(signal.SIGKILL)
        await self.ended(10)

    async def ask_to_end(self, seconds: float) -> int | None:
        """Send SIGTERM and return the exit code; None: it did not end in time, and was killed."""
        self.is_wanted = False
        if self.process is None:
            return 0
        self.signal(signal.SIGTERM)
        code = await self.ended(seconds)
        if code is None:
            await self.kill()
        return code

    async def ended(self, seconds: float) -> int | None:
        """Wait for its end, and return its exit code; None: it runs on."""
        assert self.process is not None
        end = asyncio.get_running_loop().time() + seconds
        while (code := self.process.poll()) is None:
            if asyncio.get_running_loop().time() > end:
                return None
            await asyncio.sleep(POLL_SECONDS)
        return code

    def note_unasked_end(self) -> bool:
        """Tell whether it ended by itself; that is noted once, and for `launch` to mend."""
        if not self.is_wanted or self.is_running or self.process is None:
            return False
        self.unasked_ends.append(self.process.returncode)
        self.is_wanted = False
        return True


@dataclass(frozen=True)
class ProcessInfo:
    """A process as `/proc` shows it."""

    pid: int
    parent: int
    state: str
    arguments: bytes


def descendants(ancestor: int) -> list[ProcessInfo]:
    """Return every process below ``ancestor``, parents before children."""
    children: dict[int, list[ProcessInfo]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (info := _look_at(entry)) is not None:
            children.setdefault(info.parent, []).append(info)
    found: list[ProcessInfo] = []
    waiting = [ancestor]
    while waiting:
        inner = children.get(waiting.pop(), [])
        found += inner
        waiting += [info.pid for info in inner]
    return found


def _look_at(entry: Path) -> ProcessInfo | None:
    try:
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        return ProcessInfo(int(entry.name), int(parent), state, (entry / "cmdline").read_bytes())
    except (OSError, ValueError):
        return None


def shares_our_processes(pid: int) -> bool:
    """Tell whether a process is outside of every sandbox: in our own process namespace."""
    try:
        return (Path("/proc") / str(pid) / "ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
    except OSError:
        return False
