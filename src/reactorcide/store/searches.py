"""What a search through the object store asks the rows: what owns an object, and which objects must be there.

An object has a row that could own it before it has its first byte, and keeps it for as long as anything may
still be written there. So who looks at the rows after the objects never takes a new object for one without.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from reactorcide.domain.removals import RemovalCause
from reactorcide.store.database import Transaction

Part = Literal["log", "artifacts"]

_READ_MARK = """
    INSERT INTO object_store_mark DEFAULT VALUES ON CONFLICT (only_one) DO UPDATE SET only_one = true
    RETURNING mark_id, coalesce(made_at < now() - %(settled_after)s, false) AS is_settled,
              made_at IS NOT NULL AS is_made
"""
_NOTE_MARK = "UPDATE object_store_mark SET made_at = now() WHERE made_at IS NULL"
_READ_POSITION = "SELECT position FROM searches WHERE place = %(place)s"
_SAVE_POSITION = """
    INSERT INTO searches (place, position) VALUES (%(place)s, %(position)s)
    ON CONFLICT (place) DO UPDATE SET position = excluded.position
"""
_FIND_OWNERS = """
    SELECT a.job_id, a.attempt, coalesce(a.log_sealed_at < now() - %(safe_age)s, false) AS is_long_sealed,
           coalesce(a.log_removed_at < now() - %(safe_age)s, false) AS is_log_removed,
           coalesce(a.artifacts_removed_at < now() - %(safe_age)s, false) AS are_artifacts_removed
      FROM attempts a WHERE a.job_id = ANY(%(job_ids)s::uuid[])
"""
# Those of a job that was deleted just now are being deleted as well.
_FIND_DELETED = """
    SELECT job_id FROM removals
     WHERE job_id = ANY(%(job_ids)s::uuid[]) AND what = 'job' AND removed_at > now() - %(safe_age)s
"""
_FIND_BLOBS = "SELECT blob_id FROM tree_blobs WHERE blob_id = ANY(%(blob_ids)s::bigint[])"
_LIST_LOGS = """
    SELECT a.job_id, a.attempt, a.final_log_length AS size_bytes FROM attempts a
     WHERE (a.job_id, a.attempt) > (%(after_job)s::uuid, %(after_attempt)s::int)
       AND a.job_id <= %(until_job)s::uuid
       AND a.log_sealed_at < %(before)s AND a.log_removed_at IS NULL
     ORDER BY a.job_id, a.attempt LIMIT %(limit)s
"""
_LIST_ARTIFACTS = """
    SELECT a.job_id, a.attempt, coalesce(a.artifact_bytes, 0) AS size_bytes
      FROM attempts a JOIN jobs j ON j.job_id = a.job_id AND j.attempt = a.attempt
     WHERE (a.job_id, a.attempt) > (%(after_job)s::uuid, %(after_attempt)s::int)
       AND a.job_id <= %(until_job)s::uuid
       AND a.artifacts > 0 AND a.artifacts_removed_at IS NULL
       AND j.artifacts_object_key IS NOT NULL AND j.updated_at < %(before)s
     ORDER BY a.job_id, a.attempt LIMIT %(limit)s
"""
_LOSE = """
    WITH lost AS (
        UPDATE attempts a SET {removed}_removed_at = now(), {removed}_removed_why = 'lost'
         WHERE a.job_id = %(job_id)s AND a.attempt = %(attempt)s AND a.{removed}_removed_at IS NULL AND {kept}
        RETURNING a.job_id, a.attempt
    ), unnamed AS (
        UPDATE jobs j SET {key} = NULL, version = j.version + 1, updated_at = now()
          FROM lost l WHERE j.job_id = l.job_id AND j.attempt = l.attempt
    )
    INSERT INTO removals (what, why, actor, job_id, attempt, job_name, user_id, size_bytes)
    SELECT %(what)s, %(why)s, %(actor)s, l.job_id, l.attempt, j.name, j.user_id, %(size_bytes)s
      FROM lost l JOIN jobs j ON j.job_id = l.job_id
    RETURNING removal_id
"""
_LOSE_PART: dict[Part, str] = {
    "log": _LOSE.format(removed="log", kept="a.log_sealed_at IS NOT NULL", key="logs_object_key"),
    "artifacts": _LOSE.format(removed="artifacts", kept="a.artifacts > 0", key="artifacts_object_key"),
}
_LIST_OF_PART: dict[Part, str] = {"log": _LIST_LOGS, "artifacts": _LIST_ARTIFACTS}
_SHRINK = """
    UPDATE attempts SET artifact_bytes = %(size_bytes)s
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND artifact_bytes = %(was)s
       AND artifacts_removed_at IS NULL
"""
_SUSPECT = """
    INSERT INTO orphan_suspects AS s (object_key) SELECT unnest(%(keys)s::text[]) ORDER BY 1
    ON CONFLICT (object_key) DO UPDATE SET seen_at = now()
    RETURNING s.object_key, s.first_seen_at < now() - %(safe_age)s AS is_seen_again
