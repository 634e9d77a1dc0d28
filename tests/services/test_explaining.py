"""Why a job does what it does, asked at every station of its life."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from fixture_types import MakeUser
from job_desk import CANCELLED, FAILED, TIMING, JobDesk, outcome
from reactorcide.domain.accounts import Role
from reactorcide.domain.errors import Forbidden, NotFound
from reactorcide.domain.jobs import Claim
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import WorkerReport
from reactorcide.services.explaining import Explainer, Explanation
from reactorcide.store.database import Database

LOST = TIMING.lost_after.total_seconds()
LEASE = TIMING.lease.total_seconds()


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user(username="ann"))


async def explain(desk: JobDesk, job_id: str) -> Explanation:
    return await Explainer(desk.database, TIMING).explain(desk.user, job_id)


async def why(desk: JobDesk, job_id: str) -> str:
    """Return the sentence with every duration as N: how long a test takes is not its claim."""
    told = (await explain(desk, job_id)).why
    told = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "T", told)
    return re.sub(r"\d+(\.\d)? (s|min|h|d)( \d+ (s|min|h))?(?= |;|:|,|\)|$)", "N", told)


async def silence(desk: JobDesk, seconds: float) -> None:
    """Let every worker have been silent for ``seconds``."""
    async with desk.database.transaction() as tx:
        await tx.execute(
            "UPDATE workers SET last_seen_at = now() - %(silent)s", {"silent": timedelta(seconds=seconds)}
        )


async def started(desk: JobDesk, name: str = "w1", **fields: object) -> Claim:
    await desk.submit(**fields)
    return (await desk.start(await desk.worker(name, slots=1))).claim


async def test_a_job_is_explained_from_its_submission_to_its_end(desk: JobDesk) -> None:
    job = await desk.submit()
    told = [await why(desk, job.job_id)]
    worker = await desk.worker("w1", slots=1)
    told.append(await why(desk, job.job_id))
    claim = await desk.claim(worker)
    told.append(await why(desk, job.job_id))
    await desk.attempts.start(claim)
    told.append(await why(desk, job.job_id))
    await desk.attempts.finish(claim, FAILED)
    told.append(await why(desk, job.job_id))

    assert told == [
        "queued for N: no live worker takes jobs from the queue reactorcide-jobs; if none takes it, it ends"
        " as timeout in N",
        "queued for N: 1 of 1 slots of the queue reactorcide-jobs are free; its position is 1",
        "queued for N: worker w1 has taken it N ago and is about to start it",
        "running on w1 for N; its deadline is in N; last heartbeat N ago",
        "failed after N: the command exited with 3",
    ]


async def test_a_queue_without_a_live_worker_tells_who_was_there_last(desk: JobDesk) -> None:
    job = await desk.submit()
    await desk.worker("w1")
    await silence(desk, 3 * 3600)

    told = (await explain(desk, job.job_id)).why

    assert "(the last one, w1, was seen 3 h ago)" in told


async def test_a_silent_worker_is_told_with_what_follows_and_then_it_does(desk: JobDesk) -> None:
    once = await started(desk)
    again = await started(desk, "w2", retry_on_lost=1)
    for claim in (once, again):
        await desk.age(claim.job_id, LEASE + 5)
    await silence(desk, LEASE + 5)

    told = {claim: await why(desk, claim.job_id) for claim in (once, again)}
    await desk.reap()
    after = await why(desk, again.job_id)
    await desk.age(once.job_id, LOST)
    await desk.reap()
    end = await why(desk, once.job_id)

    assert told[once] == (
        "running on w1 for N; worker w1 has been silent for N: if that stays so, the job ends as failed"
        " (worker_lost) in about N"
    )
    assert told[again] == (
        "running on w2 for N (attempt 1 of at most 2); worker w2 has been silent for N: if that stays so,"
        " the job is given back to its queue, to be run again, at any moment"
    )
    assert after.startswith("queued for N: no live worker takes jobs from the queue reactorcide-jobs")
    assert end == (
        "failed after N: worker w1 was lost while it ran the job (last heartbeat T, given up T); it was not"
        " run again because its retry_on_lost is 0; the worker may still bring the rest of its log"
    )


@pytest.mark.parametrize("retry_on_lost", [0, 1])
@pytest.mark.parametrize("wish", ["", "cancel", "kill"])
@pytest.mark.parametrize("timeout_seconds", [1, 10_000])
async def test_what_is_foretold_of_a_silent_worker_comes_true(
    desk: JobDesk, retry_on_lost: int, wish: str, timeout_seconds: int
) -> None:
    claim = await started(desk, retry_on_lost=retry_on_lost, timeout_seconds=timeout_seconds)
    if wish:
        await desk.jobs.cancel(desk.user, claim.job_id, force=wish == "kill")
    await desk.age(claim.job_id, 4)
    await silence(desk, LOST)

    timing = replace(TIMING, heartbeat=timedelta(seconds=1))
    told = await Explainer(desk.database, timing).explain(desk.user, claim.job_id)
    left = told.given_up_seconds
    assert left is not None
    await desk.age(claim.job_id, left - 9)
    await desk.reap()
    spared = await desk.read(claim.job_id)
    await desk.age(claim.job_id, 10)
    await desk.reap()
    end = await desk.read(claim.job_id)

    assert spared.status is JobStatus.RUNNING
    foretold = {
        "the job ends as cancelled": JobStatus.CANCELLED,
        "the job ends as timeout": JobStatus.TIMEOUT,
        "the job ends as failed (worker_lost)": JobStatus.FAILED,
        "the job is given back to its queue, to be run again,": JobStatus.QUEUED,
    }
    assert [end.status] == [status for words, status in foretold.items() if words in told.why], told.why


async def test_a_worker_that_beats_for_other_attempts_only_is_told_from_a_silent_one(desk: JobDesk) -> None:
    claim = await started(desk)
    await desk.age(claim.job_id, LEASE + 5)
    await desk.attempts.heartbeat(claim.worker_id, [], WorkerReport())

    told = await why(desk, claim.job_id)

    assert "worker w1 is there, and has not renewed its lease on attempt 1 for N" in told


async def test_a_job_that_is_tried_again_tells_after_what(desk: JobDesk) -> None:
    claim = await started(desk, retry_on_lost=1)
    await desk.age(claim.job_id, LEASE + 1)
    await desk.reap()
    await desk.age(claim.job_id, -30)

    told = await why(desk, claim.job_id)

    assert told == "queued for N: it is tried again in N, after worker w1 was lost (attempt 1)"


async def test_who_asked_for_the_end_is_told_before_and_after_it(desk: JobDesk, make_user: MakeUser) -> None:
    admin = await make_user(Role.ADMIN, username="root")
    claim = await started(desk)
    waiting = await desk.submit()
    await desk.jobs.cancel(desk.user, claim.job_id)
    asked = await why(desk, claim.job_id)
    await desk.jobs.cancel(admin, claim.job_id, force=True)
    forced = await why(desk, claim.job_id)
    await desk.attempts.finish(claim, CANCELLED)
    await desk.jobs.cancel(admin, waiting.job_id)

    assert asked == (
        "running on w1 for N; its end was asked for N ago by user ann, and the worker has not confirmed it"
        " yet; last heartbeat N ago"
    )
    assert "its kill was asked for N ago by user root" in forced
    assert await why(desk, claim.job_id) == "cancelled by user root after N"
    assert await why(desk, waiting.job_id) == "cancelled by user root before it started"


async def test_a_cancelled_job_whose_worker_was_lost_says_so(desk: JobDesk) -> None:
    claim = await started(desk)
    await desk.jobs.cancel(desk.user, claim.job_id)
    await desk.age(claim.job_id, LOST + LEASE)
    await desk.reap()

    told = await why(desk, claim.job_id)

    assert told.startswith("cancelled by user ann after N; worker w1 was lost before it confirmed")


async def test_a_worker_that_is_started_anew_is_told_from_one_that_was_lost(desk: JobDesk) -> None:
    claim = await started(desk)
    await desk.worker("w1")

    told = await why(desk, claim.job_id)

    assert told.startswith(
        "failed after N: a new process took the place of worker w1 while it ran the job; it was not run"
    )


async def test_a_job_that_waited_too_long_says_how_long(desk: JobDesk) -> None:
    job = await desk.submit(queue_timeout_seconds=5)
    await desk.age(job.job_id, 6)
    overdue = await why(desk, job.job_id)
    await desk.reap()

    assert "it has waited for longer than its queue_timeout_seconds, and ends now as timeout" in overdue
    assert await why(desk, job.job_id) == (
        "timed out before it started, after N in the queue reactorcide-jobs: no worker took it within its"
        " queue_timeout_seconds (N)"
    )


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.WORKER_DISK, Reason.SANDBOX_DIED])
async def test_what_a_worker_says_of_its_own_trouble_is_passed_on(desk: JobDesk, reason: Reason) -> None:
    claim = await started(desk)
    trouble = outcome(JobStatus.FAILED, reason, exit_code=None, message="no space left\nand more")
    await desk.attempts.finish(claim, trouble)

    told = await why(desk, claim.job_id)

    assert told.endswith(": no space left")


async def test_only_owners_and_admins_are_told(desk: JobDesk, make_user: MakeUser) -> None:
    job = await desk.submit()
    explainer = Explainer(desk.database, TIMING)

    with pytest.raises(Forbidden):
        await explainer.explain(await make_user(), job.job_id)
    for nobody in ("nonsense", job.job_id[:-1] + ("0" if job.job_id[-1] != "0" else "1")):
        with pytest.raises(NotFound):
            await explainer.explain(desk.user, nobody)
    assert (await explainer.explain(await make_user(Role.ADMIN), job.job_id)).why
