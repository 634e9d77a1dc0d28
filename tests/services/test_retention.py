"""Retention: what goes and what stays, that it is told and recorded, and that it leaves nothing behind."""

import asyncio
import hashlib
from datetime import timedelta

import pytest
import structlog.testing
from kept_things import DAY, Shelf, listed, old_id

from reactorcide.domain.errors import ClaimLost, Forbidden, Gone, InvalidInput, NotFound
from reactorcide.domain.jobs import Claim
from reactorcide.domain.removals import RemovalCause
from reactorcide.services.retention import DELIVERY
from reactorcide.store import chores
from reactorcide.store.retention import FIRST, LAST, Bound, remove_parts

pytest_plugins = ["shelf_fixtures"]

FILES = {"out/a.txt": b"aaaa", "out/b.txt": b"bb", "out/same.txt": b"bb"}


async def test_without_a_rule_everything_stays(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"hello\n", FILES, ago=1000 * DAY)
    before = shelf.stored()

    assert await shelf.retain() == {}
    assert shelf.stored() == before
    assert await shelf.read_log(job_id) == b"hello\n"


async def test_an_old_job_goes_with_its_log_and_artifacts_and_a_young_one_stays(shelf: Shelf) -> None:
    old = await shelf.ended(b"old log\n", FILES, ago=8 * DAY)
    young = await shelf.ended(b"young\n", FILES, ago=6 * DAY)

    removed = await shelf.retain(jobs=7 * DAY)

    assert removed == {"jobs_by_age": (1, len(b"old log\n") + 6)}
    assert shelf.stored_jobs() == {young}
    with pytest.raises(NotFound):
        await shelf.desk.read(old)
    assert await shelf.read_log(young) == b"young\n"


async def test_the_record_says_what_went_of_whom_and_why(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"old log\n", FILES, ago=8 * DAY)

    await shelf.retain(jobs=7 * DAY)

    [entry] = await shelf.removals(job_id)
    told = (entry.what, entry.why, entry.actor, entry.job_name, entry.user_id, entry.size_bytes)
    assert told == ("job", "age", "system:retention", "job", shelf.user.user_id, len(b"old log\n") + 6)


async def test_an_old_log_goes_and_its_job_stays_and_says_so(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"old log\n", FILES, ago=8 * DAY)
    before = await shelf.desk.read(job_id)

    removed = await shelf.retain(logs=7 * DAY)

    assert removed == {"logs_by_age": (1, 8)}
    job = await shelf.desk.read(job_id)
    assert (before.logs_object_key, before.log_size) == (f"logs/{job_id}/1.log", 8)
    assert (job.logs_object_key, job.log_size) == (None, None)
    assert job.log_loss is not None
    assert job.log_loss.why is RemovalCause.AGE
    assert job.version > before.version
    assert not shelf.stored("logs/")
    assert await shelf.record(job_id) == [("log", "age")]


async def test_who_asks_for_a_removed_log_is_told_since_when_and_why(shelf: Shelf) -> None:
    job_id = await shelf.ended(ago=8 * DAY)
    open_log = await shelf.reader.find(job_id)
    await shelf.retain(logs=7 * DAY)

    with pytest.raises(Gone, match=r"the log was removed at .*Z: it had been kept"):
        await shelf.reader.find(job_id)
    with pytest.raises(Gone):
        await anext(shelf.reader.read(open_log, 0, 4))
    with pytest.raises(Gone):
        async for _ in shelf.reader.follow(job_id):
            pass


