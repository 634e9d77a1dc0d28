"""The nemesis: which faults come when, made from a seed, and how each of them is done and undone."""

import asyncio
import errno
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from fakes.corndogs_process import CorndogsProcess
from fakes.fault_proxy import Direction, FaultProxy
from robustness.cluster import Cluster
from robustness.cluster_parts import Part, descendants
from robustness.cluster_profile import Profile

READY_SECONDS = 30.0
DRAIN_SECONDS = 90.0
"""A worker that is asked to end while it runs the longest job ends within this."""
_PROCESS_KINDS = ("kill", "kill", "stop", "terminate")
_LINK_KINDS = ("cut", "hold", "swallow", "one_way_up", "one_way_down", "reset", "refuse")
FILLER = "filler"


@dataclass(frozen=True)
class PlannedFault:
    """A fault of the schedule."""

    number: int
    after_seconds: float
    """Since the one before."""
    target: str
    kind: str
    seconds: float
    """How long it lasts; of a kill: how long until the restart."""
    choice: int
    """Decides what else there is to decide."""


@dataclass(frozen=True)
class FaultSpan:
    """A fault that came: when, by the monotonic clock, and until when it hurt."""

    fault: PlannedFault
    began: float
    ended: float

    @property
    def target(self) -> str:
        return self.fault.target

    @property
    def kind(self) -> str:
        return self.fault.kind


def make_schedule(
    seed: int,
    faults: int,
    over_seconds: float,
    *,
    profile: Profile,
    coordinators: int,
    workers: int,
    is_http: bool,
    has_disks: bool,
    can_deny: bool,
    has_corndogs: bool = False,
) -> list[PlannedFault]:
    """Return the faults of a seed, 1 to 5 s apart unless ``over_seconds`` wants them closer or farther."""
    chance = random.Random(f"nemesis {seed}")
    menu = _menu(coordinators, workers, is_http=is_http, has_disks=has_disks, can_deny=can_deny)
    if has_corndogs:
        menu["queue"] = ("kill", "kill", "stop", "wipe", "mute")
    gaps = [chance.uniform(1, 5) for _ in range(faults)]
    scale = over_seconds / sum(gaps) if faults else 1.0
    planned, now, busy_until = [], 0.0, dict.fromkeys(menu, 0.0)
    for number, gap in enumerate(gaps):
        now += gap * scale
        free = [target for target in menu if busy_until[target] <= now] or [
            min(busy_until, key=busy_until.__getitem__)
        ]
        # A queue is one of many parts, and what its faults do is seen only while jobs wait.
        target = "queue" if has_corndogs and number % 3 == 0 else chance.choice(free)
        kind = chance.choice(menu[target])
        seconds = _duration(chance, kind, target, profile)
        busy_until[target] = now + seconds + 3
        planned.append(PlannedFault(number, gap * scale, target, kind, seconds, chance.randrange(1 << 30)))
    return planned


def _menu(
    coordinators: int, workers: int, *, is_http: bool, has_disks: bool, can_deny: bool
) -> dict[str, tuple[str, ...]]:
    menu: dict[str, tuple[str, ...]] = {}
    for number in range(coordinators):
        menu[f"serve-{number + 1}"] = _PROCESS_KINDS
        menu[f"serve-{number + 1}:database"] = (*_LINK_KINDS, "cut_at_commit", "cut_at_commit")
    for number in range(workers):
        disk = ("disk_full",) if has_disks else ()
        menu[f"worker-{number + 1}"] = (*_PROCESS_KINDS, "kill_runner", *disk)
        menu[f"worker-{number + 1}:uplink"] = _LINK_KINDS
    menu["database"] = ("kill", "kill_backend", "stop", "restart")
    store = (*(("disk_full",) if has_disks else ()), *(("deny",) if can_deny else ()))
    if store:
        menu["objects"] = store
    return menu


def _duration(chance: random.Random, kind: str, target: str, profile: Profile) -> float:
    if kind in ("kill", "restart"):
        return chance.uniform(0, 5)
    if kind in ("kill_runner", "kill_backend", "cut", "terminate", "wipe"):
        return 0.0
    if kind in ("disk_full", "deny"):
        return chance.uniform(1, 12)
    if target.startswith("database") or kind == "cut_at_commit":
        return chance.uniform(1, 8)
    # One in four is long enough for a lease, and at most twice as long as a worker may be away.
    return (
        chance.uniform(profile.lease, 2 * profile.lost_after)
        if chance.random() < 0.25
        else chance.uniform(0.5, 5)
    )


