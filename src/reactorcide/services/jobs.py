"""Jobs, as their owners see them: submit, read, list, cancel, retry, delete."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import (
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InputFault,
    InvalidInput,
    NotFound,
)
from reactorcide.domain.explanations import tell_waiting
from reactorcide.domain.ids import is_id
from reactorcide.domain.jobs import REDACTED, Job, JobEvent, JobSpec
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest, SubmissionPolicy, freeze_request
from reactorcide.queue.port import Announcement, ReadyQueue, Withdrawal
from reactorcide.services.group_commit import GroupCommit
from reactorcide.services.new_ids import IdSource
from reactorcide.services.page_cursors import decode_cursor, encode_cursor
from reactorcide.services.tally import JobTally
from reactorcide.services.vault import Vault
from reactorcide.store import idempotency as keys
from reactorcide.store import job_lists, jobs, outbox, removals
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database, Transaction
from reactorcide.store.explanations import look_at_job
from reactorcide.store.job_lists import JobFilter, PageKey
from reactorcide.store.trees import use_tree
from reactorcide.store.workers import LIVE_HEARTBEATS
from runnerlib.spec import rules

__all__ = ["IdempotencyKey", "JobFilter", "JobPage", "JobService", "Submission"]

GIT_URL_SECRET = "\0git_url"  # noqa: S105 - a name no variable can have
"""Under this name the sealed secrets keep a git URL that has a password in it."""
_KEY = re.compile(r"[!-~]{1,255}")
_SUBMIT_ROUTE = "POST /jobs"
_LOOK_EVERY = timedelta(seconds=5)
"""How long a lost ring of the bell may delay who waits for a change."""


@dataclass(frozen=True)
class IdempotencyKey:
    """A client's name for one submission, and the SHA-256 of its parsed body."""

    key: str
    fingerprint: bytes


@dataclass(frozen=True)
class Submission:
    """The job of a submission; ``replayed`` if an earlier one with the same key made it."""

    job: Job
    replayed: bool


@dataclass(frozen=True)
class JobPage:
    """A page of a list. ``total`` counts all pages and is None when paged by cursor."""

    jobs: list[Job]
    total: int | None
    next_cursor: str | None


