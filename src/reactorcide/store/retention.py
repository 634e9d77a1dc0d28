"""Which logs and artifacts of ended jobs may go, oldest first, and their removal from the rows.

They are walked through by the end of their attempt, along an index that holds all a rule asks for, so that
a page costs the same however many there are. A walk holds no transaction open.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg.types.json import Jsonb

from reactorcide.domain.removals import RemovalCause
from reactorcide.store.database import Row, Transaction
from reactorcide.store.removals import AWAITS_DELIVERY

Kept = Literal["log", "artifacts"]
_LOWEST_ID = "00000000-0000-0000-0000-000000000000"
_HIGHEST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass(frozen=True)
class AttemptKey:
    """The place of an attempt in the order of ends."""

    ended_at: datetime | Literal["infinity", "-infinity"]
    job_id: str = _LOWEST_ID
    attempt: int = 0


FIRST = AttemptKey("-infinity")
LAST = AttemptKey("infinity", _HIGHEST_ID, 2**31 - 1)


@dataclass(frozen=True)
class Bound:
    """How far a rule reaches: all up to this attempt whose job ended before this time."""

    why: RemovalCause
    until: AttemptKey
    ended_before: datetime | Literal["infinity"] = "infinity"


@dataclass(frozen=True)
class RemovedPart:
    """The log or the artifacts of an attempt that were removed."""

    key: AttemptKey
    size_bytes: int


@dataclass(frozen=True)
class Survey:
    """How much a rule would remove."""

    count: int = 0
    size_bytes: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None

    def __add__(self, more: "Survey") -> "Survey":
        """Return both together; ``more`` is the newer part."""
        return Survey(
            self.count + more.count,
            self.size_bytes + more.size_bytes,
            self.oldest or more.oldest,
            more.newest or self.newest,
        )


@dataclass(frozen=True)
class Unmeasured:
    """Artifacts of an attempt of which nobody knows how large they are."""

    job_id: str
    attempt: int


# What of a part counts, what it is to be large, and what must hold beside for it to go.
_PARTS: dict[Kept, dict[str, str]] = {
    "log": {
        "kept": "a.log_sealed_at IS NOT NULL AND a.log_removed_at IS NULL",
        "size": "a.final_log_length",
        "ready": "true",
        "removed": "log_removed_at = now(), log_removed_why = %(why)s",
        "unnamed": "logs_object_key = NULL",
    },
    "artifacts": {
        "kept": "a.artifacts > 0 AND a.artifacts_removed_at IS NULL",
        "size": "coalesce(a.artifact_bytes, 0)",
        "ready": "(j.artifacts_object_key IS NOT NULL OR a.ended_at < now() - %(delivery)s)",
        "removed": "artifacts_removed_at = now(), artifacts_removed_why = %(why)s",
        "unnamed": "artifacts_object_key = NULL",
    },
}
_KEY = "(a.ended_at, a.job_id, a.attempt)"
_GOES = """
    {kept} AND {key} > (%(after_end)s::timestamptz, %(after_job)s::uuid, %(after_attempt)s::int)
    AND {key} <= (%(until_end)s::timestamptz, %(until_job)s::uuid, %(until_attempt)s::int)
    AND (%(why)s <> 'bytes' OR {size} > 0)
    AND j.job_id = a.job_id AND j.completed_at < %(ended_before)s::timestamptz AND {ready}
"""
_REMOVE = """
    WITH due AS MATERIALIZED (
        SELECT a.ended_at, a.job_id, a.attempt, {size} AS size_bytes, j.name, j.user_id, j.attempt AS newest
          FROM attempts a, jobs j WHERE {goes}
         ORDER BY a.ended_at, a.job_id, a.attempt LIMIT %(limit)s
           FOR NO KEY UPDATE OF j, a SKIP LOCKED
    ), unnamed AS (
        UPDATE jobs j SET {unnamed}, version = j.version + 1, updated_at = now()
          FROM due d WHERE j.job_id = d.job_id AND d.attempt = d.newest
    ), removed AS (
        UPDATE attempts a SET {removed} FROM due d WHERE a.job_id = d.job_id AND a.attempt = d.attempt
    ), told AS (
        INSERT INTO removals (what, why, actor, job_id, attempt, job_name, user_id, size_bytes)
        SELECT '{part}', %(why)s, %(actor)s, job_id, attempt, name, user_id, size_bytes FROM due
         ORDER BY ended_at, job_id, attempt
    )
    SELECT ended_at, job_id, attempt, size_bytes FROM due ORDER BY ended_at, job_id, attempt
