"""The rows of uploaded trees: which contents a user has, which trees name them, and what may go.

A content has a row before it has an object and loses the row before it loses the object. Between the two
stands `tree_blobs.is_stored`, and behind it the outbox; so no object is ever without somebody who knows it.

Who begins to count on a row locks it (FOR KEY SHARE, also that of a foreign key); who wants it gone locks
it whole and only then looks, by a new statement, whether anybody counts on it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from reactorcide.domain.jobs import Claim
from reactorcide.domain.trees import Blob, Tree
from reactorcide.store.database import Transaction

TOUCHED_EVERY = timedelta(hours=1)
"""A row that was used so recently is not written again; less by far than what is kept in any case."""

_TOUCH_BLOBS = """
    UPDATE tree_blobs SET last_used_at = now()
     WHERE user_id = %(user_id)s AND sha256 = ANY(%(digests)s::bytea[]) AND is_stored
       AND last_used_at < now() - %(touched_every)s
"""
_LIST_STORED = """
    SELECT encode(sha256, 'hex') AS sha256 FROM tree_blobs
     WHERE user_id = %(user_id)s AND sha256 = ANY(%(digests)s::bytea[]) AND is_stored
"""
_ANNOUNCE_BLOBS = """
    INSERT INTO tree_blobs AS b (user_id, sha256, size_bytes)
    SELECT %(user_id)s, sha256, size_bytes
      FROM unnest(%(digests)s::bytea[], %(sizes)s::bigint[]) AS w (sha256, size_bytes) ORDER BY sha256
    ON CONFLICT (user_id, sha256) DO UPDATE
       SET last_used_at = now(),
           size_bytes = CASE WHEN b.is_stored THEN b.size_bytes ELSE excluded.size_bytes END
    RETURNING blob_id, encode(sha256, 'hex') AS sha256, size_bytes, is_stored
"""
_MARK_STORED = """
    UPDATE tree_blobs SET is_stored = true, last_used_at = now()
     WHERE blob_id = ANY(%(blob_ids)s) RETURNING blob_id
"""
_SUM_BLOBS = """
    SELECT coalesce(sum(size_bytes), 0)::bigint AS size_bytes FROM tree_blobs
     WHERE user_id = %(user_id)s AND is_stored
"""
_HOLD_BLOBS = """
    SELECT blob_id, encode(sha256, 'hex') AS sha256, size_bytes FROM tree_blobs
     WHERE user_id = %(user_id)s AND sha256 = ANY(%(digests)s::bytea[]) AND is_stored
     ORDER BY blob_id FOR KEY SHARE
"""
_ENTER_TREE = """
    INSERT INTO trees (user_id, sha256, entries, size_bytes)
    VALUES (%(user_id)s, %(sha256)s, %(entries)s, %(size_bytes)s)
    ON CONFLICT (user_id, sha256) DO UPDATE SET last_used_at = now()
    RETURNING tree_id, sha256, entries, size_bytes, last_used_at, xmax = 0 AS is_new
"""
_ENTER_CONTENTS = """
    INSERT INTO tree_contents (tree_id, blob_id) SELECT %(tree_id)s, unnest(%(blob_ids)s::bigint[])
"""
_USE_TREE = """
    UPDATE trees SET last_used_at = now() WHERE user_id = %(user_id)s AND sha256 = %(sha256)s
    RETURNING sha256, entries, size_bytes, last_used_at
"""
_FIND_FETCHABLE = """
    SELECT t.tree_id, t.user_id
      FROM attempts a
      JOIN jobs j ON j.job_id = a.job_id AND j.attempt = a.attempt
      JOIN trees t ON t.user_id = j.user_id AND t.sha256 = j.source_tree
     WHERE a.job_id = %(job_id)s AND a.attempt = %(attempt)s AND a.lease_id = %(lease_id)s
       AND a.worker_id = %(worker_id)s AND a.started_at IS NOT NULL AND a.ended_at IS NULL
       AND j.status = 'running'
