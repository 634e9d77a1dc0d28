"""What a job leaves behind, from its artifacts folder to the coordinator, by way of real workers."""


from worker_fixtures import Coordinator, coordinator, settings, until, worker

from reactorcide.domain.status import JobStatus
from reactorcide.services.artifacts import StoredArtifacts
from reactorcide.worker.loop import Worker

__all__ = ["coordinator", "settings", "worker"]


async def test_a_failed_job_leaves_its_artifacts(coordinator: Coordinator, worker: Worker) -> None:
    job_id = await coordinator.submit('cd "$CI_ARTIFACTS_DIR"; mkdir d; echo one > d/x.txt; exit 3')

    job = await coordinator.ended(job_id)
    found = await arrived(coordinator, job_id)

    assert job.status is JobStatus.FAILED
    assert [(a.path, a.size_bytes, a.content_type) for a in found.artifacts] == [("d/x.txt", 4, "text/plain")]
    assert await content(coordinator, found, "d/x.txt") == b"one\n"
    await until(lambda: not list((coordinator.data_dir / "spool").iterdir()))


async def arrived(coordinator: Coordinator, job_id: str) -> StoredArtifacts:
    """Wait until all artifacts of a job have come."""

    async def is_complete() -> bool:
        return (await coordinator.core.artifacts.find(job_id)).is_complete

    await until(is_complete)
    return await coordinator.core.artifacts.find(job_id)


async def content(coordinator: Coordinator, found: StoredArtifacts, path: str) -> bytes:
    pieces = coordinator.core.artifacts.read(found, found.find(path))
    return b"".join([piece async for piece in pieces])
