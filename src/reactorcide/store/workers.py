"""The rows of workers: who they are, when they were last heard of, and what they and their queues do."""
# ruff: noqa: S608 - every part of a statement is a constant of ours

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from reactorcide.domain.workers import WorkerIdentity
from reactorcide.store.database import Database, Transaction

LIVE_HEARTBEATS = 3
"""A worker counts as live while it was heard of within so many heartbeats."""

# Locked first, so that two boots of one name follow each other.
_FIND_BOOT = "SELECT boot_id, turn FROM workers WHERE name = %(name)s FOR UPDATE"
_TAKE_TURN = "SELECT nextval('worker_turns') AS turn"
# A name belongs to the user whose worker had it first; one that shares our database may take any, and
# only once it has said good-bye may another one take its.
_REGISTER = """
    INSERT INTO workers AS w (worker_id, name, boot_id, turn, queues, slots, version, isolation, user_id,
                              token_id)
    VALUES (gen_random_uuid(), %(name)s, %(boot_id)s, %(turn)s, %(queues)s, %(slots)s, %(version)s,
            %(isolation)s, %(user_id)s, %(token_id)s)
    ON CONFLICT (name) DO UPDATE
       SET boot_id = excluded.boot_id, turn = excluded.turn, queues = excluded.queues, slots = excluded.slots,
           version = excluded.version, isolation = excluded.isolation, user_id = excluded.user_id,
           token_id = excluded.token_id, draining = false, disk_full = false, spooled = 0, spool_bytes = 0,
           registered_at = now(), last_seen_at = now()
     WHERE w.turn <= excluded.turn
       AND (excluded.user_id IS NULL OR w.user_id = excluded.user_id OR w.user_id IS NULL AND w.slots = 0)
    RETURNING worker_id
"""
_FIND_SEAT = """
    SELECT boot_id, user_id, token_id, queues FROM workers WHERE worker_id = %(worker_id)s
"""
# Without slots and queues it takes nothing; attempts of the past still name it.
_RETIRE = """
    UPDATE workers SET draining = true, slots = 0, queues = '{}', last_seen_at = now()
     WHERE worker_id = %(worker_id)s AND boot_id = %(boot_id)s
"""
# As with heartbeats, the next one follows soon: this transaction need not wait for the disk.
_MARK_SEEN = """
    UPDATE workers SET last_seen_at = now(), draining = false, disk_full = false
     WHERE worker_id = ANY(%(worker_ids)s) AND set_config('synchronous_commit', 'off', true) IS NOT NULL
"""
IS_LIVE = "w.slots > 0 AND w.last_seen_at > now() - %(silence)s"
"""Of a worker w, where ``silence`` is `LIVE_HEARTBEATS` heartbeats."""
_LIST_WORKERS = f"""
    SELECT w.worker_id, w.name, w.queues, w.slots, w.version, w.isolation, w.draining, w.last_seen_at,
           w.disk_full, w.spooled, w.spool_bytes,
           {IS_LIVE} AS is_live,
           (SELECT count(*) FROM attempts a
             WHERE a.worker_id = w.worker_id AND a.ended_at IS NULL AND a.started_at IS NOT NULL) AS running
      FROM workers w ORDER BY w.name
"""
_LIST_QUEUES = f"""
    WITH waiting AS (
        SELECT queue_name AS name, count(*) AS ready, min(coalesce(queued_at, created_at)) AS oldest
          FROM jobs WHERE status IN ('submitted', 'queued') AND lease_id IS NULL AND desired = 0
         GROUP BY queue_name
    ), busy AS (
        SELECT queue_name AS name, count(*) AS running FROM jobs WHERE status = 'running' GROUP BY queue_name
    ), served AS (
        SELECT q.name, count(*) FILTER (WHERE {IS_LIVE}) AS live_workers,
               count(*) FILTER (WHERE {IS_LIVE} AND w.draining) AS draining_workers,
               count(*) FILTER (WHERE {IS_LIVE} AND w.disk_full) AS full_workers
          FROM workers w CROSS JOIN LATERAL unnest(w.queues) AS q (name) GROUP BY q.name
    )
    SELECT name, coalesce(ready, 0) AS ready, coalesce(running, 0) AS running,
           extract(epoch FROM now() - oldest)::float8 AS oldest_wait_seconds,
           coalesce(live_workers, 0) AS live_workers,
           coalesce(draining_workers, 0) AS draining_workers, coalesce(full_workers, 0) AS full_workers
      FROM waiting FULL JOIN busy USING (name) FULL JOIN served USING (name) ORDER BY name
"""


