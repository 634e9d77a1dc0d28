"""The outbox: what a committed transaction owes is taken until somebody says it is done."""

from datetime import timedelta

from reactorcide.store import outbox
from reactorcide.store.database import Database


async def test_an_entry_is_taken_by_one_and_comes_back_if_nothing_is_heard(database: Database) -> None:
    async with database.transaction() as tx:
        await outbox.add_entry(tx, "purge_objects", "purge:1", {"job_id": "1"})
        await outbox.add_entry(tx, "purge_objects", "purge:1", {"job_id": "1"})

    async with database.transaction() as tx:
        (first,) = await outbox.take_due(tx, "purge_objects", busy_for=timedelta(seconds=-1))
    async with database.transaction() as tx:
        (second,) = await outbox.take_due(tx, "purge_objects")
    async with database.transaction() as tx:
        assert await outbox.take_due(tx, "purge_objects") == []

    assert (first.payload, first.tries, second.tries) == ({"job_id": "1"}, 1, 2)


async def test_what_is_done_is_not_taken_again_and_is_forgotten_later(database: Database) -> None:
    async with database.transaction() as tx:
        await outbox.add_entry(tx, "purge_objects", "purge:1", {})
        (entry,) = await outbox.take_due(tx, "purge_objects", busy_for=timedelta(seconds=-1))
        await outbox.mark_done(tx, entry.entry_id)

    async with database.transaction() as tx:
        assert await outbox.take_due(tx, "purge_objects") == []
        assert await outbox.expire_done(tx) == 0
        assert await outbox.expire_done(tx, kept_for=timedelta(seconds=-1)) == 1


async def test_kinds_are_taken_apart(database: Database) -> None:
    async with database.transaction() as tx:
        await outbox.add_entry(tx, "other", "1", {})

        assert await outbox.take_due(tx, "purge_objects") == []
