"""Jobs on trees that were sent: what a worker fetches, keeps, shares between its slots, and throws out."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from worker_fixtures import Coordinator, coordinator, settings, until, worker_of

from contracts.gateway_trees import digest_of
from reactorcide.domain.errors import ClaimLost, InputFault, InvalidInput, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest
from reactorcide.domain.trees import Blob, pack_head
from reactorcide.worker.tree_cache import BadPack, TreeCache
from reactorcide.worker.trees import TreePorter, TreeRefused, bring_in_time
from runnerlib.spec import RunResult
from runnerlib.spec.trees import TreeEntry, encode_manifest, name_of

__all__ = ["coordinator", "settings"]

CLAIM = Claim("job", 1, "lease", "worker")
FILES = {"run.sh": b"#!/bin/sh\necho ran\n", "d/data": bytes(range(256)) * 5000, "empty": b""}
COMMIT = "b" * 40


class Depot:
    """A coordinator that has contents, as a gateway's one method; what it is asked for is kept."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[list[str]] = []
        self.before: Callable[[int], None] = lambda _: None
        self.gate = asyncio.Event()
        self.gate.set()

    def tree(self, files: dict[str, bytes]) -> str:
        entries = [TreeEntry(path, "644", len(data), digest_of(data)) for path, data in files.items()]
        return self.put(encode_manifest(entries), *files.values())

    def put(self, first: bytes, *more: bytes) -> str:
        self.contents |= {digest_of(content): content for content in (first, *more)}
        return digest_of(first)

    async def fetch_blobs(self, claim: Claim, blobs: Sequence[str], take: Callable[[bytes], None]) -> None:
        assert claim == CLAIM
        self.asked.append(list(blobs))
        await self.gate.wait()
        self.before(len(self.asked))
        for sha256 in blobs:
            content = self.contents[sha256]
            await asyncio.to_thread(take, pack_head(Blob(sha256, len(content))) + content)

    @property
    def fetched(self) -> list[str]:
        return [sha256 for blobs in self.asked for sha256 in blobs]


@pytest.fixture
async def depot() -> Depot:
    return Depot()


def porter_of(depot: Depot, root: Path, limit_bytes: int = 2**40) -> TreePorter:
    return TreePorter(depot, TreeCache(root, limit_bytes))  # type: ignore[arg-type]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


# Whole jobs


async def send(coordinator: Coordinator, files: dict[str, bytes]) -> str:
    trees, owner = coordinator.core.trees, coordinator.caller.user_id
    await trees.put_many(owner, {digest_of(content): content for content in files.values()})
    entries = [
        TreeEntry(path, "755" if path.endswith(".sh") else "644", len(data), digest_of(data))
        for path, data in files.items()
    ]
    manifest = encode_manifest(entries)
    return (await trees.enter(owner, name_of(manifest), manifest)).sha256


async def run_on(coordinator: Coordinator, tree: str, command: str, **fields: object) -> str:
    request = JobRequest(
        name="tested",
        source_type="tree",
        source_tree=tree,
        job_command=command,
        **fields,  # type: ignore[arg-type]
    )
    return (await coordinator.core.jobs.submit(coordinator.caller, request)).job.job_id


async def test_a_job_runs_on_the_tree_that_was_sent_and_tells_its_commit(coordinator: Coordinator) -> None:
    tree = await send(coordinator, FILES)
    command = './run.sh; sha256sum < d/data; ls -A; echo "$CI_COMMIT_SHA"'

    async with worker_of(coordinator.core):
        job_id = await run_on(coordinator, tree, command, source_commit=COMMIT, source_changes=2)
        job = await coordinator.ended(job_id)
        await coordinator.printed(job_id, COMMIT.encode() + b"\n")

    log = (await coordinator.log(job_id)).decode()
    assert (job.status, job.resolved_sha) == (JobStatus.COMPLETED, COMMIT)
    assert f"laying out commit {COMMIT} + 2 changed files (patch {tree[:12]})" in log
    assert f"ran\n{digest_of(FILES['d/data'])}  -\nd\nempty\nrun.sh\n{COMMIT}\n" in log


