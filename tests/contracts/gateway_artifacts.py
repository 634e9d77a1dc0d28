"""The contract of every gateway, artifacts and all."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.gateway import (
    NOBODY,
    GatewayBench,
    GatewayContract,
    Seat,
    eventually_raises,
    read,
    submit,
)
from job_desk import FAILED, outcome
from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.errors import ClaimLost, InvalidInput, NotFound, Superseded, Unavailable
from reactorcide.domain.jobs import Claim

LARGE = bytes(range(256)) * 4096 * 5 + b"and a bit more"


def artifact_of(path: str, content: bytes) -> Artifact:
    return Artifact(path, len(content), hashlib.sha256(content).hexdigest(), "application/octet-stream")


async def finished(bench: GatewayBench, seat: Seat, *, artifacts: int) -> Claim:
    await submit(bench)
    claim = await seat.run()
    await seat.gateway.finish(claim, replace(FAILED, artifacts=artifacts))
    return claim


async def put(seat: Seat, claim: Claim, file: Path, content: bytes, announced: bytes | None = None) -> None:
    file.write_bytes(content)
    artifact = artifact_of("any", content if announced is None else announced)
    await seat.gateway.put_artifact(claim, artifact.sha256, len(content), file)


async def content_of(bench: GatewayBench, job_id: str, path: str) -> bytes:
    found = await bench.core.artifacts.find(job_id)
    return b"".join([piece async for piece in bench.core.artifacts.read(found, found.find(path))])


class ArtifactsContract(GatewayContract):
    """What a `Gateway` promises, of artifacts too."""

    async def test_what_is_missing_is_told_until_all_has_come(
        self, bench: GatewayBench, tmp_path: Path
    ) -> None:
        seat, file = await self.sit_down(bench), tmp_path / "file"
        claim = await finished(bench, seat, artifacts=4)
        contents = {"d/large": LARGE, "small": b"small", "same": b"small", "empty": b""}
        listed = [artifact_of(path, content) for path, content in contents.items()]

        first = await seat.gateway.seal_artifacts(claim, listed)
        await put(seat, claim, file, LARGE)
        await put(seat, claim, file, LARGE)
        second = await seat.gateway.seal_artifacts(claim, listed)
        for content in (b"small", b""):
            await put(seat, claim, file, content)
        sealed = [await seat.gateway.seal_artifacts(claim, listed) for _ in range(2)]

        assert first == sorted({artifact.sha256 for artifact in listed})
        assert second == sorted({artifact.sha256 for artifact in listed[1:]})
        assert sealed == [[], []]
        assert {path: await content_of(bench, claim.job_id, path) for path in contents} == contents
        assert (await read(bench, claim.job_id)).artifacts_object_key is not None

    async def test_bytes_of_another_digest_are_refused(self, bench: GatewayBench, tmp_path: Path) -> None:
        seat, file = await self.sit_down(bench), tmp_path / "file"
        claim = await finished(bench, seat, artifacts=1)
        listed = [artifact_of("x", b"true")]

        with pytest.raises(InvalidInput):
            await put(seat, claim, file, b"lies", announced=b"true")

        assert await seat.gateway.seal_artifacts(claim, listed) == [listed[0].sha256]

    async def test_more_than_was_promised_and_bad_paths_are_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        claim = await finished(bench, seat, artifacts=1)

        for listed in ([artifact_of("x", b""), artifact_of("y", b"")], [artifact_of("../x", b"")]):
            with pytest.raises(InvalidInput):
                await seat.gateway.seal_artifacts(claim, listed)

    async def test_artifacts_of_an_attempt_that_did_not_promise_any_are_refused(
        self, bench: GatewayBench, tmp_path: Path
    ) -> None:
        seat, file = await self.sit_down(bench), tmp_path / "file"
        await submit(bench)
        running = await seat.run()
        promised_none = await finished(bench, seat, artifacts=0)

        for claim in (running, promised_none):
            with pytest.raises(ClaimLost):
                await put(seat, claim, file, b"x")
            with pytest.raises(ClaimLost):
                await seat.gateway.seal_artifacts(claim, [artifact_of("x", b"x")])

    async def test_auth_16_artifacts_of_another_worker_are_refused(
        self, bench: GatewayBench, tmp_path: Path
    ) -> None:
        seat, other = await self.sit_down(bench), await self.sit_down(bench, "other")
        claim = await finished(bench, other, artifacts=1)
        stolen = replace(claim, worker_id=seat.worker_id)

        with pytest.raises(ClaimLost):
            await put(seat, stolen, tmp_path / "file", b"x")
        with pytest.raises(ClaimLost):
            await seat.gateway.seal_artifacts(stolen, [])
        with pytest.raises(NotFound):
            await put(seat, NOBODY, tmp_path / "file", b"x")

        assert (await read(bench, claim.job_id)).artifacts_object_key is None

    async def test_the_next_boot_goes_on_with_artifacts_and_the_old_one_is_superseded(
        self, bench: GatewayBench, tmp_path: Path
    ) -> None:
        old, file = await self.sit_down(bench), tmp_path / "file"
        claim = await finished(bench, old, artifacts=1)
        new = await self.sit_down(bench)

        await eventually_raises(Superseded, lambda: put(old, claim, file, b"x"))
        with pytest.raises(Superseded):
            await old.gateway.seal_artifacts(claim, [artifact_of("x", b"x")])
        await put(new, claim, file, b"x")

        assert await new.gateway.seal_artifacts(claim, [artifact_of("x", b"x")]) == []

    async def test_artifacts_of_a_deleted_job_are_refused_and_leave_nothing(
        self, bench: GatewayBench, tmp_path: Path
    ) -> None:
        seat = await self.sit_down(bench)
        claim = await finished(bench, seat, artifacts=1)
        async with bench.core.database.transaction() as tx:
            await tx.execute("DELETE FROM jobs WHERE job_id = %s", [claim.job_id])

        with pytest.raises(ClaimLost):
            await put(seat, claim, tmp_path / "file", b"x")

        assert not list(bench.core.objects.list(f"artifacts/{claim.job_id}/"))

    async def test_without_a_coordinator_artifacts_are_for_later(
        self, bench: GatewayBench, tmp_path: Path
    ) -> None:
        seat = await self.sit_down(bench)
        claim = await finished(bench, seat, artifacts=1)
        await bench.cut_off()

        with pytest.raises(Unavailable):
            await asyncio.wait_for(put(seat, claim, tmp_path / "file", b"x"), 20)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(seat.gateway.seal_artifacts(claim, [artifact_of("x", b"x")]), 20)

    async def test_the_number_of_artifacts_is_part_of_no_outcome(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()

        for _ in range(2):
            await seat.gateway.finish(claim, replace(outcome(), artifacts=3))

        assert not (await bench.core.artifacts.find(claim.job_id)).is_complete