class JobService:
    """What owners and admins may do with jobs.

    Args:
        heartbeat: between two heartbeats of a worker; tells which workers count as live.
    """

    def __init__(
        self,
        database: Database,
        queue: ReadyQueue,
        bell: Bell,
        vault: Vault,
        policy: SubmissionPolicy,
        *,
        tally: JobTally,
        heartbeat: timedelta = timedelta(seconds=10),
    ) -> None:
        self._database = database
        self._queue = queue
        self._bell = bell
        self._vault = vault
        self._policy = policy
        self._tally = tally
        self._heartbeat = heartbeat
        self._ids = IdSource()
        self._commits = GroupCommit(self._commit_jobs)

    async def submit(
        self, caller: Principal, request: JobRequest, idempotency: IdempotencyKey | None = None
    ) -> Submission:
        """Make a job (T1). When this returns, it is committed.

        Raises:
            InvalidInput: with every fault; nothing was made.
            IdempotencyMismatch: the key came before, with another body.
            Conflict: the job that the key made was deleted.
            Unavailable: whether the job was made is unknown; the same key tells.
        """
        spec = freeze_request(request, self._policy)
        await self._check_tree(caller, spec)
        key = None
        if idempotency is not None:
            if not _KEY.fullmatch(idempotency.key):
                fault = "must be 1 to 255 visible ASCII characters"
                raise InvalidInput([InputFault("header Idempotency-Key", fault)])
            owner = f"{caller.user_id} {_SUBMIT_ROUTE}"
            key = jobs.KeyOfJob(owner, idempotency.key, idempotency.fingerprint)
        return await self._enter(caller.user_id, spec, key=key)

    async def retry(self, caller: Principal, job_id: str) -> Job:
        """Make a new job of the same frozen spec, secrets included, for the owner of the old one.

        Raises:
            NotFound, Forbidden: as `get`.
            Conflict: the old job has not ended.
        """
        old = await self.get(caller, job_id)
        if not old.status.is_final:
            raise Conflict("only a job that has ended can be retried", old.status)
        async with self._database.transaction() as tx:
            sealed = await jobs.find_sealed_secrets(tx, job_id)
        secrets = self._vault.open(job_id, sealed) if sealed is not None else {}
        git_url = secrets.pop(GIT_URL_SECRET, old.spec.git_url)
        spec = replace(old.spec, git_url=git_url, job_secrets=secrets)
        return (await self._enter(old.user_id, spec, retry_of=job_id)).job

    async def get(self, caller: Principal, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none of this id.
            Forbidden: it is somebody else's.
        """
        async with self._database.transaction() as tx:
            return await _find_own(tx, caller, job_id)

    async def wait_for_change(
        self, caller: Principal, job_id: str, version: int | None, timeout: timedelta
    ) -> Job:
        """Return the job as soon as it is not of ``version`` (None: as it is now) or has ended.

        After ``timeout`` it is returned as it is.

        Raises:
            NotFound, Forbidden: as `get`.
        """
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout.total_seconds()
        with self._bell.listen(f"job:{job_id}") as ear:
            while True:
                job = await self.get(caller, job_id)
                version = job.version if version is None else version
                left = timedelta(seconds=deadline - clock.time())
                if job.version != version or job.status.is_final or left <= timedelta():
                    return job
                await ear.wait(min(left, _LOOK_EVERY))

    async def list_page(self, caller: Principal, wanted: JobFilter, *, limit: int, offset: int) -> JobPage:
        """Return the page that begins after ``offset`` jobs, and how many there are in all.

        Raises:
            InvalidInput: the filter's user id is not an id.
            Forbidden: the jobs of another user are asked for, and the caller is no admin.
        """
        wanted = _limit_to_own(caller, wanted)
        async with self._database.transaction() as tx:
            found = await job_lists.list_jobs(tx, wanted, limit=limit + 1, offset=offset)
            total = await job_lists.count_jobs(tx, wanted)
        return _page(found, limit, total)

    async def list_after(self, caller: Principal, wanted: JobFilter, *, limit: int, cursor: str) -> JobPage:
        """Return the page that an earlier page's ``next_cursor`` names; jobs made meanwhile do not shift it.

        Raises:
            InvalidInput: ``cursor`` is not one of ours.
            InvalidInput, Forbidden: as `list_page`.
        """
        after = decode_cursor(cursor)
        wanted = _limit_to_own(caller, wanted)
        async with self._database.transaction() as tx:
            found = await job_lists.list_jobs(tx, wanted, limit=limit + 1, after=after)
        return _page(found, limit, None)

    async def cancel(self, caller: Principal, job_id: str, *, force: bool = False) -> Job:
        """Ask for the end of a job (T7): a waiting one ends here, a running one when its worker obeys.

        ``force`` lets the worker kill it without grace. May be repeated.

        Raises:
            NotFound, Forbidden: as `get`.
            Conflict: the job has ended otherwise.
        """

        async def cancel(tx: Transaction) -> tuple[Job, bool, str | None]:
            await _find_own(tx, caller, job_id)
            effect = await jobs.cancel_job(tx, job_id, force=force, actor=f"user:{caller.user_id}")
            job = await _find_own(tx, caller, job_id)
            return job, effect is not None, effect.worker_id if effect else None

        job, was_changed, worker_id = await self._database.run(cancel)
        if job.status.is_final and job.status is not JobStatus.CANCELLED:
            raise Conflict(f"the job has ended: {job.status}", job.status)
        self._bell.ring(f"job:{job_id}", *([f"worker:{worker_id}"] if worker_id else []))
        if was_changed and job.status.is_final:
            self._tally.note_end(job_id)
            withdrawn = Withdrawal(job_id, job.spec.queue_name, job.corndogs_task_id)
            await self._queue.withdraw([withdrawn])
        return job

    async def delete(self, caller: Principal, job_id: str) -> None:
        """Delete a job that has ended (T10), now its rows, soon its log and artifacts. For admins only.

        Raises:
            Forbidden: the caller is no admin.
            NotFound: there is no such job.
            Conflict: it has not ended.
        """
        if not caller.is_admin:
            raise Forbidden("only an admin may delete a job")

        async def delete(tx: Transaction) -> Job | None:
            job = await _find_own(tx, caller, job_id)
            if not await removals.delete_job(tx, job_id, actor=f"user:{caller.user_id}"):
                return job
            await outbox.add_entry(tx, outbox.PURGE_OBJECTS, f"purge:{job_id}", {"job_id": job_id})
            return None

        kept = await self._database.run(delete)
        if kept is not None:
            raise Conflict("the job has not ended: cancel it first", kept.status)
        self._bell.ring(f"job:{job_id}")

    async def events(self, caller: Principal, job_id: str) -> list[JobEvent]:
        """Return every transition of a job, oldest first.

        Raises:
            NotFound, Forbidden: as `get`.
        """
        async with self._database.transaction() as tx:
            await _find_own(tx, caller, job_id)
            return await jobs.list_events(tx, job_id)

    async def waiting_reason(self, job: Job) -> str | None:
        """Return why a ready job does not run yet, in words for its owner; None: it does not wait."""
        if job.status not in (JobStatus.SUBMITTED, JobStatus.QUEUED):
            return None
        async with self._database.transaction() as tx:
            sight = await look_at_job(tx, job.job_id, silence=self._heartbeat * LIVE_HEARTBEATS)
        return tell_waiting(sight) if sight else None

    async def _check_tree(self, caller: Principal, spec: JobSpec) -> None:
        """Raise InvalidInput unless the tree of a job is there; it is kept for a while from now on."""
        sha256 = spec.source_tree
        if sha256 is not None and not await self._database.run(
            lambda tx: use_tree(tx, caller.user_id, sha256)
        ):
            raise InvalidInput(
                [InputFault("/source_tree", "no tree of yours has this name: upload it first")]
            )

    async def _enter(
        self, user_id: str, spec: JobSpec, *, key: jobs.KeyOfJob | None = None, retry_of: str | None = None
    ) -> Submission:
        job_id = self._ids.new_id()
        secrets, git_url = dict(spec.job_secrets), spec.git_url
        if git_url is not None and rules.url_credential(git_url) is not None:
            secrets[GIT_URL_SECRET] = git_url
            git_url = rules.redact_url(git_url)
        row = jobs.NewJob(
            job_id=job_id,
            user_id=user_id,
            spec=replace(spec, git_url=git_url, job_secrets=dict.fromkeys(spec.job_secrets, REDACTED)),
            sealed=self._vault.seal(job_id, secrets) if secrets else None,
            is_queued=self._queue.rows_are_the_queue,
            retry_of=retry_of,
            key=key,
        )
        submission = await self._commits.put(row)
        if not submission.replayed:
            await self._queue.announce([Announcement(job_id, spec.queue_name, attempt_hint=0)])
        return submission

    async def _commit_jobs(self, rows: Sequence[jobs.NewJob]) -> Sequence[Submission | Exception]:
        async def commit(tx: Transaction) -> list[Submission | Exception]:
            times = await jobs.insert_jobs(tx, rows)
            return [
                Submission(_as_inserted(row, times[row.job_id]), replayed=False)
                if row.job_id in times
                else await _replay(tx, row)
                for row in rows
            ]

        try:
            return await self._database.run(commit)
        except jobs.RowsRefused as error:
            if len(rows) == 1:
                return [error]
        # A row that cannot be stored fails alone.
        return [(await self._commit_jobs([row]))[0] for row in rows]


async def _find_own(tx: Transaction, caller: Principal, job_id: str) -> Job:
    job = await jobs.find_job(tx, job_id) if is_id(job_id) else None
    if job is None:
        raise NotFound("job", job_id)
    if not caller.may_access(job.user_id):
        raise Forbidden("the job is somebody else's")
    return job


async def _replay(tx: Transaction, row: jobs.NewJob) -> Submission | Exception:
    """Return what the earlier use of the row's idempotency key made."""
    used = await keys.find_key(tx, row.key.owner, row.key.key) if row.key else None
    if row.key is None or used is None:
        return Conflict("the Idempotency-Key has just expired: send the request again")
    if used.fingerprint != row.key.fingerprint:
        return IdempotencyMismatch("this Idempotency-Key came before, with another body")
    job = await jobs.find_job(tx, used.job_id)
    if job is None:
        return Conflict("the job that this Idempotency-Key made has been deleted")
    return Submission(job, replayed=True)


def _as_inserted(row: jobs.NewJob, created_at: datetime) -> Job:
    return Job(
        job_id=row.job_id,
        user_id=row.user_id,
        spec=row.spec,
        status=JobStatus.QUEUED if row.is_queued else JobStatus.SUBMITTED,
        attempt=0,
        runs=0,
        max_runs=1 + row.spec.retry_on_lost,
        desired=0,
        created_at=created_at,
        updated_at=created_at,
        version=2 if row.is_queued else 1,
        queued_at=created_at if row.is_queued else None,
        not_before=created_at,
        retry_of=row.retry_of,
    )


def _limit_to_own(caller: Principal, wanted: JobFilter) -> JobFilter:
    if wanted.user_id is not None and not is_id(wanted.user_id):
        raise InvalidInput([InputFault("?user_id", "must be the id of a user")])
    if caller.is_admin:
        return wanted
    if wanted.user_id not in (None, caller.user_id):
        raise Forbidden("only an admin may list the jobs of another user")
    return replace(wanted, user_id=caller.user_id)


def _page(found: list[Job], limit: int, total: int | None) -> JobPage:
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else None
    cursor = encode_cursor(PageKey(last.created_at, last.job_id)) if last else None
    return JobPage(shown, total, cursor)
