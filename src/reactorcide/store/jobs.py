"""The rows of jobs: submission (T1), cancellation (T7), end of waiting, and reading one.

Each change of status is one guarded statement with its event. It first locks the job's row, so that the
guard sees the latest version. An event's number is the version that its change gave the job: numbers rise,
with gaps where something else than the status changed.
"""
# ruff: noqa: S608 - every part of a statement is a constant of ours

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast

import msgspec
import psycopg

from reactorcide.domain.errors import ReactorcideError
from reactorcide.domain.jobs import REDACTED, AttemptLimits, Job, JobEvent, JobResources, JobSpec
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.removals import Loss, RemovalCause
from reactorcide.domain.status import READY, Desired, JobStatus, sources_of
from reactorcide.store.database import Row, Transaction

JOB_COLUMNS = """
    j.job_id, j.user_id, j.name, j.description, j.source_type, j.git_url, j.git_ref, j.source_path,
    j.source_tree, j.source_commit, j.source_changes, j.code_dir, j.job_dir, j.job_command, j.runner_image,
    j.job_env_vars, j.job_secret_names, j.job_env_file, j.timeout_seconds, j.queue_timeout_seconds,
    j.silence_timeout_seconds, j.priority, j.queue_name, j.retry_on_lost, j.artifacts, j.resources,
    j.network, j.labels, j.retry_of, j.status, j.version, j.desired, j.attempt, j.runs, j.max_runs,
    j.not_before, j.created_at, j.updated_at, j.queued_at, j.started_at, j.deadline_at, j.completed_at,
    j.worker_name, j.exit_code, j.signal, j.reason, j.fault, j.message, j.resolved_sha, j.corndogs_task_id,
    j.logs_object_key, j.artifacts_object_key,
    CASE WHEN a.log_removed_at IS NULL THEN a.log_length END AS log_length, a.log_removed_at,
    a.log_removed_why, a.artifacts_removed_at, a.artifacts_removed_why, a.isolation, a.image_digest, a.limits
"""
JOB_SOURCE = "jobs j LEFT JOIN attempts a ON a.job_id = j.job_id AND a.attempt = j.attempt"