class Nemesis:
    """Does the faults to a cluster, several targets at once, one after another on each."""

    def __init__(self, cluster: Cluster) -> None:
        self.spans: list[FaultSpan] = []
        self.failures: list[str] = []
        """What went wrong in doing or undoing one, which is a finding of its own."""
        self._cluster = cluster
        self._locks: dict[str, asyncio.Lock] = {}
        self._healing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, schedule: list[PlannedFault]) -> None:
        """Do a schedule; faults that last are left to end by themselves, or by `heal`."""
        for fault in schedule:
            await asyncio.sleep(fault.after_seconds)
            task = asyncio.create_task(self._do(fault))
            self._tasks.add(task)

    async def heal(self) -> None:
        """End every fault, and return when everything is up again."""
        self._healing.set()
        if self._tasks:
            _, hanging = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS + READY_SECONDS)
            self.failures += [f"a fault could not be undone: {task}" for task in hanging]
        for proxy in (*self._cluster.uplinks, *self._cluster.database_proxies):
            await proxy.heal()
        for part in (*self._cluster.coordinators, *self._cluster.workers):
            part.launch()

    async def _do(self, fault: PlannedFault) -> None:
        # What acts on a process waits for what acts on the same process.
        async with self._locks.setdefault(fault.target, asyncio.Lock()):
            if self._healing.is_set():
                return
            began = time.monotonic()
            try:
                await self._find(fault)(fault)
            except Exception as error:
                self.failures.append(f"{fault}: {error!r}")
            self.spans.append(FaultSpan(fault, began, time.monotonic()))

    def _find(self, fault: PlannedFault) -> Callable[[PlannedFault], Awaitable[None]]:
        if fault.target == "database":
            return {
                "kill": self._kill_database,
                "restart": self._restart_database,
                "stop": self._stop_database,
                "kill_backend": self._kill_backend,
            }[fault.kind]
        if fault.target == "queue":
            return {
                "kill": self._kill_queue,
                "stop": self._stop_queue,
                "wipe": self._wipe_queue,
                "mute": self._mute_queue,
            }[fault.kind]
        if fault.target == "objects":
            return self._fill_disk if fault.kind == "disk_full" else self._deny_objects
        if ":" in fault.target:
            return self._disturb_link
        return {
            "kill": self._kill_part,
            "stop": self._stop_part,
            "terminate": self._restart_part,
            "kill_runner": self._kill_runner,
            "disk_full": self._fill_disk,
        }[fault.kind]

    async def _pause(self, seconds: float) -> None:
        """Let a fault last, but not beyond the healing."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._healing.wait(), seconds)

    def _part(self, target: str) -> Part:
        name = target.partition(":")[0]
        return next(p for p in (*self._cluster.coordinators, *self._cluster.workers) if p.name == name)

    async def _kill_part(self, fault: PlannedFault) -> None:
        part = self._part(fault.target)
        await part.kill()
        await self._pause(fault.seconds)
        part.launch()
        await self._until_serving(part)

    async def _stop_part(self, fault: PlannedFault) -> None:
        part = self._part(fault.target)
        part.signal(signal.SIGSTOP)
        try:
            await self._pause(fault.seconds)
        finally:
            part.signal(signal.SIGCONT)

    async def _restart_part(self, fault: PlannedFault) -> None:
        part = self._part(fault.target)
        if not part.is_running:
            part.launch()
            return
        code = await part.ask_to_end(DRAIN_SECONDS)
        if code is None:
            self.failures.append(f"{part.name} did not end within {DRAIN_SECONDS} s of SIGTERM")
        part.launch()
        await self._until_serving(part)

    async def _until_serving(self, part: Part) -> None:
        """A coordinator that was started is out of order until it answers, whatever it says."""
        if part not in self._cluster.coordinators:
            return
        end = time.monotonic() + READY_SECONDS
        async with httpx2.AsyncClient(timeout=2, trust_env=False) as client:
            while time.monotonic() < end:
                try:
                    await client.get(f"http://127.0.0.1:{part.settings['PORT']}/healthz")
                except httpx2.HTTPError:
                    await asyncio.sleep(0.1)
                else:
                    return

    async def _kill_runner(self, fault: PlannedFault) -> None:
        part = self._part(fault.target)
        if not part.is_running:
            return
        below = descendants(part.pid)
        parents = {info.parent for info in below}
        runners = [i for i in below if b"runnerlib.attempt" in i.arguments.split(b"\0") and i.pid in parents]
        if runners:
            with suppress(ProcessLookupError):
                os.kill(runners[fault.choice % len(runners)].pid, signal.SIGKILL)

    async def _fill_disk(self, fault: PlannedFault) -> None:
        objects = self._cluster.objects_dir
        folder = objects if fault.target == "objects" else self._part(fault.target).home
        filler = folder / FILLER
        try:
            _fill(filler)
            await self._pause(fault.seconds)
        finally:
            filler.unlink(missing_ok=True)

    async def _deny_objects(self, fault: PlannedFault) -> None:
        folder = self._cluster.objects_dir
        mode = folder.stat().st_mode & 0o777
        folder.chmod(0)
        try:
            await self._pause(fault.seconds)
        finally:
            folder.chmod(mode)

    @property
    def _postmaster(self) -> int:
        pid = self._cluster.postgres.pid
        if pid is None:
            raise RuntimeError("the database does not run")
        return pid

    async def _kill_database(self, fault: PlannedFault) -> None:
        os.kill(self._postmaster, signal.SIGKILL)
        await self._pause(fault.seconds)
        await self._cluster.restart_postgres()

    async def _restart_database(self, fault: PlannedFault) -> None:
        await self._cluster.postgres.stop()
        await self._pause(fault.seconds)
        await self._cluster.postgres.start()

    async def _stop_database(self, fault: PlannedFault) -> None:
        pids = [self._postmaster, *(info.pid for info in descendants(self._postmaster))]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await self._pause(fault.seconds)
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _kill_backend(self, fault: PlannedFault) -> None:
        """All backends die of one that was killed, and the server recovers by itself."""
        pids = [info.pid for info in descendants(self._postmaster)]
        if pids:
            with suppress(ProcessLookupError):
                os.kill(pids[fault.choice % len(pids)], signal.SIGKILL)
        await self._pause(1)

    @property
    def _queue(self) -> CorndogsProcess:
        if self._cluster.corndogs is None:
            raise RuntimeError("the cluster has no Corndogs")
        return self._cluster.corndogs

    async def _kill_queue(self, fault: PlannedFault) -> None:
        await asyncio.to_thread(self._queue.kill)
        await self._pause(fault.seconds)
        await asyncio.to_thread(self._cluster.start_queue, self._queue)

    async def _stop_queue(self, fault: PlannedFault) -> None:
        os.kill(self._queue.pid, signal.SIGSTOP)
        try:
            await self._pause(fault.seconds)
        finally:
            os.kill(self._queue.pid, signal.SIGCONT)

    async def _wipe_queue(self, _: PlannedFault) -> None:
        await asyncio.to_thread(self._queue.order, wipe=True)

    async def _mute_queue(self, fault: PlannedFault) -> None:
        await asyncio.to_thread(self._queue.order, is_silent=True)
        try:
            await self._pause(fault.seconds)
        finally:
            await asyncio.to_thread(self._queue.order, is_silent=False)

    async def _disturb_link(self, fault: PlannedFault) -> None:
        proxy = self._proxy(fault.target)
        if fault.kind == "cut":
            proxy.cut()
            return
        {
            "hold": proxy.hold,
            "swallow": proxy.swallow,
            "one_way_up": lambda: proxy.swallow(Direction.TO_CLIENT),
            "one_way_down": lambda: proxy.swallow(Direction.TO_SERVER),
            "reset": proxy.reset,
            "refuse": proxy.refuse,
            # The commit has happened, and nobody is told: the hardest place for a connection to end.
            "cut_at_commit": lambda: proxy.cut_after(
                Direction.TO_CLIENT, b"COMMIT\0", times=1 + fault.choice % 5, is_let_through=False
            ),
        }[fault.kind]()
        try:
            await self._pause(fault.seconds)
        finally:
            await proxy.heal()

    def _proxy(self, target: str) -> FaultProxy:
        part, _, link = target.partition(":")
        number = int(part.rpartition("-")[2]) - 1
        return self._cluster.uplinks[number] if link == "uplink" else self._cluster.database_proxies[number]


def shorten(schedule: list[PlannedFault], longest: float) -> list[PlannedFault]:
    """Return the schedule with no fault longer than ``longest``."""
    return [replace(fault, seconds=min(fault.seconds, longest)) for fault in schedule]


def _fill(path: Path) -> None:
    """Write until the disk takes no byte more."""
    size = 1024 * 1024
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 16
