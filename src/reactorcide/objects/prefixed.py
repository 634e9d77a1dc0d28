"""A store inside another: every key gets a prefix put before it (OBJECT_STORE_PREFIX)."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from reactorcide.objects.keys import check_prefix
from reactorcide.objects.port import ObjectInfo, ObjectStore, SignsUrls


def prefixed(store: ObjectStore, prefix: str) -> ObjectStore:
    """Return a `PrefixedStore`, which `SignsUrls` if ``store`` does. Raises InvalidKey."""
    return (
        SigningPrefixedStore(store, prefix, store)
        if isinstance(store, SignsUrls)
        else PrefixedStore(store, prefix)
    )


class PrefixedStore:
    """An `ObjectStore` whose objects lie under ``prefix`` of ``store``; no key reaches out of it.

    The prefix counts towards the length of a key.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        """Raise InvalidKey if ``prefix`` is neither empty nor a key; a slash is put after it."""
        self._prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        check_prefix(self._prefix)
        self._store = store

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        """See `ObjectStore.put`."""
        return self._store.put(self._prefix + key, data, create_only=create_only)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore.read`."""
        return self._store.read(self._prefix + key, start=start, length=length)

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.stream`."""
        return self._store.stream(self._prefix + key, start=start, length=length)

    def size(self, key: str) -> int:
        """See `ObjectStore.size`."""
        return self._store.size(self._prefix + key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        found = self._store.list(self._prefix + prefix)
        return (ObjectInfo(info.key.removeprefix(self._prefix), info.size_bytes) for info in found)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._store.delete(self._prefix + key)

    def delete_many(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        self._store.delete_many(self._prefix + key for key in keys)


class SigningPrefixedStore(PrefixedStore):
    """A `PrefixedStore` that `SignsUrls`."""

    def __init__(self, store: ObjectStore, prefix: str, signer: SignsUrls) -> None:
        super().__init__(store, prefix)
        self._signer = signer

    def signed_url(self, key: str, *, expires_in: timedelta, filename: str | None = None) -> str:
        """See `SignsUrls.signed_url`."""
        return self._signer.signed_url(self._prefix + key, expires_in=expires_in, filename=filename)
