"""Objects in the memory of this process: for tests and for trying things out. All is gone at its end."""

import threading
from collections.abc import Iterable, Iterator

from reactorcide.objects.deleting import delete_each
from reactorcide.objects.keys import check_key, check_prefix, check_range
from reactorcide.objects.port import ObjectExists, ObjectInfo, ObjectNotFound

PIECE_BYTES = 1024 * 1024


class MemoryObjectStore:
    """An `ObjectStore` that is one dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        """See `ObjectStore.put`."""
        check_key(key)
        whole = data if isinstance(data, bytes) else b"".join(data)
        with self._lock:
            if create_only and key in self._objects:
                raise ObjectExists(key)
            self._objects[key] = whole
        return len(whole)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore.read`."""
        check_range(start, length)
        whole = self._find(key)
        return whole[start:] if length is None else whole[start : start + length]

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.stream`."""
        data = self.read(key, start=start, length=length)
        for offset in range(0, len(data), PIECE_BYTES):
            yield data[offset : offset + PIECE_BYTES]

    def size(self, key: str) -> int:
        """See `ObjectStore.size`."""
        return len(self._find(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`; what is yielded is the state at the call."""
        check_prefix(prefix)
        with self._lock:
            found = [
                ObjectInfo(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)
            ]
        # Code points sort as their UTF-8 bytes do.
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def delete_many(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        delete_each(self.delete, keys)

    def _find(self, key: str) -> bytes:
        check_key(key)
        with self._lock:
            if key not in self._objects:
                raise ObjectNotFound(key)
            return self._objects[key]
