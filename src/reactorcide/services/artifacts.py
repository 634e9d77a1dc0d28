"""Taking in the artifacts of an attempt after its end, listing them, and giving them out.

In the object store lie ``artifacts/<job>/<attempt>/<SHA-256>``, one object a content, and
``…/manifest.json``, which gives the contents their paths. The contents come first, each checked against
its digest; the list comes last, once nothing is missing, and with it the job's `artifacts_object_key`.
So whatever is repeated or breaks off does no harm: what has come need not come again.
"""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import structlog

from reactorcide.domain.artifacts import Artifact, check_artifacts, is_sha256
from reactorcide.domain.errors import ClaimLost, Gone, InputFault, InvalidInput, NotFound, TooLarge
from reactorcide.domain.ids import is_id
from reactorcide.domain.jobs import Claim
from reactorcide.domain.removals import Loss, RemovedThing
from reactorcide.objects.port import ObjectExists, ObjectNotFound, ObjectStore, SignsUrls
from reactorcide.objects.threads import THREADS, StoreThreads
from reactorcide.store import artifacts as rows
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

PUTS_AT_ONCE = 4
"""So many contents are stored at the same time by one process; more wait."""
LINK_LIFE = timedelta(minutes=5)
"""An address that an artifact may be fetched from is good for so long; a fetch that has begun goes on."""
_KEPT_LISTS = 4

log = structlog.get_logger()


@dataclass(frozen=True)
class StoredArtifacts:
    """The artifacts of a job as far as they may be had."""

    job_id: str
    attempt: int
    artifacts: tuple[Artifact, ...]
    """In the order of their paths."""
    is_complete: bool
    """Whether nothing more will come: the job has ended, and all that was collected is here, or was."""
    loss: Loss | None = None
    """Set if they were removed since; then there are none."""

    def check_kept(self) -> None:
        """Raise Gone if they were removed since."""
        if self.loss is not None:
            raise self.loss.error(RemovedThing.ARTIFACTS)

    def find(self, path: str) -> Artifact:
        """Return the artifact at ``path``. Raises NotFound, Gone."""
        self.check_kept()
        for artifact in self.artifacts:
            if artifact.path == path:
                return artifact
        raise NotFound("artifact", path)


class _GivenUp(Exception):
    """Nobody waits any more for what is being stored."""


