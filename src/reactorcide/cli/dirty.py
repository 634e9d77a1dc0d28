"""The working tree of a git repository as it is now: what git would keep, with what is not committed.

git tells which files there are and which differ from the last commit; their contents are read from disk
as they are. What git ignores, deleted files, submodules and other repositories inside are not part of it.
"""

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reactorcide.cli.errors import CommandFailed
from runnerlib.spec.trees import (
    MAX_TREE_ENTRIES,
    TreeEntry,
    check_link,
    check_tree_path,
    encode_manifest,
    name_of,
    patch_of,
)

GIT_SECONDS = 120.0
PIECE_BYTES = 1024 * 1024
_TRIES = 3
"""How often a file is read that changes meanwhile."""
_NOT_FOLLOWED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_INHERITED = ("PATH", "HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "TMPDIR", "SYSTEMROOT")
# What a repository's own settings could have git run, as far as git lets that be switched off.
_SETTINGS = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.quotePath=false")
_SUBMODULE = "160000"


class FileChanged(CommandFailed):
    """A file was changed while it was read, again and again."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changes while it is read", "wait for what writes it, or have git ignore it")
        self.path = path


@dataclass(frozen=True)
class LocalFile:
    """A file or a symbolic link of a tree on this machine."""

    path: str
    """Below the top of the tree, its names joined by ``/``."""
    mode: Literal["644", "755", "link"]
    content: Path
    """Where it is on this machine."""
    size_bytes: int = 0
    target: str = ""
    """Where a link leads."""


@dataclass(frozen=True)
class LocalTree:
    """A working tree as git sees it."""

    root: Path
    files: tuple[LocalFile, ...]
    commit: str | None
    """The commit it stands on; None if there is none yet."""
    changed: int
    added: int
    deleted: int
    subdirectory: str
    """Where in the tree it was looked for; empty at its top."""
    left_out: tuple[str, ...]
    """What is not part of it although one might think so, and why; one line each."""

    @property
    def changes(self) -> int:
        """How many files differ from the commit."""
        return self.changed + self.added + self.deleted

    @property
    def size_bytes(self) -> int:
        """All contents together."""
        return sum(file.size_bytes for file in self.files)

    def describe(self, name: str | None = None) -> str:
        """Say what this is, such as ``commit abc1234 + patch 9f8e7d… (3 changed, 1 new, 1 deleted)``.

        Args:
            name: of the tree, as `ReadTree` has it; its beginning names the patch.
        """
        base = f"commit {self.commit[:7]}" if self.commit else "no commit yet"
        if not self.changes:
            return f"{base}, no uncommitted changes"
        counts = (("changed", self.changed), ("new", self.added), ("deleted", self.deleted))
        told = ", ".join(f"{count} {what}" for what, count in counts if count)
        patch = f"patch {patch_of(name)}" if name else "uncommitted changes"
        return f"{base} + {patch} ({told})"


@dataclass(frozen=True)
class ReadTree:
    """A tree whose files were read: the manifest is canonical, so that the same files give the same name."""

    tree: LocalTree
    manifest: bytes
    digests: dict[str, str]
    """Of each regular file, by its path."""
    sizes: dict[str, int]
    """As it was read, of each regular file, by its path."""

    @property
    def name(self) -> str:
        """The SHA-256 of the manifest."""
        return name_of(self.manifest)


def gather_tree(folder: Path) -> LocalTree:
    """Return the working tree around ``folder``, the whole of it.

    Raises:
        CommandFailed: this is no working tree of git, or it cannot be sent as it is.
    """
    git = _Git(folder)
    root = git.find_top()
    subdirectory = git.ask("rev-parse", "--show-prefix").removesuffix("\n").rstrip("/")
    git = _Git(root)
    names, left_out = _list_names(git)
    files: list[LocalFile] = []
    folders: dict[str, bool] = {"": True}
    for path in names:
        if not _is_below_folders(root, path, folders):
            continue
        found = _look_at(root, path)
        if isinstance(found, LocalFile):
            files.append(found)
        elif found:
            left_out.append(f"{path} {found}")
    if len(files) > MAX_TREE_ENTRIES:
        raise CommandFailed(
            f"{root} has {len(files)} files that git does not ignore; at most {MAX_TREE_ENTRIES} can be sent"
        )
    if subdirectory and not any(file.path.startswith(f"{subdirectory}/") for file in files):
        raise CommandFailed(
            f"{subdirectory} holds nothing that git would keep, so the job could not start there",
            "go to another directory of the repository, or say where to start with --job-dir",
        )
    changed, added, deleted = _count_changes(git)
    return LocalTree(
        root, tuple(files), _find_commit(git), changed, added, deleted, subdirectory, tuple(left_out)
    )


def read_tree(tree: LocalTree, advance: Callable[[int], None] = lambda _: None) -> ReadTree:
    """Read every file of a tree and return its manifest.

    Raises:
        FileChanged, CommandFailed: a file cannot be read.
    """
    entries, digests, sizes = [], {}, {}
    for file in tree.files:
        if file.mode == "link":
            entries.append(TreeEntry(file.path, "link", 0, file.target))
            continue
        size, digest = _read_steady(file)
        digests[file.path], sizes[file.path] = digest, size
        entries.append(TreeEntry(file.path, file.mode, size, digest))
        advance(size)
    return ReadTree(tree, encode_manifest(entries), digests, sizes)


def copy_tree_to(tree: LocalTree, target: Path) -> None:
    """Copy a tree into ``target``, which is made if absent and must be empty. Nothing is linked to it.

    Raises:
        CommandFailed: a file cannot be read. OSError: ``target`` cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise CommandFailed(f"{target} is not empty")
    for file in tree.files:
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.mode == "link":
            place.symlink_to(file.target)
            continue
        with place.open("xb") as copy:
            for piece in read_pieces(file):
                copy.write(piece)
        place.chmod(0o755 if file.mode == "755" else 0o644)


def read_pieces(file: LocalFile) -> Iterator[bytes]:
    """Yield the content of a file, at most 1 MiB at once. Raises CommandFailed."""
    try:
        handle = os.open(file.content, _NOT_FOLLOWED)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise FileChanged(file.path)
            while piece := os.read(handle, PIECE_BYTES):
                yield piece
        finally:
            os.close(handle)
    except OSError as error:
        raise CommandFailed(f"{file.path} cannot be read: {error.strerror}") from error


class _Git:
    """git, asked about one folder, with settings and variables that make it do nothing else."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("git")
        if program is None:
            raise CommandFailed("git is not installed here, and --dirty asks it which files there are")
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        self._argv = [program, "--no-optional-locks", "--literal-pathspecs", *settings]
        self._folder = folder

    def ask(self, *arguments: str) -> str:
        """Return what a git command prints. Raises CommandFailed."""
        done = self._run(*arguments)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise CommandFailed(f"git {arguments[0]} failed in {self._folder}: {said[-500:]}")
        return os.fsdecode(done.stdout)

    def may_ask(self, *arguments: str) -> str | None:
        """As `ask`; None if git says no."""
        done = self._run(*arguments)
        return os.fsdecode(done.stdout) if done.returncode == 0 else None

    def list(self, *arguments: str) -> list[str]:
        """Return what a git command lists with ``-z``."""
        return [entry for entry in self.ask(*arguments).split("\0") if entry]

    def find_top(self) -> Path:
        """Return the top of the working tree. Raises CommandFailed."""
        done = self._run("rev-parse", "--show-toplevel")
        if done.returncode == 0:
            return Path(os.fsdecode(done.stdout).removesuffix("\n"))
        said = done.stderr.decode(errors="replace").strip()
        if "not a git repository" in said or "must be run in a work tree" in said:
            raise CommandFailed(
                f"{self._folder} is in no working tree of a git repository, which --dirty sends",
                "go to one, or make this one with 'git init'",
            )
        raise CommandFailed(f"git cannot be asked about {self._folder}: {said[-500:]}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            return subprocess.run(
                [*self._argv, *arguments],
                cwd=self._folder,
                env={**environment, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=GIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            seconds = f"{GIT_SECONDS:g} seconds"
            raise CommandFailed(f"git {arguments[0]} did not end within {seconds}") from None
        except OSError as error:
            raise CommandFailed(f"{self._folder}: git cannot be run there: {error.strerror}") from error


def _list_names(git: _Git) -> tuple[list[str], list[str]]:
    """Return the paths that git knows or would add, and remarks on what is no file of this repository."""
    names, left_out = set(), []
    for entry in git.list("ls-files", "-z", "--stage"):
        facts, _, path = entry.partition("\t")
        if facts.startswith(_SUBMODULE):
            left_out.append(f"{path} is a submodule, whose files are not sent")
        else:
            names.add(path)
    for path in git.list("ls-files", "-z", "--others", "--exclude-standard"):
        if path.endswith("/"):
            left_out.append(f"{path.rstrip('/')} is a repository of its own, whose files are not sent")
        else:
            names.add(path)
    return sorted(names), left_out


def _count_changes(git: _Git) -> tuple[int, int, int]:
    """Return how many files were changed, are new, and are gone since the last commit."""
    changed = added = deleted = 0
    gone: set[str] = set()
    listed = git.list(
        *("status", "--porcelain=v1", "-z", "--no-renames"),
        *("--untracked-files=all", "--ignore-submodules=all"),
    )
    for entry in listed:
        state, path = entry[:2], entry[3:]
        if state == "??" and path in gone:
            # Taken out of the index only: it is there, if perhaps another one.
            deleted, changed = deleted - 1, changed + 1
        elif state == "??":
            added += 0 if path.endswith("/") else 1
        elif state[0] == "A":
            added += 0 if state[1] == "D" else 1
        elif "D" in state and "U" not in state:
            deleted += 1
            gone.add(path)
        else:
            changed += 1
    return changed, added, deleted


def _find_commit(git: _Git) -> str | None:
    found = git.may_ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return found.strip() if found else None


def _is_below_folders(root: Path, path: str, known: dict[str, bool]) -> bool:
    """Tell whether real folders lead to ``path``: behind a link lies somebody else's file."""
    above = path.rpartition("/")[0]
    if above not in known:
        is_folder = _is_below_folders(root, above, known)
        known[above] = is_folder and stat.S_ISDIR(_mode_of(root / above))
    return known[above]


def _mode_of(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _look_at(root: Path, path: str) -> LocalFile | str:
    """Return the file at ``path``; else why it is left out, or nothing if it is not there."""
    place = root / path
    try:
        found = place.lstat()
        # As it is written: a Path would tidy it up.
        target = os.readlink(place) if stat.S_ISLNK(found.st_mode) else ""  # noqa: PTH115
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        # A file that became a folder; what is in it is listed by itself.
        return ""
    if fault := check_tree_path(path):
        raise CommandFailed(f"{path!r} cannot be sent: {fault}", "rename it, or have git ignore it")
    if target:
        return check_link(path, target) or LocalFile(path, "link", place, target=target)
    if not stat.S_ISREG(found.st_mode):
        return "is neither a file nor a link"
    mode: Literal["644", "755"] = "755" if found.st_mode & stat.S_IXUSR else "644"
    return LocalFile(path, mode, place, found.st_size)


def _read_steady(file: LocalFile) -> tuple[int, str]:
    """Return size and SHA-256 of a file that is not written meanwhile."""
    for _ in range(_TRIES):
        before = _stamp(file)
        digest, size = hashlib.sha256(), 0
        for piece in read_pieces(file):
            digest.update(piece)
            size += len(piece)
        if before == _stamp(file) and before[0] == size:
            return size, digest.hexdigest()
    raise FileChanged(file.path)


def _stamp(file: LocalFile) -> tuple[int, int, int, int]:
    try:
        found = file.content.lstat()
    except OSError as error:
        raise CommandFailed(f"{file.path} cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
