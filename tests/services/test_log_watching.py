"""Saying that somebody follows a log."""

from datetime import timedelta

import pytest

from reactorcide.domain.jobs import Claim
from reactorcide.services.log_pace import SWIFT, LogPace
from reactorcide.services.log_watching import LogWatch
from reactorcide.store import logs
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.logs import LogRow
from services.log_fixtures import Rows, bell, rows

__all__ = ["bell", "rows"]

SLOW = LogPace(unwatched=timedelta(seconds=5), watched=timedelta(seconds=0.3))


@pytest.fixture
def watch(database: Database, bell: Bell) -> LogWatch:
    return LogWatch(database, bell, SLOW)


async def row_of(database: Database, claim: Claim) -> LogRow:
    row = await database.run(lambda tx: logs.read_log(tx, claim.job_id, claim.attempt))
    assert row is not None
    return row


async def is_watched(database: Database, claim: Claim) -> bool:
    async with database.transaction() as tx:
        cursor = await tx.execute(
            "SELECT log_watched_until > now() AS is_watched FROM attempts WHERE lease_id = %s",
            [claim.lease_id],
        )
        row = await cursor.fetchone()
    assert row is not None
    return bool(row["is_watched"])


async def forget(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("UPDATE attempts SET log_watched_until = NULL")


async def test_who_holds_the_attempt_is_rung_for(
    database: Database, bell: Bell, watch: LogWatch, rows: Rows
) -> None:
    claim = await rows.running()
    with bell.listen(f"worker:{claim.worker_id}") as ear:
        await watch.say(await row_of(database, claim))

        assert await ear.wait(timedelta(seconds=20))

    assert await is_watched(database, claim)


async def test_of_many_followers_one_says_it(database: Database, watch: LogWatch, rows: Rows) -> None:
    claim = await rows.running()
    row = await row_of(database, claim)
    await watch.say(row)
    await forget(database)

    for _ in range(100):
        await watch.say(row)

    assert not await is_watched(database, claim)


async def test_of_each_attempt_it_is_said_anew(database: Database, watch: LogWatch, rows: Rows) -> None:
    first = await rows.running()
    await watch.say(await row_of(database, first))
    await rows.end(first, b"", is_job_over=False)
    second = await rows.running(first.job_id, attempt=2)

    await watch.say(await row_of(database, second))

    assert await is_watched(database, second)


async def test_what_could_not_be_said_is_said_by_the_next(
    database: Database, watch: LogWatch, rows: Rows
) -> None:
    claim = await rows.running()
    row = await row_of(database, claim)
    async with database.transaction() as tx:
        await tx.execute("ALTER TABLE attempts RENAME TO hidden")
    with pytest.raises(Exception, match="attempts"):
        await watch.say(row)
    async with database.transaction() as tx:
        await tx.execute("ALTER TABLE hidden RENAME TO attempts")

    await watch.say(row)

    assert await is_watched(database, claim)


async def test_an_ended_attempt_is_not_watched(database: Database, watch: LogWatch, rows: Rows) -> None:
    claim = await rows.running()
    row = await row_of(database, claim)
    await rows.end(claim, b"")

    await watch.say(row)

    assert not await is_watched(database, claim)


async def test_where_it_makes_no_difference_nothing_is_said(
    database: Database, bell: Bell, rows: Rows
) -> None:
    claim = await rows.running()

    await LogWatch(database, bell, SWIFT).say(await row_of(database, claim))

    assert not await is_watched(database, claim)
