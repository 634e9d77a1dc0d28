"""The rows of attempts: start (T4), heartbeat (T5), finish (T6), and the end of a lease (T8).

A lease is held exactly while its attempt has no end: whoever takes the lease from a job's row gives the
attempt its end in the same statement. Statements lock the worker's row first, then the job's, then the
attempt's, so that none waits for another in a circle. `lease_expires_at` beats in the attempt's slim row.
"""
# ruff: noqa: S608 - every part of a statement is a constant of ours

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import msgspec

from reactorcide.domain.jobs import AttemptOutcome, Claim, HeartbeatOrder, JobSpec
from reactorcide.domain.status import READY, Desired, JobStatus, sources_of
from reactorcide.domain.workers import WorkerReport
from reactorcide.store.database import Row, Transaction
from reactorcide.store.jobs import JOB_COLUMNS, JOB_SOURCE, limits_json, spec_of

MAX_ATTEMPTS = 50

_FENCE = """
    j.job_id = %(job_id)s AND j.attempt = %(attempt)s AND j.lease_id = %(lease_id)s
    AND j.lease_worker = %(worker_id)s
"""
_START = f"""
    WITH held AS MATERIALIZED (
        SELECT j.job_id, j.status AS from_status FROM jobs j
         WHERE {_FENCE} AND j.status = ANY(%(ready)s) AND j.status = ANY(%(from)s) AND j.desired = 0
           FOR UPDATE
    ), moved AS (
        UPDATE jobs j
           SET status = 'running', runs = j.runs + 1, started_at = now(), worker_name = w.name,
               deadline_at = now() + j.timeout_seconds * interval '1 second',
               version = j.version + 1, updated_at = now()
          FROM held h, attempts a, workers w
         WHERE j.job_id = h.job_id AND a.job_id = j.job_id AND a.attempt = %(attempt)s
           AND a.lease_id = %(lease_id)s AND a.ended_at IS NULL AND a.lease_expires_at > now()
           AND w.worker_id = a.worker_id
        RETURNING j.job_id, j.attempt, j.version, j.worker_name, h.from_status
    ), renewed AS (
        UPDATE attempts a SET started_at = now(), lease_expires_at = now() + %(lease)s
          FROM moved m WHERE a.job_id = m.job_id AND a.attempt = m.attempt
    ), told AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor)
        SELECT job_id, version, from_status, 'running', attempt, 'worker:' || worker_name FROM moved
    )
    SELECT 1 FROM moved
"""
_FIND_STARTED = f"""
    SELECT {JOB_COLUMNS}, j.job_secrets,
           extract(epoch FROM j.deadline_at - now())::float8 AS deadline_seconds,
           extract(epoch FROM a.lease_expires_at - now())::float8 AS lease_left_seconds
      FROM {JOB_SOURCE} WHERE {_FENCE} AND j.status = 'running'
"""
# What beats is soon repeated: this transaction need not wait for the disk.
_HEARTBEAT = """
    WITH held AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(held)s::json)
               AS h (place int, job_id uuid, attempt int, lease_id uuid)
    ), seen AS (
        UPDATE workers SET last_seen_at = now(), draining = %(draining)s, disk_full = %(disk_full)s,
               spooled = %(spooled)s, spool_bytes = %(spool_bytes)s
         WHERE worker_id = %(worker_id)s AND set_config('synchronous_commit', 'off', true) IS NOT NULL
        RETURNING worker_id
    ), mine AS MATERIALIZED (
        SELECT a.job_id, a.attempt, a.lease_id, a.started_at, a.log_watched_until
          FROM attempts a JOIN held h USING (job_id, attempt, lease_id)
         WHERE a.worker_id = (SELECT worker_id FROM seen) AND a.ended_at IS NULL
         ORDER BY a.job_id FOR UPDATE OF a
    ), renewed AS (
        -- A worker that beats but does not obey must not keep a job for ever: long past the deadline its
        -- lease runs out.
        UPDATE attempts a SET lease_expires_at = now() + %(lease)s
          FROM mine m JOIN jobs j USING (job_id)
         WHERE a.job_id = m.job_id AND a.attempt = m.attempt AND m.started_at IS NOT NULL
           AND now() <= j.deadline_at + %(grace)s + %(patience)s
    )
    SELECT h.place, m.job_id IS NOT NULL AS is_mine, coalesce(j.desired, 0) AS desired,
           coalesce(m.log_watched_until > now(), false) AS is_watched,
           coalesce(now() > j.deadline_at + %(grace)s, false) AS is_overdue
      FROM held h LEFT JOIN mine m USING (job_id, attempt, lease_id) LEFT JOIN jobs j ON j.job_id = h.job_id
"""
_FINISH = f"""
    WITH held AS MATERIALIZED (
        SELECT j.job_id, j.status AS from_status, %(status)s = 'cancelled' AND j.desired = 0 AS is_unasked
          FROM jobs j
         WHERE {_FENCE} AND j.status = 'running' AND j.status = ANY(%(from)s)
           FOR UPDATE
    ), moved AS (
        UPDATE jobs j
           SET status = CASE WHEN h.is_unasked THEN 'failed' ELSE %(status)s END,
               reason = CASE WHEN h.is_unasked THEN 'internal' ELSE %(reason)s END,
               fault = CASE WHEN h.is_unasked THEN 'infra' ELSE %(fault)s END,
               message = CASE WHEN h.is_unasked THEN 'the worker stopped the job, and nobody had asked for it'
                              ELSE %(message)s END,
               exit_code = %(exit_code)s, signal = %(signal)s,
               resolved_sha = coalesce(%(resolved_sha)s, j.resolved_sha),
               completed_at = now(), lease_id = NULL, lease_worker = NULL,
               version = j.version + 1, updated_at = now()
          FROM held h WHERE j.job_id = h.job_id
        RETURNING j.job_id, j.attempt, j.version, j.status, j.reason, j.worker_name, h.from_status
    ), ended AS (
        UPDATE attempts a
           SET ended_at = now(), end_status = m.status, reason = m.reason, exit_code = %(exit_code)s,
               signal = %(signal)s, isolation = %(isolation)s, final_log_length = %(log_length)s,
               final_log_sha256 = %(log_sha256)s, artifacts = %(artifacts)s,
               image_digest = %(image_digest)s, limits = %(limits)s::jsonb
          FROM moved m WHERE a.job_id = m.job_id AND a.attempt = m.attempt
    ), told AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor, reason)
        SELECT job_id, version, from_status, status, attempt, 'worker:' || worker_name, reason FROM moved
    )
    SELECT 1 FROM moved
"""
_IS_FINISHED_SO = """
    SELECT 1 FROM attempts
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND lease_id = %(lease_id)s
       AND worker_id = %(worker_id)s AND exit_code IS NOT DISTINCT FROM %(exit_code)s
       AND signal IS NOT DISTINCT FROM %(signal)s AND final_log_length = %(log_length)s
       AND final_log_sha256 = %(log_sha256)s
       AND (end_status = %(status)s AND reason = %(reason)s
            OR %(status)s = 'cancelled' AND end_status = 'failed' AND reason = 'internal')
"""
_END_LEASE = f"""
    WITH held AS MATERIALIZED (
        SELECT j.job_id, j.status AS from_status, j.runs, j.max_runs, j.desired, j.deadline_at, j.attempt
          FROM jobs j
         WHERE {_FENCE} AND (%(started_too)s OR j.status = ANY(%(ready)s))
           FOR UPDATE
    ), over AS MATERIALIZED (
        SELECT h.job_id,
               CASE WHEN h.desired > 0 THEN 'cancelled'
                    WHEN now() > h.deadline_at THEN 'timeout'
                    WHEN h.attempt >= {MAX_ATTEMPTS} OR %(cannot_start)s::text IS NOT NULL THEN 'failed'
                    WHEN h.from_status <> 'running' OR h.runs < h.max_runs THEN 'queued'
                    ELSE 'failed' END AS to_status
          FROM attempts a JOIN held h USING (job_id, attempt)
         WHERE a.ended_at IS NULL
           AND (%(at_once)s OR now() > a.lease_expires_at
                + CASE WHEN h.from_status <> 'running' OR h.max_runs > 1 THEN interval '0' ELSE %(grace)s END)
           FOR UPDATE OF a
    ), verdict AS MATERIALIZED (
        SELECT h.*, o.to_status, o.to_status <> 'queued' AS is_end,
               CASE WHEN o.to_status = 'cancelled' THEN 'cancelled_user'
                    WHEN o.to_status = 'timeout' THEN 'timeout_run'
                    WHEN %(cannot_start)s::text IS NOT NULL THEN 'internal'
                    ELSE 'worker_lost' END AS reason,
               CASE WHEN o.to_status = 'cancelled' THEN 'none'
                    WHEN o.to_status = 'timeout' THEN 'user' ELSE 'infra' END AS fault,
               CASE WHEN o.to_status = 'cancelled' THEN NULL
                    WHEN o.to_status = 'timeout' THEN 'the worker was lost, and the deadline has passed since'
                    WHEN %(cannot_start)s::text IS NOT NULL THEN %(cannot_start)s
                    WHEN h.from_status <> 'running' THEN 'no worker could start it in {MAX_ATTEMPTS} attempts'
                    ELSE 'the worker was lost while it ran the job' END AS message
          FROM held h JOIN over o USING (job_id)
    ), moved AS (
        UPDATE jobs j
           SET status = v.to_status, lease_id = NULL, lease_worker = NULL,
               version = j.version + 1, updated_at = now(),
               completed_at = CASE WHEN v.is_end THEN now() END,
               reason = CASE WHEN v.is_end THEN v.reason END,
               fault = CASE WHEN v.is_end THEN v.fault END,
               message = CASE WHEN v.is_end THEN v.message END,
               not_before = CASE WHEN v.is_end THEN j.not_before ELSE now() + %(delay)s END,
               queued_at = CASE WHEN v.is_end THEN j.queued_at ELSE now() END,
               ticket_due_at = CASE WHEN j.ticket_due_at IS NOT NULL THEN now() + %(delay)s END,
               queue_deadline_at = CASE WHEN v.from_status = 'running'
                   THEN now() + j.queue_timeout_seconds * interval '1 second' ELSE j.queue_deadline_at END,
               started_at = CASE WHEN v.is_end THEN j.started_at END,
               deadline_at = CASE WHEN v.is_end THEN j.deadline_at END,
               worker_name = CASE WHEN v.is_end THEN j.worker_name END
          FROM verdict v WHERE j.job_id = v.job_id
        RETURNING j.job_id, j.attempt, j.version, j.status, j.queue_name, v.reason, v.from_status
    ), ended AS (
        UPDATE attempts a
           SET ended_at = now(),
               end_status = CASE WHEN m.from_status = 'running'
                                 THEN replace(m.status, 'queued', 'failed') END,
               reason = CASE WHEN m.from_status = 'running' THEN m.reason END
          FROM moved m WHERE a.job_id = m.job_id AND a.attempt = m.attempt
    ), told AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor, reason)
        SELECT job_id, version, from_status, status, attempt, %(actor)s, reason FROM moved
         WHERE from_status <> status
    )
    SELECT status, queue_name FROM moved
"""
_FIND_OVERDUE = """
    SELECT a.job_id, a.attempt, a.lease_id, a.worker_id FROM attempts a JOIN jobs j USING (job_id)
     WHERE a.ended_at IS NULL
       AND now() > a.lease_expires_at
           + CASE WHEN j.status <> 'running' OR j.max_runs > 1 THEN interval '0' ELSE %(grace)s END
     ORDER BY a.lease_expires_at LIMIT %(limit)s
"""
_FIND_HELD = """
    SELECT job_id, attempt, lease_id, worker_id FROM attempts
     WHERE worker_id = %(worker_id)s AND ended_at IS NULL ORDER BY job_id
"""
_LEND_TIME = """
    UPDATE attempts a SET lease_expires_at = now() + %(lease)s
      FROM json_to_recordset(%(held)s::json) AS h (place int, job_id uuid, attempt int, lease_id uuid)
     WHERE a.job_id = h.job_id AND a.attempt = h.attempt AND a.lease_id = h.lease_id
       AND a.worker_id = %(worker_id)s AND a.ended_at IS NULL AND a.started_at IS NOT NULL
"""


