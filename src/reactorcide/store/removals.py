"""The record of removals: who or what removed which job, log or artifacts; and the deletion of jobs (T10).

Whatever takes something away writes its entry in the same statement or transaction, so that nothing goes
unrecorded and nothing is recorded that stayed.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

import msgspec

from reactorcide.domain.removals import Removal, RemovalCause, RemovedThing
from reactorcide.domain.status import FINAL
from reactorcide.store.database import Transaction

# What a job kept: its attempts are read as they were before the row took them along.
_RECORD_JOBS = """
    INSERT INTO removals (what, why, actor, job_id, job_name, user_id, size_bytes)
    SELECT 'job', %(why)s, %(actor)s, g.job_id, g.name, g.user_id, (
        SELECT coalesce(sum(
                   CASE WHEN a.log_removed_at IS NULL THEN a.log_length ELSE 0 END
                   + CASE WHEN a.artifacts_removed_at IS NULL THEN coalesce(a.artifact_bytes, 0) ELSE 0 END
               ), 0)
          FROM attempts a WHERE a.job_id = g.job_id)
      FROM gone g
    RETURNING job_id, size_bytes
"""
_DELETE_JOB = f"""
    WITH gone AS (
        DELETE FROM jobs WHERE job_id = %(job_id)s AND status = ANY(%(final)s)
        RETURNING job_id, name, user_id
    ) {_RECORD_JOBS}
"""  # noqa: S608 - constants
AWAITS_DELIVERY = """EXISTS (
    SELECT FROM attempts a
     WHERE a.job_id = j.job_id AND a.ended_at > now() - %(delivery)s
       AND (a.log_sealed_at IS NULL
            OR a.artifacts > 0 AND a.artifacts_removed_at IS NULL AND j.artifacts_object_key IS NULL))
"""
"""Whether of job ``j`` a worker may still bring something."""
_DELETE_OLD_JOBS = f"""
    WITH due AS MATERIALIZED (
        SELECT j.job_id FROM jobs j
         WHERE j.completed_at < now() - %(kept_for)s
           AND NOT {AWAITS_DELIVERY}
         ORDER BY j.completed_at, j.job_id LIMIT %(limit)s
           FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM jobs j USING due WHERE j.job_id = due.job_id
        RETURNING j.job_id, j.name, j.user_id
    ) {_RECORD_JOBS}
"""  # noqa: S608 - constants
_RECORD_OBJECTS = """
    INSERT INTO removals (what, why, actor, job_id, user_id, size_bytes, objects, object_key)
    SELECT 'objects', 'orphan', %(actor)s, job_id, user_id, size_bytes, objects, object_key
      FROM json_to_recordset(%(rows)s::json)
           AS r (job_id uuid, user_id uuid, size_bytes bigint, objects int, object_key text)
"""
_RECORD_LOST_FILES = """
    INSERT INTO removals (
        what, why, actor, job_id, attempt, job_name, user_id, size_bytes, objects, object_key)
    SELECT 'objects', 'lost', %(actor)s, j.job_id, %(attempt)s, j.name, j.user_id, %(size_bytes)s,
           %(objects)s, %(object_key)s
      FROM jobs j WHERE j.job_id = %(job_id)s
"""
_LIST = """
    SELECT removal_id, removed_at, what, why, actor, size_bytes, job_id, attempt, job_name, user_id, objects,
           object_key
      FROM removals
     WHERE removal_id < %(before)s AND (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)
     ORDER BY removal_id DESC LIMIT %(limit)s
"""
_EXPIRE = """
    DELETE FROM removals WHERE removal_id IN (
        SELECT removal_id FROM removals WHERE removed_at < now() - %(kept_for)s
         ORDER BY removed_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""

JobRemoval = tuple[str, int]
"""The id of a deleted job, and how many bytes of logs and artifacts it had."""


async def delete_job(tx: Transaction, job_id: str, *, actor: str) -> bool:
    """Delete a job that has ended, with its attempts and events, at somebody's wish.

    False: it is not there or has not ended.
    """
    given = {"job_id": job_id, "final": sorted(FINAL), "why": RemovalCause.ASKED, "actor": actor}
    return await (await tx.execute(_DELETE_JOB, given)).fetchone() is not None


async def delete_old_jobs(
    tx: Transaction, *, kept_for: timedelta, delivery: timedelta, actor: str, limit: int
) -> list[JobRemoval]:
    """Delete at most ``limit`` jobs that ended longer than ``kept_for`` ago, oldest first.

    Spared is for ``delivery`` after its end a job whose log or artifacts have not all come.
    """
    cursor = await tx.execute(
        _DELETE_OLD_JOBS,
        {
            "kept_for": kept_for,
            "delivery": delivery,
            "limit": limit,
            "why": RemovalCause.AGE,
            "actor": actor,
        },
    )
    return [(row["job_id"], int(row["size_bytes"])) for row in await cursor.fetchall()]


async def record_orphans(tx: Transaction, found: Sequence[Removal], *, actor: str) -> None:
    """Record objects that belonged to nothing."""
    names = ("job_id", "user_id", "size_bytes", "objects", "object_key")
    rows = [{name: value for name, value in asdict(entry).items() if name in names} for entry in found]
    await tx.execute(_RECORD_OBJECTS, {"rows": msgspec.json.encode(rows).decode(), "actor": actor})


async def record_lost_files(
    tx: Transaction, job_id: str, attempt: int, *, size_bytes: int, objects: int, object_key: str, actor: str
) -> None:
    """Record that the store has lost some of the artifacts of an attempt; not if the job is gone."""
    await tx.execute(
        _RECORD_LOST_FILES,
        {
            "job_id": job_id,
            "attempt": attempt,
            "size_bytes": size_bytes,
            "objects": objects,
            "object_key": object_key,
            "actor": actor,
        },
    )


async def list_removals(tx: Transaction, *, job_id: str | None, before: int, limit: int) -> list[Removal]:
    """Return at most ``limit`` entries with ids below ``before``, newest first."""
    cursor = await tx.execute(_LIST, {"job_id": job_id, "before": before, "limit": limit})
    return [
        Removal(**row | {"what": RemovedThing(row["what"]), "why": RemovalCause(row["why"])})
        for row in await cursor.fetchall()
    ]


async def expire_removals(tx: Transaction, *, kept_for: timedelta, limit: int) -> int:
    """Forget entries older than ``kept_for``; return how many."""
    return (await tx.execute(_EXPIRE, {"kept_for": kept_for, "limit": limit})).rowcount
