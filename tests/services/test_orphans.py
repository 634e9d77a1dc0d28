"""Searching the store: what belongs to nothing goes, what is on its way stays, what is lost is told once."""

import asyncio
import hashlib
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import structlog.testing
from kept_things import DAY, HeldPut, Shelf, listed, old_id

from reactorcide.domain.errors import Gone, Unavailable
from reactorcide.domain.removals import RemovalCause
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services import orphans
from reactorcide.services.orphans import OrphanSearch
from reactorcide.services.store_marks import MARK_KEY
from reactorcide.services.trees import TreeLimits, TreeService

pytest_plugins = ["shelf_fixtures"]

FILES = {"out/a.txt": b"aaaa", "out/b.txt": b"bb", "out/same.txt": b"bb"}
DIGEST = "ab" * 32
FOREIGN = (
    "backup/2020.tar",
    "logs/readme.txt",
    "logs/{id}/notes.txt",
    "logs/{id}/1.log.bak",
    "logs/{id}/01.log",
    "logs/{id}/1/00000000/part",
    "logs/not-an-id/1.log",
    "artifacts/{id}/1/report.html",
    "artifacts/{id}/1/deeper/" + DIGEST,
    "trees/{id}/blobs/cd/" + DIGEST + ".1",
    "trees/{id}/" + DIGEST + ".1",
)
OURS = (
    "logs/{id}/1.log",
    "logs/{id}/1.index",
    "logs/{id}/2/00000000/0000000000000000-0000000000000004",
    "artifacts/{id}/1/" + DIGEST,
    "artifacts/{id}/1/manifest.json",
)


async def test_what_no_row_owns_goes_and_is_recorded(shelf: Shelf) -> None:
    kept = await shelf.ended(b"log\n", FILES)
    gone = old_id()
    for key in OURS:
        shelf.store.put(key.format(id=gone), b"1234")

    found = await shelf.search()

    assert found == {"orphan_objects": (5, 20)}
    assert shelf.stored_jobs() == {kept}
    told = [(entry.what, entry.why, entry.objects, entry.size_bytes) for entry in await shelf.removals(gone)]
    assert told == [("objects", "orphan", 2, 8), ("objects", "orphan", 3, 12)]
    assert 'reactorcide_removals_total{what="objects",why="orphan"} 5.0' in shelf.metrics.render().decode()


async def test_what_has_not_our_shape_is_never_touched(shelf: Shelf) -> None:
    keys = {key.format(id=old_id()) for key in FOREIGN}
    for key in keys:
        shelf.store.put(key, b"not ours")

    for _ in range(2):
        assert await shelf.search() == {}
        await shelf.execute("UPDATE orphan_suspects SET first_seen_at = first_seen_at - interval '3 days'")

    assert shelf.stored() == keys


async def test_nothing_of_a_young_job_is_an_orphan(shelf: Shelf) -> None:
    young = old_id(datetime.now(UTC) - timedelta(hours=23))
    for key in OURS:
        shelf.store.put(key.format(id=young), b"1234")

    assert await shelf.search() == {}
    assert len(shelf.stored()) == len(OURS)


async def test_everything_of_jobs_in_any_state_stays(shelf: Shelf) -> None:
    running = await shelf.start()
    await shelf.write(running, b"so far\n")
    unsealed = await shelf.start()
    await shelf.write(unsealed, b"half")
    await shelf.finish(unsealed, b"half and half")
    half_brought = await shelf.start()
    await shelf.finish(half_brought, artifacts=2)
    digest = hashlib.sha256(b"one").hexdigest()
    await shelf.artifacts.put(half_brought, digest, 3, iter([b"one"]))
    for claim in (unsealed, half_brought):
        await shelf.age(claim.job_id, 30 * DAY)
    await shelf.ended(b"log\n", FILES, ago=30 * DAY)
    await shelf.ended(b"", ago=30 * DAY)
    before = shelf.stored()

    assert await shelf.search() == {}

    assert shelf.stored() == before
    assert await shelf.record() == []


async def test_a_log_that_is_being_sealed_stays(shelf: Shelf) -> None:
    claim = await shelf.start()
    await shelf.write(claim, b"whole\n")
    await shelf.finish(claim, b"whole\n")
    await shelf.age(claim.job_id, 30 * DAY)
    held = HeldPut("1.log")
    shelf.store.on_call = held
    sealing = asyncio.create_task(shelf.logs.seal_due())
    await asyncio.to_thread(held.is_held.wait, 30)

    # The index is there, and no row says so yet.
    found = await shelf.search()
    held.go_on.set()
    await sealing
    await shelf.settle()

    assert found == {}
    assert await shelf.search() == {}
    assert await shelf.read_log(claim.job_id) == b"whole\n"