async def test_what_a_job_does_to_its_tree_no_other_job_sees(coordinator: Coordinator) -> None:
    tree = await send(coordinator, FILES)

    async with worker_of(coordinator.core):
        first = await run_on(coordinator, tree, "chmod -R u+w .; echo changed | tee run.sh d/data; rm empty")
        await coordinator.ended(first)
        second = await run_on(coordinator, tree, "./run.sh && test -f empty && sha256sum < d/data")
        job = await coordinator.ended(second)
        await coordinator.printed(second, digest_of(FILES["d/data"]).encode())

    assert job.status is JobStatus.COMPLETED


async def test_no_shelf_outlives_its_attempt_and_all_is_the_workers_alone(coordinator: Coordinator) -> None:
    tree, root = await send(coordinator, FILES), coordinator.data_dir / "trees"

    async with worker_of(coordinator.core):
        jobs = [await run_on(coordinator, tree, "true") for _ in range(4)]
        for job_id in jobs:
            assert (await coordinator.ended(job_id)).status is JobStatus.COMPLETED
        await until(lambda: not files_below(root / "use"))

    assert {path.name for path in files_below(root / "blobs")} == {tree, *map(digest_of, FILES.values())}
    assert {path.stat().st_mode & 0o077 for path in [root, *root.rglob("*")]} == {0}


async def test_a_tree_whose_contents_the_store_has_lost_ends_the_job_in_time(
    coordinator: Coordinator,
) -> None:
    tree = await send(coordinator, FILES)
    for info in list(coordinator.core.objects.list("trees/")):
        coordinator.core.objects.delete(info.key)

    async with worker_of(coordinator.core):
        job = await coordinator.ended(await run_on(coordinator, tree, "true", timeout_seconds=1))

    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.SOURCE_FAILED)
    assert job.fault == "infra"
    assert "could not be fetched within 1 seconds" in (job.message or "")


async def test_a_job_is_cancelled_while_its_tree_is_fetched(coordinator: Coordinator) -> None:
    tree = await send(coordinator, FILES)
    for info in list(coordinator.core.objects.list("trees/")):
        coordinator.core.objects.delete(info.key)

    async with worker_of(coordinator.core):
        job_id = await run_on(coordinator, tree, "true")
        await coordinator.until(job_id, lambda job: job.status is JobStatus.RUNNING)
        await coordinator.core.jobs.cancel(coordinator.caller, job_id)
        job = await coordinator.ended(job_id)

    assert (job.status, job.reason) == (JobStatus.CANCELLED, Reason.CANCELLED_USER)


async def test_a_cache_that_a_crash_has_damaged_heals_itself(coordinator: Coordinator) -> None:
    tree = await send(coordinator, FILES)

    async with worker_of(coordinator.core):
        await coordinator.ended(await run_on(coordinator, tree, "true"))
        kept = next((coordinator.data_dir / "trees").glob(f"blobs/*/{digest_of(FILES['d/data'])}"))
        kept.write_bytes(bytes(len(FILES["d/data"])))
        damaged = await coordinator.ended(await run_on(coordinator, tree, "true"))
        healed = await coordinator.ended(await run_on(coordinator, tree, "true"))

    assert (damaged.reason, damaged.fault) == (Reason.SOURCE_FAILED, "infra")
    assert healed.status is JobStatus.COMPLETED


# The cache


async def test_only_what_is_not_there_is_fetched(depot: Depot, tmp_path: Path) -> None:
    porter = porter_of(depot, tmp_path / "cache")
    first = depot.tree({"a": b"1", "b": b"2", "same": b"1"})
    second = depot.tree({"a": b"1", "b": b"3"})

    await porter.bring(CLAIM, first)
    before = depot.fetched
    shelf = await porter.bring(CLAIM, second)

    assert sorted(before) == sorted([first, digest_of(b"1"), digest_of(b"2")])
    assert depot.fetched[len(before) :] == [second, digest_of(b"3")]
    assert {path.name for path in shelf.path.iterdir()} == {second, digest_of(b"1"), digest_of(b"3")}


