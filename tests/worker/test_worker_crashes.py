"""Workers that die, drain or lose their coordinator, as processes of their own."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_fixtures import (
    Coordinator,
    coordinator,
    processes_of,
    settings,
    until,
    variables,
    worker_of,
)

from reactorcide.config import load_settings
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import READY, JobStatus
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.wiring.core import maintaining, open_core
from reactorcide.worker.spool import Spool
from runnerlib.spec import RunResult

__all__ = ["coordinator", "settings"]

USER_ID = "01890000-0000-7000-8000-00000000abcd"


async def test_wrk_01_a_killed_worker_leaves_no_sandbox_and_its_job_ends_as_lost(
    coordinator: Coordinator,
) -> None:
    mark = f"51{os.getpid()}"
    process = await coordinator.start_worker()
    job_id = await coordinator.submit(f"echo begun; sleep {mark}")
    await coordinator.printed(job_id, b"begun")

    process.kill()

    await until(lambda: not processes_of(mark), 2)
    await coordinator.start_worker()
    job = await coordinator.ended(job_id)
    assert (job.status, job.reason, job.runs) == (JobStatus.FAILED, Reason.WORKER_LOST, 1)


async def test_wrk_01_a_job_that_may_be_retried_runs_again_after_its_worker_was_killed(
    coordinator: Coordinator,
) -> None:
    mark = f"52{os.getpid()}"
    process = await coordinator.start_worker()
    command = f'echo attempt $CI_JOB_ATTEMPT; test "$CI_JOB_ATTEMPT" = 2 || sleep {mark}'
    job_id = await coordinator.submit(command, retry_on_lost=1)
    await coordinator.printed(job_id, b"attempt 1")

    process.kill()
    await process.wait()
    await coordinator.start_worker()

    job = await coordinator.ended(job_id)
    assert (job.status, job.attempt, job.runs) == (JobStatus.COMPLETED, 2, 2)
    assert b"attempt 2" in await coordinator.log(job_id)


async def test_wrk_04_a_job_that_may_run_again_is_dead_before_the_lease_of_a_stopped_worker_is_over(
    coordinator: Coordinator,
) -> None:
    mark = f"56{os.getpid()}"
    process = await coordinator.start_worker(REACTORCIDE_LEASE="10", REACTORCIDE_LOST_AFTER="20")
    job_id = await coordinator.submit(f"echo begun; sleep {mark}", retry_on_lost=1)
    await coordinator.printed(job_id, b"begun")

    process.send_signal(signal.SIGSTOP)

    await until(lambda: not processes_of(mark), 10)


async def test_wrk_05_a_result_that_was_not_delivered_is_delivered_by_the_next_boot(
    coordinator: Coordinator,
) -> None:
    mark = f"53{os.getpid()}"
    process = await coordinator.start_worker()
    job_id = await coordinator.submit(f"echo begun; sleep {mark}")
    await coordinator.printed(job_id, b"begun")
    process.kill()
    await process.wait()
    (left,) = Spool(coordinator.data_dir / "spool").leftovers()
    await until(left.read_result)
    # As if the job had come to its end just before.
    length, digest = left.measure_log()
    left.keep_result(
        RunResult(
            status="completed",
            reason="ok",
            fault="none",
            exit_code=0,
            log_length=length,
            log_sha256=digest,
            isolation="tested",
        )
    )

    await coordinator.start_worker()

    job = await coordinator.ended(job_id)
    assert (job.status, job.exit_code) == (JobStatus.COMPLETED, 0)
    events = await coordinator.core.jobs.events(coordinator.caller, job_id)
    assert [event.to_status for event in events].count(JobStatus.COMPLETED) == 1
    await until(lambda: not list((coordinator.data_dir / "spool").iterdir()))


async def test_a_draining_worker_stays_until_what_its_jobs_wrote_has_been_delivered(
    coordinator: Coordinator,
) -> None:
    objects, away = coordinator.data_dir / "objects", coordinator.data_dir / "away"
    process = await coordinator.start_worker()
    job_id = await coordinator.submit("echo begun; sleep 1; echo the last word")
    await coordinator.printed(job_id, b"begun")
    objects.rename(away)
    job = await coordinator.ended(job_id)

    process.send_signal(signal.SIGTERM)
    output = coordinator.data_dir / "worker.out"
    await until(lambda: b"worker.draining" in output.read_bytes())
    stayed = process.returncode is None
    away.rename(objects)

    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert (job.status, stayed) == (JobStatus.COMPLETED, True)
    assert b"the last word" in await coordinator.log(job_id)
    assert not list((coordinator.data_dir / "spool").iterdir())


async def test_wrk_08_a_draining_worker_ends_its_job_beyond_the_lease_and_takes_no_other(
    coordinator: Coordinator,
) -> None:
    process = await coordinator.start_worker(
        REACTORCIDE_LEASE="3", REACTORCIDE_HEARTBEAT="0.5", REACTORCIDE_LOST_AFTER="3"
    )
    running = await coordinator.submit("echo begun; sleep 8; echo ended")
    await coordinator.printed(running, b"begun")

    process.send_signal(signal.SIGTERM)

    await until(lambda: _is_draining(coordinator))
    waiting = await coordinator.submit("true")
    assert (await coordinator.ended(running)).status is JobStatus.COMPLETED
    async with asyncio.timeout(5):
        assert await process.wait() == 0
    job = await coordinator.core.jobs.get(coordinator.caller, waiting)
    assert job.status in READY
    assert job.attempt == 0
    assert b"ended" in await coordinator.log(running)


async def test_a_worker_claims_no_more_than_it_can_run(coordinator: Coordinator) -> None:
    jobs = [await coordinator.submit("sleep 60") for _ in range(4)]

    async with worker_of(coordinator.core) as worker:
        await until(lambda: worker.running == 2)
        seen = [await coordinator.core.jobs.get(coordinator.caller, job_id) for job_id in jobs]

    assert sorted(job.attempt for job in seen) == [0, 0, 1, 1]


async def test_wrk_08_a_second_signal_kills_the_job_and_says_whose_doing_it_was(
    coordinator: Coordinator,
) -> None:
    mark = f"54{os.getpid()}"
    process = await coordinator.start_worker()
    job_id = await coordinator.submit(f"echo begun; sleep {mark}")
    await coordinator.printed(job_id, b"begun")
    process.send_signal(signal.SIGTERM)
    await until(lambda: _is_draining(coordinator))

    process.send_signal(signal.SIGTERM)

    job = await coordinator.ended(job_id)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.WORKER_LOST)
    assert job.message is not None
    assert "shut down" in job.message
    async with asyncio.timeout(5):
        assert await process.wait() == 0
    assert not processes_of(mark)


async def test_wrk_11_what_a_former_self_left_is_gone_before_the_first_claim(
    coordinator: Coordinator,
) -> None:
    mark = f"55{os.getpid()}"
    process = await coordinator.start_worker()
    left = await coordinator.submit(f"touch /job/file; echo begun; sleep {mark}")
    await coordinator.printed(left, b"begun")
    # Everything of it dies at once, so that nobody cleans up behind it.
    for pid in [process.pid, *_descendants(process.pid)]:
        # What dies with its parent may be gone by its turn.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await process.wait()
    workspaces = list((coordinator.data_dir / "work").iterdir())
    assert workspaces
    job_id = await coordinator.submit("true")

    await coordinator.start_worker()

    await coordinator.until(job_id, lambda job: job.status not in READY)
    assert not [path for path in workspaces if path.exists()]
    assert not processes_of(mark)


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own, to be stopped and started."""
    server = EmbeddedPostgres(tmp_path / "pg", is_durable=False)
    await server.start()
    yield server
    await server.stop()