async def test_a_log_that_is_sealed_behind_the_listing_is_not_lost(shelf: Shelf) -> None:
    claim = await shelf.start()
    await shelf.write(claim, b"whole\n")
    await shelf.finish(claim, b"whole\n")
    is_listed, go_on = threading.Event(), threading.Event()

    def hold_the_listing(operation: str, key: str) -> None:
        if operation == "listed" and key == "logs/":
            is_listed.set()
            assert go_on.wait(30)

    shelf.store.on_call = hold_the_listing
    searching = asyncio.create_task(shelf.search())
    await asyncio.to_thread(is_listed.wait, 30)
    await shelf.settle()
    go_on.set()

    assert await searching == {}
    assert await shelf.read_log(claim.job_id) == b"whole\n"
    assert await shelf.record() == []


async def test_an_upload_that_goes_on_stays(shelf: Shelf) -> None:
    claim = await shelf.start()
    await shelf.finish(claim, artifacts=1)
    await shelf.settle()
    await shelf.age(claim.job_id, 30 * DAY)
    digest = hashlib.sha256(b"x" * 9).hexdigest()
    held = HeldPut(digest)
    shelf.store.on_call = held
    putting = asyncio.create_task(shelf.artifacts.put(claim, digest, 9, iter([b"x" * 9])))
    await asyncio.to_thread(held.is_held.wait, 30)

    during = await shelf.search()
    held.go_on.set()
    await putting
    after = await shelf.search()

    assert during == after == {}
    files = {"x": b"x" * 9}
    assert await shelf.artifacts.seal(claim, listed(files)) == []
    assert len((await shelf.artifacts.find(claim.job_id)).artifacts) == 1


