"""Tickets: what the rows of jobs owe to an external queue, and what that owes to them (T2).

The rows are the outbox. A job that is ready and whose present attempt has no ticket yet is due to be
published; one that has is due, after a while, to be looked after. Who takes what is due moves its time on,
so that of several relays one acts, and another follows if that one dies.
"""
# ruff: noqa: S608 - every part of a statement is a constant of ours

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from reactorcide.store.claims import IS_READY, Ticket
from reactorcide.store.database import Database, Transaction

_OF_TICKET = """
    j.job_id, j.attempt, j.queue_name, j.priority, j.name, j.description, j.user_id, j.created_at,
    j.runner_image, j.job_command, j.timeout_seconds, j.code_dir, j.job_dir, j.source_type, j.git_url,
    j.git_ref, j.source_path,
    CASE WHEN j.ticket_attempt = j.attempt THEN j.corndogs_task_id END AS task_id
"""
_TAKE_DUE = f"""
    WITH due AS MATERIALIZED (
        SELECT j.job_id FROM jobs j
         WHERE j.ticket_due_at <= now() AND {IS_READY}
         ORDER BY j.ticket_due_at LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
    )
    UPDATE jobs j SET ticket_due_at = now() + %(busy_for)s FROM due WHERE j.job_id = due.job_id
    RETURNING {_OF_TICKET}
"""
# A ticket may be drawn, and its job be claimed, before this says that it was published.
_MARK_PUBLISHED = f"""
    WITH told AS MATERIALIZED (
        SELECT t.* FROM json_to_recordset(%(tickets)s::json) AS t (job_id uuid, attempt int, task_id text)
    ), held AS MATERIALIZED (
        SELECT j.job_id, j.status AS from_status, t.attempt, t.task_id,
               {IS_READY} AS is_ready
          FROM jobs j JOIN told t USING (job_id) WHERE j.attempt = t.attempt
         ORDER BY j.job_id FOR UPDATE OF j
    ), moved AS (
        UPDATE jobs j
           SET ticket_attempt = h.attempt, corndogs_task_id = h.task_id,
               ticket_due_at = now() + %(look_after)s,
               status = CASE WHEN h.is_ready THEN 'queued' ELSE j.status END,
               queued_at = CASE WHEN h.is_ready AND h.from_status = 'submitted'
                                THEN now() ELSE j.queued_at END,
               version = j.version + 1, updated_at = now()
          FROM held h WHERE j.job_id = h.job_id
        RETURNING j.job_id, j.version, j.attempt, h.from_status, h.is_ready
    ), noted AS (
        INSERT INTO job_events (job_id, seq, from_status, to_status, attempt, actor)
        SELECT job_id, version, 'submitted', 'queued', attempt, 'system:queue'
          FROM moved WHERE is_ready AND from_status = 'submitted'
    )
    SELECT t.job_id, coalesce(m.is_ready, false) AS is_ready,
           j.job_id IS NOT NULL AND j.attempt > t.attempt AND j.lease_id IS NOT NULL AS is_claimed
      FROM told t LEFT JOIN moved m USING (job_id) LEFT JOIN jobs j USING (job_id)
"""
_POSTPONE = """
    WITH held AS MATERIALIZED (
        SELECT j.job_id FROM jobs j JOIN unnest(%(job_ids)s::uuid[]) AS named (job_id) USING (job_id)
         WHERE j.ticket_due_at IS NOT NULL ORDER BY j.job_id FOR UPDATE OF j
    )
    UPDATE jobs j SET ticket_due_at = now() + %(by)s FROM held h WHERE j.job_id = h.job_id
"""
_ADOPT = f"""
    WITH strays AS MATERIALIZED (
        SELECT j.job_id FROM jobs j WHERE j.ticket_due_at IS NULL AND {IS_READY}
         LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
    )
    UPDATE jobs j SET ticket_due_at = now() FROM strays s WHERE j.job_id = s.job_id
"""
_COUNT_PUBLISHED = f"""
    SELECT j.queue_name, count(*) AS tickets FROM jobs j
     WHERE {IS_READY} AND j.ticket_attempt = j.attempt AND j.ticket_due_at IS NOT NULL
     GROUP BY j.queue_name
"""
_DOUBT = f"""
    WITH doubted AS MATERIALIZED (
        SELECT j.job_id FROM jobs j
         WHERE j.queue_name = %(queue)s AND {IS_READY} AND j.ticket_attempt = j.attempt
           AND j.ticket_due_at BETWEEN now() AND now() + %(look_after)s - %(settled)s
         ORDER BY j.ticket_due_at LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
    )
    UPDATE jobs j SET ticket_due_at = now() FROM doubted d WHERE j.job_id = d.job_id
"""
_SEE_READY = f"""
    SELECT q.name FROM unnest(%(queues)s::text[]) AS q (name) CROSS JOIN LATERAL (
        SELECT 1 FROM jobs j
         WHERE j.queue_name = q.name AND {IS_READY} AND j.ticket_attempt = j.attempt LIMIT 1) ready
"""
_RANK_QUEUES = f"""
    SELECT best.queue_name FROM unnest(%(queues)s::text[]) AS q (name) CROSS JOIN LATERAL (
        SELECT j.queue_name, j.priority, j.created_at, j.job_id FROM jobs j
         WHERE j.queue_name = q.name AND {IS_READY} AND j.ticket_attempt = j.attempt
         ORDER BY j.priority DESC, j.created_at, j.job_id LIMIT %(limit)s) best
     ORDER BY best.priority DESC, best.created_at, best.job_id LIMIT %(limit)s
"""