@dataclass(frozen=True)
class StartedRow:
    """A running attempt as its job's row tells it; the secrets are still sealed."""

    spec: JobSpec
    sealed: bytes | None
    deadline_seconds: float
    lease_left_seconds: float
    may_run_again: bool


@dataclass(frozen=True)
class LeaseEnd:
    """What became of a job whose lease was taken away."""

    status: JobStatus
    queue_name: str


async def start_attempt(tx: Transaction, claim: Claim, *, lease: timedelta) -> StartedRow | None:
    """Mark a claimed job as running (T4), and return it; also if this very claim has started already.

    None: the claim is no longer good.
    """
    given = _fence(claim) | {"lease": lease, "ready": sorted(READY), "from": sources_of(JobStatus.RUNNING)}
    await tx.execute(_START, given)
    row = await (await tx.execute(_FIND_STARTED, _fence(claim))).fetchone()
    if row is None:
        return None
    return StartedRow(
        spec=spec_of(row),
        sealed=row["job_secrets"],
        deadline_seconds=row["deadline_seconds"],
        lease_left_seconds=row["lease_left_seconds"],
        may_run_again=row["runs"] < row["max_runs"],
    )


async def renew_leases(
    tx: Transaction,
    worker_id: str,
    held: Sequence[Claim],
    report: WorkerReport,
    *,
    lease: timedelta,
    grace: timedelta,
    patience: timedelta,
) -> list[HeartbeatOrder]:
    """Renew every started attempt of ``held`` that is still the worker's (T5); tell each what to do.

    Args:
        grace: an attempt is to be killed so long after its deadline.
        patience: one that goes on so long after that is renewed no more.
    """
    cursor = await tx.execute(
        _HEARTBEAT,
        {
            "held": _claims_json(held),
            "worker_id": worker_id,
            "draining": report.draining,
            "disk_full": not report.has_room,
            "spooled": report.spooled,
            "spool_bytes": report.spool_bytes,
            "lease": lease,
            "grace": grace,
            "patience": patience,
        },
    )
    return [
        HeartbeatOrder(held[row["place"]], _order(row), row["is_watched"]) for row in await cursor.fetchall()
    ]


