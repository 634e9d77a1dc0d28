"""The workspace of one attempt: made fresh, reached without following links, removed afterwards.

``<workspace root>/<attempt>`` belongs to the runner and nobody else may enter it; in it, ``job`` is
what the job sees as ``/job`` and belongs to the job's user.
"""

import fcntl
import os
import posixpath
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runnerlib.removal import remove_tree

ARTIFACTS = "/job/artifacts"
HOME = "/job/home"
ENTRY_BYTES = 16 * 1024
"""What a file counts for at least: file systems have usually one inode for so many bytes, and no more."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PathRefused(Exception):
    """A path leaves the workspace, passes through a link, or is not what it should be."""


class Workspace:
    """The files of one attempt.

    Args:
        outer: where the attempt's own directory is.
        root: where we reach the job's part of it now.
        owner: user and group id that the job's part belongs to; None: ours.
        lock: descriptor that says, for as long as this process lives, that the attempt does.
    """

    def __init__(self, outer: Path, root: Path, owner: tuple[int, int] | None, lock: int) -> None:
        self.outer = outer
        self.root = root
        self._owner = owner
        self._lock = lock

    @classmethod
    def make(cls, workspace_root: Path, name: str, owner: tuple[int, int] | None) -> "Workspace":
        """Make a new workspace; what a former self left under this name is removed.

        Raises:
            OSError: it cannot be made, e.g. for want of space.
        """
        workspace_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        outer = workspace_root / name
        remove_tree(outer)
        outer.mkdir(mode=0o700)
        root = outer / "job"
        root.mkdir(mode=0o755)
        if owner is not None:
            os.chown(root, *owner)
        return cls(outer, root, owner, _lock(outer))

    def moved_to(self, root: Path) -> "Workspace":
        """Return the same workspace, its job's part reached at ``root``."""
        return Workspace(self.outer, root, self._owner, self._lock)

    def path_of(self, job_path: str) -> Path:
        """Return where a normalised or not path below ``/job`` is for us; nothing is looked up."""
        return self.root.joinpath(*_parts_of(job_path))

    def make_directory(self, job_path: str) -> Path:
        """Make a directory, with those above it, as the job's own; one that exists is fine.

        Raises:
            PathRefused: it passes through a link or something that is no directory.
        """
        folder = os.open(self.root, _FOLDER)
        try:
            for part in _parts_of(job_path):
                inner = self._enter_or_make(folder, part, job_path)
                os.close(folder)
                folder = inner
        finally:
            os.close(folder)
        return self.path_of(job_path)

    def check_directory(self, job_path: str) -> None:
        """Raises PathRefused unless this is a directory, reached without links."""
        os.close(self._open(job_path, _FOLDER))

    def has_entries(self, job_path: str) -> bool:
        """Tell whether there is anything in a directory, or in its place something else."""
        try:
            folder = self._open(job_path, _FOLDER)
        except PathRefused:
            return True
        try:
            with os.scandir(folder) as entries:
                return next(entries, None) is not None
        finally:
            os.close(folder)

    def read_file(self, job_path: str, limit_bytes: int) -> bytes:
        """Return the content of a regular file, reached without links.

        Raises:
            PathRefused: there is none, it is something else, or it is longer than ``limit_bytes``.
        """
        descriptor = self.open_file(job_path)
        try:
            data = b""
            while len(data) <= limit_bytes and (piece := os.read(descriptor, limit_bytes + 1 - len(data))):
                data += piece
        finally:
            os.close(descriptor)
        if len(data) > limit_bytes:
            raise PathRefused(f"{job_path} is longer than {limit_bytes} bytes")
        return data

    def open_file(self, job_path: str) -> int:
        """Open a regular file for reading, reached without links; the caller closes it.

        Raises PathRefused.
        """
        descriptor = self._open(job_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PathRefused(f"{job_path} is not a regular file")
        return descriptor

    def open_directory(self, job_path: str) -> int:
        """Open a directory, reached without links; the caller closes it. Raises PathRefused."""
        return self._open(job_path, _FOLDER)

    @contextmanager
    def new_file(self, job_path: str) -> Iterator[int]:
        """Open a new file of the job's own for writing; missing directories above it are made.

        It takes its place, whatever file or link was there, when the block has ended well.

        Raises:
            PathRefused: the path passes through a link, or a directory is in its place.
        """
        above, name = posixpath.split(posixpath.normpath(job_path))
        self.make_directory(above)
        folder = self._open(above, _FOLDER)
        part = f".{uuid.uuid4().hex}.part"
        try:
            descriptor = os.open(part, _NEW_FILE, 0o644, dir_fd=folder)
            try:
                yield descriptor
                if self._owner is not None:
                    os.fchown(descriptor, *self._owner)
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)
                raise
            finally:
                os.close(descriptor)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise PathRefused(f"{job_path} is a directory") from error
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Remove everything. Raises OSError if something stays."""
        remove_tree(self.outer)
        os.close(self._lock)

    def _enter_or_make(self, folder: int, name: str, job_path: str) -> int:
        made = False
        try:
            os.mkdir(name, 0o755, dir_fd=folder)
            made = True
        except FileExistsError:
            pass
        try:
            inner = os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            raise PathRefused(f"{job_path} passes through something that is no directory") from error
        if made and self._owner is not None:
            os.fchown(inner, *self._owner)
        return inner

    def _open(self, job_path: str, flags: int) -> int:
        *above, last = _parts_of(job_path) or ["."]
        folder = os.open(self.root, _FOLDER)
        try:
            for part in above:
                inner = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(last, flags, dir_fd=folder)
        except OSError as error:
            raise PathRefused(f"{job_path}: {_explain(error)}") from error
        finally:
            os.close(folder)


class UsageMeter:
    """Measures now and then how much a tree takes, at most about a tenth of the time."""

    def __init__(self, root: Path, *, every_seconds: float = 1.0) -> None:
        self._root = root
        self._every = every_seconds
        self._next = time.monotonic() + every_seconds
        self._known = 0

    def used_bytes(self) -> int:
        """Return what the tree took on disk when last measured."""
        began = time.monotonic()
        if began >= self._next:
            self._known = measure_tree(self._root)
            took = time.monotonic() - began
            self._next = began + took + max(self._every, 10 * took)
        return self._known


def measure_tree(root: Path) -> int:
    """Return the bytes on disk of all that is in a tree which changes meanwhile. Links are not followed.

    What is small counts as `ENTRY_BYTES`.
    """
    total = 0
    waiting = [os.fspath(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    total += max(found.st_blocks * 512, ENTRY_BYTES)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
        except OSError:
            continue
    return total


def names_in(workspace_root: Path) -> frozenset[str]:
    """Return the names of the attempts that have a workspace there."""
    return (
        frozenset(path.name for path in workspace_root.iterdir()) if workspace_root.is_dir() else frozenset()
    )


def is_in_use(outer: Path) -> bool:
    """Tell whether the process that made this workspace lives."""
    try:
        os.close(_lock(outer))
    except BlockingIOError:
        return True
    except OSError:
        return False  # gone, or nothing that we made
    return False


def remove_workspaces(workspace_root: Path, names: frozenset[str]) -> list[str]:
    """Remove the workspaces of the named attempts; return the names, sorted.

    Raises:
        OSError: something stays.
    """
    for name in sorted(names):
        remove_tree(workspace_root / name)
    return sorted(names)


def _lock(outer: Path) -> int:
    """Return a descriptor that holds a lock on a workspace. Raises BlockingIOError if somebody has it."""
    descriptor = os.open(outer, _FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _parts_of(job_path: str) -> list[str]:
    normal = posixpath.normpath(job_path)
    if normal != "/job" and not normal.startswith("/job/"):
        raise PathRefused(f"{job_path} is not inside /job")
    return normal.split("/")[2:]


def _explain(error: OSError) -> str:
    import errno

    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "is, or passes through, a link or something that is no directory"
    return os.strerror(error.errno or 0)
