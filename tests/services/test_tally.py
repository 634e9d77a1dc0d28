"""What became of jobs, as the metrics tell it."""

import pytest

from fixture_types import MakeUser
from job_desk import TIMING, JobDesk, outcome
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.store.database import Database


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user())


def sample(desk: JobDesk, name: str, **labels: str) -> float | None:
    return desk.metrics.registry.get_sample_value(f"reactorcide_{name}", labels)


async def test_a_finished_job_is_counted_once_however_often_its_finish_is_told(desk: JobDesk) -> None:
    await desk.submit()
    started = await desk.start(await desk.worker("w"))
    failed = outcome(JobStatus.FAILED, Reason.EXIT_NONZERO, exit_code=3)

    for _ in range(2):
        await desk.attempts.finish(started.claim, failed)
    await desk.tally.settle()

    ended = {"queue": "reactorcide-jobs", "status": "failed", "worker_id": "w"}
    assert sample(desk, "jobs_processed_total", **ended) == 1
    assert sample(desk, "job_duration_seconds_count", queue="reactorcide-jobs", status="failed") == 1
    assert sample(desk, "job_queue_wait_seconds_count", queue="reactorcide-jobs") == 1
    assert sample(desk, "job_claim_to_start_seconds_count", queue="reactorcide-jobs") == 1
    errors = {"queue": "reactorcide-jobs", "error_type": "exit_nonzero", "retryable": "false"}
    assert sample(desk, "job_errors_total", **errors) == 1


async def test_a_job_cancelled_while_it_waits_is_counted_without_a_worker_or_a_duration(
    desk: JobDesk,
) -> None:
    job = await desk.submit()

    for _ in range(2):
        await desk.jobs.cancel(desk.user, job.job_id)
        await desk.tally.settle()

    ended = {"queue": "reactorcide-jobs", "status": "cancelled", "worker_id": ""}
    assert sample(desk, "jobs_processed_total", **ended) == 1
    assert sample(desk, "job_duration_seconds_count", queue="reactorcide-jobs", status="cancelled") is None


async def test_a_lost_worker_counts_as_a_lost_lease_and_its_job_as_retried_or_ended(desk: JobDesk) -> None:
    lost = TIMING.lost_after.total_seconds()
    again, once = await desk.submit(retry_on_lost=1), await desk.submit()
    worker = await desk.worker("w")
    for _ in range(2):
        await desk.start(worker)

    for job in (again, once):
        await desk.age(job.job_id, lost)
    await desk.reap()

    assert sample(desk, "leases_lost_total", queue="reactorcide-jobs", by="maintenance") == 2
    assert sample(desk, "job_retries_total", queue="reactorcide-jobs", worker_id=worker) == 1
    ended = {"queue": "reactorcide-jobs", "status": "failed", "worker_id": "w"}
    assert sample(desk, "jobs_processed_total", **ended) == 1


async def test_a_job_that_waited_too_long_is_counted_as_timed_out(desk: JobDesk) -> None:
    job = await desk.submit(queue_timeout_seconds=5)

    await desk.age(job.job_id, 6)
    await desk.reap()

    ended = {"queue": "reactorcide-jobs", "status": "timeout", "worker_id": ""}
    assert sample(desk, "jobs_processed_total", **ended) == 1