async def test_slots_that_want_the_same_tree_fetch_it_once(depot: Depot, tmp_path: Path) -> None:
    porter, tree = porter_of(depot, tmp_path / "cache"), depot.tree(FILES)

    shelves = await asyncio.gather(*(porter.bring(CLAIM, tree) for _ in range(5)))

    assert len(depot.fetched) == len(set(depot.fetched)) == 1 + len(FILES)
    assert len({shelf.path for shelf in shelves}) == 5
    for shelf in shelves:
        assert {path.name: digest_of(path.read_bytes()) for path in shelf.path.iterdir()} == {
            name: name for name in [tree, *map(digest_of, FILES.values())]
        }


async def test_slots_with_trees_that_share_contents_do_not_disturb_each_other(
    depot: Depot, tmp_path: Path
) -> None:
    porter = porter_of(depot, tmp_path / "cache", limit_bytes=0)
    trees = [depot.tree({**FILES, "own": bytes([number])}) for number in range(6)]

    async def use(tree: str) -> None:
        for _ in range(3):
            shelf = await porter.bring(CLAIM, tree)
            assert {digest_of(path.read_bytes()) for path in shelf.path.iterdir()} >= {
                *map(digest_of, FILES.values()),
                tree,
            }
            await asyncio.to_thread(shelf.remove)

    await asyncio.gather(*map(use, trees))


async def test_a_large_tree_comes_in_bounded_calls(depot: Depot, tmp_path: Path) -> None:
    porter = porter_of(depot, tmp_path / "cache")
    tree = depot.tree({str(number): str(number).encode() for number in range(2500)})

    await porter.bring(CLAIM, tree)

    assert [len(blobs) for blobs in depot.asked] == [1, 1000, 1000, 500]


async def test_what_was_broken_off_goes_on_where_it_was(depot: Depot, tmp_path: Path) -> None:
    porter, tree = porter_of(depot, tmp_path / "cache"), depot.tree({"a": b"1", "b": b"2", "c": b"3"})
    real = dict(depot.contents)

    def break_off(call: int) -> None:
        depot.contents = dict(real)
        if call == 2:
            del depot.contents[depot.asked[1][1]]
        if call == 3:
            raise Unavailable("coordinator")

    class Broken(dict[str, bytes]):
        def __missing__(self, key: str) -> bytes:
            raise Unavailable("coordinator")

    depot.before = lambda call: (break_off(call), setattr(depot, "contents", Broken(depot.contents)))[0]

    shelf = await porter.bring(CLAIM, tree)

    first, rest = depot.asked[1][0], depot.asked[1][1:]
    assert depot.asked == [[tree], [first, *rest], rest, rest]
    assert len(list(shelf.path.iterdir())) == 4


@pytest.mark.parametrize(
    "pack",
    [
        pack_head(Blob(digest_of(b"not asked for"), 13)) + b"not asked for",
        pack_head(Blob(digest_of(b"1"), 1)) + b"2",
        pack_head(Blob(digest_of(b"1"), 2)) + b"12",
    ],
)
async def test_what_was_not_asked_for_is_not_taken(depot: Depot, tmp_path: Path, pack: bytes) -> None:
    porter = porter_of(depot, tmp_path / "cache")
    tree = depot.tree({"a": b"1"})
    await porter.bring(CLAIM, depot.tree({}))

    async def lie(claim: Claim, blobs: Sequence[str], take: Callable[[bytes], None]) -> None:
        content = depot.contents[tree]
        take(pack if blobs != [tree] else pack_head(Blob(tree, len(content))) + content)

    depot.fetch_blobs = lie  # type: ignore[method-assign]

    with pytest.raises(TreeRefused):
        await porter.bring(CLAIM, tree)

    kept = files_below(tmp_path / "cache" / "blobs")
    assert all(digest_of(path.read_bytes()) == path.name for path in kept)
    assert digest_of(b"not asked for") not in {path.name for path in kept}


async def test_a_manifest_that_is_none_is_refused_and_not_kept(depot: Depot, tmp_path: Path) -> None:
    porter = porter_of(depot, tmp_path / "cache")

    with pytest.raises(TreeRefused, match="manifest"):
        await porter.bring(CLAIM, depot.put(b"no manifest"))

    assert files_below(tmp_path / "cache") == []