async def test_net_01_a_job_lives_through_an_outage_of_its_database(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    settings = load_settings(
        variables(tmp_path, REACTORCIDE_LEASE="12", REACTORCIDE_LOST_AFTER="12")
    ).settings
    async with (
        open_core(settings, own_server.dsn, objects_dir=tmp_path / "objects") as core,
        maintaining(core),
    ):
        await core.accounts.bootstrap_admin(USER_ID, tmp_path / "admin-token")
        caller = await core.accounts.authenticate((tmp_path / "admin-token").read_text().strip())
        coordinator = Coordinator(core, caller, tmp_path)
        async with worker_of(core):
            job_id = await coordinator.submit(
                "for i in 1 2 3 4 5 6 7 8 9 10; do echo tick $i; sleep 0.5; done"
            )
            await coordinator.printed(job_id, b"tick 1")

            await own_server.stop()
            await asyncio.sleep(3)  # so long is the outage
            await own_server.start()

            job = await coordinator.ended(job_id)
            log = await coordinator.log(job_id)
    assert (job.status, job.runs) == (JobStatus.COMPLETED, 1)
    assert [line for line in log.splitlines() if line.startswith(b"tick")] == [
        b"tick %d" % number for number in range(1, 11)
    ]


async def test_ost_01_a_job_ends_in_time_while_the_object_store_is_out_of_reach(
    coordinator: Coordinator,
) -> None:
    objects = coordinator.data_dir / "objects"
    async with worker_of(coordinator.core):
        job_id = await coordinator.submit("echo begun; sleep 2; echo ended")
        await coordinator.printed(job_id, b"begun")
        hidden = objects.rename(coordinator.data_dir / "hidden")
        objects.write_text("a file where the folder was")

        job = await coordinator.ended(job_id)
        stored = (await coordinator.core.log_reader.find(job_id)).length
        objects.unlink()
        hidden.rename(objects)

        assert job.status is JobStatus.COMPLETED
        assert job.completed_at is not None
        assert stored == len(b"begun\n")
        await coordinator.printed(job_id, b"ended")


async def _is_draining(coordinator: Coordinator) -> bool:
    async with coordinator.core.database.transaction() as tx:
        cursor = await tx.execute("SELECT count(*) AS n FROM workers WHERE draining")
        row = await cursor.fetchone()
        return bool(row and row["n"])


def _descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_descendants(int(child))]
    return found