async def finish_attempt(tx: Transaction, claim: Claim, outcome: AttemptOutcome) -> bool:
    """Write down how an attempt ended (T6). False: the attempt is not the worker's, or ended otherwise.

    The same outcome told again is True. `cancelled` without a wish of the owner's is kept as `failed`.
    """
    given = _fence(claim) | {
        "status": outcome.status,
        "from": sources_of(outcome.status),
        "reason": outcome.reason,
        "fault": outcome.fault,
        "message": outcome.message,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "resolved_sha": outcome.resolved_sha,
        "isolation": outcome.isolation,
        "log_length": outcome.log_length,
        "log_sha256": outcome.log_sha256,
        "artifacts": outcome.artifacts,
        "image_digest": outcome.image_digest,
        "limits": limits_json(outcome.limits),
    }
    for statement in (_FINISH, _IS_FINISHED_SO):
        if await (await tx.execute(statement, given)).fetchone() is not None:
            return True
    return False


async def end_lease(
    tx: Transaction,
    claim: Claim,
    *,
    actor: str,
    grace: timedelta = timedelta(),
    at_once: bool = False,
    started_too: bool = True,
    delay: timedelta = timedelta(),
    cannot_start: str | None = None,
) -> LeaseEnd | None:
    """Take the lease of an attempt away and let its job go on, back or to its end (T8).

    Args:
        grace: what a running job that may not run again is given beyond its lease.
        at_once: whether the lease has expired does not matter.
        started_too: False spares an attempt that has started.
        delay: how long a job that goes back waits before it may be claimed again.
        cannot_start: why no worker ever can start the job, which then fails.

    None: somebody renewed or ended it meanwhile.
    """
    cursor = await tx.execute(
        _END_LEASE,
        {
            **_fence(claim),
            "actor": actor,
            "grace": grace,
            "at_once": at_once,
            "started_too": started_too,
            "delay": delay,
            "cannot_start": cannot_start,
            "ready": sorted(READY),
        },
    )
    row = await cursor.fetchone()
    return LeaseEnd(JobStatus(row["status"]), row["queue_name"]) if row else None


