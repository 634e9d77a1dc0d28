"""What isolation this host has for jobs, found out by building a sandbox rather than by asking."""

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runnerlib.executors.choice import sandbox_ids
from runnerlib.executors.port import JobCommand, Limits, SandboxUnavailable
from runnerlib.executors.process import BubblewrapExecutor
from runnerlib.spec import HostPolicy
from runnerlib.workspace import Workspace

_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Isolation:
    """What a job would run in. ``name`` is ``none`` where nothing can be had; ``detail`` says why."""

    name: str
    detail: str
    bubblewrap_path: str | None = None
    bubblewrap_version: str | None = None
    own_uid: bool = False
    """The sandbox has a host user of its own."""
    memory: str = "none"
    """``cgroup1``, ``cgroup2``, or ``watch``: added up ten times a second."""
    pids: str = "none"
    cpu: str = "none"


def probe_isolation(policy: HostPolicy) -> Isolation:
    """Build a sandbox that does nothing, and say what it was made of. Called once in a process."""
    if policy.unsandboxed:
        return Isolation("unsandboxed", "jobs can do all that the worker can", memory="watch")
    name = f"probe.{os.getpid()}"
    try:
        owner = sandbox_ids(policy, name)
        executor = BubblewrapExecutor(name, run_as=owner, read_only_paths=policy.read_only_paths)
    except SandboxUnavailable as error:
        return Isolation("none", str(error))
    problem = _try_out(executor, owner)
    if problem is not None:
        return Isolation("none", problem, str(executor.bubblewrap.path), executor.bubblewrap.version)
    return _describe(executor, own_uid=owner is not None)


def _describe(executor: BubblewrapExecutor, *, own_uid: bool) -> Isolation:
    groups, found = executor.controllers, executor.bubblewrap
    kind = f"cgroup{groups.version}"
    memory = kind if groups.memory is not None else "watch"
    pids = f"rlimit and {kind}" if groups.pids is not None else "rlimit"
    user = "a host user of its own" if own_uid else "the worker's user"
    return Isolation(
        "bubblewrap",
        f"bubblewrap {found.version} ({found.origin}), {user}, memory by {memory}, processes by {pids}",
        str(found.path),
        found.version,
        own_uid,
        memory,
        pids,
        kind if groups.cpu is not None else "none",
    )


def _try_out(executor: BubblewrapExecutor, owner: tuple[int, int] | None) -> str | None:
    limits = Limits(memory_bytes=256 * 1024**2, pids=64, cpu=None, open_files=64, file_bytes=1024**2)
    command = JobCommand(text="true", directory="/job", environment={}, limits=limits, network="default")
    with tempfile.TemporaryDirectory(prefix="reactorcide-probe-") as folder, ExitStack() as stack:
        try:
            workspace = Workspace.make(Path(folder), "probe", owner)
            job = executor.start(command, executor.open_workspace(workspace.root))
        except (SandboxUnavailable, OSError) as error:
            return str(error)
        for descriptor in (job.stdout, job.stderr):
            stack.callback(os.close, descriptor)
        job.wait(_PROBE_SECONDS)
        end = job.close()
    return None if end.exit_code == 0 else f"an empty job ended with {end.exit_code}"
