"""One look at a job: all that is told of what it does or why it ended, read at one moment."""
# ruff: noqa: S608 - every part of a statement is a constant of ours

from datetime import timedelta

from reactorcide.domain.explanations import POSITIONS_COUNTED, AttemptSight, JobSight, QueueSight
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus
from reactorcide.store.attempts import MAX_ATTEMPTS
from reactorcide.store.database import Row, Transaction
from reactorcide.store.workers import IS_LIVE

_WAITS = "j.status IN ('submitted', 'queued')"
_QUEUE = f"""
    SELECT count(*) FILTER (WHERE is_able) AS able_workers,
           count(*) FILTER (WHERE is_live AND draining) AS draining_workers,
           count(*) FILTER (WHERE is_live AND NOT draining AND disk_full) AS full_workers,
           coalesce(sum(slots) FILTER (WHERE is_able), 0)::int AS slots,
           coalesce(sum(busy) FILTER (WHERE is_able), 0)::int AS busy_slots,
           CASE WHEN NOT bool_or(is_live)
                THEN (array_agg(name ORDER BY last_seen_at DESC))[1] END AS last_worker,
           CASE WHEN NOT bool_or(is_live)
                THEN extract(epoch FROM now() - max(last_seen_at))::float8 END AS last_seen_seconds
      FROM (SELECT w.name, w.slots, w.draining, w.disk_full, w.last_seen_at, {IS_LIVE} AS is_live,
                   {IS_LIVE} AND NOT w.draining AND NOT w.disk_full AS is_able,
                   (SELECT count(*) FROM attempts held
                     WHERE held.worker_id = w.worker_id AND held.ended_at IS NULL) AS busy
              FROM workers w WHERE {_WAITS} AND j.queue_name = ANY(w.queues)) of_queue
"""
# Of a rank above ours among those that may be claimed now.
_AHEAD = f"""
    SELECT count(*) AS jobs_ahead FROM (
        SELECT 1 FROM jobs o
         WHERE {_WAITS} AND o.queue_name = j.queue_name AND o.status IN ('submitted', 'queued')
           AND o.lease_id IS NULL AND o.desired = 0 AND o.not_before <= now() AND o.queue_deadline_at > now()
           AND (o.priority > j.priority OR o.priority = j.priority
                AND (o.created_at, o.job_id) < (j.created_at, j.job_id))
         LIMIT {POSITIONS_COUNTED}) before
"""
_LOOK = f"""
    SELECT j.job_id, j.user_id, j.queue_name, j.status, j.attempt, j.runs, j.max_runs, j.desired,
           j.runs < j.max_runs AND j.attempt < {MAX_ATTEMPTS} AS may_run_again,
           j.lease_id IS NOT NULL AS is_claimed,
           j.ticket_due_at IS NOT NULL AND j.ticket_attempt IS DISTINCT FROM j.attempt AS is_unannounced,
           j.timeout_seconds, j.queue_timeout_seconds, j.silence_timeout_seconds,
           j.completed_at, j.reason, j.fault, j.message, j.exit_code, j.signal,
           extract(epoch FROM coalesce(j.completed_at, now())
               - coalesce(j.queued_at, j.created_at))::float8 AS waiting_seconds,
           extract(epoch FROM j.not_before - now())::float8 AS rest_seconds,
           extract(epoch FROM j.queue_deadline_at - now())::float8 AS queue_deadline_seconds,
           extract(epoch FROM coalesce(j.completed_at, now()) - j.started_at)::float8 AS running_seconds,
           extract(epoch FROM j.deadline_at - now())::float8 AS deadline_seconds,
           extract(epoch FROM now() - j.desired_at)::float8 AS desired_seconds,
           asker.username AS desired_by, last_event.actor AS last_actor,
           w.name AS worker, a.started_at IS NOT NULL AS is_started, a.ended_at IS NOT NULL AS is_ended,
           extract(epoch FROM now() - a.claimed_at)::float8 AS claimed_seconds,
           a.lease_expires_at, extract(epoch FROM a.lease_expires_at - now())::float8 AS lease_left_seconds,
           extract(epoch FROM now() - w.last_seen_at)::float8 AS worker_silent_seconds,
           a.log_length, a.final_log_length AS promised_log_length,
           a.log_sealed_at IS NOT NULL AS is_log_sealed,
           q.*, ahead.*
      FROM jobs j
      LEFT JOIN attempts a ON a.job_id = j.job_id AND a.attempt = j.attempt
      LEFT JOIN workers w ON w.worker_id = a.worker_id
      LEFT JOIN users asker ON asker.user_id
                = CASE WHEN j.desired_by LIKE 'user:%%' THEN substr(j.desired_by, 6)::uuid END
      LEFT JOIN LATERAL (
           SELECT actor FROM job_events e WHERE e.job_id = j.job_id ORDER BY seq DESC LIMIT 1
           ) last_event ON true
      LEFT JOIN LATERAL ({_QUEUE}) q ON {_WAITS}
      LEFT JOIN LATERAL ({_AHEAD}) ahead ON {_WAITS}
     WHERE j.job_id = %(job_id)s
"""
_OF_JOB = (
    *("job_id", "user_id", "queue_name", "attempt", "runs", "max_runs", "may_run_again", "desired"),
    *("is_claimed", "is_unannounced", "timeout_seconds", "queue_timeout_seconds", "silence_timeout_seconds"),
    *("waiting_seconds", "rest_seconds", "queue_deadline_seconds", "running_seconds", "deadline_seconds"),
    *("completed_at", "message", "exit_code", "signal", "desired_seconds", "desired_by"),
)
_OF_ATTEMPT = (
    *("worker", "is_started", "is_ended", "claimed_seconds", "lease_expires_at", "lease_left_seconds"),
    *("worker_silent_seconds", "log_length", "promised_log_length", "is_log_sealed"),
)
_OF_QUEUE = (
    *("able_workers", "draining_workers", "full_workers", "slots", "busy_slots", "jobs_ahead"),
    *("last_worker", "last_seen_seconds"),
)


async def look_at_job(tx: Transaction, job_id: str, *, silence: timedelta) -> JobSight | None:
    """Return what is seen of a job, None if there is none of this id.

    Args:
        silence: a worker counts as live for so long after it was heard of.
    """
    row = await (await tx.execute(_LOOK, {"job_id": job_id, "silence": silence})).fetchone()
    if row is None:
        return None
    return JobSight(
        status=JobStatus(row["status"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        fault=Fault(row["fault"]) if row["fault"] else None,
        last_actor=row["last_actor"] or "",
        newest=AttemptSight(**_part(row, _OF_ATTEMPT)) if row["worker"] is not None else None,
        queue=QueueSight(**_part(row, _OF_QUEUE)) if row["slots"] is not None else None,
        **_part(row, _OF_JOB),
    )


def _part(row: Row, names: tuple[str, ...]) -> Row:
    return {name: row[name] for name in names}
