"""Races over one job, decided by the database."""

import asyncio
import os
import random
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from fixture_types import MakeUser
from job_desk import CANCELLED, NO_WAIT, Clock, JobDesk, outcome
from job_laws import check_laws
from reactorcide.domain.errors import ClaimLost, Conflict
from reactorcide.domain.jobs import Claim, Job
from reactorcide.domain.workers import WorkerReport
from reactorcide.services.maintenance import Maintenance
from reactorcide.store.database import Database

T = TypeVar("T")

TRIALS = 2_000 if os.environ.get("REACTORCIDE_LONG_TESTS") == "1" else 200


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user())


async def _work(desk: JobDesk, worker: str, stage: str, barrier: asyncio.Barrier) -> bool:
    """Claim, start and finish a job, meeting the canceller before ``stage``. True: it ran to its end."""
    if stage == "claim":
        await barrier.wait()
    claims: list[Claim] = await desk.attempts.claim(worker, 1, NO_WAIT)
    if stage == "start":
        await barrier.wait()
    try:
        for claim in claims:
            await desk.attempts.start(claim)
            if stage == "finish":
                await barrier.wait()
            await desk.attempts.finish(claim, outcome())
    except ClaimLost:
        return False
    return bool(claims)


async def _cancel(desk: JobDesk, job: Job, barrier: asyncio.Barrier) -> Job | Conflict:
    await barrier.wait()
    try:
        return await _later(desk.jobs.cancel(desk.user, job.job_id))
    except Conflict as conflict:
        return conflict


@pytest.mark.parametrize("stage", ["claim", "start", "finish"])
async def test_load_03_cancel_raced_with_a_step_of_the_worker_has_one_true_end(
    desk: JobDesk, stage: str
) -> None:
    worker = await desk.worker()
    for _ in range(TRIALS // 3):
        job = await desk.submit()
        barrier = asyncio.Barrier(2)

        answer, ran = await asyncio.gather(
            _cancel(desk, job, barrier), _work(desk, worker, stage, barrier), return_exceptions=False
        )

        ended = await desk.read(job.job_id)
        if isinstance(answer, Conflict):
            assert (answer.status, ended.status, ran) == ("completed", "completed", True)
        elif answer.status == "cancelled":
            assert (ended.status, ended.runs, ran) == ("cancelled", 0, False)
        else:
            # Asked in time: it ended by the start that was refused, or the natural end was faster.
            assert answer.cancel_requested
            assert (ended.status, ran) in {("completed", True), ("cancelled", False)}
    await check_laws(desk.database)


async def _reaper(desk: JobDesk) -> Maintenance:
    """Return maintenance whose amnesty is over."""
    clock = Clock()
    maintenance = desk.maintenance(clock)
    for _ in range(4):
        await maintenance.run_round()
        clock.pass_time(5)
    return maintenance


async def _later(call: Awaitable[T]) -> T:
    """Let other tasks go a few random steps ahead."""
    for _ in range(random.randrange(30)):
        await asyncio.sleep(0)
    return await call


async def test_reaping_raced_with_heartbeat_start_and_finish_keeps_the_laws(desk: JobDesk) -> None:
    worker = await desk.worker()
    reapers = [await _reaper(desk) for _ in range(2)]
    for trial in range(20):
        jobs = [await desk.submit(retry_on_lost=trial % 2) for _ in range(4)]
        claims = await desk.attempts.claim(worker, 4, NO_WAIT)
        for claim in claims[:3]:
            await desk.attempts.start(claim)
        for job in jobs:
            await desk.age(job.job_id, 31)

        results = await asyncio.gather(
            *(reaper.run_round() for reaper in reapers),
            desk.attempts.finish(claims[0], outcome()),
            desk.attempts.heartbeat(worker, claims, WorkerReport()),
            desk.attempts.heartbeat(worker, claims, WorkerReport()),
            desk.attempts.start(claims[3]),
            desk.jobs.cancel(desk.user, claims[1].job_id),
            return_exceptions=True,
        )

        assert all(
            not isinstance(result, BaseException) or isinstance(result, (ClaimLost, Conflict))
            for result in results
        ), results
        await check_laws(desk.database)
        for claim in claims:
            if await desk.beat(claim) != "abandon":
                await desk.jobs.cancel(desk.user, claim.job_id)
                await desk.attempts.finish(claim, CANCELLED)
        for job in jobs:
            if not (await desk.read(job.job_id)).status.is_final:
                await desk.jobs.cancel(desk.user, job.job_id)


async def test_a_heartbeat_that_was_answered_go_on_outlives_the_reaper(desk: JobDesk) -> None:
    """The reaper looks at the lease again after it has locked it."""
    worker = await desk.worker()
    reaper = await _reaper(desk)
    for _ in range(50):
        job = await desk.submit(retry_on_lost=1)
        claim = (await desk.start(worker)).claim
        await desk.age(job.job_id, 16)

        order, _ = await asyncio.gather(_later(desk.beat(claim)), reaper.run_round())

        again = await desk.beat(claim)
        assert (order, again) in {("go_on", "go_on"), ("abandon", "abandon")}
        await desk.jobs.cancel(desk.user, job.job_id)
        if again == "go_on":
            await desk.attempts.finish(claim, CANCELLED)