async def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(
    depot: Depot, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    porter = porter_of(depot, root, limit_bytes=4000)
    old, used, new = (depot.tree({"x": bytes([number]) * 1500}) for number in (1, 2, 3))
    for moment, tree in enumerate((old, used)):
        shelf = await porter.bring(CLAIM, tree)
        for path in shelf.path.iterdir():
            os.utime(path, (1000 + moment, 1000 + moment))
        if tree == old:
            kept_shelf = shelf
        else:
            shelf.remove()
    (await porter.bring(CLAIM, old)).remove()
    os.utime(root / "blobs" / used[:2] / used, (1001, 1001))

    (await porter.bring(CLAIM, new)).remove()

    names = {path.name for path in files_below(root / "blobs")}
    assert digest_of(bytes([2]) * 1500) not in names
    assert {digest_of(bytes([1]) * 1500), digest_of(bytes([3]) * 1500)} <= names
    assert (kept_shelf.path / digest_of(bytes([1]) * 1500)).stat().st_size == 1500


async def test_a_shelf_keeps_what_the_cache_throws_out(depot: Depot, tmp_path: Path) -> None:
    porter, tree = porter_of(depot, tmp_path / "cache", limit_bytes=0), depot.tree(FILES)
    shelf = await porter.bring(CLAIM, tree)

    (await porter.bring(CLAIM, depot.tree({"other": b"1"}))).remove()

    assert files_below(tmp_path / "cache" / "blobs") == []
    assert (shelf.path / digest_of(FILES["d/data"])).read_bytes() == FILES["d/data"]


def test_what_dead_processes_left_is_cleared_and_what_living_ones_use_is_not(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    living = TreeCache(root, 0)
    living.open()
    shelf = living.make_shelf()
    (shelf.path / "x").write_bytes(b"in use")
    dead = root / "use" / "dead"
    (dead / "shelf").mkdir(parents=True)
    (root / "use" / "dead.lock").touch()

    TreeCache(root, 0).open()

    assert not dead.exists()
    assert not (root / "use" / "dead.lock").exists()
    assert (shelf.path / "x").read_bytes() == b"in use"


async def test_a_delivery_may_be_closed_while_something_still_comes(tmp_path: Path) -> None:
    cache = TreeCache(tmp_path / "cache", 2**40)
    cache.open()
    shelf, blob = cache.make_shelf(), Blob(digest_of(b"1" * 2000), 2000)
    delivery = shelf.receive({blob.sha256: 2000})
    delivery.take(pack_head(blob) + b"1" * 1000)

    delivery.close()
    late = threading.Thread(target=delivery.take, args=[b"1" * 1000])
    late.start()
    late.join(10)

    assert list(shelf.path.iterdir()) == []
    with pytest.raises(BadPack):
        shelf.receive({}).take(pack_head(blob) + b"1")


# In time


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "worker_disk"),
        (OSError(5, "Input/output error"), "internal"),
        (ClaimLost("job", 1), "source_failed"),
        (InvalidInput([InputFault("/blobs", "no")]), "source_failed"),
    ],
)
async def test_each_trouble_with_a_tree_has_its_reason(
    depot: Depot, tmp_path: Path, error: Exception, reason: str
) -> None:
    porter, tree = porter_of(depot, tmp_path / "cache"), depot.tree(FILES)

    def fail(_: int) -> None:
        raise error

    depot.before = fail

    result = await bring_in_time(porter, CLAIM, tree, ordered=asyncio.Event(), limit_seconds=20)

    assert isinstance(result, RunResult)
    assert (result.status, result.reason, result.fault) == ("failed", reason, "infra")
    assert result.log_sha256 == hashlib.sha256().hexdigest()
    assert files_below(tmp_path / "cache") == []


async def test_an_order_to_stop_ends_the_fetching_at_once(depot: Depot, tmp_path: Path) -> None:
    porter, tree, ordered = porter_of(depot, tmp_path / "cache"), depot.tree(FILES), asyncio.Event()
    depot.gate.clear()
    bringing = asyncio.create_task(bring_in_time(porter, CLAIM, tree, ordered=ordered, limit_seconds=60))
    await until(lambda: bool(depot.asked))

    ordered.set()
    result = await asyncio.wait_for(bringing, 10)

    assert isinstance(result, RunResult)
    assert (result.status, result.reason) == ("cancelled", "cancelled_user")
    assert files_below(tmp_path / "cache") == []
