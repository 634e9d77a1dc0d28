"""Turns of common chores: of all the coordinators, one does such a chore, and not before its time."""

from datetime import timedelta

from reactorcide.store.database import Transaction

_TAKE_TURN = """
    INSERT INTO chores AS c (name, next_at) VALUES (%(name)s, now() + %(every)s)
    ON CONFLICT (name) DO UPDATE SET next_at = now() + %(every)s WHERE c.next_at <= now()
    RETURNING name
"""


async def take_turn(tx: Transaction, name: str, *, every: timedelta) -> bool:
    """Take the turn of a chore that is due, which then is due again after ``every``. False: it is not."""
    cursor = await tx.execute(_TAKE_TURN, {"name": name, "every": every})
    return await cursor.fetchone() is not None
