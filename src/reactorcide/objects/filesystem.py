"""Objects as files below one directory, as durable and as atomic as the file system can be.

An object is written to ``partial``, synced, and only then moved to its place below ``data``; so
nothing half written ever has a key. Every path is opened component by component relative to an open
directory and never through a symbolic link, so a link planted inside leads nowhere.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from reactorcide.objects.deleting import delete_each
from reactorcide.objects.keys import check_key, check_prefix, check_range, is_key
from reactorcide.objects.port import (
    InvalidKey,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    StoreUnavailable,
)

PIECE_BYTES = 1024 * 1024
STALE_AFTER = timedelta(seconds=10)
"""A part younger than this is left alone by the cleaning at start, whoever wrote it."""
_PLACING_TRIES = 100
"""How often a put makes its directories again because a delete has just removed them."""

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, so that a planted pipe cannot hold a reader; its type is checked afterwards.
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FilesystemObjectStore:
    """An `ObjectStore` on a local (or POSIX network) file system, which several processes may share.

    Files and directories are the owner's alone. A delete also removes the directories it leaves
    empty; a power cut may undo it. Because a name is a file or a directory, a put of ``a/b`` beside an
    object ``a`` (and the other way round) is refused with InvalidKey; so is a put or delete through
    anything planted that is not a regular file or directory, while reading it finds nothing.
    """

    def __init__(self, root: Path, *, is_patient: bool = False) -> None:
        """Make the directories and clear away what writers that died have left.

        Args:
            is_patient: leave it to a later `tidy` if that cannot be done now.

        Raises:
            StoreUnavailable: ``root`` cannot be made or written.
        """
        self._root = root
        self._data = root / "data"
        self._partial = root / "partial"
        self._is_made = False
        try:
            self.tidy()
        except StoreUnavailable:
            if not is_patient:
                raise

    def tidy(self) -> None:
        """Clear away what writers that died have left; before that make the directories, if none could yet.

        Made once, they are never made again: that they are missing then means an unmounted disk.

        Raises:
            StoreUnavailable: the store cannot be written.
        """
        with _store_errors():
            if not self._is_made:
                for directory in (self._root, self._data, self._partial):
                    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._is_made = True
            self._clear_stale_parts()

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        """See `ObjectStore.put`. An error of the iterable passes through; nothing is stored then."""
        check_key(key)
        name = secrets.token_hex(16)
        partial = self._open_root(self._partial)
        try:
            try:
                size = _write_part(partial, name, data)
                with _store_errors():
                    self._place(partial, name, key, create_only)
            finally:
                with _store_errors(), suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=partial)
        finally:
            os.close(partial)
        return size

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore.read`."""
        return b"".join(self.stream(key, start=start, length=length))

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.stream`. What is read is the object that was there at the first piece."""
        check_range(start, length)
        file = self._open_object(key)
        try:
            while length is None or length > 0:
                with _store_errors():
                    piece = os.pread(file, min(PIECE_BYTES, length or PIECE_BYTES), start)
                if not piece:
                    return
                yield piece
                start += len(piece)
                length = None if length is None else length - len(piece)
        finally:
            os.close(file)

    def size(self, key: str) -> int:
        """See `ObjectStore.size`."""
        file = self._open_object(key)
        try:
            with _store_errors():
                return os.fstat(file).st_size
        finally:
            os.close(file)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`. Anything that is not a regular file under a legal key is left out."""
        check_prefix(prefix)
        return self._walk(prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        check_key(key)
        *folders, name = key.split("/")
        try:
            parent = self._open_folder(folders)
        except FileNotFoundError:
            return
        try:
            with _store_errors():
                if not _holds_object(parent, name):
                    return
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)
        self._remove_empty(folders)

    def delete_many(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        delete_each(self.delete, keys)

    def _open_root(self, directory: Path) -> int:
        """Open one of the two directories made at start: missing means an unmounted disk, not no object."""
        with _store_errors():
            return os.open(directory, _READ_DIRECTORY)

    def _open_folder(self, folders: Sequence[str], *, make: bool = False) -> int:
        """Open the directory ``folders`` below ``data``.

        Raises:
            FileNotFoundError: it is not there (with ``make``: it was removed meanwhile).
            InvalidKey: something on the way is no directory.
        """
        current = self._open_root(self._data)
        for folder in folders:
            try:
                if make:
                    _make_folder(current, folder)
                below = os.open(folder, _READ_DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise InvalidKey(f"{folder!r} in the key is not a folder of the store") from None
                raise _as_unavailable(error) from error
            finally:
                os.close(current)
            current = below
        return current

    def _open_object(self, key: str) -> int:
        check_key(key)
        *folders, name = key.split("/")
        try:
            parent = self._open_folder(folders)
        except (FileNotFoundError, InvalidKey):
            raise ObjectNotFound(key) from None
        try:
            with _store_errors():
                file = os.open(name, _READ_FILE, dir_fd=parent)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NOT_THERE:
                raise ObjectNotFound(key) from None
            raise
        finally:
            os.close(parent)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise ObjectNotFound(key)
        return file

    def _place(self, partial: int, name: str, key: str, create_only: bool) -> None:
        """Move a finished part to its key and make the move durable."""
        *folders, target = key.split("/")
        for _ in range(_PLACING_TRIES):
            try:
                parent = self._open_folder(folders, make=True)
            except FileNotFoundError:
                continue
            try:
                _holds_object(parent, target)
                if create_only:
                    # A link, unlike a rename, fails if the name is taken: exactly one wins.
                    os.link(name, target, src_dir_fd=partial, dst_dir_fd=parent)
                else:
                    os.rename(name, target, src_dir_fd=partial, dst_dir_fd=parent)
                os.fsync(parent)
            except FileExistsError:
                raise ObjectExists(key) from None
            except FileNotFoundError:
                # A delete removed the folder between opening and moving: make it again.
                continue
            finally:
                os.close(parent)
            return
        raise StoreUnavailable(f"the folder of {key} keeps being removed")

    def _remove_empty(self, folders: Sequence[str]) -> None:
        """Remove the folders that a delete left empty; one that a put has just filled stays."""
        while folders:
            *folders, name = folders
            try:
                above = self._open_folder(folders)
            except (FileNotFoundError, InvalidKey):
                return
            try:
                os.rmdir(name, dir_fd=above)
            except OSError:
                # Not empty, or gone: either way there is nothing to tidy here.
                return
            finally:
                os.close(above)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        pending: list[str | ObjectInfo] = [prefix]
        while pending:
            entry = pending.pop()
            if isinstance(entry, ObjectInfo):
                yield entry
                continue
            try:
                folder = self._open_folder(entry.split("/")[:-1])
            except (FileNotFoundError, InvalidKey):
                continue
            try:
                with _store_errors():
                    pending.extend(reversed(_entries(folder, entry)))
            finally:
                os.close(folder)

    def _clear_stale_parts(self) -> None:
        """Remove parts whose writer is dead: old, and not locked by any process."""
        oldest = time.time() - STALE_AFTER.total_seconds()
        for part in self._partial.iterdir():
            with suppress(FileNotFoundError, BlockingIOError):
                file = os.open(part, _READ_FILE)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(file).st_mtime < oldest:
                        part.unlink()
                finally:
                    os.close(file)


_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def _as_unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(error.strerror or str(error))


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn whatever the operating system refuses into StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise _as_unavailable(error) from error


def _write_part(partial: int, name: str, data: bytes | Iterable[bytes]) -> int:
    with _store_errors():
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=partial)
    try:
        with _store_errors():
            # Held until the writer is done or dead, so that the cleaning knows the one from the other.
            fcntl.flock(file, fcntl.LOCK_SH)
        size = 0
        for piece in (data,) if isinstance(data, bytes) else data:
            with _store_errors():
                _write_whole(file, piece)
            size += len(piece)
        with _store_errors():
            os.fsync(file)
        return size
    finally:
        os.close(file)


def _write_whole(file: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(file, rest) :]


def _make_folder(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)


def _holds_object(parent: int, name: str) -> bool:
    """Tell whether ``name`` is there. Raises InvalidKey if it is there and not an object."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise InvalidKey(f"{name!r} in the store is not an object")
    return True


def _entries(folder: int, prefix: str) -> list[str | ObjectInfo]:
    """Return what lies in a directory, in the byte order of keys: objects, and folders as prefixes."""
    found: list[tuple[bytes, str | ObjectInfo]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            key = prefix + entry.name
            # A folder sorts by its name and slash, as the keys below it do.
            if entry.is_dir(follow_symlinks=False):
                found.append((os.fsencode(f"{entry.name}/"), f"{key}/"))
            elif entry.is_file(follow_symlinks=False) and is_key(key):
                with suppress(FileNotFoundError):
                    size = entry.stat(follow_symlinks=False).st_size
                    found.append((os.fsencode(entry.name), ObjectInfo(key, size)))
    found.sort(key=lambda item: item[0])
    return [item for _, item in found]
