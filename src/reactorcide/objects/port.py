"""The object store port: what every backend keeps, and the errors by which callers decide.

Backends are synchronous and safe to call from many threads; asynchronous callers use
`asyncio.to_thread`. Keys obey `reactorcide.objects.keys.check_key` on every backend, with the same
error. A put is atomic: a reader sees the old object, the new object or none, never a part, also
after a crash; when it returns, the object is durable.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, runtime_checkable

from reactorcide.domain.errors import ReactorcideError, Unavailable

ATOMIC_CREATE_BYTES = 8 * 1024 * 1024
"""Up to this size a create-only put is decided by the store itself, on every backend."""


class InvalidKey(ReactorcideError):
    """The key breaks the one rule for keys; nothing was touched."""

    code = "invalid_key"


class ObjectNotFound(ReactorcideError):
    """No object has this key."""

    code = "not_found"


class ObjectExists(ReactorcideError):
    """A create-only put found an object there; it is unchanged."""

    code = "conflict"


class StoreUnavailable(Unavailable):
    """The store cannot be reached, is full or refused for now; the call may be made again."""

    def __init__(self, detail: str) -> None:
        super().__init__("object store")
        self.detail = detail


class StoreRefused(StoreUnavailable):
    """The store answers, and refuses what only an operator can change; the detail says what."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a list says of one object."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """Named byte strings."""

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        """Store ``data`` whole under ``key`` and return its size in bytes.

        An iterable is taken piece by piece and never held whole in memory. Without ``create_only``
        an object there is replaced. Of many create-only puts of one key, exactly one succeeds. Of an
        iterable longer than `ATOMIC_CREATE_BYTES` a backend may promise less: an object that was there
        before the last piece was taken is never replaced, but of two such puts that end at the same
        moment both may succeed, and the object is that of one of them, whole.

        An error of the iterable passes through; nothing is stored then.

        Raises:
            InvalidKey, ObjectExists, StoreUnavailable.
        """

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes from ``start``, at most ``length`` of them (None: to the end).

        A range that begins at or after the end is empty, not an error.

        Raises:
            InvalidKey, ObjectNotFound, StoreUnavailable.
        """

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """As `read`, in pieces of at most 1 MiB. Errors come at the first piece."""

    def size(self, key: str) -> int:
        """Return the size of the object in bytes.

        Raises:
            InvalidKey, ObjectNotFound, StoreUnavailable.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``, in byte order of their keys.

        ``prefix`` ends with ``/`` or is empty. Nothing half written is ever among them.
        """

    def delete(self, key: str) -> None:
        """Delete the object; one that is not there counts as deleted.

        Raises:
            InvalidKey, StoreUnavailable.
        """

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete the objects that have these keys; those that are not there count as deleted.

        A key that is none, or whose object cannot be deleted, keeps none of the others from it: the first
        error comes at the end. Only a store that is out of reach altogether is not tried key by key.

        Raises:
            InvalidKey, StoreUnavailable.
        """


@runtime_checkable
class SignsUrls(Protocol):
    """What a store has beside `ObjectStore` if others can fetch from it by themselves."""

    def signed_url(self, key: str, *, expires_in: timedelta, filename: str | None = None) -> str:
        """Return a URL that lets whoever has it GET this one object for so long, without credentials.

        Whether the object is there is not looked at.

        Args:
            expires_in: at least a second, at most seven days; with the temporary credentials of a role it
                also ends with them.
            filename: what a browser is to save it as. Where only the driver knows the credentials (those of
                a machine or a role) it cannot be said, and the name is the last component of the key.

        Raises:
            InvalidKey, StoreUnavailable.
        """
