"""What a worker does with a job: real runners, real sandboxes, the real coordinator."""

import os

import pytest
from worker_fixtures import Coordinator, coordinator, processes_of, settings, until, worker

from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import READY, JobStatus
from reactorcide.store.attempts import end_lease
from reactorcide.worker import loop
from reactorcide.worker.loop import Worker

__all__ = ["coordinator", "settings", "worker"]

pytestmark = pytest.mark.usefixtures("worker")


async def test_a_job_runs_to_its_end_with_its_log(coordinator: Coordinator) -> None:
    job_id = await coordinator.submit("echo out; echo err >&2")

    job = await coordinator.ended(job_id)

    assert (job.status, job.reason, job.fault, job.exit_code) == (
        JobStatus.COMPLETED,
        Reason.OK,
        Fault.NONE,
        0,
    ), job.message
    log = await coordinator.log(job_id)
    assert b"out\n" in log
    assert b"err\n" in log


@pytest.mark.parametrize("code", [1, 2, 125, 126, 127, 137, 255])
async def test_run_14_the_exit_code_is_the_commands_own(coordinator: Coordinator, code: int) -> None:
    job_id = await coordinator.submit(f"exit {code}")

    job = await coordinator.ended(job_id)

    assert (job.status, job.reason, job.exit_code) == (JobStatus.FAILED, Reason.EXIT_NONZERO, code)
    assert job.runs == 1


async def test_the_environment_and_the_secrets_of_a_job_reach_it_and_no_log(coordinator: Coordinator) -> None:
    job_id = await coordinator.submit(
        'echo "$PLAIN"; echo "$HIDDEN"; test "$HIDDEN" = sesame-open',
        job_env_vars={"PLAIN": "for all"},
        job_secrets={"HIDDEN": "sesame-open"},
    )

    job = await coordinator.ended(job_id)

    log = await coordinator.log(job_id)
    assert job.status is JobStatus.COMPLETED
    assert b"for all\n[REDACTED]\n" in log


async def test_a_cancelled_job_ends_with_its_grandchildren(coordinator: Coordinator) -> None:
    mark = f"41{os.getpid()}"
    job_id = await coordinator.submit(f"(setsid sh -c 'sleep {mark}' &); sleep {mark} & sleep {mark}")
    await until(lambda: processes_of(mark))

    await coordinator.core.jobs.cancel(coordinator.caller, job_id)

    job = await coordinator.ended(job_id)
    assert (job.status, job.reason) == (JobStatus.CANCELLED, Reason.CANCELLED_USER)
    await until(lambda: not processes_of(mark), 2)


async def test_a_job_that_ignores_the_cancel_is_killed_by_force(coordinator: Coordinator) -> None:
    mark = f"42{os.getpid()}"
    job_id = await coordinator.submit(f"trap '' TERM; echo deaf; while :; do sleep {mark}; done")
    await coordinator.printed(job_id, b"deaf")

    await coordinator.core.jobs.cancel(coordinator.caller, job_id, force=True)

    assert (await coordinator.ended(job_id)).status is JobStatus.CANCELLED
    await until(lambda: not processes_of(mark), 2)


async def test_run_11_a_job_over_its_time_ends_as_timeout_and_keeps_its_log(coordinator: Coordinator) -> None:
    mark = f"43{os.getpid()}"
    job_id = await coordinator.submit(f"echo begun; sleep {mark}", timeout_seconds=1)

    job = await coordinator.ended(job_id)

    assert (job.status, job.reason) == (JobStatus.TIMEOUT, Reason.TIMEOUT_RUN)
    assert b"begun" in await coordinator.log(job_id)
    await until(lambda: not processes_of(mark), 2)


async def test_a_job_whose_runner_is_killed_ends_as_failed_and_its_neighbour_goes_on(
    coordinator: Coordinator, worker: Worker
) -> None:
    mark = f"44{os.getpid()}"
    doomed = await coordinator.submit(f"echo begun; sleep {mark}")
    await coordinator.printed(doomed, b"begun")
    neighbour = await coordinator.submit("sleep 1; echo unharmed")

    for attempt in list(worker._attempts.values()):
        if attempt.claim.job_id == doomed:
            assert attempt._runner is not None
            os.kill(attempt._runner.pid, 9)

    job = await coordinator.ended(doomed)
    assert (job.status, job.reason, job.fault) == (JobStatus.FAILED, Reason.SANDBOX_DIED, Fault.INFRA)
    await until(lambda: not processes_of(mark), 2)
    assert (await coordinator.ended(neighbour)).status is JobStatus.COMPLETED
    await until(lambda: not any((coordinator.data_dir / "work").iterdir()))


