"""The outbox: effects outside the database that a committed transaction owes.

An entry is taken for a while, acted upon, and marked done. Who dies in between is followed by somebody
else after that while, so every effect must bear being done twice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from reactorcide.store.database import Transaction

PURGE_OBJECTS = "purge_objects"
"""Objects are to go that no row counts on any more. Payload: ``{"job_id": …}``, the log and artifacts of a
deleted job; with ``"attempt"``, the chunks of a sealed log; or what `purge_payload` returns."""

_ADD = """
    INSERT INTO outbox (kind, dedupe, payload) VALUES (%(kind)s, %(dedupe)s, %(payload)s)
    ON CONFLICT (dedupe) DO NOTHING
"""
_TAKE_DUE = """
    WITH due AS MATERIALIZED (
        SELECT id FROM outbox
         WHERE done_at IS NULL AND not_before <= now() AND kind = %(kind)s
         ORDER BY not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox o SET not_before = now() + %(busy_for)s, tries = tries + 1
      FROM due WHERE o.id = due.id
    RETURNING o.id, o.payload, o.tries
"""
_MARK_DONE = "UPDATE outbox SET done_at = now() WHERE id = %(id)s"
_EXPIRE_DONE = """
    DELETE FROM outbox WHERE id IN (
        SELECT id FROM outbox WHERE done_at < now() - %(kept_for)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""


_COUNT_OWED = """
    SELECT count(*) AS entries,
           coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_seconds
      FROM outbox WHERE done_at IS NULL
"""


@dataclass(frozen=True)
class OutboxBacklog:
    """How many effects are owed, and for how long the oldest of them; 0 if none is."""

    entries: int
    oldest_seconds: float


@dataclass(frozen=True)
class OutboxEntry:
    """One owed effect. ``tries`` counts this taking of it too."""

    entry_id: int
    payload: Mapping[str, Any]
    tries: int


async def add_entry(tx: Transaction, kind: str, dedupe: str, payload: Mapping[str, Any]) -> None:
    """Owe an effect from the commit of ``tx`` on; one with the same ``dedupe`` is owed once."""
    await tx.execute(_ADD, {"kind": kind, "dedupe": dedupe, "payload": Jsonb(dict(payload))})


def purge_payload(*, folders: Collection[str] = (), keys: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the payload by which all objects below ``folders``, and those of ``keys``, are to go."""
    return {"folders": list(folders), "keys": list(keys)}


async def take_due(
    tx: Transaction, kind: str, *, limit: int = 100, busy_for: timedelta = timedelta(seconds=30)
) -> list[OutboxEntry]:
    """Take due effects of one kind; nobody else gets them for ``busy_for``."""
    cursor = await tx.execute(_TAKE_DUE, {"kind": kind, "limit": limit, "busy_for": busy_for})
    return [OutboxEntry(row["id"], row["payload"], row["tries"]) for row in await cursor.fetchall()]


async def mark_done(tx: Transaction, entry_id: int) -> None:
    """Say that the effect has happened."""
    await tx.execute(_MARK_DONE, {"id": entry_id})


async def count_owed(tx: Transaction) -> OutboxBacklog:
    """Return what has not been done yet, also of what was tried."""
    row = await (await tx.execute(_COUNT_OWED)).fetchone()
    return OutboxBacklog(**row) if row else OutboxBacklog(0, 0.0)


async def expire_done(
    tx: Transaction, *, kept_for: timedelta = timedelta(hours=24), limit: int = 1000
) -> int:
    """Forget effects that happened longer than ``kept_for`` ago; return how many."""
    return (await tx.execute(_EXPIRE_DONE, {"kept_for": kept_for, "limit": limit})).rowcount
