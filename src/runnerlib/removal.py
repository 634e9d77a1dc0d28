"""Removes trees that a hostile job left: no link is followed, no mount entered, no depth is too deep."""

import os
import stat
from contextlib import suppress
from pathlib import Path

_DEEPEST = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove ``path`` and everything in it. One that is not there counts as removed.

    Raises:
        OSError: something stays, such as a mount.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        found = _stat(parent, path.name)
        if found is None:
            return
        if stat.S_ISDIR(found.st_mode):
            _Removal(parent, path.name, found.st_dev).run()
        else:
            os.unlink(path.name, dir_fd=parent)
    finally:
        os.close(parent)


class _Removal:
    """The removal of one folder. Folders that lie too deep are moved up to it and done afterwards."""

    def __init__(self, parent: int, name: str, device: int) -> None:
        self._parent = parent
        self._name = name
        self._device = device
        self._top = _open_folder(parent, name)
        self._moved = 0

    def run(self) -> None:
        try:
            before = -1
            while before != self._moved:
                before = self._moved
                self._empty(self._top, 0)
        finally:
            os.close(self._top)
        with suppress(FileNotFoundError):
            os.rmdir(self._name, dir_fd=self._parent)

    def _empty(self, folder: int, depth: int) -> None:
        for name in os.listdir(folder):
            found = _stat(folder, name)
            if found is None:
                continue
            if not stat.S_ISDIR(found.st_mode):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            elif found.st_dev == self._device:
                self._remove_folder(folder, name, depth)

    def _remove_folder(self, folder: int, name: str, depth: int) -> None:
        inner = _open_folder(folder, name)
        try:
            if depth >= _DEEPEST:
                self._moved += 1
                os.rename(name, f".moved-{self._moved}", src_dir_fd=folder, dst_dir_fd=self._top)
                return
            self._empty(inner, depth + 1)
        finally:
            os.close(inner)
        # What lies on another device stays, and with it the folder: the last step of all tells.
        with suppress(OSError):
            os.rmdir(name, dir_fd=folder)


def _open_folder(parent: int, name: str) -> int:
    """Open a folder for reading, whatever its mode says."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            # The handle cannot be changed itself, what it stands for can, by this way round.
            Path(f"/proc/self/fd/{handle}").chmod(0o700)
        return os.open(f"/proc/self/fd/{handle}", _FOLDER & ~os.O_NOFOLLOW)
    finally:
        os.close(handle)


def _stat(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
