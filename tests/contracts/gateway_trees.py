"""The contract of every gateway, trees and all."""

import asyncio
import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import replace

import pytest

from contracts.gateway import NOBODY, GatewayBench, Seat, eventually_raises, submit
from contracts.gateway_artifacts import ArtifactsContract
from job_desk import outcome
from reactorcide.domain.errors import ClaimLost, InvalidInput, NotFound, Superseded, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.trees import MAX_FETCHED_BLOBS, Unpacker
from runnerlib.spec.trees import TreeEntry, encode_manifest, name_of

LARGE = bytes(range(256)) * 4096 * 5 + b"and a bit more"


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def send_tree(bench: GatewayBench, files: dict[str, bytes], user_id: str | None = None) -> str:
    """Upload a tree of plain files for the bench's user; return its name."""
    trees, owner = bench.core.trees, user_id or bench.user.user_id
    await trees.put_many(owner, {digest_of(content): content for content in files.values()})
    entries = [TreeEntry(path, "644", len(data), digest_of(data)) for path, data in files.items()]
    manifest = encode_manifest(entries)
    return (await trees.enter(owner, name_of(manifest), manifest)).sha256


async def run_on(bench: GatewayBench, seat: Seat, tree: str) -> Claim:
    await submit(bench, source_type="tree", source_tree=tree)
    return await seat.run()


async def fetch(seat: Seat, claim: Claim, blobs: Iterable[str]) -> dict[str, bytes]:
    """Return what comes of a fetch, by its digest."""
    unpacker, found = Unpacker(), dict[str, bytes]()

    def take(data: bytes) -> None:
        for blob, piece in unpacker.feed(data):
            found[blob.sha256] = found.get(blob.sha256, b"") + piece

    await seat.gateway.fetch_blobs(claim, list(blobs), take)
    assert unpacker.is_at_end
    return found


class TreesContract(ArtifactsContract):
    """What a `Gateway` promises, of trees too."""

    async def test_a_running_attempt_gets_what_its_jobs_tree_needs(self, bench: GatewayBench) -> None:
        seat, contents = await self.sit_down(bench), [LARGE, b"small", b""]
        tree = await send_tree(bench, {"d/large": LARGE, "small": b"small", "same": b"small", "empty": b""})
        claim = await run_on(bench, seat, tree)

        manifest = await fetch(seat, claim, [tree])
        found = await fetch(seat, claim, map(digest_of, contents))

        assert name_of(manifest[tree]) == tree
        assert found == {digest_of(content): content for content in contents}

    async def test_start_tells_the_tree_and_what_it_was_made_from(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        tree = await send_tree(bench, {"a": b"1"})
        fields = {"source_tree": tree, "source_commit": "a" * 40, "source_changes": 3}
        await submit(bench, source_type="tree", **fields)
        claim = await seat.take()

        spec = (await seat.gateway.start(claim)).spec

        assert {name: getattr(spec, name) for name in fields} == fields

    async def test_nothing_of_another_tree_comes_whoever_has_it(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        other = await send_tree(bench, {"a": b"of another tree"})
        claim = await run_on(bench, seat, await send_tree(bench, {"a": b"1"}))

        for wanted in (
            [digest_of(b"of another tree")],
            [other],
            [digest_of(b"1"), other],
            [digest_of(b"none")],
        ):
            with pytest.raises(InvalidInput):
                await fetch(seat, claim, wanted)

    async def test_a_question_that_makes_no_sense_is_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        claim = await run_on(bench, seat, await send_tree(bench, {"a": b"1"}))

        for wanted in ([], ["x"], ["A" * 64], [f"{number:064x}" for number in range(MAX_FETCHED_BLOBS + 1)]):
            with pytest.raises(InvalidInput):
                await fetch(seat, claim, wanted)

    async def test_auth_16_only_the_attempt_that_runs_gets_its_tree(self, bench: GatewayBench) -> None:
        seat, other = await self.sit_down(bench), await self.sit_down(bench, "other")
        tree = await send_tree(bench, {"a": b"1"})
        claim = await run_on(bench, other, tree)
        await submit(bench, source_type="tree", source_tree=tree)
        unstarted = await seat.take()

        for wrong in (
            replace(claim, worker_id=seat.worker_id),
            replace(claim, worker_id=seat.worker_id, lease_id=str(uuid.uuid4())),
            replace(unstarted, attempt=unstarted.attempt + 1),
            unstarted,
        ):
            with pytest.raises(ClaimLost):
                await fetch(seat, wrong, [tree])
        with pytest.raises(NotFound):
            await fetch(seat, NOBODY, [tree])
        await other.gateway.finish(claim, outcome())
        with pytest.raises(ClaimLost):
            await fetch(other, claim, [tree])

    async def test_a_job_without_a_tree_gets_none(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        tree = await send_tree(bench, {"a": b"1"})
        await submit(bench)
        claim = await seat.run()

        with pytest.raises(ClaimLost):
            await fetch(seat, claim, [tree])

    async def test_the_old_boot_gets_no_tree(self, bench: GatewayBench) -> None:
        old = await self.sit_down(bench)
        tree = await send_tree(bench, {"a": b"1"})
        claim = await run_on(bench, old, tree)
        await self.sit_down(bench)

        await eventually_raises(Superseded, lambda: fetch(old, claim, [tree]))

    async def test_without_a_coordinator_a_tree_is_for_later(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        tree = await send_tree(bench, {"a": b"1"})
        claim = await run_on(bench, seat, tree)
        await bench.cut_off()

        with pytest.raises(Unavailable):
            await asyncio.wait_for(fetch(seat, claim, [tree]), 20)

    async def test_a_content_that_is_gone_from_the_store_is_no_answer(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        tree = await send_tree(bench, {"a": LARGE, "b": b"1"})
        claim = await run_on(bench, seat, tree)
        [key] = [info.key for info in bench.core.objects.list("trees/") if digest_of(LARGE) in info.key]
        bench.core.objects.delete(key)

        with pytest.raises(Unavailable):
            await fetch(seat, claim, [digest_of(b"1"), digest_of(LARGE)])

    async def test_what_is_taken_may_be_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        tree = await send_tree(bench, {"a": b"1"})
        claim = await run_on(bench, seat, tree)

        def refuse(_: bytes) -> None:
            raise OSError(28, "no space left")

        with pytest.raises(OSError, match="no space left"):
            await seat.gateway.fetch_blobs(claim, [tree], refuse)
        assert await fetch(seat, claim, [tree])
