"""Contents of trees that a worker keeps, so that the next job on nearly the same tree fetches nearly nothing.

Below the cache's folder lie ``blobs/<aa>/<SHA-256>`` and, for each process using it, ``use/<token>``. There
an attempt has a folder of links to what it needs, from which its runner copies; so what is thrown out of the
cache meanwhile stays until that attempt is done with it, and several slots and processes may share it. A
process holds the lock ``use/<token>.lock``; what belongs to a dead one is cleared away.

A job never sees any of this: everything belongs to the worker alone.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from reactorcide.domain.trees import Blob, Unpacker

_FULL_SHARE = 0.9
"""Thrown out is so much that this share of the limit stays."""

log = structlog.get_logger()


class BadPack(Exception):
    """What a coordinator sent is not what was asked for."""


class TreeCache:
    """One worker process's way to the cache in ``root``. Synchronous, and safe from many threads."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._limit = limit_bytes
        self._used = 0
        self._counting = threading.Lock()
        self._own: Path | None = None
        self._lock = -1

    def open(self) -> None:
        """Make the folders and clear away those of dead processes; done once. Raises OSError."""
        if self._own is not None:
            return
        for folder in (self._root, self._root / "blobs", self._root / "use"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear_dead(self._root / "use")
        self._used = sum(size for _, size, _ in self._list_blobs())
        token, self._lock = _take_lock(self._root / "use")
        own = self._root / "use" / token
        own.mkdir(mode=0o700)
        self._own = own

    def make_shelf(self) -> "Shelf":
        """Return a new folder for an attempt. Raises OSError."""
        if self._own is None:
            raise RuntimeError("the cache was not opened")
        path = self._own / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        return Shelf(self, path)

    def path_of(self, sha256: str) -> Path:
        """Return where a content is kept, if it is."""
        return self._root / "blobs" / sha256[:2] / sha256

    def keep(self, file: Path, blob: Blob) -> None:
        """Take a content whose digest was checked into the cache; ``file`` stays where it is."""
        place = self.path_of(blob.sha256)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(file, place)
            with self._counting:
                self._used += blob.size_bytes

    def trim(self) -> None:
        """Throw out what was not used for longest, if there is too much. Raises OSError."""
        if self._used <= self._limit:
            return
        blobs = sorted(self._list_blobs())
        left = sum(size for _, size, _ in blobs)
        thrown = 0
        for _, size, path in blobs:
            if left <= self._limit * _FULL_SHARE:
                break
            path.unlink(missing_ok=True)
            left -= size
            thrown += 1
        self._used = left
        log.info("trees.trimmed", blobs=thrown, left_bytes=left)

    def _list_blobs(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each content was used last, its size, and its path."""
        for folder in (self._root / "blobs").iterdir():
            for path in folder.iterdir():
                # Thrown out by another process under our eyes.
                with contextlib.suppress(FileNotFoundError):
                    found = path.lstat()
                    yield found.st_mtime_ns, found.st_size, path


class Shelf:
    """The contents that one attempt needs, each by its SHA-256 in the folder ``path``."""

    def __init__(self, cache: TreeCache, path: Path) -> None:
        self.path = path
        self._cache = cache

    def link(self, wanted: Mapping[str, int | None]) -> list[str]:
        """Put what is in the cache on the shelf; return the rest.

        Args:
            wanted: size by SHA-256; None: any. A content of another size is thrown out.
        """
        missing = []
        for sha256, size in wanted.items():
            kept = self._cache.path_of(sha256)
            try:
                with contextlib.suppress(FileExistsError):
                    os.link(kept, self.path / sha256, follow_symlinks=False)
                if size is not None and (self.path / sha256).lstat().st_size != size:
                    self.drop(sha256)
                    missing.append(sha256)
                    continue
                os.utime(kept, follow_symlinks=False)
            except FileNotFoundError:
                if not (self.path / sha256).exists():
                    missing.append(sha256)
        return missing

    def drop(self, sha256: str) -> None:
        """Take a content away, out of the cache too."""
        (self.path / sha256).unlink(missing_ok=True)
        self._cache.path_of(sha256).unlink(missing_ok=True)

    def drop_damaged(self) -> int:
        """Take away what is not what its name says, as a crash of the host leaves it; return how many."""
        damaged = 0
        for file in list(self.path.iterdir()):
            with file.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == file.name:
                    continue
            self.drop(file.name)
            damaged += 1
        return damaged

    def remove(self) -> None:
        """Take the shelf away; what is cached stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._cache.trim()

    def receive(self, wanted: Mapping[str, int | None]) -> "Delivery":
        """Return what takes a pack of these contents onto the shelf and into the cache."""
        return Delivery(self._cache, self.path, wanted)


class Delivery:
    """Takes one pack in as it comes. Close it at the end; a content that came half is thrown away.

    It may be closed while a thread is still in `take`.
    """

    def __init__(self, cache: TreeCache, path: Path, wanted: Mapping[str, int | None]) -> None:
        self._cache = cache
        self._path = path
        self._wanted = wanted
        self._unpacker = Unpacker()
        self._blob: Blob | None = None
        self._part = path / f"part.{secrets.token_hex(8)}"
        self._file = -1
        self._digest = hashlib.sha256()
        self._left = 0
        self._is_closed = False
        self._taking = threading.Lock()

    def take(self, data: bytes) -> None:
        """Take the next bytes; once it was closed they are passed over.

        Raises:
            BadPack: they are not what was asked for. OSError: the disk is full.
        """
        with self._taking:
            if not self._is_closed:
                self._take(data)

    def close(self) -> None:
        """Take no more."""
        with self._taking:
            self._is_closed = True
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._part.unlink(missing_ok=True)

    def _take(self, data: bytes) -> None:
        for blob, piece in self._unpacker.feed(data):
            if self._blob is None:
                self._begin(blob)
            self._digest.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            self._left -= len(piece)
            if self._left == 0:
                self._end(blob)

    def _begin(self, blob: Blob) -> None:
        size = self._wanted.get(blob.sha256, -1)
        if size == -1 or size not in (None, blob.size_bytes):
            raise BadPack(f"{blob.sha256} of {blob.size_bytes} bytes was not asked for")
        self._blob, self._left, self._digest = blob, blob.size_bytes, hashlib.sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._part, flags, 0o600)

    def _end(self, blob: Blob) -> None:
        os.close(self._file)
        self._file, self._blob = -1, None
        if self._digest.hexdigest() != blob.sha256:
            raise BadPack(f"what came as {blob.sha256} has another digest")
        self._part.replace(self._path / blob.sha256)
        self._cache.keep(self._path / blob.sha256, blob)


def _take_lock(folder: Path) -> tuple[str, int]:
    """Return a new token, and its lock, which is ours for as long as this process lives."""
    while True:
        token = secrets.token_hex(8)
        path = folder / f"{token}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return token, lock
        # Another process took it for a dead one's before we had it locked.
        os.close(lock)


def _clear_dead(folder: Path) -> None:
    """Remove what belongs to processes that hold their locks no more."""
    for path in folder.glob("*.lock"):
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder / path.stem, ignore_errors=True)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
