"""How long trees and contents stay, and that forgetting them never takes what somebody counts on."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest

from fixture_types import MakeUser
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.trees import Blob, BlobsMissing
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import StoreUnavailable
from reactorcide.services.trees import BLOB_GRACE, SWEEP_EVERY_SECONDS, TreeLimits, TreeService, key_of
from reactorcide.store import trees as rows
from reactorcide.store.database import Database, Transaction
from runnerlib.spec.trees import TreeEntry, encode_manifest, name_of

WEEK = timedelta(days=7)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Keeper:
    """A service, one user of it, and a clock that stands."""

    def __init__(self, database: Database, user_id: str) -> None:
        self.database = database
        self.user_id = user_id
        self.objects = MemoryObjectStore()
        self.now = 1000.0
        self.service = TreeService(
            database,
            self.objects,
            limits=TreeLimits(2**30, 2**30),
            kept_for=WEEK,
            monotonic=lambda: self.now,
        )

    async def send(self, *contents: bytes, enter: bool = True) -> str:
        await self.service.put_many(self.user_id, {digest_of(content): content for content in contents})
        manifest = self.manifest(*contents)
        if enter:
            await self.service.enter(self.user_id, name_of(manifest), manifest)
        return name_of(manifest)

    def manifest(self, *contents: bytes) -> bytes:
        return encode_manifest(
            TreeEntry(digest_of(data)[:8], "644", len(data), digest_of(data)) for data in contents
        )

    async def grow_old(self, by: timedelta = 2 * WEEK) -> None:
        async with self.database.transaction() as tx:
            for table in ("trees", "tree_blobs"):
                await tx.execute(f"UPDATE {table} SET last_used_at = last_used_at - %s", [by])

    async def sweep(self, rounds: int = 3) -> None:
        for _ in range(rounds):
            self.now += SWEEP_EVERY_SECONDS
            await self.service.sweep()
            await self.service.purge_due()

    async def stored(self) -> set[str]:
        """Return the digests of which there is an object."""
        return {info.key.split("/")[-1].split(".")[0] for info in self.objects.list("trees/")}

    async def known(self) -> set[str]:
        async with self.database.transaction() as tx:
            found = await tx.execute("SELECT encode(sha256, 'hex') AS sha256 FROM tree_blobs")
            return {row["sha256"] for row in await found.fetchall()}

    async def run_on(self, tree: str) -> None:
        await self.execute(
            "INSERT INTO jobs (job_id, user_id, name, source_type, source_tree, code_dir, job_dir,"
            " job_command, runner_image, timeout_seconds, queue_timeout_seconds, queue_name,"
            " queue_deadline_at)"
            " VALUES (%s, %s, 'x', 'tree', %s, '/job', '/job', 'true', 'x', 1, 1, 'q', now())",
            [str(uuid.uuid4()), self.user_id, tree],
        )

    async def execute(self, statement: str, parameters: list[object]) -> None:
        async with self.database.transaction() as tx:
            await tx.execute(statement, parameters)


@pytest.fixture
async def keeper(database: Database, make_user: MakeUser) -> AsyncIterator[Keeper]:
    made = Keeper(database, (await make_user()).user_id)
    yield made
    await made.service.close()


async def test_an_unused_tree_goes_after_its_time_and_all_its_contents_with_it(keeper: Keeper) -> None:
    tree = await keeper.send(b"one", b"two")
    await keeper.sweep()
    kept = await keeper.stored()
    await keeper.grow_old()

    await keeper.sweep()

    assert kept == {tree, digest_of(b"one"), digest_of(b"two")}
    assert await keeper.stored() == await keeper.known() == set()


async def test_what_another_tree_names_stays(keeper: Keeper) -> None:
    await keeper.send(b"shared", b"own")
    await keeper.grow_old()
    young = await keeper.send(b"shared", b"new")

    await keeper.sweep()

    assert await keeper.stored() == {young, digest_of(b"shared"), digest_of(b"new")}


async def test_a_tree_that_a_job_refers_to_stays_however_old(keeper: Keeper) -> None:
    tree = await keeper.send(b"one")
    await keeper.run_on(tree)
    await keeper.grow_old(timedelta(days=1000))
    await keeper.sweep()
    kept = await keeper.stored()
    await keeper.execute("DELETE FROM jobs", [])

    await keeper.sweep()

    assert kept == {tree, digest_of(b"one")}
    assert await keeper.stored() == set()


@pytest.mark.parametrize("use", ["find", "enter"])
async def test_a_tree_that_is_used_again_stays(keeper: Keeper, use: str) -> None:
    tree = await keeper.send(b"one")
    await keeper.grow_old()
    if use == "find":
        await keeper.service.find(keeper.user_id, tree)
    else:
        await keeper.send(b"one")

    await keeper.sweep()

    assert tree in await keeper.stored()


async def test_contents_of_an_upload_that_goes_on_are_kept_for_a_day(keeper: Keeper) -> None:
    await keeper.send(b"brought", enter=False)
    await keeper.grow_old(BLOB_GRACE - timedelta(minutes=5))
    await keeper.sweep()
    early = await keeper.stored()
    await keeper.grow_old(timedelta(minutes=10))

    await keeper.sweep()

    assert early == {digest_of(b"brought")}
    assert await keeper.stored() == set()


async def test_who_is_told_that_a_content_is_there_may_count_on_it(keeper: Keeper) -> None:
    await keeper.send(b"old", enter=False)
    await keeper.grow_old()

    missing = await keeper.service.list_missing(keeper.user_id, [digest_of(b"old"), digest_of(b"new")])
    await keeper.sweep()
    await keeper.service.put_many(keeper.user_id, {digest_of(b"new"): b"new"})
    manifest = keeper.manifest(b"old", b"new")
    entered = await keeper.service.enter(keeper.user_id, name_of(manifest), manifest)

    assert missing == [digest_of(b"new")]
    assert entered.entries == 2


async def test_a_content_comes_anew_while_its_old_object_is_still_to_be_deleted(keeper: Keeper) -> None:
    await keeper.send(b"one", enter=False)
    await keeper.grow_old()
    keeper.now += SWEEP_EVERY_SECONDS
    await keeper.service.sweep()

    tree = await keeper.send(b"one")
    await keeper.service.purge_due()

    assert await keeper.stored() == {tree, digest_of(b"one")}
    [key] = [info.key for info in keeper.objects.list("trees/") if digest_of(b"one") in info.key]
    assert keeper.objects.read(key) == b"one"


async def test_a_sweep_passes_over_contents_that_a_tree_is_just_being_entered_with(keeper: Keeper) -> None:
    await keeper.send(b"one", enter=False)
    await keeper.grow_old()
    manifest = keeper.manifest(b"one")
    await keeper.service.put_many(keeper.user_id, {name_of(manifest): manifest})
    sizes = {name_of(manifest): len(manifest), digest_of(b"one"): 3}

    async with keeper.database.transaction() as tx:
        entered = await rows.enter_tree(tx, keeper.user_id, name_of(manifest), sizes, entries=1, size_bytes=3)
        await asyncio.wait_for(keeper.sweep(), 4)

    await keeper.sweep()
    assert not isinstance(entered, set)
    assert await keeper.stored() == {name_of(manifest), digest_of(b"one")}


async def test_who_enters_a_tree_while_its_contents_are_swept_learns_that_they_are_gone(
    keeper: Keeper,
) -> None:
    await keeper.send(b"one", enter=False)
    await keeper.grow_old()
    manifest = keeper.manifest(b"one")

    async with keeper.database.transaction() as tx:
        listed = await rows.list_old_blobs(tx, kept_for=BLOB_GRACE, after=0, limit=10)
        await rows.drop_blobs(tx, listed, kept_for=BLOB_GRACE)
        entering = asyncio.create_task(keeper.service.enter(keeper.user_id, name_of(manifest), manifest))
        await waits_for_a_lock(keeper.database)

    with pytest.raises(BlobsMissing) as raised:
        await entering
    assert raised.value.missing == {digest_of(b"one")}
    assert await keeper.send(b"one") == name_of(manifest)


async def test_a_sweep_passes_over_a_tree_that_a_job_is_just_being_submitted_on(keeper: Keeper) -> None:
    tree = await keeper.send(b"one")
    await keeper.grow_old()

    async with keeper.database.transaction() as tx:
        await rows.use_tree(tx, keeper.user_id, tree)
        await asyncio.wait_for(keeper.sweep(), 4)

    assert tree in await keeper.stored()


async def test_sweeps_of_several_coordinators_and_uploads_never_leave_a_tree_in_pieces(
    keeper: Keeper,
) -> None:
    contents = [bytes([number]) for number in range(12)]
    ends, entered = asyncio.Event(), list[int]()

    async def upload(number: int) -> None:
        for turn in range(6):
            chosen = contents[(number + turn) % 8 :][:5]
            manifest = keeper.manifest(*chosen)
            for _ in range(50):
                missing = await keeper.service.list_missing(keeper.user_id, list(map(digest_of, chosen)))
                wanted = {digest_of(data): data for data in chosen if digest_of(data) in missing}
                try:
                    await keeper.service.put_many(keeper.user_id, wanted)
                    await keeper.service.enter(keeper.user_id, name_of(manifest), manifest)
                    entered.append(number)
                    break
                except (BlobsMissing, Unavailable):
                    # As a client does: what was thrown out comes again.
                    continue

    async def sweep() -> None:
        own = TreeService(
            keeper.database,
            keeper.objects,
            limits=TreeLimits(2**30, 2**30),
            kept_for=timedelta(),
            monotonic=iter(range(10**6, 10**9, 100)).__next__,
        )
        while not ends.is_set():
            # Our own ageing of every row meets the locks of the others in any order.
            with suppress(Unavailable):
                await keeper.grow_old()
            await own.sweep()
            await own.purge_due()

    sweeping = [asyncio.create_task(sweep()) for _ in range(2)]
    await asyncio.gather(*map(upload, range(4)))
    ends.set()
    await asyncio.gather(*sweeping)

    async with keeper.database.transaction() as tx:
        found = await tx.execute(
            "SELECT b.blob_id, b.user_id, encode(b.sha256, 'hex') AS sha256, b.size_bytes, b.is_stored"
            "  FROM tree_contents JOIN tree_blobs b USING (blob_id)"
        )
        needed = [rows.BlobRow(**row) for row in await found.fetchall()]
    keys = {info.key for info in keeper.objects.list("trees/")}
    assert entered
    assert {key_of(row) for row in needed} <= keys
    assert all(row.is_stored for row in needed)


async def test_what_was_given_up_while_it_came_leaves_no_object(keeper: Keeper) -> None:
    content = b"slow"

    def pieces() -> Iterator[bytes]:
        yield content
        swept = asyncio.run_coroutine_threadsafe(forget(), loop)
        swept.result(10)

    async def forget() -> None:
        await keeper.grow_old()
        await keeper.sweep()

    loop = asyncio.get_running_loop()

    with pytest.raises(Unavailable):
        await keeper.service.put(keeper.user_id, Blob(digest_of(content), len(content)), pieces())

    assert await keeper.stored() == await keeper.known() == set()


async def test_an_object_that_cannot_be_deleted_now_is_deleted_later(keeper: Keeper) -> None:
    await keeper.send(b"one", enter=False)
    await keeper.grow_old()
    keeper.now += SWEEP_EVERY_SECONDS
    await keeper.service.sweep()
    real = keeper.objects.delete

    def refuse(_: str) -> None:
        raise StoreUnavailable("away")

    keeper.objects.delete = refuse  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await keeper.service.purge_due()
    keeper.objects.delete = real  # type: ignore[method-assign]
    await keeper.execute("UPDATE outbox SET not_before = now()", [])

    await keeper.service.purge_due()

    assert await keeper.stored() == set()


async def test_of_many_a_sweep_takes_some_and_the_next_ones_the_rest(keeper: Keeper) -> None:
    for number in range(45):
        await keeper.send(str(number).encode())
    await keeper.grow_old()

    await keeper.sweep(1)
    left = len(await keeper.stored())
    await keeper.sweep(5)

    assert 0 < left < 90
    assert await keeper.stored() == await keeper.known() == set()


async def waits_for_a_lock(database: Database) -> None:
    """Return when somebody waits for a lock in this database."""

    async def look(tx: Transaction) -> bool:
        found = await tx.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await found.fetchone() is not None

    async with asyncio.timeout(4):
        while not await database.run(look):
            await asyncio.sleep(0.01)