@dataclass(frozen=True)
class RegisteredWorker:
    """A worker's row after registration."""

    worker_id: str
    is_new_boot: bool
    """It is another process than the one that was registered under this name before."""


class NameTaken(Enum):
    """Why a process cannot have a worker's name."""

    BY_ANOTHER_USER = "by another user"
    BY_A_LATER_PROCESS = "by a later process"


@dataclass(frozen=True)
class Seat:
    """Whose place a worker's is, and what it takes from."""

    boot_id: str
    user_id: str | None
    """Of the token that it came with; None: it shares our database."""
    token_id: str | None
    queues: tuple[str, ...]


@dataclass(frozen=True)
class WorkerRow:
    """A worker and what it does now."""

    worker_id: str
    name: str
    queues: tuple[str, ...]
    slots: int
    running: int
    last_seen_at: datetime
    version: str
    isolation: str
    draining: bool
    disk_full: bool
    spooled: int
    """Attempts in its spool, of ``spool_bytes`` in all."""
    spool_bytes: int
    is_live: bool


@dataclass(frozen=True)
class QueueRow:
    """A queue that has jobs or workers."""

    name: str
    ready: int
    running: int
    oldest_wait_seconds: float | None
    live_workers: int
    draining_workers: int
    """Live, and taking no more jobs; as those of ``full_workers``, who report a full disk."""
    full_workers: int


async def take_turn(database: Database) -> int:
    """Return a number above all that were given before: what an earlier process says later is then known."""
    rows = await database.read(_TAKE_TURN)
    return int(rows[0]["turn"])


async def register_worker(
    tx: Transaction,
    identity: WorkerIdentity,
    turn: int,
    *,
    user_id: str | None = None,
    token_id: str | None = None,
) -> RegisteredWorker | NameTaken:
    """Write down a worker process; it takes the place of the earlier one of its name."""
    before = await (await tx.execute(_FIND_BOOT, {"name": identity.name})).fetchone()
    cursor = await tx.execute(
        _REGISTER,
        {
            "name": identity.name,
            "boot_id": identity.boot_id,
            "turn": turn,
            "queues": list(identity.queues),
            "slots": identity.slots,
            "version": identity.version,
            "isolation": identity.isolation,
            "user_id": user_id,
            "token_id": token_id,
        },
    )
    row = await cursor.fetchone()
    if row is None:
        is_late = before is not None and before["turn"] > turn
        return NameTaken.BY_A_LATER_PROCESS if is_late else NameTaken.BY_ANOTHER_USER
    return RegisteredWorker(
        row["worker_id"], is_new_boot=before is None or before["boot_id"] != identity.boot_id
    )


async def find_seat(database: Database, worker_id: str) -> Seat | None:
    """Return whose a worker is, None if there is no such worker."""
    rows = await database.read(_FIND_SEAT, {"worker_id": worker_id}, urgent=True)
    return Seat(**rows[0] | {"queues": tuple(rows[0]["queues"])}) if rows else None


async def mark_seen(tx: Transaction, worker_ids: Collection[str]) -> None:
    """Write down that these workers wait for work, so they are alive and have room."""
    await tx.execute(_MARK_SEEN, {"worker_ids": list(worker_ids)})


async def retire_worker(tx: Transaction, worker_id: str, boot_id: str) -> bool:
    """Write down that a worker has gone. False: another process has its place."""
    retired = await tx.execute(_RETIRE, {"worker_id": worker_id, "boot_id": boot_id})
    return retired.rowcount == 1


async def list_workers(tx: Transaction, *, heartbeat: timedelta) -> list[WorkerRow]:
    """Return all workers by name."""
    cursor = await tx.execute(_LIST_WORKERS, {"silence": heartbeat * LIVE_HEARTBEATS})
    return [WorkerRow(**row | {"queues": tuple(row["queues"])}) for row in await cursor.fetchall()]


async def list_queues(tx: Transaction, *, heartbeat: timedelta) -> list[QueueRow]:
    """Return all queues that have jobs or workers, by name."""
    cursor = await tx.execute(_LIST_QUEUES, {"silence": heartbeat * LIVE_HEARTBEATS})
    return [QueueRow(**row) for row in await cursor.fetchall()]