"""
_LIST_CONTENTS = """
    SELECT b.blob_id, b.user_id, encode(b.sha256, 'hex') AS sha256, b.size_bytes
      FROM tree_blobs b JOIN tree_contents c ON c.blob_id = b.blob_id AND c.tree_id = %(tree_id)s
     WHERE b.user_id = %(user_id)s AND b.sha256 = ANY(%(digests)s::bytea[])
"""
_LIST_OLD_TREES = """
    SELECT tree_id FROM trees
     WHERE tree_id > %(after)s AND last_used_at < now() - %(kept_for)s ORDER BY tree_id LIMIT %(limit)s
"""
_LOCK_TREE = """
    SELECT tree_id FROM trees WHERE tree_id = %(tree_id)s AND last_used_at < now() - %(kept_for)s
       FOR UPDATE SKIP LOCKED
"""
_DROP_TREE = """
    DELETE FROM trees t WHERE tree_id = %(tree_id)s
       AND NOT EXISTS (SELECT FROM jobs j WHERE j.user_id = t.user_id AND j.source_tree = t.sha256)
"""
_LIST_OLD_BLOBS = """
    SELECT blob_id FROM tree_blobs
     WHERE blob_id > %(after)s AND last_used_at < now() - %(kept_for)s ORDER BY blob_id LIMIT %(limit)s
"""
_LOCK_BLOBS = """
    SELECT blob_id FROM tree_blobs
     WHERE blob_id = ANY(%(blob_ids)s) AND last_used_at < now() - %(kept_for)s
     ORDER BY blob_id FOR UPDATE SKIP LOCKED
"""
_DROP_BLOBS = """
    DELETE FROM tree_blobs b WHERE blob_id = ANY(%(blob_ids)s)
       AND NOT EXISTS (SELECT FROM tree_contents c WHERE c.blob_id = b.blob_id)
    RETURNING blob_id, user_id, encode(sha256, 'hex') AS sha256, size_bytes
