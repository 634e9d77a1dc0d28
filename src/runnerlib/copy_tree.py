"""Copying a directory of the host as a job's source.

The operator names roots; a job names a directory inside one. Between the two every component is
opened from the directory before it and never through a link, so that nobody can lead a copy out by
swapping a directory for a link while it runs. What is copied: regular files, directories, and links
that stay inside the tree. Set-id and sticky bits are dropped; ownership and hard links are not kept.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from runnerlib.source_errors import SourceDenied, SourceFailed
from runnerlib.source_limits import SourceLimits
from runnerlib.spec import HostPolicy, JobSource
from runnerlib.spec.rules import check_copy_path, is_inside

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, so that a pipe put in a file's place does not hold us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK_BYTES = 1024 * 1024
_DEEPEST = 200
_MOST_WARNINGS = 20
# What cannot be read, or was swapped for something else while we looked.
_LEFT_OUT = frozenset({errno.EACCES, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.EPERM})


def copy_source(
    source: JobSource, target: Path, policy: HostPolicy, limits: SourceLimits, log: Callable[[str], None]
) -> None:
    """Copy the directory ``source.path`` into the empty directory ``target``.

    Raises:
        SourceDenied: it is in none of the host's roots, or a link is on the way to it.
        SourceFailed, SourceStopped.
    """
    path = source.path or ""
    fault = check_copy_path(path, policy.copy_source_roots)
    if fault:
        raise SourceDenied(f"source_path {fault}")
    path = posixpath.normpath(path)
    with ExitStack() as stack:
        opened = _open_below_root(path, policy.copy_source_roots)
        stack.callback(os.close, opened)
        into = os.open(target, _DIRECTORY)
        stack.callback(os.close, into)
        copier = _Copier(limits, policy, log)
        copier.copy_directory(opened, into, ())
    log(f"copied {copier.entries} files, {copier.size_bytes} bytes")


def _open_below_root(path: str, roots: tuple[str, ...]) -> int:
    root = next(root for root in map(posixpath.normpath, roots) if is_inside(path, root))
    components = [*root.strip("/").split("/"), *path[len(root) :].strip("/").split("/")]
    # A directory on the way need not be readable, as /home is not on many hosts.
    current = os.open("/", _DIRECTORY | os.O_PATH)
    for component in filter(None, components):
        try:
            inner = os.open(component, _DIRECTORY | os.O_PATH, dir_fd=current)
        except FileNotFoundError:
            raise SourceFailed(f"{path} does not exist on this worker", is_users_fault=True) from None
        except OSError as error:
            # ELOOP or ENOTDIR, by what the link leads to.
            raise SourceDenied(
                f"{path} cannot be opened without following a link: {error.strerror}"
            ) from None
        finally:
            os.close(current)
        current = inner
    try:
        return os.open(".", _DIRECTORY, dir_fd=current)
    except OSError as error:
        raise SourceDenied(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(current)


class _Copier:
    """One copy under way: counts what it copied, and warns of what it left out."""

    def __init__(self, limits: SourceLimits, policy: HostPolicy, log: Callable[[str], None]) -> None:
        self.entries = 0
        self.size_bytes = 0
        self._limits = limits
        self._policy = policy
        self._log = log
        self._warnings = 0

    def copy_directory(self, source: int, target: int, place: tuple[str, ...]) -> None:
        """Copy what is in the directory open as ``source``; ``place`` is where it stands in the tree."""
        if len(place) > _DEEPEST:
            raise SourceFailed(f"directories are nested deeper than {_DEEPEST}", is_users_fault=True)
        for name in sorted(os.listdir(source)):
            self._count(0, entries=1)
            try:
                self._copy_entry(source, target, name, place)
            except OSError as error:
                if error.errno not in _LEFT_OUT:
                    raise
                self._warn((*place, name), os.strerror(error.errno or 0))

    def _copy_entry(self, source: int, target: int, name: str, place: tuple[str, ...]) -> None:
        kind = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            self._copy_link(source, target, name, place)
        elif stat.S_ISDIR(kind):
            with ExitStack() as stack:
                inner = os.open(name, _DIRECTORY, dir_fd=source)
                stack.callback(os.close, inner)
                os.mkdir(name, 0o700, dir_fd=target)
                into = os.open(name, _DIRECTORY, dir_fd=target)
                stack.callback(os.close, into)
                self.copy_directory(inner, into, (*place, name))
                _copy_status(os.fstat(inner), into)
        elif stat.S_ISREG(kind):
            self._copy_file(source, target, name, place)
        else:
            self._warn((*place, name), "is neither a file, a directory nor a link")

    def _copy_link(self, source: int, target: int, name: str, place: tuple[str, ...]) -> None:
        aim = os.readlink(name, dir_fd=source)
        # The last component may be a link itself, which is judged at its own turn.
        if aim.startswith("/") or _leaves(place, aim):
            self._warn((*place, name), "is a link that leads out of the tree")
            return
        os.symlink(aim, name, dir_fd=target)

    def _copy_file(self, source: int, target: int, name: str, place: tuple[str, ...]) -> None:
        with ExitStack() as stack:
            read = os.open(name, _FILE, dir_fd=source)
            stack.callback(os.close, read)
            status = os.fstat(read)
            if not stat.S_ISREG(status.st_mode):
                self._warn((*place, name), "changed while it was copied")
                return
            write = os.open(name, _NEW_FILE, 0o600, dir_fd=target)
            stack.callback(os.close, write)
            while copied := os.sendfile(write, read, None, _BLOCK_BYTES):
                self._count(copied)
            _copy_status(status, write)

    def _count(self, size_bytes: int, *, entries: int = 0) -> None:
        self.size_bytes += size_bytes
        self.entries += entries
        self._limits.check_count(self.size_bytes, self.entries)
        self._limits.check_time()

    def _warn(self, place: tuple[str, ...], why: str) -> None:
        self._warnings += 1
        if self._warnings <= _MOST_WARNINGS:
            path = "".join(c if c.isprintable() else "?" for c in "/".join(place))
            self._log(f"warning: left out {path}: {why}")
        elif self._warnings == _MOST_WARNINGS + 1:
            self._log("warning: left out more, not listed")


def _copy_status(status: os.stat_result, handle: int) -> None:
    os.fchmod(handle, status.st_mode & 0o777)
    os.utime(handle, ns=(status.st_atime_ns, status.st_mtime_ns))


def _leaves(place: tuple[str, ...], aim: str) -> bool:
    """Tell whether a relative link in the directory ``place`` may lead above the top of the tree.

    A ``..`` after a name may: the name may be a link to a place with fewer directories above it.
    """
    names = [component for component in aim.split("/") if component not in ("", ".")]
    upwards = next((number for number, name in enumerate(names) if name != ".."), len(names))
    return upwards > len(place) or ".." in names[upwards:]
