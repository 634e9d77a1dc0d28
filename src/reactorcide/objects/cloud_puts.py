"""Putting into a bucket so that what is there afterwards is what was sent, and nothing else stays.

The service checks what it receives against the request's digest; the ETag it answers with is checked
against ours. Where the two differ, either the ETag is no digest in this bucket (encryption with keys of
KMS, uploads in parts on GCS), or other bytes were stored: that is found out by reading them back.
"""

import hashlib
import queue
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError

from reactorcide.objects.cloud_errors import Answer, Bucket, Operation, port_error
from reactorcide.objects.port import (
    ATOMIC_CREATE_BYTES,
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
)
from reactorcide.objects.threads import THREADS

if TYPE_CHECKING:
    from obstore import PutResult
    from obstore.store import GCSStore, S3Store

    ClientStore = S3Store | GCSStore

PART_BYTES = 5 * 1024 * 1024
"""The least that S3 takes, so that a store that crawls does not fill the memory; of 10,000 at the most."""
PARTS_AT_ONCE = 1
LARGE_AT_ONCE = 2
"""So many objects are uploaded in parts at the same time; each takes some 12 MiB of memory meanwhile, and 18
if the driver gives up a request and makes it again."""
_HANDED_BYTES = 512 * 1024
_LOOK_SECONDS = 0.1
_TRIES = 3
_PUT_ID = "put-id"
"""Metadata of an object: whose it is, if the answer to its put was lost."""
DRIVER_ERRORS = (BaseError, OSError, ValueError)
"""What the driver raises; OSError because a missing object is a FileNotFoundError."""

log = structlog.get_logger()


class EtagRule:
    """Whether the ETags of one kind of object are digests in this bucket; found out at the first doubt."""

    def __init__(self) -> None:
        self._is_digest: bool | None = None

    def confirms(self, digest: str, e_tag: str | None) -> bool:
        """Whether an ETag speaks for the bytes of ``digest``, or never says anything here."""
        if e_tag is not None and e_tag.strip('"') == digest:
            self._is_digest = True
        return self._is_digest is False or (e_tag is not None and e_tag.strip('"') == digest)

    def learn_from_equal_bytes(self) -> None:
        """An ETag that did not confirm stood for the right bytes."""
        if self._is_digest is None:
            self._is_digest = False


class PartDigest:
    """The digest that services give an object uploaded in parts, and the size, of bytes fed in pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        self._part = hashlib.md5(usedforsecurity=False)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        rest = memoryview(piece)
        while rest:
            room = PART_BYTES - self.size % PART_BYTES
            self._part.update(rest[:room])
            self.size += len(rest[:room])
            rest = rest[room:]
            if self.size % PART_BYTES == 0:
                self._end_part()

    def _end_part(self) -> None:
        self._parts.append(self._part.digest())
        self._part = hashlib.md5(usedforsecurity=False)

    @property
    def hexdigest(self) -> str:
        """The digest in the form of an ETag."""
        parts = [*self._parts, self._part.digest()] if self.size % PART_BYTES else self._parts
        return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


class _GivenUp(Exception):
    """What was to be uploaded will not come to its end."""


class _Handover:
    """Hands pieces from the thread that has them to the one in which the driver takes them.

    The driver takes from an iterable inside its own runtime, where none of its functions may be called; and
    what is put may well come out of the same bucket, as the chunks of a log do that is being sealed.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | _GivenUp | None] = queue.Queue(1)

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, _GivenUp):
                raise piece
            yield piece

    def offer(self, piece: "bytes | _GivenUp | None", taker: "Future[PutResult]") -> bool:
        """Hand on a piece, the end (None), or that there will be none; False: nobody takes any more."""
        while not taker.done():
            with suppress(queue.Full):
                self._queue.put(piece, timeout=_LOOK_SECONDS)
                return True
        return False


