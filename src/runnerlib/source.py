"""A job's files, brought to where the job will find them: from git, a directory, a sent tree, or none."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runnerlib.copy_tree import copy_source
from runnerlib.git import check_out, credentials_in
from runnerlib.source_errors import SourceDenied, SourceError, SourceFailed, SourceStopped
from runnerlib.source_limits import SourceLimits
from runnerlib.spec import HostPolicy, JobSource
from runnerlib.tree_source import lay_out_tree
from runnerlib.trees import give_tree

__all__ = [
    "PreparedSource",
    "SourceDenied",
    "SourceError",
    "SourceFailed",
    "SourceStopped",
    "prepare_source",
    "source_secrets",
]


@dataclass(frozen=True)
class PreparedSource:
    """What was brought. ``resolved_sha`` is the commit that lies there, or below the changes of a tree."""

    resolved_sha: str | None


def source_secrets(source: JobSource) -> tuple[str, ...]:
    """Return the credentials written into ``source``; the job's log must not show them."""
    return credentials_in(source.url) if source.url else ()


def prepare_source(
    source: JobSource,
    target: Path,
    policy: HostPolicy,
    *,
    log: Callable[[str], None],
    should_stop: Callable[[], bool],
    run_as: tuple[int, int] | None = None,
) -> PreparedSource:
    """Bring ``source`` into the directory ``target``, which is made if absent and must be empty.

    When this raises, no process of it is left; what lies in ``target`` is to be thrown away.

    Args:
        log: takes warnings and remarks for the job's log; they hold no credential.
        should_stop: asked many times a second.
        run_as: uid and gid that shall own every file.

    Raises:
        SourceDenied: the host's policy does not allow it.
        SourceFailed: it could not be brought; ``is_users_fault`` says who can help.
        SourceStopped: ``should_stop`` said so.
        OSError: this host's disk failed or is full.
    """
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise SourceFailed(f"{target} is not empty")
    sha = None
    limits = SourceLimits(target, policy, should_stop)
    limits.check_time()
    if source.type == "git":
        sha = check_out(source, target, policy, limits, log)
    elif source.type == "copy":
        copy_source(source, target, policy, limits, log)
    elif source.type == "tree":
        lay_out_tree(source, target, limits)
        sha = source.commit
    if run_as is not None and run_as != (os.geteuid(), os.getegid()):
        give_tree(target, run_as)
    return PreparedSource(sha)
