"""What a job leaves behind, from its artifacts folder to the coordinator, by way of real workers."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from worker_fixtures import Coordinator, coordinator, settings, until, worker, worker_of

from fixture_types import MakeUser
from reactorcide.domain.accounts import TokenKind
from reactorcide.domain.status import JobStatus
from reactorcide.services.artifacts import StoredArtifacts
from reactorcide.wiring.api import serving
from reactorcide.wiring.worker import make_worker, remote_gateway, working
from reactorcide.worker.loop import Worker
from reactorcide.worker.spool import Spool

__all__ = ["coordinator", "settings", "worker"]

LARGE_MB = 192


@pytest.mark.parametrize("way", ["direct", "http"])
async def test_a_failed_job_leaves_its_artifacts(
    coordinator: Coordinator, make_user: MakeUser, way: str
) -> None:
    job_id = await coordinator.submit(
        'cd "$CI_ARTIFACTS_DIR"; mkdir d; echo one > d/x.txt; ln -s d l; exit 3'
    )

    async with worker_by(coordinator, make_user, way):
        job = await coordinator.ended(job_id)
        found = await arrived(coordinator, job_id)
        await until(lambda: not Spool(coordinator.data_dir / "spool").leftovers())

    assert job.status is JobStatus.FAILED
    assert [(a.path, a.size_bytes, a.content_type) for a in found.artifacts] == [("d/x.txt", 4, "text/plain")]
    assert await content(coordinator, found, "d/x.txt") == b"one\n"
    assert b"left out the artifact l: it is a link" in await coordinator.log(job_id)


async def test_only_what_the_globs_name_is_kept(coordinator: Coordinator, worker: Worker) -> None:
    command = 'cd "$CI_ARTIFACTS_DIR"; mkdir d; touch a.xml a.txt d/b.xml'
    job_id = await coordinator.submit(command, artifacts=("**/*.xml",))

    found = await arrived(coordinator, job_id)

    assert [artifact.path for artifact in found.artifacts] == ["a.xml", "d/b.xml"]


async def test_the_outcome_does_not_wait_for_artifacts_and_wrk_05_the_next_boot_brings_them(
    coordinator: Coordinator,
) -> None:
    objects, hidden = coordinator.data_dir / "objects", coordinator.data_dir / "hidden"
    process = await coordinator.start_worker()
    job_id = await coordinator.submit('echo left > "$CI_ARTIFACTS_DIR/x"; echo begun; read -t 2 _; sleep 2')
    await coordinator.printed(job_id, b"begun")
    objects.rename(hidden)
    objects.write_text("a file where the folder was")

    job = await coordinator.ended(job_id)
    ended = await coordinator.core.artifacts.find(job_id)
    process.kill()
    await process.wait()
    objects.unlink()
    hidden.rename(objects)
    await coordinator.start_worker()

    found = await arrived(coordinator, job_id)
    assert job.status is JobStatus.COMPLETED
    assert (ended.artifacts, ended.is_complete) == ((), False)
    assert await content(coordinator, found, "x") == b"left\n"


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_worker_killed_while_it_brings_artifacts_goes_on_in_its_next_life(
    coordinator: Coordinator, is_early: bool
) -> None:
    process = await coordinator.start_worker()
    job_id = await coordinator.submit(
        f'cd "$CI_ARTIFACTS_DIR"; head -c {LARGE_MB}M /dev/zero > large;'
        " for i in 1 2 3 4 5 6 7 8 9; do echo $i > $i; done"
    )
    await coordinator.ended(job_id)
    partial, kept = coordinator.data_dir / "objects" / "partial", coordinator.data_dir / "objects" / "data"

    def has_begun() -> bool:
        if is_early:
            return any(partial.iterdir()) or any(kept.rglob(f"artifacts/{job_id}/1/*"))
        return any(kept.rglob(f"artifacts/{job_id}/1/*"))

    await until(has_begun)
    process.kill()
    await process.wait()
    await coordinator.start_worker()

    found = await arrived(coordinator, job_id)
    assert len(found.artifacts) == 10
    assert found.find("large").size_bytes == LARGE_MB * 1024**2
    assert await digest(coordinator, found, "large") == found.find("large").sha256
    await until(lambda: not Spool(coordinator.data_dir / "spool").leftovers())


async def test_what_a_crash_of_the_host_has_damaged_is_left_out_and_the_list_is_not_complete(
    coordinator: Coordinator,
) -> None:
    objects, hidden = coordinator.data_dir / "objects", coordinator.data_dir / "hidden"
    process = await coordinator.start_worker()
    job_id = await coordinator.submit(
        'cd "$CI_ARTIFACTS_DIR"; echo one > a; echo two > b; echo three > c; echo begun; sleep 2'
    )
    await coordinator.printed(job_id, b"begun")
    objects.rename(hidden)
    objects.write_text("a file where the folder was")
    await coordinator.ended(job_id)
    process.kill()
    await process.wait()
    (left,) = Spool(coordinator.data_dir / "spool").leftovers()
    (left.path / "artifacts" / "1").write_text("zer")
    (left.path / "artifacts" / "2").write_text("two?")
    (left.path / "artifacts" / "2").rename(left.path / "artifacts" / "2.old")
    objects.unlink()
    hidden.rename(objects)

    await coordinator.start_worker()

    async def is_sealed() -> bool:
        return bool((await coordinator.core.artifacts.find(job_id)).artifacts)

    await until(is_sealed)
    found = await coordinator.core.artifacts.find(job_id)
    assert [artifact.path for artifact in found.artifacts] == ["c"]
    assert not found.is_complete


async def test_a_large_artifact_goes_over_http_without_being_held_in_memory(
    coordinator: Coordinator, make_user: MakeUser
) -> None:
    async with worker_by(coordinator, make_user, "http"):
        warm = await coordinator.submit('head -c 8M /dev/zero > "$CI_ARTIFACTS_DIR/x"')
        await arrived(coordinator, warm)
        before = memory_bytes()
        job_id = await coordinator.submit(f'head -c {LARGE_MB}M /dev/zero > "$CI_ARTIFACTS_DIR/x"')
        found = await arrived(coordinator, job_id)
        assert await digest(coordinator, found, "x") == found.find("x").sha256
        # Both ends of the connection and the reader are this one process.
        assert memory_bytes() - before < 48 * 1024**2


@asynccontextmanager
async def worker_by(coordinator: Coordinator, make_user: MakeUser, way: str) -> AsyncIterator[None]:
    core = coordinator.core
    if way == "direct":
        async with worker_of(core):
            yield
        return
    # The fixture's token text is the token's id.
    token = (await make_user(kind=TokenKind.WORKER)).token_id
    on_any_port = replace(core, settings=replace(core.settings, port=0))
    async with (
        serving(on_any_port, "127.0.0.1") as url,
        remote_gateway(core.settings, url, lambda: token) as gateway,
        working(make_worker(gateway, core.settings, os.environ, "tested", None)),
    ):
        yield


async def arrived(coordinator: Coordinator, job_id: str) -> StoredArtifacts:
    """Wait until all artifacts of a job have come."""

    async def is_complete() -> bool:
        return (await coordinator.core.artifacts.find(job_id)).is_complete

    await until(is_complete, 60)
    return await coordinator.core.artifacts.find(job_id)


async def content(coordinator: Coordinator, found: StoredArtifacts, path: str) -> bytes:
    pieces = coordinator.core.artifacts.read(found, found.find(path))
    return b"".join([piece async for piece in pieces])


async def digest(coordinator: Coordinator, found: StoredArtifacts, path: str) -> str:
    sum_of_all = hashlib.sha256()
    async for piece in coordinator.core.artifacts.read(found, found.find(path)):
        await asyncio.to_thread(sum_of_all.update, piece)
    return sum_of_all.hexdigest()


def memory_bytes() -> int:
    """Return how much memory this process has had at most."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
