"""A store inside another: how each call ended, and how long it took, is told to an observer."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, islice
from typing import TypeVar

from reactorcide.objects.port import (
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    SignsUrls,
    StoreUnavailable,
)

T = TypeVar("T")
Observer = Callable[[str, str, float], None]
"""Is told operation, outcome (ok, not_found, exists, unavailable, error) and seconds, from any thread."""


def measured(store: ObjectStore, observe: Observer) -> ObjectStore:
    """Return a `MeasuredStore`, which `SignsUrls` if ``store`` does."""
    return (
        SigningMeasuredStore(store, observe, store)
        if isinstance(store, SignsUrls)
        else MeasuredStore(store, observe)
    )


class MeasuredStore:
    """An `ObjectStore` that is ``store``. Of what comes in pieces, the time to the first of them counts."""

    def __init__(self, store: ObjectStore, observe: Observer) -> None:
        self._store = store
        self._observe = observe

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        """See `ObjectStore.put`."""
        with self._measured("put"):
            return self._store.put(key, data, create_only=create_only)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore.read`."""
        with self._measured("read"):
            return self._store.read(key, start=start, length=length)

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.stream`."""
        return self._from_first("stream", self._store.stream(key, start=start, length=length))

    def size(self, key: str) -> int:
        """See `ObjectStore.size`."""
        with self._measured("size"):
            return self._store.size(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        return self._from_first("list", self._store.list(prefix))

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with self._measured("delete"):
            self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        with self._measured("delete_many"):
            self._store.delete_many(keys)

    def _from_first(self, operation: str, items: Iterator[T]) -> Iterator[T]:
        with self._measured(operation):
            first = tuple(islice(items, 1))
        yield from chain(first, items)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        outcome, begun = "error", time.monotonic()
        try:
            yield
            outcome = "ok"
        except ObjectNotFound:
            outcome = "not_found"
            raise
        except ObjectExists:
            outcome = "exists"
            raise
        except StoreUnavailable:
            outcome = "unavailable"
            raise
        finally:
            self._observe(operation, outcome, time.monotonic() - begun)


class SigningMeasuredStore(MeasuredStore):
    """A `MeasuredStore` that `SignsUrls`."""

    def __init__(self, store: ObjectStore, observe: Observer, signer: SignsUrls) -> None:
        super().__init__(store, observe)
        self._signer = signer

    def signed_url(self, key: str, *, expires_in: timedelta, filename: str | None = None) -> str:
        """See `SignsUrls.signed_url`."""
        with self._measured("sign"):
            return self._signer.signed_url(key, expires_in=expires_in, filename=filename)