async def find_overdue(tx: Transaction, *, grace: timedelta, limit: int) -> list[Claim]:
    """Return attempts whose lease is over, longest first; `end_lease` decides each."""
    cursor = await tx.execute(_FIND_OVERDUE, {"grace": grace, "limit": limit})
    return [Claim(**row) for row in await cursor.fetchall()]


async def find_held(tx: Transaction, worker_id: str) -> list[Claim]:
    """Return the attempts that a worker holds."""
    cursor = await tx.execute(_FIND_HELD, {"worker_id": worker_id})
    return [Claim(**row) for row in await cursor.fetchall()]


async def lend_time(tx: Transaction, worker_id: str, spooled: Collection[Claim], *, lease: timedelta) -> None:
    """Give the worker one more lease for each of its started attempts, to deliver what it spooled."""
    await tx.execute(
        _LEND_TIME, {"held": _claims_json(list(spooled)), "worker_id": worker_id, "lease": lease}
    )


def _fence(claim: Claim) -> dict[str, Any]:
    return {
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "lease_id": claim.lease_id,
        "worker_id": claim.worker_id,
    }


def _claims_json(claims: Sequence[Claim]) -> str:
    rows = [
        {"place": place, "job_id": claim.job_id, "attempt": claim.attempt, "lease_id": claim.lease_id}
        for place, claim in enumerate(claims)
    ]
    return msgspec.json.encode(rows).decode()


def _order(row: Row) -> Literal["go_on", "cancel", "kill", "abandon"]:
    if not row["is_mine"]:
        return "abandon"
    if row["desired"] >= Desired.KILL or row["is_overdue"]:
        return "kill"
    return "cancel" if row["desired"] == Desired.CANCEL else "go_on"
