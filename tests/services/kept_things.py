"""Ended jobs with logs and artifacts, and all that removes them, over one database and any object store."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fixture_types import MakeUser
from job_desk import POLICY, JobDesk, outcome, request
from reactorcide.domain.accounts import Principal, Role
from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.ids import make_id
from reactorcide.domain.jobs import AttemptOutcome, Claim, LogPiece
from reactorcide.domain.removals import Removal
from reactorcide.domain.submission import freeze_request
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import ObjectInfo, ObjectStore, StoreUnavailable
from reactorcide.services.artifacts import ArtifactService
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import LogService
from reactorcide.services.orphans import OrphanSearch
from reactorcide.services.retention import Retention, RetentionRules
from reactorcide.services.store_marks import MARK_KEY
from reactorcide.store import jobs as job_rows
from reactorcide.store.database import Database

DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_RANDOM = random.Random(7)


def old_id(at: datetime = LONG_AGO) -> str:
    """Return an id that says it was made then."""
    return make_id(int(at.timestamp() * 1000), _RANDOM.getrandbits(74))


class FaultyStore:
    """A store in front of another one: out of reach while ``is_down``, and watched at every step."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.is_down = False
        self.on_call: Callable[[str, str], None] = lambda _operation, _key: None

    def _call(self, operation: str, key: str) -> None:
        if self.is_down:
            raise StoreUnavailable("as the test wishes")
        self.on_call(operation, key)

    def put(self, key: str, data: bytes | Iterable[bytes], *, create_only: bool = False) -> int:
        self._call("put", key)
        return self.inner.put(key, data, create_only=create_only)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        self._call("read", key)
        return self.inner.read(key, start=start, length=length)

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self._call("stream", key)
        return self.inner.stream(key, start=start, length=length)

    def size(self, key: str) -> int:
        self._call("size", key)
        return self.inner.size(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._call("list", prefix)
        found = list(self.inner.list(prefix))
        self._call("listed", prefix)
        return iter(found)

    def delete(self, key: str) -> None:
        self._call("delete", key)
        self.inner.delete(key)

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.delete(key)


class HeldPut:
    """Holds the first put of a key that ends so, until let go."""

    def __init__(self, ending: str) -> None:
        self.is_held = threading.Event()
        self.go_on = threading.Event()
        self._ending = ending

    def __call__(self, operation: str, key: str) -> None:
        if operation == "put" and key.endswith(self._ending) and not self.is_held.is_set():
            self.is_held.set()
            assert self.go_on.wait(30)


class Shelf:
    """A coordinator's services, one user of it, and an admin."""

    def __init__(self, database: Database, user: Principal, admin: Principal, objects: ObjectStore) -> None:
        self.database = database
        self.user = user
        self.admin = admin
        self.store = FaultyStore(objects)
        self.desk = JobDesk(database, user)
        self.metrics = self.desk.metrics
        self.logs = LogService(database, self.store, self.desk.bell)
        self.reader = LogReader(database, self.store, self.desk.bell)
        self.artifacts = ArtifactService(database, self.store, self.desk.bell, limit_bytes=2**30)
        self.worker_id = ""

    async def close(self) -> None:
        await self.logs.close()
        await self.artifacts.close()

    async def enter(self, job_id: str | None = None, **fields: Any) -> str:
        """Make a job, of an old id unless told otherwise."""
        job_id = job_id or old_id()
        row = job_rows.NewJob(
            job_id=job_id,
            user_id=self.user.user_id,
            spec=freeze_request(request(**fields), POLICY),
            sealed=None,
            is_queued=True,
        )
        await self.database.run(lambda tx: job_rows.insert_jobs(tx, [row]))
        return job_id

    async def start(self, job_id: str | None = None, **fields: Any) -> Claim:
        """Make a job and start it."""
        await self.enter(job_id, **fields)
        self.worker_id = self.worker_id or await self.desk.worker()
        return (await self.desk.start(self.worker_id)).claim

    async def write(self, claim: Claim, log: bytes) -> None:
        await self.logs.append(claim, 0, log, [LogPiece(1_700_000_000_000, "o", len(log))] if log else [])

    async def finish(self, claim: Claim, log: bytes = b"", *, artifacts: int = 0) -> None:
        usual = outcome()
        await self.desk.attempts.finish(
            claim,
            AttemptOutcome(
                status=usual.status,
                reason=usual.reason,
                fault=usual.fault,
                exit_code=0,
                log_length=len(log),
                log_sha256=hashlib.sha256(log).digest(),
                artifacts=artifacts,
            ),
        )

    async def leave(self, claim: Claim, files: dict[str, bytes]) -> None:
        for content in files.values():
            digest = hashlib.sha256(content).hexdigest()
            await self.artifacts.put(claim, digest, len(content), iter([content]))
        assert await self.artifacts.seal(claim, listed(files)) == []

    async def ended(
        self, log: bytes = b"log\n", files: dict[str, bytes] | None = None, *, ago: timedelta = DAY
    ) -> str:
        """Return the id of a job that ended so long ago and has brought everything."""
        claim = await self.start()
        await self.write(claim, log)
        await self.finish(claim, log, artifacts=len(files or {}))
        if files:
            await self.leave(claim, files)
        await self.settle()
        await self.age(claim.job_id, ago)
        return claim.job_id

    async def settle(self) -> None:
        """Seal what is to be sealed, and delete what is owed."""
        for _ in range(4):
            await self.logs.seal_due()
        await self.purge()

    async def purge(self) -> None:
        await self.execute("UPDATE outbox SET not_before = now() WHERE done_at IS NULL")
        while await self.logs.purge_due():
            pass

    async def age(self, job_id: str, by: timedelta) -> None:
        """Let so much time pass for a job that has ended."""
        given = {"job_id": job_id, "by": by}
        await self.execute(
            "UPDATE jobs SET completed_at = completed_at - %(by)s, updated_at = updated_at - %(by)s"
            " WHERE job_id = %(job_id)s",
            given,
        )
        await self.execute(
            "UPDATE attempts SET ended_at = ended_at - %(by)s, log_sealed_at = log_sealed_at - %(by)s,"
            " log_removed_at = log_removed_at - %(by)s, artifacts_removed_at = artifacts_removed_at - %(by)s"
            " WHERE job_id = %(job_id)s",
            given,
        )

    def retention(self, **rules: Any) -> Retention:
        return Retention(self.database, self.store, RetentionRules(**rules), metrics=self.metrics)

    async def retain(self, **rules: Any) -> dict[str, tuple[int, int]]:
        """Do a round and the deletions it owes; return count and size by rule."""
        effects = await self.retention(**rules).run_round()
        await self.purge()
        return {effect.rule: (effect.count, effect.size_bytes) for effect in effects}

    async def search(
        self, *, is_dry_run: bool = False, is_settled: bool = True
    ) -> dict[str, tuple[int, int]]:
        """Search the store as one that was marked long ago, and do the deletions that are owed."""
        search = OrphanSearch(
            self.database, self.store, every=DAY, is_dry_run=is_dry_run, metrics=self.metrics
        )
        if is_settled:
            await search._marks.check()
            await self.execute("UPDATE object_store_mark SET made_at = made_at - interval '2 days'")
        found = await search.search()
        with suppress(Unavailable):
            await self.purge()
        return {effect.rule: (effect.count, effect.size_bytes) for effect in found}

    def stored(self, prefix: str = "") -> set[str]:
        return {info.key for info in self.store.inner.list(prefix)} - {MARK_KEY}

    def stored_jobs(self) -> set[str]:
        """Return the ids of the jobs of which something is stored."""
        return {key.split("/")[1] for key in self.stored()}

    async def removals(self, job_id: str | None = None) -> list[Removal]:
        page = await self.retention().list_removals(self.admin, limit=100, job_id=job_id)
        return page.removals

    async def record(self, job_id: str | None = None) -> list[tuple[str, str]]:
        """Return what was removed and why, oldest first."""
        return [(entry.what.value, entry.why.value) for entry in reversed(await self.removals(job_id))]

    async def execute(self, statement: str, given: Any = None) -> None:
        async with self.database.transaction() as tx:
            await tx.execute(statement.encode(), given)

    async def read_log(self, job_id: str) -> bytes:
        log = await self.reader.find(job_id)
        return b"".join([data async for data in self.reader.read(log, 0, log.length)])


def listed(files: dict[str, bytes]) -> list[Artifact]:
    """Return the list that a worker makes of files."""
    return [
        Artifact(path, len(content), hashlib.sha256(content).hexdigest(), "text/plain")
        for path, content in files.items()
    ]


def make_store(kind: str, folder: Path) -> ObjectStore:
    return MemoryObjectStore() if kind == "memory" else FilesystemObjectStore(folder)


async def make_shelf(database: Database, make_user: MakeUser, objects: ObjectStore) -> Shelf:
    return Shelf(database, await make_user(), await make_user(Role.ADMIN), objects)