"""
_SURVEY = """
    WITH page AS MATERIALIZED (
        SELECT a.ended_at, a.job_id, a.attempt, {size} AS size_bytes
          FROM attempts a, jobs j WHERE {goes}
         ORDER BY a.ended_at, a.job_id, a.attempt LIMIT %(limit)s
    )
    SELECT p.*, s.* FROM (
        SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS total, min(ended_at) AS oldest,
               max(ended_at) AS newest FROM page) s
      CROSS JOIN LATERAL (SELECT * FROM page ORDER BY ended_at DESC, job_id DESC, attempt DESC LIMIT 1) p
"""
_SURVEY_JOBS = f"""
    WITH page AS MATERIALIZED (
        SELECT j.completed_at, j.job_id FROM jobs j
         WHERE j.completed_at < %(ended_before)s::timestamptz
           AND (j.completed_at, j.job_id) > (%(after_end)s::timestamptz, %(after_job)s::uuid)
           AND NOT {AWAITS_DELIVERY}
         ORDER BY j.completed_at, j.job_id LIMIT %(limit)s
    ), sizes AS (
        SELECT coalesce(sum(
                   CASE WHEN a.log_removed_at IS NULL THEN a.log_length ELSE 0 END
                   + CASE WHEN a.artifacts_removed_at IS NULL THEN coalesce(a.artifact_bytes, 0) ELSE 0 END),
                   0)::bigint AS total
          FROM page p JOIN attempts a ON a.job_id = p.job_id
    )
    SELECT s.*, p.completed_at AS ended_at, p.job_id, 0 AS attempt, z.total FROM (
        SELECT count(*) AS count, min(completed_at) AS oldest, max(completed_at) AS newest FROM page) s
      CROSS JOIN sizes z
      CROSS JOIN LATERAL (SELECT * FROM page ORDER BY completed_at DESC, job_id DESC LIMIT 1) p
"""  # noqa: S608 - constants
_PAGE_BACK = """page AS MATERIALIZED (
        SELECT a.ended_at, a.job_id, a.attempt, {size} AS size_bytes
          FROM attempts a
         WHERE {kept} AND {key} < (%(before_end)s::timestamptz, %(before_job)s::uuid, %(before_attempt)s::int)
         ORDER BY a.ended_at DESC, a.job_id DESC, a.attempt DESC LIMIT %(limit)s
    )"""
_SUM_BACK = """
    WITH {page_back}
    SELECT p.ended_at, p.job_id, p.attempt, s.total
      FROM (SELECT sum(size_bytes)::bigint AS total FROM page) s
      CROSS JOIN LATERAL (SELECT * FROM page ORDER BY ended_at, job_id, attempt LIMIT 1) p
"""
# From the newest back: what comes behind the row with which the limit is passed has no room.
_FIND_LIMIT = """
    WITH {page_back}
    SELECT ended_at, job_id, attempt FROM (
        SELECT *, sum(size_bytes) OVER (
                   ORDER BY ended_at DESC, job_id DESC, attempt DESC ROWS UNBOUNDED PRECEDING) AS total
          FROM page) s
     WHERE total > %(room)s ORDER BY ended_at DESC, job_id DESC, attempt DESC LIMIT 1
