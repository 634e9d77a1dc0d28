"""Laying out a tree that a user sent: a manifest, and contents each named by its SHA-256.

They lie in a folder of the worker's, which no job can reach, and are copied from there: nothing of what a
job gets is linked to what another one gets. Every content is checked against its name on the way. The
manifest came over the network from a user, so nothing in it is believed before the rules of
`runnerlib.spec.trees` have passed it.
"""

import hashlib
import os
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

from runnerlib.source_errors import SourceFailed
from runnerlib.source_limits import SourceLimits
from runnerlib.spec import JobSource
from runnerlib.spec.rules import is_commit_sha
from runnerlib.spec.trees import (
    MAX_MANIFEST_BYTES,
    TreeEntry,
    TreeRefused,
    decode_manifest,
    is_sha256,
    name_of,
    patch_of,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 1024 * 1024
_CHECK_EVERY = 64


def describe_tree(source: JobSource) -> str:
    """Say in the job's log what is laid out."""
    base = f"commit {source.commit}" if source.commit else "a tree that stands on no commit"
    if not source.changes:
        return f"laying out {base}"
    files = "file" if source.changes == 1 else "files"
    return f"laying out {base} + {source.changes} changed {files} (patch {patch_of(source.tree or '')})"


def lay_out_tree(source: JobSource, target: Path, limits: SourceLimits) -> None:
    """Lay the tree ``source.tree`` out in the empty directory ``target``, from the folder ``source.path``.

    Raises:
        SourceFailed: the manifest is no tree, a content is damaged or missing, or a limit is passed.
        SourceStopped.
    """
    if source.commit is not None and not is_commit_sha(source.commit):
        raise SourceFailed("the commit of the tree is no commit id", is_users_fault=True)
    with ExitStack() as stack:
        try:
            contents = os.open(source.path or "", _DIRECTORY)
        except OSError as error:
            raise SourceFailed(f"the tree's contents are not on this worker: {error.strerror}") from error
        stack.callback(os.close, contents)
        entries = _read_manifest(contents, source.tree or "")
        limits.check_count(sum(entry.size_bytes for entry in entries), len(entries))
        into = os.open(target, _DIRECTORY)
        stack.callback(os.close, into)
        for number, entry in enumerate(entries):
            if number % _CHECK_EVERY == 0:
                limits.check_time()
            _lay_out(contents, into, entry, limits)


def _read_manifest(contents: int, tree: str) -> list[TreeEntry]:
    if not is_sha256(tree):
        raise SourceFailed("the name of the tree is no SHA-256", is_users_fault=True)
    with _open_content(contents, tree) as file:
        manifest = file.read(MAX_MANIFEST_BYTES + 1)
    if name_of(manifest) != tree:
        raise _damaged(tree)
    try:
        return decode_manifest(manifest)
    except TreeRefused as error:
        raise SourceFailed(f"the tree is refused: {error}", is_users_fault=True) from error


def _lay_out(contents: int, into: int, entry: TreeEntry, limits: SourceLimits) -> None:
    *folders, name = entry.path.split("/")
    with ExitStack() as stack:
        place = into
        for folder in folders:
            place = _enter(place, folder)
            stack.callback(os.close, place)
        if entry.is_link:
            os.symlink(entry.content, name, dir_fd=place)
            return
        write = os.open(name, _NEW_FILE, 0o600, dir_fd=place)
        stack.callback(os.close, write)
        _copy(contents, write, entry, limits)
        os.fchmod(write, 0o755 if entry.mode == "755" else 0o644)


def _enter(place: int, folder: str) -> int:
    """Open a directory, made if absent. A link there is none of ours, for no entry lies below another."""
    try:
        os.mkdir(folder, 0o755, dir_fd=place)
    except FileExistsError:
        return os.open(folder, _DIRECTORY, dir_fd=place)
    made = os.open(folder, _DIRECTORY, dir_fd=place)
    os.fchmod(made, 0o755)
    return made


def _copy(contents: int, write: int, entry: TreeEntry, limits: SourceLimits) -> None:
    digest, size = hashlib.sha256(), 0
    with _open_content(contents, entry.content) as read:
        while piece := read.read(_PIECE_BYTES):
            size += len(piece)
            if size > entry.size_bytes:
                raise _damaged(entry.content)
            digest.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(write, rest) :]
            if len(piece) == _PIECE_BYTES:
                limits.check_time()
    if size != entry.size_bytes or digest.hexdigest() != entry.content:
        raise _damaged(entry.content)


def _open_content(contents: int, sha256: str) -> FileIO:
    try:
        handle = os.open(sha256, _FILE, dir_fd=contents)
    except OSError as error:
        why = f"cannot be read on this worker: {error.strerror}"
        raise SourceFailed(f"the content {sha256[:12]} of the tree {why}") from error
    return FileIO(handle)


def _damaged(sha256: str) -> SourceFailed:
    return SourceFailed(f"the content {sha256[:12]} of the tree is damaged on this worker")
