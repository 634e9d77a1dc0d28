"""Control groups: memory, number of processes and processor time of one job, where the host lets us.

Version 1 and version 2 alike, whichever the host has mounted and we may write to; without either,
the caller limits what it can by other means.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "reactorcide."
_CPU_PERIOD_MICROSECONDS = 100_000
_REMOVE_SECONDS = 5.0


@dataclass(frozen=True)
class Controllers:
    """Where new groups can be made. ``home`` is the group we are in, ``parent`` where children go."""

    version: int
    memory: "Hierarchy | None"
    pids: "Hierarchy | None"
    cpu: "Hierarchy | None"


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy: where children are made, and where we are ourselves."""

    parent: Path
    home: Path


def find_controllers() -> Controllers:
    """Return the controllers we may use, each None if we may not."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return Controllers(0, None, None, None)
    mounted = _mounted_hierarchies(mounts)
    ours = {key: path for _, key, path in (line.split(":", 2) for line in lines)}
    first = {
        name: _writable(root, path, "tasks")
        for key, path in ours.items()
        for name in key.split(",")
        if name in ("memory", "pids", "cpu") and (root := mounted.get(name)) is not None
    }
    if first.get("memory") or first.get("pids"):
        return Controllers(1, first.get("memory"), first.get("pids"), first.get("cpu"))
    unified = _unified(mounted.get(""), ours.get(""))
    if unified is None:
        return Controllers(0, None, None, None)
    hierarchy, names = unified
    memory, pids, cpu = (hierarchy if name in names else None for name in ("memory", "pids", "cpu"))
    return Controllers(2, memory, pids, cpu)


def _mounted_hierarchies(mounts: list[str]) -> dict[str, Path]:
    """Return the mount point of each version 1 controller, and under the empty name of version 2."""
    found: dict[str, Path] = {}
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if not kind.startswith("cgroup"):
            continue
        _, _, _, root, point, *_ = before.split(" ")
        if root != "/" and kind == "cgroup":
            continue
        for name in options.split(",") if kind == "cgroup" else [""]:
            found.setdefault(name, Path(point))
    return found


def _writable(root: Path, path: str, door: str) -> Hierarchy | None:
    home = root / path.lstrip("/")
    if os.access(home, os.W_OK) and os.access(home / door, os.W_OK):
        return Hierarchy(home, home)
    return None


def _unified(root: Path | None, path: str | None) -> tuple[Hierarchy, set[str]] | None:
    """Find the nearest group, from ours upwards, whose children may have limits."""
    if root is None or path is None:
        return None
    home = root / path.lstrip("/")
    for parent in (home, *home.parents):
        if not parent.is_relative_to(root):
            return None
        doors = (parent, parent / "cgroup.procs", home / "cgroup.procs")
        with suppress(OSError):
            names = set((parent / "cgroup.subtree_control").read_text().split())
            if "memory" in names and all(os.access(door, os.W_OK) for door in doors):
                return Hierarchy(parent, home), names
    return None


class JobGroup:
    """The control groups of one attempt.

    Raises:
        OSError: they cannot be made, or a limit is refused.
    """

    def __init__(
        self,
        controllers: Controllers,
        name: str,
        *,
        memory_bytes: int | None,
        pids: int | None,
        cpu: float | None,
    ) -> None:
        self._version = controllers.version
        self._memory: Path | None = None
        self._homes: dict[Path, Path] = {}
        """Each group made, and where we were ourselves."""
        self.limits_memory = memory_bytes is not None and controllers.memory is not None
        try:
            if controllers.memory is not None:
                self._memory = self._make(controllers.memory, name)
                if memory_bytes is not None:
                    self._limit_memory(self._memory, memory_bytes)
            if controllers.pids is not None and pids is not None:
                (self._make(controllers.pids, name) / "pids.max").write_text(str(pids))
            if controllers.cpu is not None:
                # Whatever it asks for: the processors are shared among groups first. A job with a
                # thousand processes gets no more of them than its neighbour with one.
                group = self._make(controllers.cpu, name)
                if cpu is not None:
                    self._limit_cpu(group, cpu)
        except OSError:
            self.remove()
            raise

    @contextmanager
    def joined(self) -> Iterator[None]:
        """What the calling thread starts meanwhile is born inside.

        Version 2 moves the whole process, for as long as this takes.
        """
        door = "tasks" if self._version == 1 else "cgroup.procs"
        try:
            for group in self._homes:
                (group / door).write_text("0")
            yield
        finally:
            for home in self._homes.values():
                (home / door).write_text("0")

    def was_out_of_memory(self) -> bool:
        """Tell whether the kernel killed something inside for want of memory."""
        if self._memory is None:
            return False
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        try:
            fields = dict(line.split() for line in (self._memory / name).read_text().splitlines())
        except (OSError, ValueError):
            return False
        return int(fields.get("oom_kill", 0)) > 0

    def remove(self) -> None:
        """Remove the groups; the last process inside may need a moment to be gone."""
        end = time.monotonic() + _REMOVE_SECONDS
        for group in self._homes:
            while not _try_remove(group) and time.monotonic() < end:
                time.sleep(0.002)
        self._homes.clear()

    def _make(self, hierarchy: Hierarchy, name: str) -> Path:
        group = hierarchy.parent / f"{PREFIX}{name}"
        if group not in self._homes:
            if group.is_dir():
                _empty(group)  # a former self's, of the same attempt
            group.mkdir()
            self._homes[group] = hierarchy.home
        return group

    def _limit_memory(self, group: Path, limit: int) -> None:
        if self._version == 1:
            (group / "memory.limit_in_bytes").write_text(str(limit))
            with suppress(OSError):
                (group / "memory.memsw.limit_in_bytes").write_text(str(limit))
            return
        (group / "memory.max").write_text(str(limit))
        with suppress(OSError):
            (group / "memory.swap.max").write_text("0")

    def _limit_cpu(self, group: Path, cpu: float) -> None:
        quota = max(1_000, int(cpu * _CPU_PERIOD_MICROSECONDS))
        if self._version == 1:
            (group / "cpu.cfs_period_us").write_text(str(_CPU_PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_CPU_PERIOD_MICROSECONDS}")


def remove_stale_groups(names: frozenset[str]) -> int:
    """Kill what lives in the groups of these attempts and remove them; return how many there were."""
    controllers = find_controllers()
    parents = {h.parent for h in (controllers.memory, controllers.pids, controllers.cpu) if h is not None}
    stale = [group for parent in parents for name in names if (group := parent / f"{PREFIX}{name}").is_dir()]
    for group in stale:
        _empty(group)
    return len(stale)


def _empty(group: Path) -> None:
    end = time.monotonic() + _REMOVE_SECONDS
    while not _try_remove(group) and time.monotonic() < end:
        with suppress(OSError):
            for line in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(line), 9)
        time.sleep(0.01)


def _try_remove(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
