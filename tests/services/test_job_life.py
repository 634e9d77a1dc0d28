"""The life of a job through the services: every transition of the state machine, by its rules."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from fixture_types import MakeUser
from job_desk import CANCELLED, FAILED, NO_WAIT, JobDesk, outcome
from reactorcide.domain.errors import ClaimLost, Conflict, InvalidInput, NotFound
from reactorcide.domain.jobs import REDACTED, Claim
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import FINAL, JobStatus
from reactorcide.domain.workers import WorkerReport
from reactorcide.services.vault import Vault
from reactorcide.store.attempts import MAX_ATTEMPTS
from reactorcide.store.database import Database


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user())


async def test_a_job_goes_from_submission_to_completion_with_its_events(desk: JobDesk) -> None:
    job = await desk.submit(name="whole life")
    started = await desk.start(await desk.worker())
    await desk.attempts.finish(started.claim, outcome())

    ended = await desk.read(job.job_id)
    events = await desk.jobs.events(desk.user, job.job_id)

    assert job.status is JobStatus.QUEUED
    assert (ended.status, ended.reason, ended.fault) == (JobStatus.COMPLETED, Reason.OK, Fault.NONE)
    assert (ended.exit_code, ended.attempt, ended.runs, ended.worker) == (0, 1, 1, "worker-1")
    assert [(e.from_status, e.to_status) for e in events] == [
        (None, "submitted"),
        ("submitted", "queued"),
        ("queued", "running"),
        ("running", "completed"),
    ]
    assert [e.actor for e in events[2:]] == ["worker:worker-1"] * 2
    assert [e.seq for e in events] == sorted({e.seq for e in events})


async def test_what_submit_returns_is_what_a_read_finds(desk: JobDesk) -> None:
    job = await desk.submit(labels={"team": "blue"}, job_env_vars={"A": "ü\n"}, artifacts=("out/**",))

    assert await desk.read(job.job_id) == job


async def test_every_change_raises_the_version(desk: JobDesk) -> None:
    job = await desk.submit()
    worker = await desk.worker()
    versions = [job.version]

    claim = await desk.claim(worker)
    versions.append((await desk.read(job.job_id)).version)
    await desk.attempts.start(claim)
    versions.append((await desk.read(job.job_id)).version)
    await desk.jobs.cancel(desk.user, job.job_id)
    versions.append((await desk.read(job.job_id)).version)
    await desk.attempts.finish(claim, CANCELLED)
    versions.append((await desk.read(job.job_id)).version)

    assert versions == sorted(set(versions))


async def test_start_repeated_gives_the_same_answer_and_counts_one_run(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())

    first = await desk.attempts.start(claim)
    second = await desk.attempts.start(claim)

    assert (first.claim, first.spec) == (second.claim, second.spec)
    assert 3590 < second.deadline_seconds <= first.deadline_seconds <= 3600
    assert (await desk.read(job.job_id)).runs == 1


async def test_only_the_start_hands_out_secrets(desk: JobDesk) -> None:
    job = await desk.submit(job_secrets={"WORD": "swordfish"}, job_env_vars={"API_TOKEN": "opensesame"})
    started = await desk.start(await desk.worker())

    dump = str(await desk.rows("SELECT * FROM jobs"))

    assert started.spec.job_secrets == {"WORD": "swordfish", "API_TOKEN": "opensesame"}
    assert job.spec.job_secrets == {"WORD": REDACTED, "API_TOKEN": REDACTED}
    assert (await desk.read(job.job_id)).spec == job.spec
    assert "swordfish" not in dump
    assert "opensesame" not in dump


async def test_src_11_the_password_of_a_git_url_is_sealed_until_the_start(desk: JobDesk) -> None:
    url = "https://me:hunter2@example.org/repo.git"
    job = await desk.submit(source_type="git", git_url=url)
    dump = str(await desk.rows("SELECT * FROM jobs"))

    started = await desk.start(await desk.worker())

    assert job.spec.git_url == "https://me:[REDACTED]@example.org/repo.git"
    assert "hunter2" not in dump
    assert (started.spec.git_url, started.spec.job_secrets) == (url, {})


async def test_a_job_whose_secrets_cannot_be_opened_fails_and_tells_why(desk: JobDesk) -> None:
    job = await desk.submit(job_secrets={"WORD": "swordfish"})
    worker = await desk.worker()
    desk.attempts._vault = Vault(b"x" * 32)

    with pytest.raises(ClaimLost):
        await desk.start(worker)

    ended = await desk.read(job.job_id)
    assert (ended.status, ended.reason, ended.fault) == (JobStatus.FAILED, Reason.INTERNAL, Fault.INFRA)
    assert "ENCRYPTION_KEY" in (ended.message or "")


async def test_wrk_06_a_finish_may_be_repeated_and_ends_the_job_once(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    for _ in range(5):
        await desk.attempts.finish(claim, FAILED)
        await desk.beat(claim)

    events = await desk.jobs.events(desk.user, job.job_id)
    assert [e.to_status for e in events if e.to_status.is_final] == ["failed"]
    others = (
        outcome(),
        outcome(JobStatus.TIMEOUT, Reason.TIMEOUT_RUN, exit_code=FAILED.exit_code),
        outcome(JobStatus.FAILED, Reason.OUTPUT_LIMIT, exit_code=FAILED.exit_code),
        replace(FAILED, exit_code=4),
        replace(FAILED, log_length=1),
    )
    for other in others:
        with pytest.raises(ClaimLost):
            await desk.attempts.finish(claim, other)


async def test_cancelled_is_believed_only_if_somebody_asked_for_it(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    await desk.attempts.finish(claim, CANCELLED)
    await desk.attempts.finish(claim, CANCELLED)

    ended = await desk.read(job.job_id)
    assert (ended.status, ended.reason, ended.fault) == (JobStatus.FAILED, Reason.INTERNAL, Fault.INFRA)


async def test_a_natural_end_keeps_its_result_although_cancel_was_asked(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim
    await desk.jobs.cancel(desk.user, job.job_id)

    await desk.attempts.finish(claim, outcome())

    assert (await desk.read(job.job_id)).status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "told",
    [
        outcome(JobStatus.RUNNING),
        outcome(exit_code=1),
        outcome(reason=Reason.EXIT_NONZERO),
        outcome(JobStatus.FAILED),
        outcome(JobStatus.FAILED, Reason.EXIT_NONZERO, exit_code=1, fault=Fault.INFRA),
    ],
)
async def test_an_outcome_that_contradicts_itself_is_refused(desk: JobDesk, told: object) -> None:
    await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    with pytest.raises(InvalidInput):
        await desk.attempts.finish(claim, told)  # type: ignore[arg-type]


async def test_auth_16_a_worker_cannot_act_on_the_attempt_of_another(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker("theirs"))
    other = await desk.worker("mine")
    stolen = Claim(claim.job_id, claim.attempt, claim.lease_id, other)

    with pytest.raises(ClaimLost):
        await desk.attempts.start(stolen)
    await desk.attempts.start(claim)
    with pytest.raises(ClaimLost):
        await desk.attempts.finish(stolen, outcome())
    await desk.attempts.release(stolen)

    assert await desk.beat(stolen) == "abandon"
    (order,) = await desk.attempts.heartbeat(other, [claim], WorkerReport())
    assert order.order == "abandon"
    assert (await desk.read(job.job_id)).status is JobStatus.RUNNING


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": "nonsense"},
        {"lease_id": "' OR 1=1 --"},
        {"lease_id": "01890000-0000-4000-8000-000000000000"},
        {"worker_id": ""},
        {"attempt": 0},
        {"attempt": 2**70},
        {"attempt": 2},
    ],
)
async def test_a_claim_nobody_made_is_lost_everywhere(desk: JobDesk, change: dict[str, object]) -> None:
    await desk.submit()
    claim = await desk.claim(await desk.worker())
    wrong = Claim(**{**claim.__dict__, **change})  # type: ignore[arg-type]

    with pytest.raises(ClaimLost):
        await desk.attempts.start(wrong)
    await desk.attempts.release(wrong)
    await desk.attempts.start(claim)
    with pytest.raises(ClaimLost):
        await desk.attempts.start(wrong)
    with pytest.raises(ClaimLost):
        await desk.attempts.finish(wrong, outcome())

    assert await desk.beat(wrong) == "abandon"
    assert await desk.beat(claim) == "go_on"


async def test_a_claim_that_was_not_started_has_no_outcome(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())
    before = await desk.read(job.job_id)

    for told in (outcome(), FAILED, CANCELLED):
        with pytest.raises(ClaimLost):
            await desk.attempts.finish(claim, told)

    assert await desk.read(job.job_id) == before
    await desk.attempts.start(claim)


async def test_wrk_04_an_earlier_attempt_of_the_same_worker_has_no_say_in_the_present_one(
    desk: JobDesk,
) -> None:
    job = await desk.submit()
    worker = await desk.worker()
    stale = await desk.claim(worker)
    await desk.attempts.release(stale)
    present = (await desk.start(worker)).claim
    before = await desk.read(job.job_id)

    with pytest.raises(ClaimLost):
        await desk.attempts.start(stale)
    with pytest.raises(ClaimLost):
        await desk.attempts.finish(stale, outcome())
    await desk.attempts.release(stale)

    assert await desk.beat(stale) == "abandon"
    assert await desk.read(job.job_id) == before
    assert await desk.beat(present) == "go_on"


async def test_an_unknown_worker_can_claim_nothing(desk: JobDesk) -> None:
    for worker_id in ("nonsense", "01890000-0000-7000-8000-000000000000"):
        with pytest.raises(NotFound):
            await desk.attempts.claim(worker_id, 1, NO_WAIT)


async def test_a_released_claim_goes_to_another_worker_at_once(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())

    await desk.attempts.release(claim)
    await desk.attempts.release(claim)
    again = await desk.claim(await desk.worker("worker-2"))

    assert (again.job_id, again.attempt) == (job.job_id, 2)
    with pytest.raises(ClaimLost):
        await desk.attempts.start(claim)


async def test_a_started_attempt_cannot_be_released(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    await desk.attempts.release(claim)

    assert (await desk.read(job.job_id)).status is JobStatus.RUNNING


async def test_a_waiting_job_is_cancelled_at_once_and_the_repeat_succeeds(desk: JobDesk) -> None:
    job = await desk.submit()

    first = await desk.jobs.cancel(desk.user, job.job_id)
    second = await desk.jobs.cancel(desk.user, job.job_id, force=True)

    assert first.status is second.status is JobStatus.CANCELLED
    assert first.version == second.version
    assert await desk.attempts.claim(await desk.worker(), 1, NO_WAIT) == []


async def test_a_job_cancelled_after_its_claim_never_starts(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())

    asked = await desk.jobs.cancel(desk.user, job.job_id)
    with pytest.raises(ClaimLost):
        await desk.attempts.start(claim)

    assert asked.cancel_requested
    ended = await desk.read(job.job_id)
    assert (ended.status, ended.runs) == (JobStatus.CANCELLED, 0)


async def test_a_running_job_is_told_cancel_then_kill(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim
    orders = [await desk.beat(claim)]

    for force in (False, True, False):
        await desk.jobs.cancel(desk.user, job.job_id, force=force)
        orders.append(await desk.beat(claim))
    await desk.attempts.finish(claim, CANCELLED)
    orders.append(await desk.beat(claim))

    assert orders == ["go_on", "cancel", "kill", "kill", "abandon"]
    assert (await desk.read(job.job_id)).status is JobStatus.CANCELLED


async def test_cancel_wakes_the_worker_that_waits_for_orders(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    waiting = asyncio.create_task(desk.attempts.wait_for_orders(claim.worker_id, timedelta(seconds=30)))
    await asyncio.sleep(0)
    await desk.jobs.cancel(desk.user, job.job_id)

    assert await asyncio.wait_for(waiting, 5)
    assert not await desk.attempts.wait_for_orders(claim.worker_id, NO_WAIT)


async def test_past_deadline_and_grace_the_heartbeat_says_kill(desk: JobDesk) -> None:
    job = await desk.submit(timeout_seconds=60)
    claim = (await desk.start(await desk.worker())).claim

    await desk.age(job.job_id, 62)
    before_grace = await desk.beat(claim)
    await desk.age(job.job_id, 5)
    after_grace = await desk.beat(claim)

    assert (before_grace, after_grace) == ("go_on", "kill")


async def _end_as(desk: JobDesk, status: JobStatus) -> str:
    job = await desk.submit(timeout_seconds=1, queue_timeout_seconds=60)
    if status is JobStatus.CANCELLED:
        await desk.jobs.cancel(desk.user, job.job_id)
    elif status is JobStatus.TIMEOUT:
        await desk.age(job.job_id, 61)
        await desk.reap()
    else:
        claim = (await desk.start(await desk.worker("ender"))).claim
        await desk.attempts.finish(claim, outcome() if status is JobStatus.COMPLETED else FAILED)
    return job.job_id


@pytest.mark.parametrize("status", sorted(FINAL))
async def test_a_finished_job_never_changes_status(desk: JobDesk, status: JobStatus) -> None:
    job_id = await _end_as(desk, status)
    ended = await desk.read(job_id)

    if status is JobStatus.CANCELLED:
        await desk.jobs.cancel(desk.user, job_id)
    else:
        for force in (False, True):
            with pytest.raises(Conflict) as refused:
                await desk.jobs.cancel(desk.user, job_id, force=force)
            assert refused.value.status is status
    assert await desk.attempts.claim(await desk.worker(), 10, NO_WAIT) == []
    for row in await desk.rows("SELECT job_id, attempt, lease_id, worker_id FROM attempts"):
        claim = Claim(**row)  # type: ignore[arg-type]
        with pytest.raises(ClaimLost):
            await desk.attempts.start(claim)
        with pytest.raises(ClaimLost):
            await desk.attempts.finish(claim, outcome(JobStatus.FAILED, Reason.SIGNALLED, exit_code=137))
        await desk.attempts.release(claim)
    await desk.age(job_id, 1e6)
    await desk.reap()

    assert ended.status is status
    assert await desk.read(job_id) == ended


async def test_a_claim_that_fails_to_start_fifty_times_fails_the_job(desk: JobDesk) -> None:
    job = await desk.submit()
    worker = await desk.worker()

    for _ in range(MAX_ATTEMPTS):
        await desk.attempts.release(await desk.claim(worker))

    ended = await desk.read(job.job_id)
    assert (ended.status, ended.reason, ended.attempt) == (JobStatus.FAILED, Reason.WORKER_LOST, MAX_ATTEMPTS)
