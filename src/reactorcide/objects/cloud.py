"""Objects in a bucket of S3, of GCS or of a service that speaks as they do, by the obstore driver.

The driver is called by its synchronous functions only, from whatever thread: its asynchronous ones can
abort the interpreter at its end. It tries again by itself what may be tried again, with growing random
pauses; every request has an end, and so has every call but one that uploads or hands out a large object,
which goes on as long as each of its requests succeeds.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import PreconditionError

from reactorcide.domain.errors import ReactorcideError
from reactorcide.objects.cloud_errors import Answer, Bucket, Operation, port_error
from reactorcide.objects.cloud_puts import DRIVER_ERRORS, BucketWriter
from reactorcide.objects.deleting import delete_each
from reactorcide.objects.keys import check_key, check_prefix, check_range, is_key
from reactorcide.objects.port import InvalidKey, ObjectInfo, ObjectNotFound, StoreUnavailable

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, RetryConfig

    from reactorcide.objects.cloud_puts import ClientStore

PIECE_BYTES = 1024 * 1024
_LIST_PAGE = 1000
_BULK_NOT_SPOKEN = (405, 501)

Sign = Callable[[str, timedelta, str | None], str]
"""Key, time to live, file name -> URL."""


class CloudObjectStore:
    """An `ObjectStore` in a bucket, which any number of processes may share.

    Args:
        single: as ``store``, for deleting one object without the request for many.
        large: as ``store``, for uploads in parts; see `BucketWriter`.
        bulk: so many keys are deleted by one call of the driver.
        seconds: a call, with what it tries again, takes about so long at the most.
    """

    def __init__(
        self,
        store: "ClientStore",
        bucket: Bucket,
        *,
        single: "ClientStore",
        large: "ClientStore",
        bulk: int,
        seconds: float,
    ) -> None:
        self._store = store
        self._single = single
        self._bucket = bucket
        self._bulk = bulk
        self._seconds = seconds
        self._speaks_bulk = True
        self._writer = BucketWriter(store, bucket, large=large, patience_seconds=seconds)

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        """See `ObjectStore.put`."""
        check_key(key)
        return self._writer.put(key, data, create_only=create_only)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore.read`."""
        return b"".join(self._pieces(key, start, length, ends_at=time.monotonic() + self._seconds))

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.stream`. What is read is the object that was there at the first piece."""
        return self._pieces(key, start, length)

    def size(self, key: str) -> int:
        """See `ObjectStore.size`."""
        check_key(key)
        try:
            return obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            # A HEAD is answered without words: whether the object or the bucket is missing, a GET tells.
            return self._size_by_get(key)
        except DRIVER_ERRORS as error:
            raise self._error(error, Operation.GET, key) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`. Whatever has no legal key is left out."""
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        check_key(key)
        try:
            obstore.delete(self._single, key)
        except DRIVER_ERRORS as error:
            found = self._error(error, Operation.DELETE, key)
            if not isinstance(found, ObjectNotFound):
                raise found from error

    def delete_many(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        first: ReactorcideError | None = None
        rest = iter(keys)
        while batch := [*islice(rest, self._bulk)]:
            legal = [key for key in batch if is_key(key)]
            if len(legal) < len(batch):
                first = first or InvalidKey("what was to be deleted is no key")
            try:
                self._delete_batch(legal)
            except _SomeKept as kept:
                first = first or kept.error
        if first is not None:
            raise first

    def _delete_batch(self, keys: Sequence[str]) -> None:
        """Delete these, by one request if the service can.

        Raises:
            _SomeKept: some could not be deleted, and all others were.
            StoreUnavailable: there is no use in going on.
        """
        if not keys:
            return
        if self._speaks_bulk and len(keys) > 1:
            try:
                obstore.delete(self._store, keys)
            except DRIVER_ERRORS as error:
                self._check_worth_more(error)
            else:
                return
        try:
            delete_each(self.delete, keys)
        except (InvalidKey, StoreUnavailable) as error:
            raise _SomeKept(error) from error

    def _check_worth_more(self, error: Exception) -> None:
        """Return if the keys of a failed request are to be deleted one by one; else raise the error."""
        answer = Answer.read(error)
        if answer.status in _BULK_NOT_SPOKEN:
            self._speaks_bulk = False
        elif not (answer.is_missing_key or "DeleteFailed" in str(error)):
            raise self._error(error, Operation.DELETE) from error

    def _size_by_get(self, key: str) -> int:
        try:
            return self._get(key, {"range": (0, 1)}).meta["size"]
        except DRIVER_ERRORS as error:
            if Answer.read(error).status == 416:
                return 0
            raise self._error(error, Operation.GET, key) from error

    def _get(self, key: str, options: "GetOptions") -> "GetResult":
        return obstore.get(self._store, key, options=options)

    def _pieces(
        self, key: str, start: int, length: int | None, *, ends_at: float | None = None
    ) -> Iterator[bytes]:
        """Yield a range, taking it up again where a connection broke; errors come at the first piece.

        Args:
            ends_at: by when all must have come; None: only each piece must come in time.
        """
        check_range(start, length)
        check_key(key)
        if length == 0:
            self.size(key)
            return
        reading = _Reading(start, length)
        last_news = time.monotonic()
        while True:
            begun = reading.position
            try:
                for piece in self._body(key, reading):
                    reading.position += len(piece)
                    yield piece
                    last_news = time.monotonic()
                return
            except _Broken as broken:
                is_late = time.monotonic() > (ends_at or last_news + self._seconds)
                if is_late:
                    raise StoreUnavailable(f"{key} broke off: {broken}") from broken
                if reading.position == begun:
                    time.sleep(random.uniform(0.05, 0.5))

    def _body(self, key: str, reading: "_Reading") -> Iterator[bytes]:
        """Yield what one request gets. Raises _Broken if it should be followed by another one."""
        try:
            found = self._get(key, reading.options())
        except PreconditionError as error:
            raise StoreUnavailable(f"{key} was replaced while it was read") from error
        except DRIVER_ERRORS as error:
            if Answer.read(error).status == 416:
                return
            problem = self._error(error, Operation.GET, key)
            if isinstance(problem, ObjectNotFound) and reading.e_tag is not None:
                raise StoreUnavailable(f"{key} was deleted while it was read") from error
            raise problem from error
        reading.e_tag = found.meta["e_tag"]
        begin, end = found.range
        body = found.stream(min_chunk_size=PIECE_BYTES // 2)
        while begin < end:
            try:
                chunk = next(body, b"")
            except DRIVER_ERRORS as error:
                raise _Broken(Answer.read(error).said or "the connection") from error
            if not chunk:
                raise _Broken("the connection ended early")
            begin += len(chunk)
            for offset in range(0, len(chunk), PIECE_BYTES):
                yield bytes(chunk[offset : offset + PIECE_BYTES])

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        pages = obstore.list(self._store, prefix.removesuffix("/") or None, chunk_size=_LIST_PAGE)
        last = b""
        while True:
            try:
                page = next(pages, ())
            except DRIVER_ERRORS as error:
                raise self._error(error, Operation.LIST) from error
            if not page:
                return
            for found in page:
                key = found["path"]
                if (encoded := key.encode()) <= last:
                    raise StoreUnavailable(
                        "the bucket lists its objects in no order, as directory buckets do"
                    )
                last = encoded
                if is_key(key) and key.startswith(prefix):
                    yield ObjectInfo(key, found["size"])

    def _error(self, error: Exception, operation: Operation, key: str = "") -> ReactorcideError:
        return port_error(error, operation, self._bucket, key)


class SigningCloudStore(CloudObjectStore):
    """A `CloudObjectStore` that `SignsUrls`."""

    def __init__(
        self,
        store: "ClientStore",
        bucket: Bucket,
        *,
        single: "ClientStore",
        large: "ClientStore",
        bulk: int,
        seconds: float,
        sign: Sign,
    ) -> None:
        super().__init__(store, bucket, single=single, large=large, bulk=bulk, seconds=seconds)
        self._sign = sign

    def signed_url(self, key: str, *, expires_in: timedelta, filename: str | None = None) -> str:
        """See `SignsUrls.signed_url`."""
        check_key(key)
        try:
            return self._sign(key, expires_in, filename)
        except DRIVER_ERRORS as error:
            raise self._error(error, Operation.GET, key) from error


def client_options(seconds: float, url: str | None, ca_certificates: bytes | None = None) -> "ClientConfig":
    """Return how the driver connects; no request of it takes longer than ``seconds``."""
    options: ClientConfig = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=min(5.0, seconds / 2)),
        "allow_http": url is not None and url.startswith("http://"),
    }
    if ca_certificates is not None:
        options["root_certificate"] = ca_certificates
    return options


def retry_options(seconds: float) -> "RetryConfig":
    """Return how the driver tries again: not after ``seconds``, with random pauses that grow."""
    return {
        "max_retries": 10,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=min(5.0, seconds / 3)),
            "base": 2,
        },
    }


def usual_patience(seconds: float) -> float:
    """Return how long a request may take, and how long it is tried again, so that both fit in ``seconds``."""
    return seconds / 2


def large_patience(seconds: float) -> float:
    """Return the same of an upload in parts, which is not bounded as a whole."""
    return 2 * seconds


class _Reading:
    """Where a reading is, and of which version."""

    def __init__(self, start: int, length: int | None) -> None:
        self.position = start
        self.end = None if length is None else start + length
        self.e_tag: str | None = None

    def options(self) -> "GetOptions":
        """Return what to ask for next."""
        options: GetOptions = {}
        if self.end is not None:
            options["range"] = (self.position, self.end)
        elif self.position > 0:
            options["range"] = {"offset": self.position}
        if self.e_tag is not None:
            options["if_match"] = self.e_tag
        return options


class _Broken(Exception):
    """A body did not come to its end."""


class _SomeKept(Exception):
    """Some of several objects were not deleted."""

    def __init__(self, error: ReactorcideError) -> None:
        self.error = error
