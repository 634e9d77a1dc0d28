"""Turns of common chores: of all the coordinators, one does such a chore, and not before its time."""

from datetime import timedelta

from reactorcide.store.database import Transaction

_TAKE_TURN = """
    INSERT INTO chores AS c (name, next_at) VALUES (%(name)s, now() + %(every)s)
    ON CONFLICT (name) DO UPDATE SET next_at = now() + %(every)s WHERE c.next_at <= now()
    RETURNING name
"""


_SET_TURN = "UPDATE chores SET next_at = now() + %(due_in)s WHERE name = %(name)s"


async def take_turn(tx: Transaction, name: str, *, every: timedelta) -> bool:
    """Take the turn of a chore that is due, which then is due again after ``every``. False: it is not."""
    cursor = await tx.execute(_TAKE_TURN, {"name": name, "every": every})
    return await cursor.fetchone() is not None


async def set_turn(tx: Transaction, name: str, *, due_in: timedelta) -> None:
    """Let a chore be due after ``due_in``: who does one that takes long keeps it from the others so."""
    await tx.execute(_SET_TURN, {"name": name, "due_in": due_in})
