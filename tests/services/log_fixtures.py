"""A job and its attempts as rows, for tests of logs: as submission, claim, finish and reaper leave them."""

import hashlib
import random
import uuid
from collections.abc import Iterator

import pytest

from fixture_types import MakeUser
from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import LogService
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

MAKE_JOB = """
    INSERT INTO jobs (job_id, user_id, name, source_type, code_dir, job_dir, job_command, runner_image,
        timeout_seconds, queue_timeout_seconds, queue_name, queue_deadline_at)
    VALUES (%s, %s, 'job', 'none', '/job/src', '/job/src', 'true', 'image', 60, 60, 'q', now() + '1 min')
"""
MAKE_WORKER = """
    INSERT INTO workers (worker_id, name, boot_id, queues, slots, version) VALUES (%s, %s, %s, '{q}', 1, '1')
"""
MAKE_ATTEMPT = """
    INSERT INTO attempts (job_id, attempt, lease_id, worker_id, started_at, lease_expires_at)
    VALUES (%s, %s, %s, %s, now(), now() + '1 min')
"""
START = """
    UPDATE jobs SET attempt = %s, runs = %s, max_runs = 9, status = 'running',
        lease_id = %s, lease_worker = %s, started_at = now(), deadline_at = now(), version = version + 1
     WHERE job_id = %s
"""
END = """
    UPDATE jobs SET status = 'completed', exit_code = 0, reason = 'ok', fault = 'none', completed_at = now(),
        lease_id = NULL, lease_worker = NULL, version = version + 1
     WHERE job_id = %s
"""
END_ATTEMPT = """
    UPDATE attempts SET ended_at = now(), final_log_length = %s, final_log_sha256 = %s
     WHERE job_id = %s AND attempt = %s
"""


class Rows:
    """Makes and moves rows without the services that usually do."""

    def __init__(self, database: Database, make_user: MakeUser) -> None:
        self._database = database
        self._make_user = make_user

    async def running(self, job_id: str | None = None, attempt: int = 1) -> Claim:
        """Return the claim of a running attempt, of a new job unless ``job_id`` names one."""
        worker_id, lease_id = str(uuid.uuid4()), str(uuid.uuid4())
        owner = await self._make_user()
        async with self._database.transaction() as tx:
            if job_id is None:
                job_id = str(uuid.uuid4())
                await tx.execute(MAKE_JOB, [job_id, owner.user_id])
            await tx.execute(MAKE_WORKER, [worker_id, worker_id, worker_id])
            await tx.execute(MAKE_ATTEMPT, [job_id, attempt, lease_id, worker_id])
            await tx.execute(START, [attempt, attempt, lease_id, worker_id, job_id])
        return Claim(job_id, attempt, lease_id, worker_id)

    async def end(self, claim: Claim, whole: bytes | None, *, is_job_over: bool = True) -> None:
        """End an attempt that promises the log ``whole``; None: its worker was lost."""
        promise = (None, None) if whole is None else (len(whole), hashlib.sha256(whole).digest())
        async with self._database.transaction() as tx:
            await tx.execute(END_ATTEMPT, [*promise, claim.job_id, claim.attempt])
            if is_job_over:
                await tx.execute(END, [claim.job_id])

    async def shift_end(self, claim: Claim, interval: str) -> None:
        """Let the end of an attempt lie ``interval`` further back."""
        async with self._database.transaction() as tx:
            await tx.execute(
                "UPDATE attempts SET ended_at = ended_at - %s::interval WHERE lease_id = %s",
                [interval, claim.lease_id],
            )

    async def attempt_row(self, claim: Claim) -> dict[str, object]:
        """Return what the database holds of an attempt, and `logs_object_key` of its job."""
        async with self._database.transaction() as tx:
            cursor = await tx.execute(
                "SELECT attempts.*, logs_object_key FROM attempts JOIN jobs USING (job_id)"
                " WHERE attempts.lease_id = %s",
                [claim.lease_id],
            )
            row = await cursor.fetchone()
        assert row is not None
        return row

    async def delete_job(self, job_id: str) -> None:
        async with self._database.transaction() as tx:
            await tx.execute("DELETE FROM jobs WHERE job_id = %s", [job_id])


def piece(data: bytes, stream: str = "o", at: int = 1_700_000_000_000) -> list[LogPiece]:
    """Return ``data`` as one piece."""
    return [LogPiece(at, stream, len(data))] if data else []  # type: ignore[arg-type]


def random_cuts(data: bytes, seed: int, largest: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``data`` in parts of random length, with their offsets."""
    choose, offset = random.Random(seed), 0
    while offset < len(data):
        part = data[offset : offset + choose.randint(1, largest)]
        yield offset, part
        offset += len(part)


@pytest.fixture
def rows(database: Database, make_user: MakeUser) -> Rows:
    return Rows(database, make_user)


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def bell(database: Database) -> Bell:
    return Bell(database)


@pytest.fixture
def service(database: Database, objects: MemoryObjectStore, bell: Bell) -> LogService:
    return LogService(database, objects, bell)


@pytest.fixture
def reader(database: Database, objects: MemoryObjectStore, bell: Bell) -> LogReader:
    return LogReader(database, objects, bell)


async def whole(reader: LogReader, claim: Claim) -> bytes:
    """Return all of an attempt's log."""
    log = await reader.find(claim.job_id, claim.attempt)
    return b"".join([data async for data in reader.read(log, 0, log.length)])
