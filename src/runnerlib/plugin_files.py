"""What plugins do with the files of a job: read, write, copy and find, never through a link.

The files are the work of a job that may be hostile, and plugins run outside of its sandbox: every
name is opened from the folder before it, and judged by what was opened.
"""

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence

from runnerlib.artifacts import Globs
from runnerlib.workspace import PathRefused, Workspace

MOST_FOUND = 10_000
_MOST_ENTRIES = 200_000
_DEEPEST = 200
_PIECE_BYTES = 1024 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class WorkspaceFiles:
    """The files of one workspace; relative paths start at the source."""

    def __init__(self, workspace: Workspace, code_dir: str) -> None:
        self._workspace = workspace
        self._code_dir = code_dir

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the content of a regular file. Raises PathRefused."""
        return self._workspace.read_file(self._absolute(path), limit_bytes)

    def write(self, path: str, data: bytes) -> None:
        """Put a file in place, whole. Raises PathRefused."""
        with self._workspace.new_file(self._absolute(path)) as file:
            _write_all(file, data)

    def copy(self, source: str, target: str, limit_bytes: int) -> int:
        """Copy a regular file; return its size. Raises PathRefused."""
        origin = self._workspace.open_file(self._absolute(source))
        try:
            if os.fstat(origin).st_size > limit_bytes:
                raise PathRefused(f"{source} is longer than {limit_bytes} bytes")
            with self._workspace.new_file(self._absolute(target)) as file:
                size = 0
                while piece := os.read(origin, min(_PIECE_BYTES, limit_bytes + 1 - size)):
                    size += len(piece)
                    # It may grow meanwhile.
                    if size > limit_bytes:
                        raise PathRefused(f"{source} is longer than {limit_bytes} bytes")
                    _write_all(file, piece)
        finally:
            os.close(origin)
        return size

    def find(self, globs: Sequence[str]) -> list[str]:
        """Return the regular files of the source that match, sorted.

        Raises:
            PathRefused: the source is no directory, or there are too many files to look at.
        """
        matcher = Globs(globs)
        root = self._workspace.open_directory(self._code_dir)
        try:
            walk = _Walk(matcher)
            found = list(walk.below(root, self._code_dir, matcher.start))
        finally:
            os.close(root)
        return sorted(found)

    def _absolute(self, path: str) -> str:
        return posixpath.join(self._code_dir, path)


class _Walk:
    """One search through a tree, bounded."""

    def __init__(self, globs: Globs) -> None:
        self._globs = globs
        self._entries = 0
        self._found = 0

    def below(self, folder: int, place: str, state: frozenset[tuple[int, int]]) -> Iterator[str]:
        """Yield what matches below an open folder."""
        if place.count("/") > _DEEPEST:
            raise PathRefused(f"the source is deeper than {_DEEPEST} folders")
        for name in os.listdir(folder):
            self._count(entries=1)
            inner_state = self._globs.step(state, name)
            if not inner_state:
                continue
            path = f"{place}/{name}"
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from self._inside(folder, name, path, inner_state)
            elif stat.S_ISREG(mode) and self._globs.matches(inner_state):
                self._count(found=1)
                yield path

    def _inside(self, folder: int, name: str, path: str, state: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            inner = os.open(name, _FOLDER, dir_fd=folder)
        except OSError:
            # Closed to us, or no longer a folder: nothing in it can be had.
            return
        try:
            yield from self.below(inner, path, state)
        finally:
            os.close(inner)

    def _count(self, *, entries: int = 0, found: int = 0) -> None:
        self._entries += entries
        self._found += found
        if self._entries > _MOST_ENTRIES or self._found > MOST_FOUND:
            raise PathRefused(f"the source has more than {_MOST_ENTRIES} entries, or {MOST_FOUND} that match")


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