async def test_a_job_that_is_not_the_workers_any_more_is_killed(
    coordinator: Coordinator, worker: Worker
) -> None:
    mark = f"46{os.getpid()}"
    job_id = await coordinator.submit(f"sleep {mark}")
    await until(lambda: processes_of(mark))
    (claim,) = worker._attempts

    async with coordinator.core.database.transaction() as tx:
        await end_lease(tx, claim, actor="system:test", at_once=True)

    await until(lambda: not processes_of(mark), 10)
    await until(lambda: worker.running == 0)
    job = await coordinator.ended(job_id)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.WORKER_LOST)


async def test_wrk_12_an_end_that_the_spool_cannot_keep_is_told_all_the_same(
    coordinator: Coordinator, worker: Worker
) -> None:
    job_id = await coordinator.submit("echo begun; sleep 60")
    await coordinator.printed(job_id, b"begun")
    (attempt,) = worker._attempts.values()
    assert attempt._runner is not None
    (spool,) = (coordinator.data_dir / "spool").iterdir()
    (spool / "result.part").unlink()
    (spool / "result.part").mkdir()  # in the way, as a full disk would be

    os.kill(attempt._runner.pid, 9)

    job = await coordinator.ended(job_id)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.SANDBOX_DIED)
    await until(lambda: not spool.exists())


async def test_wrk_12_a_job_that_comes_when_the_disk_has_filled_goes_back_until_there_is_room(
    coordinator: Coordinator, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: "queue:reactorcide-jobs" in coordinator.core.bell._ears)  # it asks for work
    monkeypatch.setattr(loop, "ROOM_KNOWN_SECONDS", 0)
    monkeypatch.setattr(loop, "LEAST_FREE_BYTES", 2**62)
    job_id = await coordinator.submit("echo there is room")
    given_back = await coordinator.until(job_id, lambda job: job.attempt >= 1 and job.status in READY)

    monkeypatch.setattr(loop, "LEAST_FREE_BYTES", 0)

    assert given_back.status in READY
    job = await coordinator.ended(job_id)
    assert (job.status, job.runs) == (JobStatus.COMPLETED, 1)


async def test_the_log_can_be_read_while_the_job_runs(coordinator: Coordinator) -> None:
    job_id = await coordinator.submit("echo early; sleep 60")

    await coordinator.printed(job_id, b"early")

    job = await coordinator.core.jobs.get(coordinator.caller, job_id)
    assert job.status is JobStatus.RUNNING


async def test_a_long_log_comes_whole_and_in_order(coordinator: Coordinator) -> None:
    job_id = await coordinator.submit("seq 1 200000")

    job = await coordinator.ended(job_id)

    assert job.status is JobStatus.COMPLETED
    numbers = [line for line in (await coordinator.log(job_id)).split(b"\n") if line.isdigit()]
    assert numbers == [b"%d" % number for number in range(1, 200_001)]


async def test_as_many_jobs_run_at_once_as_there_are_slots(coordinator: Coordinator) -> None:
    marks = [f"45{os.getpid()}{number}" for number in range(3)]
    jobs = [await coordinator.submit(f"sleep {mark}") for mark in marks]
    await until(lambda: sum(bool(processes_of(mark)) for mark in marks) == 2)

    waiting = [await coordinator.core.jobs.get(coordinator.caller, job_id) for job_id in jobs]

    assert [job.status is JobStatus.RUNNING for job in waiting].count(True) == 2


async def test_nothing_of_a_delivered_attempt_stays_on_the_host(
    coordinator: Coordinator, worker: Worker
) -> None:
    job_id = await coordinator.submit("echo left > /job/file")

    await coordinator.ended(job_id)

    await until(lambda: worker.running == 0)
    spool, work = coordinator.data_dir / "spool", coordinator.data_dir / "work"
    await until(lambda: not list(spool.iterdir()) and not (work.exists() and list(work.iterdir())))