async def test_old_artifacts_go_and_the_list_says_so(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n", FILES, ago=8 * DAY)
    listed = await shelf.artifacts.find(job_id)

    removed = await shelf.retain(artifacts=7 * DAY)

    assert removed == {"artifacts_by_age": (1, 6)}
    found = await shelf.artifacts.find(job_id)
    assert (found.artifacts, found.is_complete) == ((), True)
    with pytest.raises(Gone, match="the artifacts were removed"):
        found.find("out/a.txt")
    with pytest.raises(Gone):
        await anext(shelf.artifacts.read(listed, listed.artifacts[0]))
    assert (await shelf.desk.read(job_id)).artifacts_object_key is None
    assert not shelf.stored("artifacts/")
    assert await shelf.read_log(job_id) == b"log\n"


async def test_for_want_of_room_the_oldest_logs_go(shelf: Shelf) -> None:
    jobs = [await shelf.ended(b"x" * 10, ago=days * DAY) for days in (4, 3, 2, 1)]

    removed = await shelf.retain(log_bytes=25)

    assert removed == {"logs_by_bytes": (2, 20)}
    kept = {key.split("/")[1] for key in shelf.stored("logs/")}
    assert kept == set(jobs[2:])
    assert await shelf.record() == [("log", "bytes")] * 2


async def test_what_just_fits_stays(shelf: Shelf) -> None:
    for days in (3, 2, 1):
        await shelf.ended(b"x" * 10, ago=days * DAY)

    assert await shelf.retain(log_bytes=30) == {"logs_by_bytes": (0, 0)}
    assert await shelf.retain(log_bytes=29) == {"logs_by_bytes": (1, 10)}


async def test_empty_logs_need_no_room(shelf: Shelf) -> None:
    empty = await shelf.ended(b"", ago=3 * DAY)
    await shelf.ended(b"full", ago=2 * DAY)

    removed = await shelf.retain(log_bytes=0)

    assert removed == {"logs_by_bytes": (1, 4)}
    assert await shelf.read_log(empty) == b""


async def test_for_want_of_room_the_oldest_artifacts_go(shelf: Shelf) -> None:
    old = await shelf.ended(files={"a": b"12345"}, ago=2 * DAY)
    young = await shelf.ended(files={"a": b"67890", "b": b"67890"}, ago=DAY)

    removed = await shelf.retain(artifact_bytes=5)

    assert removed == {"artifacts_by_bytes": (1, 5)}
    assert {key.split("/")[1] for key in shelf.stored("artifacts/")} == {young}
    assert (await shelf.artifacts.find(old)).loss is not None


async def test_artifacts_whose_size_nobody_wrote_down_are_measured(shelf: Shelf) -> None:
    for days in (3, 2, 1):
        await shelf.ended(files={"a": b"12345"}, ago=days * DAY)
    await shelf.execute("UPDATE attempts SET artifact_bytes = NULL")

    assert await shelf.retain(artifact_bytes=11) == {"artifacts_by_bytes": (1, 5)}


async def test_artifacts_that_never_all_came_go_too_and_nothing_comes_after_them(shelf: Shelf) -> None:
    claim = await shelf.start()
    await shelf.finish(claim, artifacts=2)
    await shelf.settle()
    content = b"only one of two"
    await put(shelf, claim, content)
    await shelf.age(claim.job_id, DAY)
    young = await shelf.retain(artifacts=timedelta(hours=1))
    await shelf.age(claim.job_id, 2 * DAY)

    old = await shelf.retain(artifacts=timedelta(hours=1))

    assert young == {"artifacts_by_age": (0, 0)}
    assert old == {"artifacts_by_age": (1, 0)}
    assert not shelf.stored("artifacts/")
    with pytest.raises(ClaimLost):
        await put(shelf, claim, content)
    assert not shelf.stored("artifacts/")


async def test_artifacts_that_come_whole_while_they_are_removed_do_not_come_back(shelf: Shelf) -> None:
    claim = await shelf.start()
    await shelf.finish(claim, artifacts=1)
    await put(shelf, claim, b"late")
    await shelf.age(claim.job_id, 3 * DAY)
    bound = Bound(RemovalCause.BYTES, LAST)
    await shelf.execute("UPDATE attempts SET artifact_bytes = 4")

    async with shelf.database.transaction() as tx:
        removed = await remove_parts(
            tx, "artifacts", bound, after=FIRST, delivery=DELIVERY, actor="system:retention", limit=1
        )
        sealing = asyncio.create_task(shelf.artifacts.seal(claim, listed({"x": b"late"})))
        while not await waiting_for_a_row(shelf):
            assert not sealing.done()

    assert len(removed) == 1
    with pytest.raises(ClaimLost):
        await sealing
    assert (await shelf.desk.read(claim.job_id)).artifacts_object_key is None


async def waiting_for_a_row(shelf: Shelf) -> bool:
    found = await shelf.desk.rows(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(found)


async def put(shelf: Shelf, claim: Claim, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    await shelf.artifacts.put(claim, digest, len(content), iter([content]))


async def test_a_job_that_has_not_ended_keeps_what_its_first_attempt_wrote(shelf: Shelf) -> None:
    claim = await shelf.start(retry_on_lost=1)
    await shelf.write(claim, b"first\n")
    await shelf.execute("UPDATE attempts SET lease_expires_at = now() - interval '1 hour'")
    await shelf.desk.reap()
    await shelf.execute("UPDATE attempts SET ended_at = ended_at - interval '9 days'")
    await shelf.settle()
    sealed = await shelf.desk.rows("SELECT log_sealed_at FROM attempts WHERE log_sealed_at IS NOT NULL")

    removed = await shelf.retain(logs=7 * DAY, log_bytes=0, jobs=7 * DAY, artifacts=7 * DAY)

    assert len(sealed) == 1
    assert set(removed.values()) == {(0, 0)}
    assert len(shelf.stored("logs/")) == 2


async def test_a_log_that_is_not_sealed_is_waited_for(shelf: Shelf) -> None:
    claim = await shelf.start()
    await shelf.write(claim, b"half")
    await shelf.finish(claim, b"half and half")
    await shelf.age(claim.job_id, DAY)

    removed = await shelf.retain(logs=timedelta(hours=1), log_bytes=0, jobs=timedelta(hours=1))

    assert set(removed.values()) == {(0, 0)}
    assert await shelf.read_log(claim.job_id) == b"half"
    await shelf.age(claim.job_id, 2 * DAY)
    assert (await shelf.retain(jobs=timedelta(hours=1)))["jobs_by_age"][0] == 1
    assert shelf.stored() == set()


async def test_every_attempt_of_an_old_job_loses_its_log(shelf: Shelf) -> None:
    claim = await shelf.start(retry_on_lost=1)
    await shelf.write(claim, b"first\n")
    await shelf.execute("UPDATE attempts SET lease_expires_at = now() - interval '1 hour'")
    await shelf.desk.reap()
    await shelf.execute("UPDATE jobs SET not_before = now() - interval '1 hour'")
    second = (await shelf.desk.start(shelf.worker_id)).claim
    await shelf.write(second, b"second\n")
    await shelf.finish(second, b"second\n")
    await shelf.execute("UPDATE attempts SET ended_at = ended_at - interval '11 minutes' WHERE attempt = 1")
    await shelf.settle()
    await shelf.age(claim.job_id, 8 * DAY)

    removed = await shelf.retain(logs=7 * DAY)

    assert removed == {"logs_by_age": (2, 13)}
    assert shelf.stored() == set()


async def test_more_than_a_batch_goes_in_one_round(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactorcide.services.retention._BATCHES", {"jobs": 2, "log": 2, "artifacts": 2})
    monkeypatch.setattr("reactorcide.services.retention._SUMMED", 2)
    for days in range(1, 6):
        await shelf.ended(b"12345", {"a": b"123"}, ago=days * DAY)

    removed = await shelf.retain(log_bytes=4, artifacts=timedelta(hours=1), jobs=4 * DAY)

    assert removed == {
        "jobs_by_age": (2, 16),
        "logs_by_bytes": (3, 15),
        "artifacts_by_age": (3, 9),
    }
    assert shelf.stored() == set()


async def test_a_preview_tells_and_changes_nothing(shelf: Shelf) -> None:
    await shelf.ended(b"12345", {"a": b"123"}, ago=8 * DAY)
    await shelf.ended(b"1234567", {"a": b"1"}, ago=2 * DAY)
    before = shelf.stored()
    rules = {"jobs": 7 * DAY, "logs": DAY, "log_bytes": 8, "artifacts": 7 * DAY, "artifact_bytes": 0}

    told = await shelf.retention(**rules).preview(shelf.admin)

    assert {effect.rule: (effect.count, effect.size_bytes) for effect in told} == {
        "jobs_by_age": (1, 8),
        "logs_by_age": (2, 12),
        "logs_by_bytes": (1, 5),
        "artifacts_by_age": (1, 3),
        "artifacts_by_bytes": (2, 4),
    }
    assert told[1].oldest is not None
    assert told[1].newest is not None
    assert timedelta(days=5) < told[1].newest - told[1].oldest < timedelta(days=7)
    assert shelf.stored() == before
    assert await shelf.record() == []


async def test_with_dry_run_a_round_only_tells(shelf: Shelf) -> None:
    await shelf.ended(b"12345", ago=8 * DAY)
    before = shelf.stored()

    with structlog.testing.capture_logs() as told:
        await shelf.retain(logs=7 * DAY, jobs=7 * DAY, is_dry_run=True)

    assert shelf.stored() == before
    assert await shelf.record() == []
    [last] = await shelf.retention().rounds(shelf.admin)
    assert last.is_dry_run
    assert {effect.rule for effect in last.removed} == {"jobs_by_age", "logs_by_age"}
    assert [entry["rule"] for entry in told if entry["event"] == "retention.would_remove"] == [
        "jobs_by_age",
        "logs_by_age",
    ]


async def test_rounds_that_did_nothing_do_not_push_out_those_that_did(shelf: Shelf) -> None:
    await shelf.ended(b"12345", ago=8 * DAY)

    for _ in range(3):
        await shelf.retain(logs=7 * DAY)

    rounds = await shelf.retention().rounds(shelf.admin)
    assert [[effect.count for effect in entry.removed] for entry in rounds] == [[], [1]]


async def test_one_coordinator_at_a_time_does_a_round(shelf: Shelf) -> None:
    await shelf.ended(ago=8 * DAY)
    first, second = (shelf.retention(logs=7 * DAY, interval=timedelta(hours=1)) for _ in range(2))

    await asyncio.gather(first.round_due(), second.round_due())
    await first.round_due()

    assert len(await shelf.retention().rounds(shelf.admin)) == 1
    assert not await shelf.database.run(
        lambda tx: chores.take_turn(tx, "retention", every=timedelta(seconds=1))
    )
    for service in (first, second):
        await service.close()


async def test_what_was_removed_is_counted(shelf: Shelf) -> None:
    await shelf.ended(b"12345", ago=8 * DAY)

    await shelf.retain(logs=7 * DAY)

    told = shelf.metrics.render().decode()
    assert 'reactorcide_removals_total{what="log",why="age"} 1.0' in told
    assert 'reactorcide_removed_bytes_total{what="log",why="age"} 5.0' in told


async def test_the_record_is_paged_and_ends(shelf: Shelf) -> None:
    for days in range(5):
        await shelf.ended(ago=(10 + days) * DAY)
    await shelf.retain(logs=DAY)
    service, seen, cursor = shelf.retention(), [], None

    while True:
        page = await service.list_removals(shelf.admin, limit=2, cursor=cursor)
        seen += [entry.removal_id for entry in page.removals]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert len(seen) == 5
    assert seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 40, "", "١"])
async def test_a_made_up_cursor_is_refused(shelf: Shelf, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await shelf.retention().list_removals(shelf.admin, limit=2, cursor=cursor)


async def test_only_admins_see_rules_rounds_and_record(shelf: Shelf) -> None:
    service = shelf.retention()

    for asked in (
        service.preview(shelf.user),
        service.rounds(shelf.user),
        service.list_removals(shelf.user, limit=1),
    ):
        with pytest.raises(Forbidden):
            await asked


async def test_the_record_itself_is_forgotten_after_its_time(shelf: Shelf) -> None:
    await shelf.ended(ago=8 * DAY)
    await shelf.retain(logs=DAY)
    await shelf.execute("UPDATE removals SET removed_at = removed_at - interval '364 days'")
    await shelf.retain()
    kept = await shelf.record()
    await shelf.execute("UPDATE removals SET removed_at = removed_at - interval '2 days'")

    await shelf.retain()

    assert len(kept) == 1
    assert await shelf.record() == []


async def test_a_job_deleted_by_an_admin_is_recorded_with_the_admin(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"12345", {"a": b"123"})

    await shelf.desk.jobs.delete(shelf.admin, job_id)

    [entry] = await shelf.removals(job_id)
    told = (entry.what, entry.why, entry.actor, entry.size_bytes)
    assert told == ("job", "asked", f"user:{shelf.admin.user_id}", 8)


async def test_what_was_not_deleted_is_not_recorded(shelf: Shelf) -> None:
    claim = await shelf.start()

    with pytest.raises(Exception, match="has not ended"):
        await shelf.desk.jobs.delete(shelf.admin, claim.job_id)
    with pytest.raises(NotFound):
        await shelf.desk.jobs.delete(shelf.admin, old_id())

    assert await shelf.record() == []


async def test_ost_04_a_store_that_is_away_meanwhile_keeps_nothing_of_a_deleted_job(shelf: Shelf) -> None:
    by_admin = await shelf.ended(b"12345", {"a": b"123"})
    await shelf.ended(b"12345", {"a": b"123"}, ago=9 * DAY)
    stays = await shelf.ended(b"12345", {"a": b"123"})
    shelf.store.is_down = True
    await shelf.desk.jobs.delete(shelf.admin, by_admin)
    await shelf.retention(jobs=7 * DAY).run_round()
    for _ in range(3):
        await shelf.execute("UPDATE outbox SET not_before = now() WHERE done_at IS NULL")
        await shelf.logs.purge_due()
    kept = shelf.stored_jobs()

    shelf.store.is_down = False
    await shelf.purge()

    assert len(kept) == 3
    assert shelf.stored_jobs() == {stays}
    owed = await shelf.desk.rows("SELECT * FROM outbox WHERE done_at IS NULL")
    assert owed == []


async def test_a_tree_that_only_a_removed_job_named_may_go(shelf: Shelf) -> None:
    tree = "ab" * 32
    await shelf.execute(
        "INSERT INTO trees (user_id, sha256, entries, size_bytes) VALUES (%s, %s, 0, 0)",
        [shelf.user.user_id, tree],
    )
    claim = await shelf.start(source_type="tree", source_tree=tree)
    await shelf.finish(claim)
    await shelf.settle()
    await shelf.age(claim.job_id, 8 * DAY)

    await shelf.retain(jobs=7 * DAY)

    assert await shelf.desk.rows("SELECT 1 FROM jobs") == []
    await shelf.execute("DELETE FROM trees")
