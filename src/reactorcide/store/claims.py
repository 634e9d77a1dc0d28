"""The guarded claim (T3): one statement takes ready jobs for a worker, whichever queue named them."""
# ruff: noqa: S608 - every part of a statement is a constant of ours

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

import msgspec

from reactorcide.domain.jobs import Claim
from reactorcide.store.attempts import MAX_ATTEMPTS
from reactorcide.store.database import Row, Transaction

# The predicate of the index jobs_ready, word for word, so that the planner knows it applies; then what
# changes with time. `sources_of` says the same of a start: the tests compare them.
IS_READY = f"""
    j.status IN ('submitted', 'queued') AND j.lease_id IS NULL AND j.desired = 0
    AND j.not_before <= now() AND j.queue_deadline_at > now()
    AND j.runs < j.max_runs AND j.attempt < {MAX_ATTEMPTS}
"""
TAKE = """
    WITH best AS MATERIALIZED ({best}), taken AS (
        UPDATE jobs j
           SET attempt = j.attempt + 1, lease_id = gen_random_uuid(), lease_worker = %(worker_id)s,
               version = j.version + 1, updated_at = now()
          FROM best b WHERE j.job_id = b.job_id
        RETURNING j.job_id, j.attempt, j.lease_id, j.priority, j.created_at
    ), noted AS (
        INSERT INTO attempts (job_id, attempt, lease_id, worker_id, lease_expires_at)
        SELECT job_id, attempt, lease_id, %(worker_id)s, now() + %(start_within)s FROM taken
    )
    SELECT job_id, attempt, lease_id FROM taken ORDER BY priority DESC, created_at, job_id
"""
"""Takes the jobs of ``best``, a select of their ids under `IS_READY` that locks them."""

# Waits for a row that is locked instead of skipping it, since nothing would name this job again soon; in
# the order of ids, as all who lock several.
_NAMED = f"""
    SELECT j.job_id FROM jobs j JOIN unnest(%(job_ids)s::uuid[]) AS named (job_id) USING (job_id)
     WHERE {IS_READY} ORDER BY j.job_id FOR UPDATE OF j
"""
_CLAIM_NAMED = TAKE.format(best=_NAMED)
_NAME_TICKETS = """
    UPDATE jobs j SET corndogs_task_id = t.task_id
      FROM json_to_recordset(%(tickets)s::json) AS t (job_id uuid, task_id text)
     WHERE j.job_id = t.job_id AND j.corndogs_task_id IS DISTINCT FROM t.task_id
"""
_FIND_NAMED = """
    SELECT j.job_id, j.not_before > now() AND j.status IN ('submitted', 'queued') AND j.lease_id IS NULL
           AND j.desired = 0 AS is_early
      FROM jobs j WHERE j.job_id = ANY(%(job_ids)s::uuid[])
"""


class Refusal(Enum):
    """Why a job that a ticket names was not claimed."""

    MISSING = "missing"
    """There is no such job, or none yet."""
    EARLY = "early"
    """It will be ready, and is not now."""
    OVER = "over"
    """It runs, has ended, or is being ended."""


@dataclass(frozen=True)
class Ticket:
    """A ticket that was drawn: the job it names, and its own name in the queue."""

    job_id: str
    task_id: str


async def claim_named(
    tx: Transaction, worker_id: str, tickets: Sequence[Ticket], *, start_within: timedelta
) -> tuple[list[Claim], dict[str, Refusal]]:
    """Claim those of the named jobs that are ready, best first; tell of the others, by job id, why not.

    Each claimed job is told its ticket. A job that several tickets name is claimed once.
    """
    by_job = {ticket.job_id: ticket.task_id for ticket in tickets}
    given = {"job_ids": list(by_job), "worker_id": worker_id, "start_within": start_within}
    claims = claims_of(await (await tx.execute(_CLAIM_NAMED, given)).fetchall(), worker_id)
    taken = {claim.job_id for claim in claims}
    if taken:
        rows = [{"job_id": job_id, "task_id": by_job[job_id]} for job_id in sorted(taken)]
        await tx.execute(_NAME_TICKETS, {"tickets": msgspec.json.encode(rows).decode()})
    left = [job_id for job_id in by_job if job_id not in taken]
    if not left:
        return claims, {}
    refusals = dict.fromkeys(left, Refusal.MISSING)
    for row in await (await tx.execute(_FIND_NAMED, {"job_ids": left})).fetchall():
        refusals[row["job_id"]] = Refusal.EARLY if row["is_early"] else Refusal.OVER
    return claims, refusals


def claims_of(rows: Sequence[Row], worker_id: str) -> list[Claim]:
    """Return what `TAKE` has taken for a worker, best first."""
    return [Claim(row["job_id"], row["attempt"], row["lease_id"], worker_id) for row in rows]
