"""Containers that dead attempts left: found by their label, at the engine that their workspace names."""

import os
from pathlib import Path

from runnerlib.executors.container_argv import ATTEMPT_LABEL, attempt_label
from runnerlib.executors.engine import call_engine

RECORD = "container-engine"
"""In the attempt's own directory, where no job can write: the path of the engine that runs its container."""
REMOVE_SECONDS = 20.0


def keep_record(folder: Path, engine_path: str) -> None:
    """Note which engine runs the container of the attempt whose directory this is."""
    (folder / RECORD).write_text(engine_path)


def remove_containers(workspace_root: Path, names: frozenset[str]) -> list[str]:
    """Kill and remove the containers of these attempts, whose runners are dead; return the attempts' names.

    Only attempts whose workspace is still there have any, and only their engines are asked.
    """
    removed = []
    for name in sorted(names):
        try:
            engine = (workspace_root / name / RECORD).read_text()
        except OSError:
            continue
        if os.access(engine, os.X_OK) and _remove(engine, name):
            removed.append(name)
    return removed


def _remove(engine: str, name: str) -> bool:
    wanted = f"label={ATTEMPT_LABEL}={attempt_label(name)}"
    found = call_engine(engine, ["ps", "--all", "--quiet", "--no-trunc", "--filter", wanted]).output.split()
    if not found:
        return False
    arguments = ["rm", "--force", "--volumes", *found]
    return call_engine(engine, arguments, timeout_seconds=REMOVE_SECONDS).code == 0
