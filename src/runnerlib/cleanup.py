"""Removing what dead attempts left here: their processes, control groups, containers and workspaces."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

_ATTEMPT = re.compile(r"[^/]+\.[0-9]+")


@dataclass(frozen=True)
class CleanedUp:
    """What was removed, and what was let be because it still runs: names of attempts, sorted."""

    groups: int
    """How many control groups."""
    containers: list[str]
    workspaces: list[str]
    spared: list[str]


def clean_up(workspace_root: Path, names: frozenset[str] | None, *, spares_running: bool) -> CleanedUp:
    """Remove what the attempts of these names left in ``workspace_root``; None: all that are there.

    Whatever else is in there stays, so that a folder named by mistake loses nothing.

    Args:
        spares_running: let attempts be whose runner lives. Else they are ended: their worker is gone.

    Raises:
        OSError: something stays.
    """
    from runnerlib.executors.cgroups import remove_stale_groups
    from runnerlib.executors.container_cleanup import remove_containers
    from runnerlib.workspace import is_in_use, names_in, remove_workspaces

    found = names_in(workspace_root)
    if names is not None:
        found &= names
    found = frozenset(name for name in found if _is_workspace(workspace_root / name))
    spared = frozenset(name for name in found if spares_running and is_in_use(workspace_root / name))
    dead = found - spared
    groups = remove_stale_groups(dead)
    # Before the workspaces, which say where the containers are.
    containers = remove_containers(workspace_root, dead)
    return CleanedUp(groups, containers, remove_workspaces(workspace_root, dead), sorted(spared))


def _is_workspace(path: Path) -> bool:
    """Tell whether this is a folder as `Workspace.make` makes them: named for an attempt, ours alone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    is_private = found.st_mode & 0o777 == 0o700 and found.st_uid == os.geteuid()
    return stat.S_ISDIR(found.st_mode) and is_private and _ATTEMPT.fullmatch(path.name) is not None