class BucketWriter:
    """Puts into one bucket, from many threads.

    Args:
        large: as ``store``, with more patience, for uploads in parts: to put a large object together may
            take the service a while.
        patience_seconds: an upload in parts waits so long for others to end, and is refused then.
    """

    def __init__(
        self, store: "ClientStore", bucket: Bucket, *, large: "ClientStore", patience_seconds: float
    ) -> None:
        self._store = store
        self._large = large
        self._bucket = bucket
        self._patience_seconds = patience_seconds
        self._whole_etags, self._part_etags = EtagRule(), EtagRule()
        self._turns = threading.BoundedSemaphore(LARGE_AT_ONCE)

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool) -> int:
        """See `ObjectStore.put`; the key was checked."""
        if not isinstance(data, bytes):
            pieces = iter(data)
            head, is_all = _take_head(pieces)
            if not is_all:
                return self._put_parts(key, chain(_drain(head), pieces), create_only=create_only)
            data = b"".join(head)
        self._put_whole(key, data, create_only=create_only)
        return len(data)

    def _put_whole(self, key: str, data: bytes, *, create_only: bool) -> None:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        mark, is_ours = secrets.token_hex(8), not create_only
        for _ in range(_TRIES):
            if is_ours:
                e_tag = self._overwrite(key, data)
            else:
                created = self._create_in_time(key, data, mark)
                if created is None:
                    continue
                is_ours, e_tag = True, created
            if self._whole_etags.confirms(digest, e_tag):
                return
            stored = self._read_back(key, e_tag, hashlib.md5(usedforsecurity=False))
            if stored in (None, digest):
                if stored == digest:
                    self._whole_etags.learn_from_equal_bytes()
                return
            log.warning("object.stored_wrong", key=key, size_bytes=len(data))
        if not is_ours:
            raise StoreUnavailable(f"the bucket neither takes {key} nor has it: others are writing it, too")
        self._remove(key)
        raise StoreUnavailable(f"the bucket keeps other bytes than were sent for {key}")

    def _create_in_time(self, key: str, data: bytes, mark: str) -> str | None:
        """See `_create`: where it broke off, and only we can know whether it may be made again, it is."""
        begun = time.monotonic()
        while True:
            try:
                return self._create(key, data, mark)
            except StoreRefused:
                raise
            except StoreUnavailable:
                if time.monotonic() - begun > self._patience_seconds / 2:
                    raise
                time.sleep(random.uniform(0.05, 0.5))

    def _overwrite(self, key: str, data: bytes) -> str | None:
        try:
            return obstore.put(self._store, key, data, use_multipart=False)["e_tag"]
        except DRIVER_ERRORS as error:
            raise self._put_error(error, key) from error

    def _create(self, key: str, data: bytes, mark: str) -> str | None:
        """Return the ETag of the new object; None: neither is it there nor was it made, try again.

        An object that has our ``mark`` is ours, whether or not we were told of its making.

        Raises:
            ObjectExists, StoreUnavailable.
        """
        try:
            made = obstore.put(
                self._store, key, data, mode="create", attributes={_PUT_ID: mark}, use_multipart=False
            )
            return made["e_tag"] or ""
        except AlreadyExistsError:
            # The driver tries again by itself, and so do we: this may be what was put the first time.
            found = self._find_mark(key)
            if found is None:
                return None
            if found[0] != mark:
                raise ObjectExists(key) from None
            return found[1]
        except DRIVER_ERRORS as error:
            raise self._put_error(error, key) from error

    def _find_mark(self, key: str) -> tuple[str | None, str] | None:
        """Return whose the object is, and its ETag; None: it is not there."""
        try:
            found = obstore.get(self._store, key, options={"head": True})
        except FileNotFoundError:
            return None
        except DRIVER_ERRORS as error:
            raise self._put_error(error, key) from error
        return found.attributes.get(_PUT_ID), found.meta["e_tag"] or ""

    def _put_parts(self, key: str, pieces: Iterator[bytes], *, create_only: bool) -> int:
        if create_only:
            self._refuse_existing(key)
        if not self._turns.acquire(timeout=self._patience_seconds):
            raise StoreUnavailable(f"{LARGE_AT_ONCE} large objects are being uploaded already")
        digest = PartDigest()
        try:
            e_tag = self._send_parts(key, self._digested(key, pieces, digest, create_only=create_only))
        finally:
            self._turns.release()
        if not self._part_etags.confirms(digest.hexdigest, e_tag):
            stored = self._read_back(key, e_tag, PartDigest())
            if stored not in (None, digest.hexdigest):
                self._remove(key)
                raise StoreUnavailable(f"the bucket kept other bytes than were sent for {key}")
            if stored is not None:
                self._part_etags.learn_from_equal_bytes()
        return digest.size

    def _digested(
        self, key: str, pieces: Iterator[bytes], digest: PartDigest, *, create_only: bool
    ) -> Iterator[bytes]:
        """Yield the pieces in larger ones; the last look for an object that is there comes at their end."""
        gathered = bytearray()
        for piece in pieces:
            digest.feed(piece)
            gathered += piece
            if len(gathered) >= _HANDED_BYTES:
                yield bytes(gathered)
                gathered.clear()
        yield bytes(gathered)
        if create_only:
            self._refuse_existing(key)

    def _refuse_existing(self, key: str) -> None:
        if self._find_mark(key) is not None:
            raise ObjectExists(key)

    def _send_parts(self, key: str, pieces: Iterator[bytes]) -> str | None:
        handover, mark = _Handover(), secrets.token_hex(8)
        with ThreadPoolExecutor(1, thread_name_prefix=f"{THREADS}-upload") as thread:
            # The driver aborts the upload if what it takes from fails, so that no part of it stays.
            sending = thread.submit(
                obstore.put,
                self._large,
                key,
                iter(handover),
                attributes={_PUT_ID: mark},
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
            try:
                for piece in pieces:
                    if not handover.offer(piece, sending):
                        break
            except BaseException:
                handover.offer(_GivenUp(), sending)
                raise
            handover.offer(None, sending)
            # Looked at and not raised: with this frame in its traceback it would keep all pieces in a cycle.
            error = sending.exception()
            if not isinstance(error, DRIVER_ERRORS):
                return sending.result()["e_tag"]
        if Answer.read(error).code == "NoSuchUpload":
            # It was put together, and the answer lost: asked again, the service knows of no upload any more.
            found = self._find_mark(key)
            if found is not None and found[0] == mark:
                return found[1]
        raise self._put_error(error, key) from error

    def _read_back(self, key: str, e_tag: str | None, digest: "hashlib._Hash | PartDigest") -> str | None:
        """Return the digest of what is stored; None: it is no longer what this put has made."""
        try:
            found = obstore.get(self._store, key)
            if e_tag and found.meta["e_tag"] != e_tag:
                return None
            for piece in found.stream(min_chunk_size=PART_BYTES // 8):
                digest.feed(piece) if isinstance(digest, PartDigest) else digest.update(piece)
        except FileNotFoundError:
            return None
        except DRIVER_ERRORS as error:
            raise self._put_error(error, key) from error
        return digest.hexdigest if isinstance(digest, PartDigest) else digest.hexdigest()

    def _remove(self, key: str) -> None:
        """Let wrong bytes not be found under a key."""
        try:
            obstore.delete(self._store, key)
        except DRIVER_ERRORS as error:
            log.error("object.wrong_and_kept", key=key, detail=Answer.read(error).said)

    def _put_error(self, error: Exception, key: str) -> Exception:
        found = port_error(error, Operation.PUT, self._bucket, key)
        # A put never misses an object; an upload of which the service knows nothing any more may do so.
        return (
            StoreUnavailable(f"the upload of {key} was lost") if isinstance(found, ObjectNotFound) else found
        )


def _take_head(pieces: Iterator[bytes]) -> tuple[deque[bytes], bool]:
    """Take as much as may go into one request; return it, and whether it is all."""
    head, size = deque[bytes](), 0
    for piece in pieces:
        head.append(piece)
        size += len(piece)
        if size > ATOMIC_CREATE_BYTES:
            return head, False
    return head, True


def _drain(pieces: deque[bytes]) -> Iterator[bytes]:
    """Yield pieces, and hold none that was yielded."""
    while pieces:
        yield pieces.popleft()