"""
_LIST_UNMEASURED = """
    SELECT a.job_id, a.attempt FROM attempts a JOIN jobs j ON j.job_id = a.job_id
     WHERE a.artifacts > 0 AND a.artifacts_removed_at IS NULL AND a.artifact_bytes IS NULL
       AND (j.artifacts_object_key IS NOT NULL OR a.ended_at < now() - %(delivery)s)
     ORDER BY a.ended_at, a.job_id, a.attempt LIMIT %(limit)s
"""
_MEASURE = """
    UPDATE attempts SET artifact_bytes = %(size_bytes)s
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND artifact_bytes IS NULL
"""
_ENTER_ROUND = """
    WITH entered AS (
        INSERT INTO removal_rounds (kind, started_at, is_dry_run, removed)
        VALUES (%(kind)s, now() - %(took)s, %(is_dry_run)s, %(removed)s) RETURNING round_id
    )
    DELETE FROM removal_rounds r WHERE kind = %(kind)s
       AND (removed = '[]' OR round_id <= (
           SELECT round_id FROM removal_rounds WHERE kind = %(kind)s
            ORDER BY round_id DESC OFFSET %(kept)s LIMIT 1))
"""
_LIST_ROUNDS = """
    SELECT kind, started_at, ended_at, is_dry_run, removed FROM removal_rounds
     ORDER BY ended_at DESC, round_id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True)
class RuleEffect:
    """What a rule removed in one round, or would have."""

    rule: str
    count: int
    size_bytes: int
    oldest: datetime | None = None
    newest: datetime | None = None
    more: bool = False
    """There is more than was counted."""


@dataclass(frozen=True)
class Round:
    """A round of removing. ``kind``: `retention` or `orphans`."""

    kind: str
    started_at: datetime
    ended_at: datetime
    is_dry_run: bool
    removed: tuple[RuleEffect, ...]


def _filled(statement: str, part: Kept) -> str:
    words = _PARTS[part] | {"key": _KEY, "part": part}
    return statement.format(goes=_GOES.format(**words), page_back=_PAGE_BACK.format(**words), **words)


_REMOVE_PART = {part: _filled(_REMOVE, part) for part in _PARTS}
_SURVEY_PART = {part: _filled(_SURVEY, part) for part in _PARTS}
_SUM_OF_PART = {part: _filled(_SUM_BACK, part) for part in _PARTS}
_LIMIT_OF_PART = {part: _filled(_FIND_LIMIT, part) for part in _PARTS}


async def remove_parts(
    tx: Transaction,
    part: Kept,
    bound: Bound,
    *,
    after: AttemptKey,
    delivery: timedelta,
    actor: str,
    limit: int,
) -> list[RemovedPart]:
    """Remove at most ``limit`` logs or artifacts within ``bound``, oldest first; record each.

    Nothing of a job that has not ended, no log that is not sealed, and for ``delivery`` after the end no
    artifacts that have not all come. What somebody holds just now is passed over.
    """
    given = _reach(bound, after, delivery) | {"actor": actor, "limit": limit}
    cursor = await tx.execute(_REMOVE_PART[part], given)
    return [RemovedPart(_key_of(row), int(row["size_bytes"])) for row in await cursor.fetchall()]


async def survey_parts(
    tx: Transaction, part: Kept, bound: Bound, *, after: AttemptKey, delivery: timedelta, limit: int
) -> tuple[Survey, AttemptKey] | None:
    """Return what the next ``limit`` that `remove_parts` would remove are, and the last; None: no more."""
    cursor = await tx.execute(_SURVEY_PART[part], _reach(bound, after, delivery) | {"limit": limit})
    return _surveyed(await cursor.fetchone())


async def survey_jobs(
    tx: Transaction, *, ended_before: datetime, after: AttemptKey, delivery: timedelta, limit: int
) -> tuple[Survey, AttemptKey] | None:
    """As `survey_parts`, of whole jobs that ended before a time."""
    given = {
        "ended_before": ended_before,
        "after_end": after.ended_at,
        "after_job": after.job_id,
        "delivery": delivery,
        "limit": limit,
    }
    return _surveyed(await (await tx.execute(_SURVEY_JOBS, given)).fetchone())