class ArtifactService:
    """Keeps artifacts. Close it at the end.

    Args:
        limit_bytes: of all artifacts of an attempt together.
        signer: of addresses for those who are to fetch artifacts from the object store itself.
        calls: where the object store is called; None: in threads of its own.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        bell: Bell,
        *,
        limit_bytes: int,
        signer: SignsUrls | None = None,
        calls: StoreThreads | None = None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._bell = bell
        self._limit = limit_bytes
        self._signer = signer
        self._calls = calls or StoreThreads()
        # Apart from the threads that everything else shares: what is slow here holds nothing up there.
        self._threads = ThreadPoolExecutor(PUTS_AT_ONCE, thread_name_prefix=f"{THREADS}-artifacts")
        self._lists: OrderedDict[str, tuple[Artifact, ...]] = OrderedDict()

    async def close(self) -> None:
        """Take in nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def admit(self, claim: Claim, sha256: str, size_bytes: int) -> bool:
        """Check that a content may be stored; return whether it has still to be.

        Raises:
            InvalidInput, TooLarge, ClaimLost, Unavailable.
        """
        if not is_sha256(sha256):
            raise InvalidInput([InputFault("/sha256", "must be 64 hexadecimal digits in lower case")])
        if size_bytes > self._limit:
            raise TooLarge(f"the artifacts of an attempt have at most {self._limit} bytes")
        if (await self._promise(claim)).object_key is not None:
            return False
        return not await self._calls.run(self._is_stored, _content_key(claim, sha256), size_bytes)

    async def put(self, claim: Claim, sha256: str, size_bytes: int, pieces: Iterator[bytes]) -> None:
        """Store a content of an ended attempt; one that is stored already is not read.

        ``pieces`` are taken in a thread of our own, and no more than one of them is held. What is sent
        twice is stored once.

        Raises:
            InvalidInput: the bytes have another digest or size.
            TooLarge, ClaimLost, Unavailable; and what ``pieces`` raises.
        """
        if not await self.admit(claim, sha256, size_bytes):
            return
        key, given_up = _content_key(claim, sha256), threading.Event()
        checked = _checked(pieces, sha256, size_bytes, given_up)
        try:
            loop = asyncio.get_running_loop()
            is_new = await loop.run_in_executor(self._threads, self._store, key, checked)
        finally:
            given_up.set()
        try:
            is_late = (await self._promise(claim)).object_key is not None
        except ClaimLost:
            # The job was deleted meanwhile, and perhaps its artifacts already.
            if is_new:
                await self._calls.run(self._objects.delete, key)
            raise
        if is_late:
            log.info("artifact.came_late", job_id=claim.job_id, attempt=claim.attempt, sha256=sha256)

    async def seal(self, claim: Claim, artifacts: Collection[Artifact]) -> list[str]:
        """Let these be the artifacts of the attempt's job; return the digests still missing, if any are.

        Only with none missing it is done. To repeat it then succeeds.

        Raises:
            InvalidInput: no folder could hold them, they are too large or more than were promised.
            ClaimLost: the attempt is not this worker's, promised nothing, or is not the job's last.
            Unavailable: the database or the object store cannot be reached.
        """
        promise = await self._promise(claim)
        check_artifacts(artifacts, most=promise.artifacts, limit_bytes=self._limit)
        if promise.object_key is not None:
            return []
        stored = await self._calls.run(self._list_contents, claim)
        missing = {a.sha256 for a in artifacts if stored.get(a.sha256) != a.size_bytes}
        if missing:
            return sorted(missing)
        key = _list_key(claim.job_id, claim.attempt)
        ordered = sorted(artifacts, key=lambda artifact: artifact.path.encode())
        await self._calls.run(self._objects.put, key, msgspec.json.encode(ordered))
        # A content that several paths share is stored once.
        kept = sum(stored[sha256] for sha256 in {artifact.sha256 for artifact in ordered})
        if not await self._database.run(lambda tx: rows.seal_artifacts(tx, claim, key, size_bytes=kept)):
            # Another call has sealed them, else this raises.
            await self._promise(claim)
            return []
        self._bell.ring(f"job:{claim.job_id}")
        size = sum(artifact.size_bytes for artifact in ordered)
        known = log.bind(job_id=claim.job_id, attempt=claim.attempt)
        known.info("artifacts.sealed", artifacts=len(ordered), promised=promise.artifacts, size_bytes=size)
        return []

    async def find(self, job_id: str) -> StoredArtifacts:
        """Return the artifacts of a job; whether the caller may see them, `JobService.get` was asked.

        Raises:
            NotFound: there is no such job.
            Gone: the object store has lost the list.
            Unavailable: the database or the object store cannot be reached.
        """
        row = await self._read_row(job_id)
        listed: tuple[Artifact, ...] = ()
        if row.object_key is not None:
            try:
                listed = await self._read_list(row.object_key)
            except ObjectNotFound:
                row = await self._read_row(job_id)
                if row.loss is None:
                    raise _lost() from None
        # A damaged one is left out of the list by its worker: then there are fewer than were promised.
        is_complete = row.status.is_final and (len(listed) == row.promised or row.loss is not None)
        return StoredArtifacts(job_id, row.attempt, listed, is_complete, row.loss)

    async def read(
        self, found: StoredArtifacts, artifact: Artifact, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of an artifact, or a range of them, in pieces of at most 1 MiB.

        Raises:
            NotFound: the job was deleted meanwhile.
            Gone: the artifacts were removed meanwhile, or the object store has lost this one.
            Unavailable: the object store cannot be reached.
        """
        key = _found_key(found, artifact)
        pieces = self._objects.stream(key, start=start, length=length)
        try:
            while piece := await self._calls.run(next, pieces, b""):
                yield piece
        except ObjectNotFound:
            row = await self._read_row(found.job_id)
            raise (row.loss.error(RemovedThing.ARTIFACTS) if row.loss else _lost(artifact.path)) from None

    async def link(self, found: StoredArtifacts, artifact: Artifact) -> str | None:
        """Return where an artifact is had without a token, for `LINK_LIFE`; None: from here alone.

        Whoever has the address has the artifact. Whether it is still there is not looked at.

        Raises:
            Unavailable: the credentials for signing cannot be had now.
        """
        if self._signer is None:
            return None
        key, name = _found_key(found, artifact), artifact.path.rpartition("/")[2]
        # It may have to ask for new credentials.
        return await self._calls.run(self._signer.signed_url, key, expires_in=LINK_LIFE, filename=name)

    async def _read_row(self, job_id: str) -> rows.ArtifactsRow:
        row = await self._database.run(lambda tx: rows.read_artifacts(tx, job_id))
        if row is None:
            raise NotFound("job", job_id)
        return row

    async def _promise(self, claim: Claim) -> rows.Promise:
        promise = None
        if all(map(is_id, (claim.job_id, claim.lease_id, claim.worker_id))):
            promise = await self._database.run(lambda tx: rows.read_promise(tx, claim))
        if promise is None:
            raise ClaimLost(claim.job_id, claim.attempt)
        return promise

    def _is_stored(self, key: str, size_bytes: int) -> bool:
        try:
            return self._objects.size(key) == size_bytes
        except ObjectNotFound:
            return False

    def _store(self, key: str, pieces: Iterator[bytes]) -> bool:
        """Store a content; False: it was there already, and under this key can only be the same."""
        try:
            self._objects.put(key, pieces, create_only=True)
        except ObjectExists:
            return False
        return True

    def _list_contents(self, claim: Claim) -> dict[str, int]:
        folder = _folder(claim.job_id, claim.attempt)
        return {info.key.removeprefix(folder): info.size_bytes for info in self._objects.list(folder)}

    async def _read_list(self, key: str) -> tuple[Artifact, ...]:
        """Return a list, which never changes once a job has it. Raises ObjectNotFound, StoreUnavailable."""
        if key not in self._lists:
            data = await self._calls.run(self._objects.read, key)
            self._lists[key] = msgspec.json.decode(data, type=tuple[Artifact, ...])
            if len(self._lists) > _KEPT_LISTS:
                self._lists.popitem(last=False)
        return self._lists[key]


def _lost(path: str | None = None) -> Gone:
    what = "the list of the artifacts" if path is None else f"the artifact {path}"
    return Gone(f"{what} was lost: the object store does not have it any more")


def _folder(job_id: str, attempt: int) -> str:
    return f"artifacts/{job_id}/{attempt}/"


def _found_key(found: StoredArtifacts, artifact: Artifact) -> str:
    return f"{_folder(found.job_id, found.attempt)}{artifact.sha256}"


def _content_key(claim: Claim, sha256: str) -> str:
    return f"{_folder(claim.job_id, claim.attempt)}{sha256}"


def _list_key(job_id: str, attempt: int) -> str:
    return f"{_folder(job_id, attempt)}manifest.json"


def _checked(
    pieces: Iterator[bytes], sha256: str, size_bytes: int, given_up: threading.Event
) -> Iterator[bytes]:
    """Yield ``pieces``, and raise behind the last of them unless they are what was announced."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        if given_up.is_set():
            raise _GivenUp
        size += len(piece)
        if size > size_bytes:
            break
        digest.update(piece)
        yield piece
    if size != size_bytes:
        raise InvalidInput([InputFault("/size", f"{size_bytes} bytes were announced, and others came")])
    if digest.hexdigest() != sha256:
        raise InvalidInput([InputFault("/sha256", "the bytes that came have another digest")])