_INSERT_JOBS = """
    WITH wanted AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
            job_id uuid, user_id uuid, name text, description text, source_type text, git_url text,
            git_ref text, source_path text, source_tree text, source_commit text, source_changes int,
            code_dir text, job_dir text, job_command text, runner_image text,
            job_env_vars jsonb, job_secret_names text[], job_secrets text, job_env_file text,
            timeout_seconds int, queue_timeout_seconds int, silence_timeout_seconds int, priority smallint,
            queue_name text, retry_on_lost smallint, artifacts jsonb, resources jsonb, network text,
            labels jsonb, retry_of uuid, is_queued boolean, owner text, key text, fingerprint text)
    ), claimed_key AS (
        INSERT INTO idempotency (owner, key, fingerprint, job_id)
        SELECT owner, key, decode(fingerprint, 'base64'), job_id FROM wanted WHERE key IS NOT NULL
         ORDER BY owner, key
        ON CONFLICT DO NOTHING RETURNING job_id
    ), fresh AS MATERIALIZED (
        SELECT * FROM wanted WHERE key IS NULL OR job_id IN (SELECT job_id FROM claimed_key)
    ), inserted AS (
        INSERT INTO jobs (
            job_id, user_id, name, description, source_type, git_url, git_ref, source_path, source_tree,
            source_commit, source_changes, code_dir, job_dir, job_command, runner_image, job_env_vars,
            job_secret_names, job_secrets, job_env_file, timeout_seconds, queue_timeout_seconds,
            silence_timeout_seconds, priority, queue_name, retry_on_lost, artifacts, resources,
            network, labels, retry_of, max_runs, queue_deadline_at, status, version, queued_at, ticket_due_at)
        SELECT job_id, user_id, name, description, source_type, git_url, git_ref, source_path, source_tree,
            source_commit, source_changes, code_dir, job_dir, job_command, runner_image, job_env_vars,
            job_secret_names, decode(job_secrets, 'base64'), job_env_file, timeout_seconds,
            queue_timeout_seconds, silence_timeout_seconds, priority, queue_name, retry_on_lost, artifacts,
            resources, network, labels, retry_of, 1 + retry_on_lost,
            now() + queue_timeout_seconds * interval '1 second',
            CASE WHEN is_queued THEN 'queued' ELSE 'submitted' END,
            CASE WHEN is_queued THEN 2 ELSE 1 END,
            CASE WHEN is_queued THEN now() END,
            CASE WHEN is_queued THEN NULL ELSE now() END
          FROM fresh
        RETURNING job_id, created_at
    ), told AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor)
        SELECT job_id, 1, NULL, 'submitted', 0, 'user:' || user_id FROM fresh
        UNION ALL
        SELECT job_id, 2, 'submitted', 'queued', 0, 'system:queue' FROM fresh WHERE is_queued
    )
    SELECT job_id, created_at FROM inserted
"""
_FIND_JOB = f"SELECT {JOB_COLUMNS} FROM {JOB_SOURCE} WHERE j.job_id = %(job_id)s"
_FIND_SEALED = "SELECT job_secrets FROM jobs WHERE job_id = %(job_id)s"
_FIND_ENDS = """
    SELECT j.queue_name, j.status, j.reason, j.worker_name AS worker,
           extract(epoch FROM j.completed_at - j.started_at)::float8 AS seconds,
           extract(epoch FROM j.started_at - j.created_at)::float8 AS waited_seconds,
           extract(epoch FROM a.started_at - a.claimed_at)::float8 AS claimed_seconds
      FROM jobs j LEFT JOIN attempts a ON a.job_id = j.job_id AND a.attempt = j.attempt
     WHERE j.job_id = ANY(%(job_ids)s::uuid[]) AND j.completed_at IS NOT NULL
"""
_LIST_EVENTS = """
    SELECT seq, at, from_status, to_status, attempt, actor, reason FROM job_events
     WHERE job_id = %(job_id)s ORDER BY seq
"""
_CANCEL = """
    WITH held AS MATERIALIZED (
        SELECT job_id, status AS from_status, status = ANY(%(ready)s) AND lease_id IS NULL AS ends
          FROM jobs WHERE job_id = %(job_id)s AND status = ANY(%(from)s)
           FOR UPDATE
    ), moved AS (
        UPDATE jobs j
           SET desired = %(desired)s, desired_at = now(), desired_by = %(actor)s,
               version = j.version + 1, updated_at = now(),
               status = CASE WHEN h.ends THEN 'cancelled' ELSE j.status END,
               completed_at = CASE WHEN h.ends THEN now() END,
               reason = CASE WHEN h.ends THEN 'cancelled_user' END,
               fault = CASE WHEN h.ends THEN 'none' END
          FROM held h
         WHERE j.job_id = h.job_id AND (h.ends OR j.desired < %(desired)s)
        RETURNING j.job_id, j.status, j.version, j.attempt, j.lease_worker, h.from_status, h.ends
    ), told AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor, reason)
        SELECT job_id, version, from_status, 'cancelled', attempt, %(actor)s, 'cancelled_user'
          FROM moved WHERE ends
    )
    SELECT lease_worker FROM moved
"""
_EXPIRE_WAITING = """
    WITH held AS MATERIALIZED (
        SELECT job_id, status AS from_status FROM jobs
         WHERE status IN ('submitted', 'queued') AND lease_id IS NULL AND queue_deadline_at < now()
         ORDER BY queue_deadline_at LIMIT %(limit)s
           FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE jobs j
           SET status = 'timeout', completed_at = now(), reason = 'timeout_queue', fault = 'infra',
               message = 'no worker took the job within its queue_timeout_seconds',
               version = j.version + 1, updated_at = now()
          FROM held h WHERE j.job_id = h.job_id
        RETURNING j.job_id, j.queue_name, j.corndogs_task_id, j.version, j.attempt, h.from_status
    ), told AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor, reason)
        SELECT job_id, version, from_status, 'timeout', attempt, 'system:maintenance', 'timeout_queue'
          FROM moved
    )
    SELECT job_id, queue_name, corndogs_task_id AS task_id FROM moved
"""


