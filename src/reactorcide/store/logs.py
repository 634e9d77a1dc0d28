"""How long the log of each attempt is, and whether it is sealed. The bytes themselves are objects."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from reactorcide.domain.jobs import Claim
from reactorcide.domain.removals import Loss
from reactorcide.store.database import Row, Transaction
from reactorcide.store.jobs import loss_of


@dataclass(frozen=True)
class LogRow:
    """What the row of an attempt says of its log."""

    job_id: str
    attempt: int
    length: int
    """Bytes acknowledged."""
    final_length: int | None
    """Bytes the log will have, promised by the worker; or, without a digest, frozen by us."""
    final_sha256: bytes | None
    is_started: bool
    is_sealed: bool
    loss: Loss | None
    """Set if the sealed log was removed since."""


@dataclass(frozen=True)
class LogProgress:
    """What a follower has to know of a job."""

    ended_for: timedelta | None
    """How long ago the job ended."""
    log: LogRow | None
    """The newest attempt's; None before the first."""


_COLUMNS = """
    attempts.job_id, attempts.attempt, log_length, final_log_length, final_log_sha256,
    attempts.started_at IS NOT NULL AS is_started, log_sealed_at IS NOT NULL AS is_sealed,
    log_removed_at, log_removed_why
"""

READ_HELD_LOG = f"""
    SELECT {_COLUMNS} FROM attempts
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND lease_id = %(lease_id)s
       AND worker_id = %(worker_id)s
"""  # noqa: S608 - constants

READ_LOG = f"""
    SELECT {_COLUMNS} FROM attempts
     WHERE job_id = %(job_id)s AND (%(attempt)s::integer IS NULL OR attempt = %(attempt)s)
     ORDER BY attempt DESC LIMIT 1
"""  # noqa: S608 - constants

READ_PROGRESS = f"""
    SELECT now() - completed_at AS ended_for, {_COLUMNS}
      FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.job_id
     WHERE jobs.job_id = %(job_id)s
     ORDER BY attempts.attempt DESC LIMIT 1
"""  # noqa: S608 - constants

GROW_LOG = """
    UPDATE attempts
       SET log_length = %(new)s
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND lease_id = %(lease_id)s
       AND worker_id = %(worker_id)s AND log_length = %(old)s AND log_sealed_at IS NULL
       AND (final_log_length IS NULL OR final_log_length >= %(new)s)
    RETURNING coalesce(log_watched_until > now(), false) AS is_watched
"""

# Not while another has just done the same.
WATCH_LOG = """
    UPDATE attempts SET log_watched_until = now() + %(for)s
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND ended_at IS NULL
       AND coalesce(log_watched_until < now() + %(for)s / 2, true)
    RETURNING worker_id
"""

FREEZE_LOGS = f"""
    UPDATE attempts
       SET final_log_length = log_length, final_log_sha256 = NULL
     WHERE ended_at IS NOT NULL AND log_sealed_at IS NULL
       AND (final_log_length IS NULL AND ended_at < now() - %(unpromised_after)s
            OR final_log_sha256 IS NOT NULL AND ended_at < now() - %(promised_after)s)
    RETURNING {_COLUMNS}
"""  # noqa: S608 - constants

LIST_LOGS_TO_SEAL = f"""
    SELECT {_COLUMNS} FROM attempts
     WHERE ended_at IS NOT NULL AND log_sealed_at IS NULL AND final_log_length = log_length
       AND (job_id, attempt) NOT IN (
           SELECT * FROM unnest(%(without_jobs)s::uuid[], %(without_attempts)s::integer[]))
     ORDER BY ended_at LIMIT %(limit)s
"""  # noqa: S608 - constants

SEAL_LOG = """
    UPDATE attempts
       SET log_sealed_at = now(), final_log_sha256 = %(sha256)s
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND log_sealed_at IS NULL
       AND log_length = %(length)s AND final_log_length = %(length)s
"""

NAME_LOG_OBJECT = """
    UPDATE jobs
       SET logs_object_key = %(key)s, version = version + 1, updated_at = now()
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s
"""


