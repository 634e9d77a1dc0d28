"""Taking in trees that users upload, giving workers what their attempts need of them, and forgetting them.

In the object store lie ``trees/<user>/blobs/<aa>/<SHA-256>.<number>``, one object a content; a manifest is
a content like any other. They are kept apart by user: with one place for all, who knows the digest of
another one's file could have it in a tree of his own, and read it there, by saying that he has it.

The number is that of the content's row, and never used again. So a content that comes anew is put to
another place than the one that is just being deleted, and neither has to wait for the other.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from reactorcide.domain.errors import ClaimLost, InputFault, InvalidInput, NotFound, TooLarge, Unavailable
from reactorcide.domain.ids import is_id
from reactorcide.domain.jobs import Claim
from reactorcide.domain.trees import (
    MAX_FETCHED_BLOBS,
    Blob,
    BlobsMissing,
    Tree,
    blobs_of,
    check_digest,
    pack_head,
    read_tree,
)
from reactorcide.objects.port import ObjectExists, ObjectNotFound, ObjectStore, StoreUnavailable
from reactorcide.objects.threads import THREADS, StoreThreads
from reactorcide.store import outbox
from reactorcide.store import trees as rows
from reactorcide.store.database import Database, Transaction
from reactorcide.store.trees import BlobRow

PUTS_AT_ONCE = 8
"""Most of a put is waiting for the disk; so many contents are stored at the same time by one process."""
BLOB_GRACE = timedelta(hours=24)
"""A content that no tree names is kept so long: an upload that counts on it may be under way."""
SWEEP_EVERY_SECONDS = 60.0
PURGE_BLOBS = "purge_blobs"
"""Kind of an outbox entry; payload ``{"keys": […]}``: objects that nobody knows any more."""
_PURGE_AGAIN_AFTER = timedelta(minutes=5)
_TREES_A_SWEEP = 20
_BLOBS_A_SWEEP = 500
_SENT_BYTES = 512 * 1024

log = structlog.get_logger()


@dataclass(frozen=True)
class TreeLimits:
    """What a user may upload, in bytes: for one tree, and for all contents together."""

    tree_bytes: int
    user_bytes: int


class _GivenUp(Exception):
    """Nobody waits any more for what is being stored."""


class TreeService:
    """Keeps trees. Close it at the end.

    Args:
        kept_for: a tree that no job refers to is kept so long after its last use.
        monotonic: seconds that never go back.
        calls: where the object store is called; None: in threads of its own.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        *,
        limits: TreeLimits,
        kept_for: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
        calls: StoreThreads | None = None,
    ) -> None:
        self.limits = limits
        self._database = database
        self._objects = objects
        self._kept_for = kept_for
        self._monotonic = monotonic
        self._calls = calls or StoreThreads()
        self._next_sweep = 0.0
        self._next_tree = self._next_blob = 0
        # Apart from the threads that everything else shares: what is slow here holds nothing up there.
        self._threads = ThreadPoolExecutor(PUTS_AT_ONCE, thread_name_prefix=f"{THREADS}-trees")

    async def close(self) -> None:
        """Take in nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, user_id: str, sha256: str) -> Tree:
        """Return a tree of a user, which counts as used by that.

        Raises:
            NotFound: the user has none of this name.
        """
        tree = None
        with suppress(InvalidInput):
            check_digest(sha256)
            tree = await self._database.run(lambda tx: rows.use_tree(tx, user_id, sha256))
        if tree is None:
            raise NotFound("tree", sha256[:64])
        return tree

    async def list_missing(self, user_id: str, digests: Sequence[str]) -> list[str]:
        """Return those contents that a user has to upload; the others are kept for a day at least.

        Raises:
            InvalidInput: one is no digest.
        """
        for number, digest in enumerate(digests):
            check_digest(digest, f"/blobs/{number}")
        stored = await self._database.run(lambda tx: rows.list_stored(tx, user_id, set(digests)))
        return [digest for digest in dict.fromkeys(digests) if digest not in stored]

    async def put_many(self, user_id: str, contents: Mapping[str, bytes]) -> int:
        """Store small contents, which have these digests; return how many were not there before.

        Raises:
            TooLarge, Unavailable.
        """
        blobs = [Blob(sha256, len(content)) for sha256, content in contents.items()]
        wanted = [row for row in await self._announce(user_id, blobs) if not row.is_stored]
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._store, row, contents[row.sha256]) for row in wanted)
        )
        await self._confirm(wanted)
        return len(wanted)

    async def admit(self, user_id: str, blob: Blob) -> BlobRow:
        """Check that a content may come; its row tells whether it has still to.

        Raises:
            InvalidInput, TooLarge, Unavailable.
        """
        check_digest(blob.sha256)
        if blob.size_bytes > self.limits.tree_bytes:
            raise TooLarge(f"a tree, and so each of its files, has at most {self.limits.tree_bytes} bytes")
        [row] = await self._announce(user_id, [blob])
        if row.is_stored and row.size_bytes != blob.size_bytes:
            raise InvalidInput([InputFault("/size", f"what has this digest is {row.size_bytes} bytes long")])
        return row

    async def put(self, user_id: str, blob: Blob, pieces: Iterator[bytes]) -> None:
        """Store a content of any size; one that is stored already is not read.

        ``pieces`` are taken in a thread of our own, and no more than one of them is held.

        Raises:
            InvalidInput: the bytes have another digest or size.
            TooLarge, Unavailable; and what ``pieces`` raises.
        """
        row = await self.admit(user_id, blob)
        if row.is_stored:
            return
        given_up = threading.Event()
        checked = _checked(pieces, blob, given_up)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._store, row, checked)
        finally:
            given_up.set()
        await self._confirm([row])

    async def enter(self, user_id: str, sha256: str, manifest: bytes) -> Tree:
        """Enter the tree of a manifest whose contents are all there. To repeat it counts as a use.

        Raises:
            InvalidInput: it is no manifest, or another one.
            TooLarge: the tree is too large.
            BlobsMissing: contents are not there; nothing was entered.
            Unavailable.
        """
        entries = await asyncio.to_thread(read_tree, sha256, manifest)
        sizes = blobs_of(sha256, manifest, entries)
        size = sum(entry.size_bytes for entry in entries)
        if size > self.limits.tree_bytes:
            raise TooLarge(f"a tree has at most {self.limits.tree_bytes} bytes, and this one {size}")
        await self.put_many(user_id, {sha256: manifest})
        found = await self._database.run(
            lambda tx: rows.enter_tree(tx, user_id, sha256, sizes, entries=len(entries), size_bytes=size)
        )
        if not isinstance(found, Tree):
            raise BlobsMissing(found)
        log.info("tree.entered", user_id=user_id, tree=sha256, entries=len(entries), size_bytes=size)
        return found

    async def fetch(self, claim: Claim, digests: Collection[str]) -> Iterator[bytes]:
        """Return a pack of contents that a running attempt needs of its job's tree.

        It is read from the object store as it is taken, and then raises Unavailable if that fails.

        Raises:
            InvalidInput: too many are asked for, or one that the job's tree does not have.
            ClaimLost: the attempt does not run, is not this worker's, or its job has no tree.
        """
        if not 1 <= len(set(digests)) <= MAX_FETCHED_BLOBS:
            raise InvalidInput([InputFault("/blobs", f"must be 1 to {MAX_FETCHED_BLOBS}")])
        for digest in digests:
            check_digest(digest, "/blobs")
        found: list[BlobRow] | None = None
        if all(map(is_id, (claim.job_id, claim.lease_id, claim.worker_id))):
            found = await self._database.run(lambda tx: rows.list_fetchable(tx, claim, digests))
        if found is None:
            raise ClaimLost(claim.job_id, claim.attempt)
        if absent := set(digests) - {row.sha256 for row in found}:
            raise InvalidInput([InputFault("/blobs", f"the tree of this job has no content {min(absent)}")])
        return self._pack(found)

    async def sweep(self) -> None:
        """Forget trees and contents that nobody needs any more, a few of each, at most once a minute."""
        if self._monotonic() < self._next_sweep:
            return
        self._next_sweep = self._monotonic() + SWEEP_EVERY_SECONDS
        dropped = await self._sweep_trees()
        blobs = await self._sweep_blobs()
        if dropped or blobs:
            log.info("trees.swept", trees=dropped, blobs=blobs)

    async def purge_due(self) -> None:
        """Delete the objects of forgotten contents. Raises Unavailable."""
        due = await self._database.run(
            lambda tx: outbox.take_due(tx, PURGE_BLOBS, limit=5, busy_for=_PURGE_AGAIN_AFTER)
        )
        for entry in due:
            await self._calls.run(self._delete, entry.payload["keys"])
            await self._database.run(partial(outbox.mark_done, entry_id=entry.entry_id))

    async def _announce(self, user_id: str, blobs: Sequence[Blob]) -> list[BlobRow]:
        async def announce(tx: Transaction) -> list[BlobRow]:
            found = await rows.announce_blobs(tx, user_id, blobs)
            more = sum(row.size_bytes for row in found if not row.is_stored)
            if more and await rows.sum_blobs(tx, user_id) + more > self.limits.user_bytes:
                raise TooLarge(f"all trees of a user together have at most {self.limits.user_bytes} bytes")
            return found

        return await self._database.run(announce)

    async def _confirm(self, stored: Collection[BlobRow]) -> None:
        if not stored:
            return
        kept = await self._database.run(lambda tx: rows.mark_stored(tx, {row.blob_id for row in stored}))
        if lost := [key_of(row) for row in stored if row.blob_id not in kept]:
            # It took so long that they counted as given up; nobody would ever delete them.
            await self._calls.run(self._delete, lost)
            raise Unavailable("object store")

    def _store(self, row: BlobRow, content: bytes | Iterator[bytes]) -> None:
        # Under this key can only be the same content, from a call whose end nobody knows.
        with suppress(ObjectExists):
            self._objects.put(key_of(row), content, create_only=True)

    def _pack(self, found: Sequence[BlobRow]) -> Iterator[bytes]:
        """Yield a pack in parts that are worth a step through a thread each."""
        part = bytearray()
        for row in found:
            part += pack_head(Blob(row.sha256, row.size_bytes))
            try:
                for piece in self._objects.stream(key_of(row)):
                    part += piece
                    if len(part) >= _SENT_BYTES:
                        yield bytes(part)
                        part.clear()
            except ObjectNotFound:
                raise StoreUnavailable(f"{key_of(row)} is not there") from None
        yield bytes(part)

    async def _sweep_trees(self) -> int:
        listed = await self._database.run(
            partial(rows.list_old_trees, kept_for=self._kept_for, after=self._next_tree, limit=_TREES_A_SWEEP)
        )
        self._next_tree = listed[-1] if len(listed) == _TREES_A_SWEEP else 0
        dropped = 0
        for tree_id in listed:
            dropped += await self._database.run(
                partial(rows.drop_tree, tree_id=tree_id, kept_for=self._kept_for)
            )
        return dropped

    async def _sweep_blobs(self) -> int:
        listed = await self._database.run(
            partial(rows.list_old_blobs, kept_for=BLOB_GRACE, after=self._next_blob, limit=_BLOBS_A_SWEEP)
        )
        self._next_blob = listed[-1] if len(listed) == _BLOBS_A_SWEEP else 0

        async def drop(tx: Transaction) -> int:
            dropped = await rows.drop_blobs(tx, listed, kept_for=BLOB_GRACE)
            if dropped:
                keys = [key_of(row) for row in dropped]
                await outbox.add_entry(tx, PURGE_BLOBS, f"{PURGE_BLOBS}:{keys[0]}", {"keys": keys})
            return len(dropped)

        return await self._database.run(drop) if listed else 0

    def _delete(self, keys: Collection[str]) -> None:
        for key in keys:
            self._objects.delete(key)


def key_of(row: BlobRow) -> str:
    """Return where the content of a row is in the object store."""
    return f"trees/{row.user_id}/blobs/{row.sha256[:2]}/{row.sha256}.{row.blob_id}"


def _checked(pieces: Iterator[bytes], blob: Blob, given_up: threading.Event) -> Iterator[bytes]:
    """Yield ``pieces``, and raise behind the last of them unless they are what was announced."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        if given_up.is_set():
            raise _GivenUp
        size += len(piece)
        if size > blob.size_bytes:
            break
        digest.update(piece)
        yield piece
    if size != blob.size_bytes:
        raise InvalidInput([InputFault("/size", f"{blob.size_bytes} bytes were announced, and others came")])
    if digest.hexdigest() != blob.sha256:
        raise InvalidInput([InputFault("/sha256", "the bytes that came have another digest")])
