"""Idempotency keys: which job a key of a client made."""

from dataclasses import dataclass
from datetime import timedelta

from reactorcide.store.database import Transaction

KEPT_FOR = timedelta(hours=24)

_FIND_KEY = """
    SELECT job_id, fingerprint FROM idempotency WHERE owner = %(owner)s AND key = %(key)s
"""
_EXPIRE_KEYS = """
    DELETE FROM idempotency WHERE (owner, key) IN (
        SELECT owner, key FROM idempotency WHERE created_at < now() - %(kept_for)s
         ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True)
class KeyUse:
    """A key that was used before: for which job, and for what body."""

    job_id: str
    fingerprint: bytes


async def find_key(tx: Transaction, owner: str, key: str) -> KeyUse | None:
    """Return what ``key`` of ``owner`` was used for."""
    row = await (await tx.execute(_FIND_KEY, {"owner": owner, "key": key})).fetchone()
    return KeyUse(row["job_id"], row["fingerprint"]) if row else None


async def expire_keys(tx: Transaction, *, limit: int) -> int:
    """Forget at most ``limit`` of the keys that are older than `KEPT_FOR`; return how many."""
    return (await tx.execute(_EXPIRE_KEYS, {"kept_for": KEPT_FOR, "limit": limit})).rowcount