async def read_held_log(tx: Transaction, claim: Claim) -> LogRow | None:
    """Return the log of an attempt, None if this lease has never held it."""
    cursor = await tx.execute(READ_HELD_LOG, _fence(claim))
    row = await cursor.fetchone()
    return None if row is None else _as_log(row)


async def read_log(tx: Transaction, job_id: str, attempt: int | None) -> LogRow | None:
    """Return the log of one attempt (None: of the newest), None if there is no such attempt."""
    cursor = await tx.execute(READ_LOG, {"job_id": job_id, "attempt": attempt})
    row = await cursor.fetchone()
    return None if row is None else _as_log(row)


async def read_progress(tx: Transaction, job_id: str) -> LogProgress | None:
    """Return what a follower has to know, None if there is no such job."""
    cursor = await tx.execute(READ_PROGRESS, {"job_id": job_id})
    row = await cursor.fetchone()
    if row is None:
        return None
    return LogProgress(row["ended_for"], None if row["attempt"] is None else _as_log(row))


@dataclass(frozen=True)
class GrownLog:
    """A log that has grown; ``is_watched`` while somebody follows it."""

    is_watched: bool


async def grow_log(tx: Transaction, claim: Claim, old: int, new: int) -> GrownLog | None:
    """Acknowledge the bytes from ``old`` to ``new``.

    None: the log is no longer ``old`` bytes long, is sealed, was promised to end before ``new``, or is
    not this lease's.
    """
    grown = await tx.execute(GROW_LOG, _fence(claim) | {"old": old, "new": new})
    row = await grown.fetchone()
    return GrownLog(row["is_watched"]) if row else None


async def watch_log(tx: Transaction, job_id: str, attempt: int, *, watched_for: timedelta) -> str | None:
    """Say that somebody follows the log of an attempt for so long.

    Returns who holds the attempt, to be told; None: it has ended, or this was said a moment ago.
    """
    cursor = await tx.execute(WATCH_LOG, {"job_id": job_id, "attempt": attempt, "for": watched_for})
    row = await cursor.fetchone()
    return row["worker_id"] if row else None


async def freeze_logs(
    tx: Transaction, *, unpromised_after: timedelta, promised_after: timedelta
) -> list[LogRow]:
    """Give up waiting for bytes: what is stored so long after the attempt's end is the whole log."""
    cursor = await tx.execute(
        FREEZE_LOGS, {"unpromised_after": unpromised_after, "promised_after": promised_after}
    )
    return [_as_log(row) for row in await cursor.fetchall()]


async def list_logs_to_seal(
    tx: Transaction, *, without: Collection[tuple[str, int]], limit: int
) -> list[LogRow]:
    """Return logs that are whole and not sealed, those that ended first at the head."""
    cursor = await tx.execute(
        LIST_LOGS_TO_SEAL,
        {
            "without_jobs": [job_id for job_id, _ in without],
            "without_attempts": [attempt for _, attempt in without],
            "limit": limit,
        },
    )
    return [_as_log(row) for row in await cursor.fetchall()]


async def seal_log(tx: Transaction, log: LogRow, sha256: bytes, key: str) -> bool:
    """Mark a log as sealed under ``key`` with this digest. False: it is sealed, or has changed."""
    facts = {
        "job_id": log.job_id,
        "attempt": log.attempt,
        "length": log.length,
        "sha256": sha256,
        "key": key,
    }
    sealed = await tx.execute(SEAL_LOG, facts)
    if sealed.rowcount == 0:
        return False
    await tx.execute(NAME_LOG_OBJECT, facts)
    return True


def _fence(claim: Claim) -> dict[str, object]:
    return {
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "lease_id": claim.lease_id,
        "worker_id": claim.worker_id,
    }


def _as_log(row: Row) -> LogRow:
    return LogRow(
        job_id=row["job_id"],
        attempt=row["attempt"],
        length=row["log_length"],
        final_length=row["final_log_length"],
        final_sha256=row["final_log_sha256"],
        is_started=row["is_started"],
        is_sealed=row["is_sealed"],
        loss=loss_of(row, "log"),
    )