"""
_FORGET = "DELETE FROM orphan_suspects WHERE object_key = ANY(%(keys)s::text[])"
_FORGET_OLD = "DELETE FROM orphan_suspects WHERE seen_at < now() - %(kept_for)s"


@dataclass(frozen=True)
class StoreMark:
    """By what the object store of these rows is known."""

    mark_id: str
    is_made: bool
    """Whether the store was ever given it."""
    is_settled: bool
    """Whether that was long enough ago for another one who uses the store to have noticed."""


@dataclass(frozen=True)
class Owner:
    """What the row of an attempt says of objects under its name."""

    is_long_sealed: bool
    """Its log was sealed so long ago that no chunk of it is needed."""
    is_log_removed: bool
    are_artifacts_removed: bool


@dataclass(frozen=True)
class NamedPart:
    """A sealed log or a list of artifacts whose objects must be there."""

    job_id: str
    attempt: int
    size_bytes: int


async def read_mark(tx: Transaction, *, settled_after: timedelta) -> StoreMark:
    """Return the mark of the object store of these rows, thought up if there was none."""
    row = await (await tx.execute(_READ_MARK, {"settled_after": settled_after})).fetchone()
    if row is None:
        raise RuntimeError("an insert that returns its row returned none")
    return StoreMark(**row)


async def note_mark(tx: Transaction) -> None:
    """Say that the store was given its mark."""
    await tx.execute(_NOTE_MARK)


async def read_position(tx: Transaction, place: str) -> str:
    """Return the key behind which a search goes on; empty: it begins."""
    row = await (await tx.execute(_READ_POSITION, {"place": place})).fetchone()
    return str(row["position"]) if row else ""


async def save_position(tx: Transaction, place: str, position: str) -> None:
    """Let a search go on behind ``position``; empty: from the beginning."""
    await tx.execute(_SAVE_POSITION, {"place": place, "position": position})


async def find_owners(
    tx: Transaction, job_ids: Collection[str], *, safe_age: timedelta
) -> tuple[Mapping[tuple[str, int], Owner], set[str]]:
    """Return the attempts of these jobs, and which of the jobs were deleted within ``safe_age``."""
    given = {"job_ids": sorted(job_ids), "safe_age": safe_age}
    cursor = await tx.execute(_FIND_OWNERS, given)
    owners = {(row.pop("job_id"), row.pop("attempt")): Owner(**row) for row in await cursor.fetchall()}
    deleted = await (await tx.execute(_FIND_DELETED, given)).fetchall()
    return owners, {row["job_id"] for row in deleted}


async def find_blobs(tx: Transaction, blob_ids: Collection[int]) -> set[int]:
    """Return those of the contents of trees that there are."""
    cursor = await tx.execute(_FIND_BLOBS, {"blob_ids": sorted(blob_ids)})
    return {row["blob_id"] for row in await cursor.fetchall()}


async def list_named(
    tx: Transaction, part: Part, *, after: tuple[str, int], until_job: str, before: datetime, limit: int
) -> list[NamedPart]:
    """Return what was sealed before a time, of attempts behind ``after`` and jobs up to ``until_job``."""
    cursor = await tx.execute(
        _LIST_OF_PART[part],
        {
            "after_job": after[0],
            "after_attempt": after[1],
            "until_job": until_job,
            "before": before,
            "limit": limit,
        },
    )
    return [NamedPart(**row) for row in await cursor.fetchall()]


async def lose_part(tx: Transaction, part: Part, named: NamedPart, *, actor: str) -> bool:
    """Mark a log or artifacts as lost and record it. False: they are no longer named."""
    given = {
        "job_id": named.job_id,
        "attempt": named.attempt,
        "size_bytes": named.size_bytes,
        "what": part,
        "why": RemovalCause.LOST,
        "actor": actor,
    }
    return await (await tx.execute(_LOSE_PART[part], given)).fetchone() is not None


async def shrink_artifacts(tx: Transaction, named: NamedPart, size_bytes: int) -> bool:
    """Write down that so much is left of the artifacts of an attempt. False: that has changed meanwhile."""
    given = {
        "job_id": named.job_id,
        "attempt": named.attempt,
        "was": named.size_bytes,
        "size_bytes": size_bytes,
    }
    return (await tx.execute(_SHRINK, given)).rowcount == 1


async def suspect(tx: Transaction, keys: Sequence[str], *, safe_age: timedelta) -> list[str]:
    """Note objects without a row; return those that were noted before, at least ``safe_age`` ago."""
    cursor = await tx.execute(_SUSPECT, {"keys": list(keys), "safe_age": safe_age})
    return [row["object_key"] for row in await cursor.fetchall() if row["is_seen_again"]]


async def forget_suspects(tx: Transaction, keys: Sequence[str]) -> None:
    """Take back what `suspect` noted."""
    await tx.execute(_FORGET, {"keys": list(keys)})


async def forget_old_suspects(tx: Transaction, *, kept_for: timedelta) -> None:
    """Take back what nobody has seen again for so long."""
    await tx.execute(_FORGET_OLD, {"kept_for": kept_for})