"""


@dataclass(frozen=True)
class BlobRow:
    """A content of a user; ``blob_id`` belongs to its object alone."""

    blob_id: int
    user_id: str
    sha256: str
    size_bytes: int
    is_stored: bool = True


async def list_stored(tx: Transaction, user_id: str, digests: Collection[str]) -> set[str]:
    """Return which of these contents a user has, and keep them from going for a while."""
    asked = {"user_id": user_id, "digests": _bytes_of(digests), "touched_every": TOUCHED_EVERY}
    await tx.execute(_TOUCH_BLOBS, asked)
    return {row["sha256"] for row in await (await tx.execute(_LIST_STORED, asked)).fetchall()}


async def announce_blobs(tx: Transaction, user_id: str, blobs: Sequence[Blob]) -> list[BlobRow]:
    """Return the rows of contents that a user brings, made if need be."""
    cursor = await tx.execute(
        _ANNOUNCE_BLOBS,
        {
            "user_id": user_id,
            "digests": _bytes_of(blob.sha256 for blob in blobs),
            "sizes": [blob.size_bytes for blob in blobs],
        },
    )
    return [BlobRow(user_id=user_id, **row) for row in await cursor.fetchall()]


async def mark_stored(tx: Transaction, blob_ids: Collection[int]) -> set[int]:
    """Say that the objects of these rows are there; return those whose rows are there still."""
    cursor = await tx.execute(_MARK_STORED, {"blob_ids": sorted(blob_ids)})
    return {row["blob_id"] for row in await cursor.fetchall()}


async def sum_blobs(tx: Transaction, user_id: str) -> int:
    """Return the bytes of all contents of a user."""
    row = await (await tx.execute(_SUM_BLOBS, {"user_id": user_id})).fetchone()
    return int(row["size_bytes"]) if row else 0


async def enter_tree(
    tx: Transaction, user_id: str, sha256: str, needed: Mapping[str, int], *, entries: int, size_bytes: int
) -> Tree | set[str]:
    """Enter a tree, or mark one that is there as used; else return which needed contents are not there.

    Args:
        needed: size by SHA-256; a content of another size counts as not there.
    """
    cursor = await tx.execute(_HOLD_BLOBS, {"user_id": user_id, "digests": _bytes_of(needed)})
    held = {row["sha256"]: row for row in await cursor.fetchall()}
    missing = {sha for sha, size in needed.items() if sha not in held or held[sha]["size_bytes"] != size}
    if missing:
        return missing
    named = {"user_id": user_id, "sha256": sha256, "entries": entries, "size_bytes": size_bytes}
    row = await (await tx.execute(_ENTER_TREE, named)).fetchone()
    if row is None:
        raise RuntimeError("an insert that returns its row returned none")
    tree_id = row.pop("tree_id")
    if row.pop("is_new"):
        blob_ids = [held[sha]["blob_id"] for sha in needed]
        await tx.execute(_ENTER_CONTENTS, {"tree_id": tree_id, "blob_ids": blob_ids})
    return Tree(**row)


async def use_tree(tx: Transaction, user_id: str, sha256: str) -> Tree | None:
    """Return a tree of a user, which counts as used by it."""
    row = await (await tx.execute(_USE_TREE, {"user_id": user_id, "sha256": sha256})).fetchone()
    return Tree(**row) if row else None


async def list_fetchable(tx: Transaction, claim: Claim, digests: Collection[str]) -> list[BlobRow] | None:
    """Return those of the contents that the tree of a running attempt's job needs.

    None: the attempt does not run, is not this worker's, or its job has no tree.
    """
    fence = {
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "lease_id": claim.lease_id,
        "worker_id": claim.worker_id,
    }
    tree = await (await tx.execute(_FIND_FETCHABLE, fence)).fetchone()
    if tree is None:
        return None
    cursor = await tx.execute(_LIST_CONTENTS, tree | {"digests": _bytes_of(digests)})
    return [BlobRow(**row) for row in await cursor.fetchall()]


async def list_old_trees(tx: Transaction, *, kept_for: timedelta, after: int, limit: int) -> list[int]:
    """Return the ids of trees that were not used for so long, from one id on."""
    cursor = await tx.execute(_LIST_OLD_TREES, {"kept_for": kept_for, "after": after, "limit": limit})
    return [row["tree_id"] for row in await cursor.fetchall()]


async def drop_tree(tx: Transaction, tree_id: int, *, kept_for: timedelta) -> bool:
    """Delete a tree, unless it was used meanwhile, is in use, or a job refers to it."""
    locked = await tx.execute(_LOCK_TREE, {"tree_id": tree_id, "kept_for": kept_for})
    if await locked.fetchone() is None:
        return False
    return (await tx.execute(_DROP_TREE, {"tree_id": tree_id})).rowcount == 1


async def list_old_blobs(tx: Transaction, *, kept_for: timedelta, after: int, limit: int) -> list[int]:
    """Return the ids of contents that were not used for so long, from one id on."""
    cursor = await tx.execute(_LIST_OLD_BLOBS, {"kept_for": kept_for, "after": after, "limit": limit})
    return [row["blob_id"] for row in await cursor.fetchall()]


async def drop_blobs(tx: Transaction, blob_ids: Collection[int], *, kept_for: timedelta) -> list[BlobRow]:
    """Delete and return those of the contents that were not used meanwhile and that no tree names."""
    locked = await tx.execute(_LOCK_BLOBS, {"blob_ids": sorted(blob_ids), "kept_for": kept_for})
    held = [row["blob_id"] for row in await locked.fetchall()]
    if not held:
        return []
    cursor = await tx.execute(_DROP_BLOBS, {"blob_ids": held})
    return [BlobRow(**row) for row in await cursor.fetchall()]


def _bytes_of(digests: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(digest) for digest in digests]