class RowsRefused(ReactorcideError):
    """The database refused one of the rows of an insert for what it holds; none is stored."""

    def __init__(self, count: int) -> None:
        super().__init__(f"one of {count} rows breaks a rule of the schema")
        self.count = count


@dataclass(frozen=True)
class KeyOfJob:
    """An idempotency key, and for what it stands."""

    owner: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True)
class NewJob:
    """A job to insert: secret values are in ``sealed`` alone, and in ``spec`` already redacted."""

    job_id: str
    user_id: str
    spec: JobSpec
    sealed: bytes | None
    is_queued: bool
    """The row itself is the queue's entry, so that the job is queued as soon as it is submitted."""
    retry_of: str | None = None
    key: KeyOfJob | None = None


@dataclass(frozen=True)
class CancelEffect:
    """What a cancellation changed: ``worker_id`` is who holds the job and must hear of it."""

    worker_id: str | None


async def insert_jobs(tx: Transaction, jobs: Sequence[NewJob]) -> dict[str, datetime]:
    """Insert jobs, events and idempotency keys (T1); return the creation time by job id.

    A job whose idempotency key was used before is left out.

    Raises:
        RowsRefused: at least one of them cannot be stored; the transaction is void.
    """
    rows = msgspec.json.encode([_insert_row(job) for job in jobs]).decode()
    try:
        cursor = await tx.execute(_INSERT_JOBS, {"rows": rows})
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        raise RowsRefused(len(jobs)) from error
    return {row["job_id"]: row["created_at"] for row in await cursor.fetchall()}


async def find_job(tx: Transaction, job_id: str) -> Job | None:
    """Return a job as it is now."""
    row = await (await tx.execute(_FIND_JOB, {"job_id": job_id})).fetchone()
    return job_of(row) if row else None


async def find_sealed_secrets(tx: Transaction, job_id: str) -> bytes | None:
    """Return the sealed secrets of a job, None if it has none."""
    row = await (await tx.execute(_FIND_SEALED, {"job_id": job_id})).fetchone()
    return row["job_secrets"] if row else None


@dataclass(frozen=True)
class JobEndFacts:
    """What is counted of a job that ended; both times are None if it never started."""

    queue_name: str
    status: str
    reason: str
    worker: str | None
    seconds: float | None
    """From its start to its end."""
    waited_seconds: float | None
    """From its submission to its start."""
    claimed_seconds: float | None
    """From the last claim to the start that followed it, None without one."""


async def find_ends(tx: Transaction, job_ids: Sequence[str]) -> list[JobEndFacts]:
    """Return how those of the jobs ended that have; deleted ones are left out."""
    cursor = await tx.execute(_FIND_ENDS, {"job_ids": list(job_ids)})
    return [JobEndFacts(**row) for row in await cursor.fetchall()]


async def list_events(tx: Transaction, job_id: str) -> list[JobEvent]:
    """Return the events of a job, oldest first."""
    cursor = await tx.execute(_LIST_EVENTS, {"job_id": job_id})
    return [_event_of(row) for row in await cursor.fetchall()]


async def cancel_job(tx: Transaction, job_id: str, *, force: bool, actor: str) -> CancelEffect | None:
    """Ask for the end of a job, which is at once if no worker holds it (T7).

    None: nothing changed, since the job has ended or as much was asked for already.
    """
    cursor = await tx.execute(
        _CANCEL,
        {
            "job_id": job_id,
            "desired": Desired.KILL if force else Desired.CANCEL,
            "ready": sorted(READY),
            "from": sources_of(JobStatus.CANCELLED),
            "actor": actor,
        },
    )
    row = await cursor.fetchone()
    return CancelEffect(row["lease_worker"]) if row else None


@dataclass(frozen=True)
class ExpiredJob:
    """A job that waited too long, and its ticket in an external queue."""

    job_id: str
    queue_name: str
    task_id: str | None


