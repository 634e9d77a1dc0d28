"""Collecting the artifacts of a job: what it left in its artifacts folder comes into the spool.

The folder is the work of a job that may be hostile. Every name is opened from the folder before it and
never through a link, judged by what was opened, and only regular files of the job's own are taken.
What cannot be taken is named in the log; how the job ended does not change by it. A file that nobody
else can reach is moved, any other is copied, so that what was hashed is what will be kept.
"""

import errno
import fnmatch
import hashlib
import mimetypes
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runnerlib.spec.artifacts import (
    ARTIFACTS_FILE,
    ARTIFACTS_FOLDER,
    DEFAULT_CONTENT_TYPE,
    MAX_ARTIFACTS,
    CollectedArtifact,
    check_artifact_path,
    encode_artifacts,
    is_content_type,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 1024 * 1024
_DEEPEST = 200
_MOST_ENTRIES = 200_000
_MOST_LINES = 20
_KINDS = (
    (stat.S_ISLNK, "it is a link"),
    (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"),
)


@dataclass(frozen=True)
class CollectionTerms:
    """What is to be collected, and how."""

    globs: Sequence[str]
    limit_bytes: int
    """Of all artifacts together."""
    owner: int
    """The user id of the job: a file of anybody else is not the job's to give away."""
    may_move: bool
    """Whether nothing of the job is alive any more, so that no file can change."""


class _Stopped(Exception):
    """Nothing further is collected; the text says why."""


def collect_artifacts(
    job_folder: Path,
    spool: Path,
    terms: CollectionTerms,
    *,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> int:
    """Bring the artifacts below ``job_folder``/artifacts into ``spool``; return how many.

    Never raises for what a job or a host does: what is not kept is told.
    """
    collection = _Collection(terms, tell, should_stop)
    try:
        with ExitStack() as stack:
            job = _opened(stack, os.open(job_folder, _FOLDER))
            try:
                source = _opened(stack, os.open(ARTIFACTS_FOLDER, _FOLDER, dir_fd=job))
            except FileNotFoundError:
                return 0
            except OSError as error:
                tell(f"no artifacts are kept: their folder cannot be opened: {_explain(error)}")
                return 0
            (spool / ARTIFACTS_FOLDER).mkdir(mode=0o700, exist_ok=True)
            collection.target = _opened(stack, os.open(spool / ARTIFACTS_FOLDER, _FOLDER))
            collection.run(source)
        kept = collection.kept
        if kept:
            _write_list(spool, kept)
            size = sum(artifact.size_bytes for artifact in kept)
            tell(f"kept {len(kept)} artifact{'s' if len(kept) > 1 else ''}, {size} bytes")
    except OSError as error:
        tell(f"no artifacts are kept: the worker's host failed: {_explain(error)}")
        return 0
    return len(kept)


class Globs:
    """Which paths a job wants kept: ``**`` is any number of folders, the rest works within a name.

    A glob that matches a folder matches all that is in it. A state is where in each glob one stands.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        self._globs = [
            [
                None if part == "**" else re.compile(fnmatch.translate(part))
                for part in glob.split("/")
                if part
            ]
            for glob in globs
        ]
        self.start = self._closed((number, 0) for number in range(len(self._globs)))

    def step(self, state: frozenset[tuple[int, int]], name: str) -> frozenset[tuple[int, int]]:
        """Return where one stands after ``name``; nowhere if nothing below it is wanted."""
        found = set()
        for number, place in state:
            parts = self._globs[number]
            if place == len(parts) or (pattern := parts[place]) is None:
                found.add((number, place))
            elif pattern.match(name):
                found.add((number, place + 1))
        return self._closed(found)

    def matches(self, state: frozenset[tuple[int, int]]) -> bool:
        """Tell whether what led here is wanted."""
        return any(place == len(self._globs[number]) for number, place in state)

    def _closed(self, places: Iterable[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Return ``places`` with those that ``**`` leads to by standing for no folder at all."""
        found = set()
        for number, place in places:
            parts, at = self._globs[number], place
            found.add((number, at))
            while at < len(parts) and parts[at] is None:
                at += 1
                found.add((number, at))
        return frozenset(found)


class _Collection:
    """One collection under way."""

    def __init__(
        self, terms: CollectionTerms, tell: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> None:
        self.kept: list[CollectedArtifact] = []
        self.target = -1
        self._terms = terms
        self._tell = tell
        self._should_stop = should_stop
        self._globs = Globs(terms.globs)
        # The library's own table, so that a name has the same type on every host.
        self._types = mimetypes.MimeTypes()
        self._size = 0
        self._entries = 0
        self._left_out = 0
        self._device = 0

    def run(self, source: int) -> None:
        """Collect all below the folder open as ``source``."""
        self._device = os.fstat(source).st_dev
        try:
            self._collect_folder(source, (), self._globs.start)
        except _Stopped as stop:
            self._tell(f"artifacts: {stop}")
        if self._left_out > _MOST_LINES:
            self._tell(f"left out {self._left_out - _MOST_LINES} more artifacts, not listed")

    def _collect_folder(self, folder: int, place: tuple[str, ...], state: frozenset[tuple[int, int]]) -> None:
        for name in sorted(os.listdir(folder)):
            self._entries += 1
            if self._entries > _MOST_ENTRIES:
                raise _Stopped(f"only the first {_MOST_ENTRIES} entries of the folder were looked at")
            self._check_stop()
            inner_state = self._globs.step(state, name)
            if not inner_state:
                continue
            path = (*place, name)
            try:
                self._collect_entry(folder, path, inner_state)
            except OSError as error:
                self._leave_out(path, _explain(error))

    def _collect_entry(self, folder: int, path: tuple[str, ...], state: frozenset[tuple[int, int]]) -> None:
        with ExitStack() as stack:
            # A handle is opened without any effect on what it stands for, be it a device.
            handle = _opened(stack, os.open(path[-1], _HANDLE, dir_fd=folder))
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode) and found.st_dev == self._device:
                if len(path) > _DEEPEST:
                    self._leave_out(path, f"it lies deeper than {_DEEPEST} folders")
                    return
                inner = _opened(stack, _reopen(handle, found, _FOLDER & ~os.O_NOFOLLOW))
                self._collect_folder(inner, path, state)
            elif self._globs.matches(state):
                fault = self._judge(path, found)
                if fault is not None:
                    self._leave_out(path, fault)
                    return
                file = _opened(stack, _reopen(handle, found, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                self._keep(folder, file, path, found)

    def _judge(self, path: tuple[str, ...], found: os.stat_result) -> str | None:
        for is_kind, what in _KINDS:
            if is_kind(found.st_mode):
                return what
        if not stat.S_ISREG(found.st_mode):
            return "it is a device" if not stat.S_ISDIR(found.st_mode) else "it is another file system"
        if found.st_dev != self._device:
            return "it is on another file system"
        if found.st_uid != self._terms.owner:
            return "it does not belong to the job"
        fault = check_artifact_path("/".join(path))
        if fault is None and self._size + found.st_size > self._terms.limit_bytes:
            return (
                f"the artifacts of a job may take {self._terms.limit_bytes} bytes, and it has {found.st_size}"
            )
        if fault is None and len(self.kept) >= MAX_ARTIFACTS:
            raise _Stopped(f"only the first {MAX_ARTIFACTS} are kept")
        return fault

    def _keep(self, folder: int, file: int, path: tuple[str, ...], found: os.stat_result) -> None:
        number = len(self.kept) + 1
        try:
            if self._move(folder, file, path[-1], found, str(number)):
                size, sha256 = self._hash(file, os.fstat(file).st_size, None)
            else:
                size, sha256 = self._copy(file, found.st_size, str(number))
        except (OSError, _Stopped):
            _remove(str(number), self.target)
            raise
        self._size += size
        kind = self._types.guess_type(path[-1], strict=True)
        content_type = kind[0] if kind[0] is not None and kind[1] is None else DEFAULT_CONTENT_TYPE
        self.kept.append(
            CollectedArtifact(
                path="/".join(path),
                size_bytes=size,
                sha256=sha256,
                content_type=content_type if is_content_type(content_type) else DEFAULT_CONTENT_TYPE,
                number=number,
            )
        )

    def _move(self, folder: int, file: int, name: str, found: os.stat_result, target: str) -> bool:
        """Take the file itself, if nobody else has it or can get it. False: it has to be copied."""
        if not self._terms.may_move or found.st_nlink != 1:
            return False
        if os.fstat(self.target).st_dev != found.st_dev:
            return False
        try:
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=self.target)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.ENOENT):
                return False
            raise
        moved = os.stat(target, dir_fd=self.target, follow_symlinks=False)
        if (moved.st_dev, moved.st_ino, moved.st_nlink) != (found.st_dev, found.st_ino, 1):
            raise OSError(errno.ESTALE, "it changed while it was collected")
        os.fchmod(file, 0o600)
        if moved.st_uid != os.geteuid():
            os.fchown(file, os.geteuid(), os.getegid())
        return True

    def _copy(self, file: int, size: int, target: str) -> tuple[int, str]:
        copy = os.open(target, _NEW_FILE, 0o600, dir_fd=self.target)
        try:
            return self._hash(file, size, copy)
        finally:
            os.close(copy)

    def _hash(self, file: int, size: int, copy: int | None) -> tuple[int, str]:
        """Read at most ``size`` bytes, also into ``copy``; return how many there were, and their SHA-256."""
        digest, done = hashlib.sha256(), 0
        while done < size and (piece := os.read(file, min(_PIECE_BYTES, size - done))):
            digest.update(piece)
            done += len(piece)
            if copy is not None:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(copy, rest) :]
            self._check_stop()
        return done, digest.hexdigest()

    def _check_stop(self) -> None:
        if self._should_stop():
            raise _Stopped("there was no more time to collect the rest")

    def _leave_out(self, path: tuple[str, ...], why: str) -> None:
        self._left_out += 1
        if self._left_out <= _MOST_LINES:
            self._tell(f"left out the artifact {_shown('/'.join(path))}: {why}")


def _opened(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _reopen(handle: int, found: os.stat_result, flags: int) -> int:
    """Open what ``handle`` stands for, although the job may have taken the right to read it away."""
    needed = 0o700 if stat.S_ISDIR(found.st_mode) else 0o400
    if found.st_mode & needed != needed and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
        Path(f"/proc/self/fd/{handle}").chmod(needed)
    return os.open(f"/proc/self/fd/{handle}", flags)


def _write_list(spool: Path, kept: list[CollectedArtifact]) -> None:
    """Write the list and rename it into place, durably: who sees it sees all of it."""
    part = spool / f"{ARTIFACTS_FILE}.part"
    with part.open("wb") as file:
        file.write(encode_artifacts(kept))
        file.flush()
        os.fsync(file.fileno())
    part.rename(spool / ARTIFACTS_FILE)


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _shown(text: str) -> str:
    """Return a name as it may stand in a line: nothing in it acts, and it is not endless."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return plain if len(plain) <= 200 else f"{plain[:200]}…"


def _explain(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "it is, or passes through, a link or something that is no folder"
    return error.strerror or str(error)
