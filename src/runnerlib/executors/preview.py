"""What bubblewrap would be told for a job, as one would type it; nothing is run."""

import os
from collections.abc import Mapping
from pathlib import Path

from runnerlib.executors.bubblewrap import SandboxPlan, Shelf, compose_options, find_bubblewrap, open_files
from runnerlib.limits import find_limits, limits_for_executor
from runnerlib.spec import RunSpec

_FILE_OPTION = ("--perms", "0444", "--file")


def bubblewrap_command(spec: RunSpec, environment: Mapping[str, str]) -> list[str] | None:
    """Return a command that makes such a sandbox, all in argv. None: there is no bubblewrap.

    What a command line cannot say is left out: limits, the filter of system calls, the socket of secrets.
    """
    found = find_bubblewrap()
    if found is None:
        return None
    memory = limits_for_executor(spec, find_limits(spec)).memory_bytes or 2 * 1024**3
    plan = SandboxPlan(
        workspace=str(Path(spec.workspace_root) / f"{spec.job_id}.{spec.attempt}" / "job"),
        directory=spec.job_dir,
        environment=environment,
        shares_network=spec.network == "default",
        shelves=tuple(Shelf(path, path) for path in spec.host.read_only_paths),
        channel=None,
        temp_bytes=min(1024**3, memory // 2),
    )
    files = open_files()
    try:
        options = compose_options(plan, files)
    finally:
        for file in files:
            os.close(file.descriptor)
    return [str(found.path), *_with_paths(options), "--", "/bin/sh", "-c", spec.command]


def _with_paths(options: list[str]) -> list[str]:
    """Name the host's files in the place of descriptors that only we would have."""
    told: list[str] = []
    rest = list(options)
    while rest:
        if tuple(rest[:3]) == _FILE_OPTION:
            target = rest[4]
            told += ["--ro-bind", target, target]
            del rest[:5]
        else:
            told.append(rest.pop(0))
    return told
