"""Looking at a git repository that is here already: what changed, and where it stands.

Nothing is written or fetched, and no program is run that the repository names: it may be a stranger's.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runnerlib.git_process import SAFE_SETTINGS, SAFE_VARIABLES, as_environment, find_git
from runnerlib.source_errors import SourceDenied, SourceFailed
from runnerlib.spec.rules import check_git_ref, redact_url

LOOK_SECONDS = 120.0
_INHERITED = ("PATH", "HOME", "TMPDIR", "GIT_DIR", "GIT_WORK_TREE")
_NO_TRANSFER = {
    # What a partial clone lacks, git would fetch by whatever the repository says. These two, unlike
    # `protocol.allow`, no setting of the repository overrides.
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
}
_ANCESTRY = re.compile(r"(?:[~^][0-9]{0,9})*\Z")
_FILTER_NAME = re.compile(r"filter\.(.+)\.[^.]+", re.DOTALL)


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
        ref: a branch, tag or commit, or an ancestor of one such as ``HEAD~2``.
        from_merge_base: only what HEAD changed since it parted from ``ref``, as a pull request shows it.

    Raises:
        SourceDenied: ``ref`` is not well-formed.
        SourceFailed: this is no repository, or there is no such commit.
    """
    ancestry = _ANCESTRY.search(ref)
    fault = check_git_ref(ref[: ancestry.start()] if ancestry else ref)
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
    """Say where the repository stands. Of submodules only another commit counts as dirt.

    Raises:
        SourceFailed: this is none.
    """
    _ask(folder, "rev-parse", "--git-dir")
    changes = _ask(
        folder,
        # Nothing deeper: to look into a submodule, git would run the filters that it names.
        *("status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=dirty"),
        settings=_without_filters(folder),
    )
    return RepositoryInfo(
        branch=_try(folder, "symbolic-ref", "--quiet", "--short", "HEAD"),
        commit=_try(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"),
        is_dirty=bool(changes),
        remotes=_remotes_of(folder),
    )


def _remotes_of(folder: Path) -> dict[str, str]:
    """Return the first URL of every remote that has one, as it is written down."""
    found: dict[str, str] = {}
    told = _try(folder, "config", "-z", "--get-regexp", r"^remote\..*\.url$") or ""
    for entry in told.split("\0")[:-1]:
        key, _, url = entry.partition("\n")
        found.setdefault(key.removeprefix("remote.").removesuffix(".url"), _without_credential(url))
    return found


def _without_credential(url: str) -> str:
    try:
        has_query = "://" in url and bool(urlsplit(url).query)
        shown = redact_url(url)
    except ValueError:
        # No URL by the rules of any: git might use it nevertheless, so there may be a password in it.
        return re.sub(r"://.*@", "://[REDACTED]@", url, flags=re.DOTALL)
    return f"{shown.partition('?')[0]}?[REDACTED]" if has_query else shown


def _without_filters(folder: Path) -> dict[str, str]:
    """Return settings that take away the programs of filters that the repository itself has set up.

    Those of the user's own configuration, such as git-lfs, stay.
    """
    told = _try(folder, "config", "--show-scope", "-z", "--name-only", "--get-regexp", r"^filter\.") or ""
    words = told.split("\0")[:-1]
    settings: dict[str, str] = {}
    for scope, key in zip(words[::2], words[1::2], strict=True):
        named = _FILTER_NAME.fullmatch(key)
        if named and scope in ("local", "worktree"):
            nothing = {f"filter.{named[1]}.{what}": "" for what in ("clean", "smudge", "process")}
            settings |= nothing | {f"filter.{named[1]}.required": "false"}
    return settings


def _try(folder: Path, *arguments: str) -> str | None:
    """Return what git says without the line's end, None if it fails."""
    try:
        return _ask(folder, *arguments).removesuffix("\n") or None
    except SourceFailed:
        return None


def _ask(folder: Path, *arguments: str, settings: dict[str, str] | None = None) -> str:
    inherited = {name: os.environ[name] for name in _INHERITED if os.environ.get(name)}
    # The user's own global settings may say which directories of other owners are safe.
    variables = {name: value for name, value in SAFE_VARIABLES.items() if name != "GIT_CONFIG_GLOBAL"}
    told_settings = as_environment(SAFE_SETTINGS | (settings or {}))
    try:
        told = subprocess.run(
            [find_git(), "--no-pager", "--no-optional-locks", *arguments],
            cwd=folder,
            env=inherited | variables | _NO_TRANSFER | told_settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"git gave no answer within {LOOK_SECONDS:g} seconds") from error
    except OSError as error:
        raise SourceFailed(f"git could not be started in {folder}: {error.strerror}") from error
    if told.returncode != 0:
        raise SourceFailed(_reason_in(told.stderr) or f"git ended with exit code {told.returncode}")
    return os.fsdecode(told.stdout)


def _reason_in(said: bytes) -> str:
    """Return the line that says why, fit to be shown: names in it may be a stranger's."""
    lines = said.decode(errors="replace").strip().splitlines()
    telling = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines or [""]
    return as_shown(telling[0])


def as_shown(text: str) -> str:
    """Return a line of ``text`` that moves no terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