async def test_what_a_removal_owes_is_no_orphan_until_it_should_be_gone(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n", FILES)
    deleted = await shelf.ended(b"log\n")
    await shelf.retention(logs=timedelta(hours=1), artifacts=timedelta(hours=1)).run_round()
    await shelf.desk.jobs.delete(shelf.admin, deleted)
    # As a coordinator leaves it that took the entries and died.
    await shelf.execute("UPDATE outbox SET done_at = now()")
    left = len(shelf.stored())
    early = await shelf.search()
    await shelf.age(job_id, 2 * DAY)
    await shelf.execute("UPDATE removals SET removed_at = removed_at - interval '2 days'")

    late = await shelf.search()

    assert early == {}
    assert late["orphan_objects"][0] == left
    assert shelf.stored() == set()


async def test_chunks_of_a_log_sealed_long_ago_are_orphans(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n", ago=timedelta())
    chunk = f"logs/{job_id}/1/00000000/{0:016d}-{4:016d}"
    shelf.store.put(chunk, b"log\n1700000000000 o 4\n")
    young = await shelf.search()
    await shelf.age(job_id, 2 * DAY)

    old = await shelf.search()

    assert young == {}
    assert old["orphan_objects"][0] == 1
    assert await shelf.read_log(job_id) == b"log\n"


async def test_while_deletions_are_long_owed_nothing_is_searched(shelf: Shelf) -> None:
    gone = old_id()
    shelf.store.put(f"logs/{gone}/1.log", b"1234")
    job_id = await shelf.ended(b"log\n")
    await shelf.desk.jobs.delete(shelf.admin, job_id)
    await shelf.execute("UPDATE outbox SET created_at = now() - interval '11 minutes' WHERE done_at IS NULL")
    owed = await shelf.search()

    done = await shelf.search()

    assert owed == {}
    assert done == {"orphan_objects": (1, 4)}


async def test_contents_of_trees_without_a_row_go_when_they_were_seen_twice(shelf: Shelf) -> None:
    trees = TreeService(
        shelf.database, shelf.store, limits=TreeLimits(2**20, 2**20), kept_for=timedelta(days=7)
    )
    await trees.put_many(shelf.user.user_id, {hashlib.sha256(b"kept").hexdigest(): b"kept"})
    kept = shelf.stored()
    orphan = f"trees/{shelf.user.user_id}/blobs/ab/{DIGEST}.999"
    shelf.store.put(orphan, b"1234")
    first = await shelf.search()
    again = await shelf.search()
    await shelf.execute("UPDATE orphan_suspects SET first_seen_at = first_seen_at - interval '2 days'")

    second = await shelf.search()

    assert first == again == {}
    assert second == {"orphan_objects": (1, 4)}
    assert shelf.stored() == kept
    [entry] = await shelf.removals()
    assert (entry.user_id, entry.object_key) == (shelf.user.user_id, orphan)
    await trees.close()


async def test_a_content_that_is_on_its_way_is_no_orphan(shelf: Shelf) -> None:
    trees = TreeService(
        shelf.database, shelf.store, limits=TreeLimits(2**20, 2**20), kept_for=timedelta(days=7)
    )
    digest = hashlib.sha256(b"coming").hexdigest()
    held = HeldPut(f"{digest}.1")
    shelf.store.on_call = held
    putting = asyncio.create_task(trees.put_many(shelf.user.user_id, {digest: b"coming"}))
    await asyncio.to_thread(held.is_held.wait, 30)

    for _ in range(2):
        assert await shelf.search() == {}
        await shelf.execute("UPDATE orphan_suspects SET first_seen_at = first_seen_at - interval '2 days'")
    held.go_on.set()
    await putting

    assert await shelf.search() == {}
    assert len(shelf.stored("trees/")) == 1
    await trees.close()


async def test_a_lost_log_is_marked_recorded_and_logged_once(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"precious\n", FILES)
    other = await shelf.ended(b"other\n")
    shelf.store.delete(f"logs/{job_id}/1.log")
    with pytest.raises(Gone, match="the log was lost"):
        await shelf.read_log(job_id)

    with structlog.testing.capture_logs() as told:
        first = await shelf.search()
        second = await shelf.search()

    assert (first, second) == ({"lost_logs": (1, 9)}, {})
    errors = [entry for entry in told if entry["log_level"] == "error"]
    assert [(entry["event"], entry["job_id"]) for entry in errors] == [("log.lost", job_id)]
    job = await shelf.desk.read(job_id)
    assert job.logs_object_key is None
    assert job.log_loss is not None
    assert job.log_loss.why is RemovalCause.LOST
    with pytest.raises(Gone, match="the log was lost"):
        await shelf.reader.find(job_id)
    assert await shelf.record() == [("log", "lost")]
    assert await shelf.read_log(other) == b"other\n"


async def test_losses_are_found_wherever_they_lie_in_the_order_of_keys(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "PIECE", 3)
    jobs = [await shelf.ended(b"log\n", FILES) for _ in range(7)]
    lost = [sorted(jobs)[place] for place in (0, 3, 6)]
    for job_id in lost:
        for key in shelf.stored(f"logs/{job_id}/"):
            shelf.store.delete(key)

    found = await shelf.search()

    assert found == {"lost_logs": (3, 12)}
    assert {entry.job_id for entry in await shelf.removals()} == set(lost)


async def test_a_lost_list_of_artifacts_is_marked(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n", FILES)
    shelf.store.delete(f"artifacts/{job_id}/1/manifest.json")
    with pytest.raises(Gone, match="lost"):
        await shelf.artifacts.find(job_id)

    found = await shelf.search()

    assert found == {"lost_artifacts": (1, 6)}
    after = await shelf.artifacts.find(job_id)
    assert after.loss is not None
    assert after.loss.why is RemovalCause.LOST
    assert await shelf.record(job_id) == [("artifacts", "lost")]


async def test_a_lost_file_among_artifacts_is_told_once_and_the_others_stay(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n", FILES)
    found = await shelf.artifacts.find(job_id)
    shelf.store.delete(f"artifacts/{job_id}/1/{found.find('out/a.txt').sha256}")

    with structlog.testing.capture_logs() as told:
        first = await shelf.search()
        second = await shelf.search()

    assert (first, second) == ({"lost_artifacts": (1, 4)}, {})
    [error] = [entry for entry in told if entry["log_level"] == "error"]
    assert (error["event"], error["paths"]) == ("artifacts.lost_in_part", ["out/a.txt"])
    assert await shelf.record(job_id) == [("objects", "lost")]
    with pytest.raises(Gone, match=r"out/a\.txt was lost"):
        await anext(shelf.artifacts.read(found, found.find("out/a.txt")))
    rest = [piece async for piece in shelf.artifacts.read(found, found.find("out/b.txt"))]
    assert rest == [b"bb"]


async def test_a_dry_run_tells_of_both_and_changes_nothing(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n")
    shelf.store.delete(f"logs/{job_id}/1.log")
    shelf.store.put(f"logs/{old_id()}/1.log", b"1234")
    before = shelf.stored()

    found = await shelf.search(is_dry_run=True)

    assert found == {"lost_logs": (1, 4), "orphan_objects": (1, 4)}
    assert shelf.stored() == before
    assert await shelf.record() == []
    [told] = await shelf.retention().rounds(shelf.admin)
    assert (told.kind, told.is_dry_run) == ("orphans", True)


async def test_a_store_that_was_just_marked_is_only_looked_at(shelf: Shelf) -> None:
    shelf.store.put(f"logs/{old_id()}/1.log", b"1234")

    found = await shelf.search(is_settled=False)

    assert found == {"orphan_objects": (1, 4)}
    assert len(shelf.stored()) == 1


async def test_the_store_of_other_rows_is_left_alone(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n")
    shelf.store.put(MARK_KEY, str(uuid.uuid4()).encode())
    shelf.store.put(f"logs/{old_id()}/1.log", b"of others")
    before = shelf.stored()

    with structlog.testing.capture_logs() as told:
        found = await shelf.search()

    assert found == {}
    assert shelf.stored() == before
    assert [entry["event"] for entry in told if entry["log_level"] == "error"][-1] == "orphans.store_not_ours"
    assert await shelf.read_log(job_id) == b"log\n"


async def test_a_store_that_is_suddenly_empty_has_lost_nothing(shelf: Shelf) -> None:
    job_id = await shelf.ended(b"log\n", FILES)
    await shelf.search()
    whole = shelf.store.inner
    shelf.store.inner = MemoryObjectStore()

    found = await shelf.search()

    assert found == {}
    shelf.store.inner = whole
    assert await shelf.read_log(job_id) == b"log\n"


async def test_a_store_that_becomes_empty_in_the_middle_has_lost_nothing(shelf: Shelf) -> None:
    await shelf.ended(b"log\n", FILES)
    await shelf.search()

    def unmount(operation: str, key: str) -> None:
        if operation == "list" and key == "logs/":
            shelf.store.inner = MemoryObjectStore()

    whole, shelf.store.on_call = shelf.store.inner, unmount

    with pytest.raises(Unavailable):
        await shelf.search()

    shelf.store.inner = whole
    assert await shelf.record() == []


async def test_a_search_goes_on_where_the_last_one_broke_off(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "PIECE", 4)
    jobs = sorted([await shelf.ended(b"log\n") for _ in range(6)])
    for job_id in (jobs[0], jobs[5]):
        shelf.store.delete(f"logs/{job_id}/1.log")

    def die_at_the_last(operation: str, key: str) -> None:
        if operation == "size" and key.startswith(f"logs/{jobs[5]}"):
            shelf.store.on_call = lambda _operation, _key: None
            raise RuntimeError("the coordinator dies here")

    shelf.store.on_call = die_at_the_last
    with pytest.raises(RuntimeError):
        await shelf.search()
    [stopped] = await shelf.desk.rows("SELECT position FROM searches WHERE place = 'logs/'")

    found = await shelf.search()

    assert str(stopped["position"]) > f"logs/{jobs[1]}"
    assert found == {"lost_logs": (1, 4)}
    assert {entry.job_id for entry in await shelf.removals()} == {jobs[0], jobs[5]}


async def test_a_search_while_the_store_is_away_is_made_up_for_soon(shelf: Shelf) -> None:
    search = OrphanSearch(shelf.database, shelf.store, every=30 * DAY)
    shelf.store.is_down = True

    await search.search_due()
    while search._chore._task is not None:
        await search.search_due()

    [turn] = await shelf.desk.rows("SELECT next_at - now() AS due_in FROM chores WHERE name = 'orphans'")
    assert turn["due_in"] < timedelta(minutes=11)  # type: ignore[operator]
    await search.close()


async def test_one_coordinator_at_a_time_searches(shelf: Shelf) -> None:
    searches = [OrphanSearch(shelf.database, shelf.store, every=DAY) for _ in range(2)]

    await asyncio.gather(*(search.search_due() for search in searches))
    for search in searches:
        while search._chore._task is not None:
            await search.search_due()

    assert len(await shelf.desk.rows("SELECT * FROM removal_rounds")) == 1
    for search in searches:
        await search.close()
