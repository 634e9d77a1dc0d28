"""What a store for objects keeps: objects, and uploads that come in parts. In memory, or in a folder."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4


class PreconditionFailed(Exception):
    """An object is there that must not be."""


class NoSuchUpload(Exception):
    """No upload has this id, or not for this key."""


class InvalidPart(Exception):
    """A part is named that has not come, or came otherwise."""


@dataclass(frozen=True)
class Entry:
    """What a list says of an object."""

    size_bytes: int
    etag: str
    modified: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Headers that came with it and are given back."""


@dataclass
class _Upload:
    key: str
    metadata: Mapping[str, str]
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


class Shelf:
    """Objects by key. With a ``folder`` they outlive the process; uploads in parts do not.

    Safe to use from many threads.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._data: dict[str, bytes] = {}
        self._uploads: dict[str, _Upload] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.json"):
                told = json.loads(path.read_text())
                key = told.pop("key")
                self._entries[key] = Entry(**told)

    def put(
        self, key: str, data: bytes, *, etag: str, metadata: Mapping[str, str], is_new: bool = False
    ) -> None:
        """Keep an object. With ``is_new``, raise PreconditionFailed if one is there."""
        with self._lock:
            if is_new and key in self._entries:
                raise PreconditionFailed
            entry = Entry(len(data), etag, time.time(), metadata)
            if self._folder is None:
                self._data[key] = data
            else:
                self._path(key, "data").write_bytes(data)
                self._path(key, "json").write_text(json.dumps({"key": key, **entry.__dict__}))
            self._entries[key] = entry

    def get(self, key: str) -> tuple[Entry, bytes] | None:
        """Return an object, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            data = self._data[key] if self._folder is None else self._path(key, "data").read_bytes()
            return entry, data

    def find(self, key: str) -> Entry | None:
        """Return what is known of an object, or None."""
        with self._lock:
            return self._entries.get(key)

    def delete(self, key: str) -> None:
        """Forget an object, if it is there."""
        with self._lock:
            self._data.pop(key, None)
            if self._entries.pop(key, None) is not None and self._folder is not None:
                self._path(key, "json").unlink()
                self._path(key, "data").unlink()

    def list(self, prefix: str = "", after: str = "") -> list[tuple[str, Entry]]:
        """Return the objects behind ``after``, in byte order of their keys."""
        with self._lock:
            found = [item for item in self._entries.items() if item[0].startswith(prefix)]
        found.sort(key=lambda item: item[0].encode())
        return [item for item in found if item[0].encode() > after.encode()]

    def begin_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts, and return its id."""
        upload_id = uuid4().hex
        with self._lock:
            self._uploads[upload_id] = _Upload(key, metadata)
        return upload_id

    def put_part(self, upload_id: str, key: str, number: int, data: bytes, *, etag: str) -> None:
        """Keep a part. Raises NoSuchUpload."""
        with self._lock:
            self._upload(upload_id, key).parts[number] = (etag, data)

    def complete_upload(
        self, upload_id: str, key: str, named: Sequence[tuple[int, str]], *, is_new: bool
    ) -> str:
        """Make an object of the named parts, and return its ETag.

        Raises:
            NoSuchUpload, InvalidPart, PreconditionFailed.
        """
        with self._lock:
            upload = self._upload(upload_id, key)
            parts = {**upload.parts}
        if not named or any(number not in parts or parts[number][0] != etag for number, etag in named):
            raise InvalidPart
        data = b"".join(parts[number][1] for number, _ in named)
        digests = b"".join(hashlib.md5(parts[number][1]).digest() for number, _ in named)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(named)}"
        self.put(key, data, etag=etag, metadata=upload.metadata, is_new=is_new)
        self.abort_upload(upload_id, key)
        return etag

    def abort_upload(self, upload_id: str, key: str) -> None:
        """Forget an upload and its parts. Raises NoSuchUpload."""
        with self._lock:
            self._upload(upload_id, key)
            del self._uploads[upload_id]

    def open_uploads(self) -> dict[str, int]:
        """Return the keys that uploads are open for, each with the bytes that have come."""
        with self._lock:
            return {
                upload.key: sum(len(data) for _, data in upload.parts.values())
                for upload in self._uploads.values()
            }

    def _upload(self, upload_id: str, key: str) -> _Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise NoSuchUpload
        return upload

    def _path(self, key: str, kind: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.{kind}"