async def expire_waiting(tx: Transaction, *, limit: int) -> list[ExpiredJob]:
    """End at most ``limit`` jobs that waited too long for a worker; return them."""
    cursor = await tx.execute(_EXPIRE_WAITING, {"limit": limit})
    return [ExpiredJob(**row) for row in await cursor.fetchall()]


def job_of(row: Row) -> Job:
    """Return the job of a row of `JOB_COLUMNS`."""
    return Job(
        job_id=row["job_id"],
        user_id=row["user_id"],
        spec=spec_of(row),
        status=JobStatus(row["status"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        fault=Fault(row["fault"]) if row["fault"] else None,
        worker=row["worker_name"],
        log_size=row["log_length"],
        log_loss=loss_of(row, "log"),
        artifacts_loss=loss_of(row, "artifacts"),
        limits=AttemptLimits(**row["limits"]) if row["limits"] else None,
        **{name: row[name] for name in _SAME_IN_ROW_AND_JOB},
    )


def loss_of(row: Row, part: str) -> Loss | None:
    """Return the loss that a row tells of an attempt's `log` or `artifacts`."""
    at = row[f"{part}_removed_at"]
    return Loss(at, RemovalCause(row[f"{part}_removed_why"])) if at else None


def spec_of(row: Row) -> JobSpec:
    """Return the frozen spec of a row of `JOB_COLUMNS`, secret values redacted."""
    return JobSpec(
        job_secrets=dict.fromkeys(row["job_secret_names"], REDACTED),
        artifacts=tuple(row["artifacts"]),
        resources=JobResources(**row["resources"]),
        **{name: row[name] for name in _SAME_IN_ROW_AND_SPEC},
    )


_SAME_IN_ROW_AND_SPEC = (
    *("name", "description", "source_type", "git_url", "git_ref", "source_path", "source_tree"),
    *("source_commit", "source_changes", "code_dir", "job_dir"),
    *("job_command", "runner_image", "job_env_vars", "job_env_file", "timeout_seconds", "queue_name"),
    *("queue_timeout_seconds", "silence_timeout_seconds", "priority", "retry_on_lost", "network", "labels"),
)
_SAME_IN_ROW_AND_JOB = (
    *("attempt", "runs", "max_runs", "desired", "created_at", "updated_at", "version", "queued_at"),
    *("not_before", "started_at", "deadline_at", "completed_at", "exit_code", "signal", "message"),
    *("resolved_sha", "corndogs_task_id", "logs_object_key", "artifacts_object_key", "retry_of"),
    *("isolation", "image_digest"),
)


def limits_json(limits: AttemptLimits | None) -> str | None:
    """Return limits as they are kept, what is no limit left out."""
    if limits is None:
        return None
    return msgspec.json.encode(
        {name: value for name, value in asdict(limits).items() if value is not None}
    ).decode()


def _insert_row(job: NewJob) -> dict[str, Any]:
    spec = job.spec
    row: dict[str, Any] = {name: getattr(spec, name) for name in _SAME_IN_ROW_AND_SPEC}
    row |= {
        "job_id": job.job_id,
        "user_id": job.user_id,
        "job_secret_names": sorted(spec.job_secrets),
        "job_secrets": _base64(job.sealed),
        "artifacts": spec.artifacts,
        "resources": {name: value for name, value in asdict(spec.resources).items() if value is not None},
        "retry_of": job.retry_of,
        "is_queued": job.is_queued,
    }
    if job.key is not None:
        row |= {
            "owner": job.key.owner,
            "key": job.key.key,
            "fingerprint": _base64(job.key.fingerprint),
        }
    return row


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _event_of(row: Row) -> JobEvent:
    return JobEvent(
        seq=cast(int, row["seq"]),
        at=row["at"],
        from_status=JobStatus(row["from_status"]) if row["from_status"] else None,
        to_status=JobStatus(row["to_status"]),
        attempt=row["attempt"],
        actor=row["actor"],
        reason=Reason(row["reason"]) if row["reason"] else None,
    )
