"""How large a tree of files is, and giving one to another user. Links are never followed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TreeSize:
    """``size_bytes`` counts what is allocated, so that a million small files weigh what they take."""

    size_bytes: int
    entries: int


def measure_tree(root: Path) -> TreeSize:
    """Return the size of everything below ``root``; what vanishes meanwhile is not counted."""
    size, entries = 0, 0
    for entry in _walk(root):
        entries += 1
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        size += max(status.st_size, status.st_blocks * 512)
    return TreeSize(size, entries)


def give_tree(root: Path, owner: tuple[int, int]) -> None:
    """Make ``owner`` (uid, gid) own ``root`` and everything below it."""
    uid, gid = owner
    os.chown(root, uid, gid, follow_symlinks=False)
    for entry in _walk(root):
        os.chown(entry.path, uid, gid, follow_symlinks=False)


def _walk(root: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [os.fspath(root)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
