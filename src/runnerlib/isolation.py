"""What isolation this host has for jobs, found out by building a sandbox rather than by asking."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runnerlib.executors.choice import find_executor
from runnerlib.executors.port import Executor, JobCommand, Limits, SandboxUnavailable
from runnerlib.executors.process import BubblewrapExecutor
from runnerlib.spec import HostPolicy, Measure, unmet
from runnerlib.workspace import Workspace

_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Isolation:
    """What a job would run in. ``name`` is ``none`` where nothing can be had; ``detail`` says why."""

    name: str
    detail: str
    measures: tuple[Measure, ...] = ()
    unmet: tuple[str, ...] = ()
    """Measures that the operator requires and that are not enforced: no job is run without."""
    path: str | None = None
    """The program that isolates, and its version."""
    version: str | None = None


def probe_isolation(policy: HostPolicy) -> Isolation:
    """Find what an attempt would run in and try it out, as far as no image is needed for that.

    Called once in a process.
    """
    name = f"probe.{os.getpid()}"
    try:
        executor = find_executor(policy, name)
        detail, path, version = _describe(executor)
    except SandboxUnavailable as error:
        return Isolation("none", str(error), unmet=policy.require_isolation)
    problem = _try_out(executor) if isinstance(executor, BubblewrapExecutor) else None
    if problem is not None:
        return Isolation("none", problem, (), policy.require_isolation, path, version)
    measures = executor.measures()
    missing = tuple(unmet(policy.require_isolation, measures))
    return Isolation(executor.isolation, detail, measures, missing, path, version)


def report(found: Isolation) -> Iterator[str]:
    """Yield the lines that say it to people: first what it is, then each measure."""
    yield f"{found.name}: {found.detail}"
    for measure in found.measures:
        state = (
            "enforced" if measure.is_enforced else "NOT ENFORCED" if measure.by == "nothing" else "watched"
        )
        yield f"  {measure.name:17}  {state:12}  {measure.by}"
    if found.unmet:
        yield f"  no job is run: required and not enforced: {', '.join(found.unmet)}"


def _describe(executor: Executor) -> tuple[str, str | None, str | None]:
    """Return a line on the executor, and its program's path and version."""
    if isinstance(executor, BubblewrapExecutor):
        found = executor.bubblewrap
        user = "a host user of its own" if executor.owner is not None else "the worker's user"
        by = {measure.name: measure.by for measure in executor.measures()}
        limits = f"memory by {by['memory']}, processes by {by['processes']}"
        text = f"bubblewrap {found.version} ({found.origin}), {user}, {limits}"
        return text, str(found.path), found.version
    from runnerlib.executors.container import ContainerExecutor

    if isinstance(executor, ContainerExecutor):
        from runnerlib.executors.engine import find_engine

        engine = find_engine(executor.engine.path)
        user = "as an ordinary user" if engine.is_rootless else "as root"
        return f"{engine.name} {engine.version} ({engine.path}), {user}", engine.path, engine.version
    return "jobs can do all that the worker can", None, None


def _try_out(executor: BubblewrapExecutor) -> str | None:
    limits = Limits(memory_bytes=256 * 1024**2, pids=64, cpu=None, open_files=64, file_bytes=1024**2)
    command = JobCommand(text="true", directory="/job", environment={}, limits=limits, network="default")
    with tempfile.TemporaryDirectory(prefix="reactorcide-probe-") as folder, ExitStack() as stack:
        try:
            workspace = Workspace.make(Path(folder), "probe", executor.owner)
            job = executor.start(command, executor.open_workspace(workspace.root))
        except (SandboxUnavailable, OSError) as error:
            return str(error)
        for descriptor in (job.stdout, job.stderr):
            stack.callback(os.close, descriptor)
        job.wait(_PROBE_SECONDS)
        end = job.close()
    return None if end.exit_code == 0 else f"an empty job ended with {end.exit_code}"
