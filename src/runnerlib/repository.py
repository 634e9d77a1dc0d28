"""Looking at a git repository that is here already: what changed, and where it stands. Nothing is written."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runnerlib.git_process import SAFE_SETTINGS, SAFE_VARIABLES, as_environment, find_git
from runnerlib.source_errors import SourceDenied, SourceFailed
from runnerlib.spec.rules import check_git_ref, redact_url

LOOK_SECONDS = 120.0
_INHERITED = ("PATH", "HOME", "TMPDIR", "GIT_DIR", "GIT_WORK_TREE")


@dataclass(frozen=True)
class RepositoryInfo:
    """Where a repository stands. ``commit`` is None before the first one; remotes have no credentials."""

    branch: str | None
    """None: the HEAD is detached."""
    commit: str | None
    is_dirty: bool
    remotes: dict[str, str]


def list_changed_files(folder: Path, ref: str, *, from_merge_base: bool = False) -> list[str]:
    """Return the paths, from the repository's top, that differ between ``ref`` and HEAD, sorted by git.

    A renamed file counts as two. Paths are as `os.fsdecode` gives them.

    Args:
        from_merge_base: only what HEAD changed since it parted from ``ref``, as a pull request shows it.

    Raises:
        SourceDenied: ``ref`` is not well-formed.
        SourceFailed: this is no repository, or there is no such commit.
    """
    fault = check_git_ref(ref)
    if fault:
        raise SourceDenied(f"REF {fault}")
    span = [f"{ref}...HEAD"] if from_merge_base else [ref, "HEAD"]
    names = _ask(
        folder,
        *("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv"),
        *("--ignore-submodules=none", *span, "--"),
    )
    return names.split("\0")[:-1]


def describe_repository(folder: Path) -> RepositoryInfo:
    """Say where the repository stands.

    Raises:
        SourceFailed: this is none.
    """
    _ask(folder, "rev-parse", "--git-dir")
    remotes = {}
    for name in _ask(folder, "remote").split("\n")[:-1]:
        # As it is written down: git's own substitutions are the user's affair.
        remotes[name] = redact_url(_ask(folder, "config", "--get", f"remote.{name}.url").rstrip("\n"))
    return RepositoryInfo(
        branch=_try(folder, "symbolic-ref", "--quiet", "--short", "HEAD"),
        commit=_try(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"),
        is_dirty=bool(_ask(folder, "status", "--porcelain", "-z", "--ignore-submodules=none")),
        remotes=remotes,
    )


def _try(folder: Path, *arguments: str) -> str | None:
    try:
        return _ask(folder, *arguments).strip() or None
    except SourceFailed:
        return None


def _ask(folder: Path, *arguments: str) -> str:
    inherited = {name: os.environ[name] for name in _INHERITED if os.environ.get(name)}
    # The user's own global settings may say which directories of other owners are safe.
    variables = {name: value for name, value in SAFE_VARIABLES.items() if name != "GIT_CONFIG_GLOBAL"}
    try:
        told = subprocess.run(
            [find_git(), "--no-pager", "--no-optional-locks", *arguments],
            cwd=folder,
            env=inherited | variables | as_environment(SAFE_SETTINGS),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"git gave no answer within {LOOK_SECONDS:g} seconds") from error
    except OSError as error:
        raise SourceFailed(f"{folder} cannot be entered: {error.strerror}") from error
    if told.returncode != 0:
        words = told.stderr.decode(errors="replace").strip().splitlines()
        raise SourceFailed(words[0] if words else f"git ended with exit code {told.returncode}")
    return os.fsdecode(told.stdout)