@dataclass(frozen=True)
class DueTicket:
    """A job to be announced, with all that its ticket tells.

    ``task_id`` names the ticket that its present attempt has already: whether that still lies in the queue
    is to be asked. None: it has none.
    """

    job_id: str
    attempt: int
    queue_name: str
    priority: int
    name: str
    description: str
    user_id: str
    created_at: datetime
    runner_image: str
    job_command: str
    timeout_seconds: int
    code_dir: str
    job_dir: str
    source_type: str
    git_url: str | None
    git_ref: str | None
    source_path: str | None
    task_id: str | None


@dataclass(frozen=True)
class Published:
    """A ticket that was published for an attempt that its job has yet to begin."""

    job_id: str
    attempt: int
    task_id: str


async def take_due(tx: Transaction, *, limit: int, busy_for: timedelta) -> list[DueTicket]:
    """Take jobs whose tickets are due, longest first; nobody else gets them for ``busy_for``."""
    cursor = await tx.execute(_TAKE_DUE, {"limit": limit, "busy_for": busy_for})
    return [DueTicket(**row) for row in await cursor.fetchall()]


async def mark_published(
    tx: Transaction, published: Sequence[Published], *, look_after: timedelta
) -> list[Ticket]:
    """Say that tickets were published: their jobs are queued. Return those that nobody needs.

    Args:
        look_after: so long after this is asked whether a ticket still lies in the queue.
    """
    rows = [{"job_id": p.job_id, "attempt": p.attempt, "task_id": p.task_id} for p in published]
    given = {"tickets": msgspec.json.encode(rows).decode(), "look_after": look_after}
    task_ids = {ticket.job_id: ticket.task_id for ticket in published}
    found = await (await tx.execute(_MARK_PUBLISHED, given)).fetchall()
    # The ticket of a job that is claimed was drawn, most likely, and is completed by who drew it.
    unneeded = [row["job_id"] for row in found if not row["is_ready"] and not row["is_claimed"]]
    return [Ticket(job_id, task_ids[job_id]) for job_id in unneeded]


async def postpone(tx: Transaction, job_ids: Collection[str], *, by: timedelta) -> None:
    """Let tickets be due again after ``by``."""
    await tx.execute(_POSTPONE, {"job_ids": list(job_ids), "by": by})


async def adopt_jobs(tx: Transaction, *, limit: int) -> int:
    """Let tickets be due for jobs that were submitted while their rows were the queue; return how many."""
    return (await tx.execute(_ADOPT, {"limit": limit})).rowcount


async def count_published(tx: Transaction) -> Mapping[str, int]:
    """Return how many tickets should lie in each queue, by what the rows say."""
    rows = await (await tx.execute(_COUNT_PUBLISHED)).fetchall()
    return {row["queue_name"]: row["tickets"] for row in rows}


async def doubt_queue(
    tx: Transaction, queue_name: str, *, look_after: timedelta, settled: timedelta, limit: int
) -> int:
    """Let the tickets of a queue be looked after now, longest unlooked first; return how many.

    Args:
        look_after: as `mark_published` was told.
        settled: what was published or looked after since is spared.
    """
    given = {"queue": queue_name, "look_after": look_after, "settled": settled, "limit": limit}
    return (await tx.execute(_DOUBT, given)).rowcount


async def see_ready(database: Database, queue_names: Collection[str]) -> frozenset[str]:
    """Return which of the queues have a ready job with a ticket."""
    rows = await database.read(_SEE_READY, {"queues": list(queue_names)})
    return frozenset(row["name"] for row in rows)


async def rank_queues(tx: Transaction, queue_names: Collection[str], *, limit: int) -> list[str]:
    """Return from which queues the best ``limit`` ready jobs with tickets come, best first."""
    cursor = await tx.execute(_RANK_QUEUES, {"queues": list(queue_names), "limit": limit})
    return [row["queue_name"] for row in await cursor.fetchall()]