async def sum_back(
    tx: Transaction, part: Kept, *, before: AttemptKey, limit: int
) -> tuple[int, AttemptKey] | None:
    """Return how large the next ``limit`` kept ones back from ``before`` are, and the last; None: no more."""
    row = await (await tx.execute(_SUM_OF_PART[part], _back(before) | {"limit": limit})).fetchone()
    return (int(row["total"]), _key_of(row)) if row else None


async def find_limit(
    tx: Transaction, part: Kept, *, before: AttemptKey, room: int, limit: int
) -> AttemptKey | None:
    """Return the newest, back from ``before``, for which ``room`` bytes are too few; None: all have room."""
    given = _back(before) | {"room": room, "limit": limit}
    row = await (await tx.execute(_LIMIT_OF_PART[part], given)).fetchone()
    return _key_of(row) if row else None


async def read_clock(tx: Transaction, *, ago: timedelta) -> datetime:
    """Return the time that was so long ago, by the database's clock."""
    row = await (await tx.execute("SELECT now() - %(ago)s AS at", {"ago": ago})).fetchone()
    if row is None:
        raise RuntimeError("a SELECT without a table returned no row")
    moment: datetime = row["at"]
    return moment


async def list_unmeasured(tx: Transaction, *, delivery: timedelta, limit: int) -> list[Unmeasured]:
    """Return artifacts of unknown size that have come, or are no longer waited for."""
    cursor = await tx.execute(_LIST_UNMEASURED, {"delivery": delivery, "limit": limit})
    return [Unmeasured(**row) for row in await cursor.fetchall()]


async def measure(tx: Transaction, found: Unmeasured, size_bytes: int) -> None:
    """Write down how large the artifacts of an attempt are, unless somebody has."""
    await tx.execute(_MEASURE, asdict(found) | {"size_bytes": size_bytes})


async def enter_round(
    tx: Transaction,
    kind: str,
    *,
    took: timedelta,
    is_dry_run: bool,
    removed: Sequence[RuleEffect],
    kept: int = 50,
) -> None:
    """Write down what a round did; of those of its kind before, only the last that did something stay."""
    told = [
        {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(effect).items()
        }
        for effect in removed
    ]
    given = {"kind": kind, "took": took, "is_dry_run": is_dry_run, "removed": Jsonb(told), "kept": kept}
    await tx.execute(_ENTER_ROUND, given)


async def list_rounds(tx: Transaction, *, limit: int) -> list[Round]:
    """Return the last rounds, newest first."""
    cursor = await tx.execute(_LIST_ROUNDS, {"limit": limit})
    return [
        Round(**row | {"removed": tuple(_effect_of(told) for told in row["removed"])})
        for row in await cursor.fetchall()
    ]


def _reach(bound: Bound, after: AttemptKey, delivery: timedelta) -> dict[str, Any]:
    return {
        "why": bound.why,
        "after_end": after.ended_at,
        "after_job": after.job_id,
        "after_attempt": after.attempt,
        "until_end": bound.until.ended_at,
        "until_job": bound.until.job_id,
        "until_attempt": bound.until.attempt,
        "ended_before": bound.ended_before,
        "delivery": delivery,
    }


def _back(before: AttemptKey) -> dict[str, Any]:
    return {
        "before_end": before.ended_at,
        "before_job": before.job_id,
        "before_attempt": before.attempt,
    }


def _key_of(row: Row) -> AttemptKey:
    return AttemptKey(row["ended_at"], row["job_id"], row["attempt"])


def _surveyed(row: Row | None) -> tuple[Survey, AttemptKey] | None:
    if row is None:
        return None
    return Survey(row["count"], int(row["total"]), row["oldest"], row["newest"]), _key_of(row)


def _effect_of(told: dict[str, Any]) -> RuleEffect:
    times = {
        name: datetime.fromisoformat(told[name]) if told.get(name) else None for name in ("oldest", "newest")
    }
    return RuleEffect(**told | times)
