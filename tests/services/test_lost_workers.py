"""What happens to jobs whose worker is lost, late or restarted: leases, amnesty, registration."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest

from fixture_types import MakeUser
from job_desk import CANCELLED, NO_WAIT, TIMING, Clock, JobDesk, outcome
from job_laws import check_laws
from reactorcide.domain.accounts import Role, TokenKind
from reactorcide.domain.errors import ClaimLost, Forbidden, NotFound, Superseded, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import WorkerIdentity, WorkerReport
from reactorcide.services.overview import Overview
from reactorcide.store import attempts
from reactorcide.store.database import Database

LEASE, LOST = TIMING.lease.total_seconds(), TIMING.lost_after.total_seconds()
START = TIMING.start_deadline.total_seconds()


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user())


def boot(name: str = "worker-1", boot_id: str | None = None) -> WorkerIdentity:
    return WorkerIdentity(name, boot_id or str(uuid.uuid4()), ("reactorcide-jobs",), 2, "1", "none")


async def test_wrk_01_an_at_most_once_job_of_a_lost_worker_fails_after_lost_and_not_before(
    desk: JobDesk,
) -> None:
    job = await desk.submit()
    await desk.start(await desk.worker())

    await desk.age(job.job_id, LOST - 1)
    await desk.reap()
    before = await desk.read(job.job_id)
    await desk.age(job.job_id, 1)
    await desk.reap()
    after = await desk.read(job.job_id)

    assert before.status is JobStatus.RUNNING
    assert (after.status, after.reason, after.fault) == (JobStatus.FAILED, Reason.WORKER_LOST, Fault.INFRA)


async def test_wrk_01_a_job_that_asked_for_it_runs_again_after_its_lease(desk: JobDesk) -> None:
    job = await desk.submit(retry_on_lost=1)
    first = await desk.start(await desk.worker())
    await desk.age(job.job_id, LEASE)
    await desk.reap()
    waiting = await desk.read(job.job_id)
    await desk.age(job.job_id, 60)

    second = await desk.start(await desk.worker("worker-2"))
    with pytest.raises(ClaimLost):
        await desk.attempts.finish(first.claim, outcome())
    await desk.attempts.finish(second.claim, outcome())

    assert (waiting.status, waiting.runs, waiting.started_at) == (JobStatus.QUEUED, 1, None)
    assert (first.may_run_again, second.may_run_again) == (True, False)
    ended = await desk.read(job.job_id)
    assert (ended.status, ended.attempt, ended.runs) == (JobStatus.COMPLETED, 2, 2)


async def test_the_loss_of_a_lease_has_its_event(desk: JobDesk) -> None:
    back, gone = await desk.submit(retry_on_lost=1), await desk.submit()
    worker = await desk.worker()
    for job in (back, gone):
        await desk.start(worker)
        await desk.age(job.job_id, LOST)

    await desk.reap()

    last = [(await desk.jobs.events(desk.user, job.job_id))[-1] for job in (back, gone)]
    assert [(e.from_status, e.to_status, e.actor, e.reason) for e in last] == [
        ("running", "queued", "system:maintenance", Reason.WORKER_LOST),
        ("running", "failed", "system:maintenance", Reason.WORKER_LOST),
    ]
    await check_laws(desk.database)


async def test_wrk_02_a_claim_never_started_goes_back_when_its_time_is_over(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())

    await desk.age(job.job_id, START)
    with pytest.raises(ClaimLost):
        await desk.attempts.start(claim)
    again = await desk.start(await desk.worker("worker-2"))

    assert (again.claim.job_id, again.claim.attempt) == (job.job_id, 2)
    assert (await desk.read(job.job_id)).runs == 1


async def test_wrk_02_the_reaper_gives_back_a_claim_never_started(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())

    await desk.age(job.job_id, START)
    await desk.reap()
    (row,) = await desk.rows("SELECT lease_id, not_before - now() AS rest FROM jobs")

    assert row["lease_id"] is None
    assert row["rest"] <= timedelta(seconds=2)  # type: ignore[operator]
    with pytest.raises(ClaimLost):
        await desk.attempts.start(claim)


async def test_a_heartbeat_keeps_the_lease(desk: JobDesk) -> None:
    job = await desk.submit(retry_on_lost=1)
    claim = (await desk.start(await desk.worker())).claim

    for _ in range(3):
        await desk.age(job.job_id, LEASE - 1)
        assert await desk.beat(claim) == "go_on"
        await desk.reap()

    assert (await desk.read(job.job_id)).status is JobStatus.RUNNING


async def test_a_heartbeat_with_a_lease_that_nobody_has_renews_nothing(desk: JobDesk) -> None:
    job = await desk.submit(retry_on_lost=1)
    claim = (await desk.start(await desk.worker())).claim
    await desk.age(job.job_id, LEASE)

    order = await desk.beat(replace(claim, lease_id=str(uuid.uuid4())))
    await desk.reap()

    assert order == "abandon"
    assert (await desk.read(job.job_id)).status is JobStatus.QUEUED


async def test_a_heartbeat_does_not_wait_for_the_disk(desk: JobDesk) -> None:
    worker = await desk.worker()

    async with desk.database.transaction() as tx:
        await attempts.renew_leases(
            tx,
            worker,
            [],
            WorkerReport(),
            lease=TIMING.lease,
            grace=TIMING.cancel_grace,
            patience=TIMING.lost_after,
        )
        shown = await (await tx.execute("SHOW synchronous_commit")).fetchone()

    assert shown == {"synchronous_commit": "off"}


async def test_a_late_heartbeat_of_an_at_most_once_job_saves_it_until_it_is_reaped(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    await desk.age(job.job_id, LOST + 60)
    late = await desk.beat(claim)
    await desk.reap()
    kept = await desk.read(job.job_id)
    await desk.age(job.job_id, LOST)
    await desk.reap()

    assert (late, kept.status) == ("go_on", JobStatus.RUNNING)
    assert await desk.beat(claim) == "abandon"


async def test_reaping_asks_again_whether_the_grace_is_over(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim
    ends = []

    for seconds in (LOST - 1, 1):
        await desk.age(job.job_id, seconds)
        async with desk.database.transaction() as tx:
            grace = TIMING.lost_after - TIMING.lease
            ends.append(await attempts.end_lease(tx, claim, actor="system:test", grace=grace))

    assert [end and end.status for end in ends] == [None, JobStatus.FAILED]


async def test_a_claim_not_started_is_not_renewed_by_heartbeats(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = await desk.claim(await desk.worker())

    await desk.age(job.job_id, START + 1)
    order = await desk.beat(claim)
    await desk.reap()

    assert order == "go_on"
    assert await desk.beat(claim) == "abandon"


async def test_a_lost_worker_of_a_cancelled_job_leaves_it_cancelled(desk: JobDesk) -> None:
    job = await desk.submit(retry_on_lost=3)
    await desk.start(await desk.worker())
    await desk.jobs.cancel(desk.user, job.job_id)

    await desk.age(job.job_id, LEASE)
    await desk.reap()

    ended = await desk.read(job.job_id)
    assert (ended.status, ended.reason) == (JobStatus.CANCELLED, Reason.CANCELLED_USER)


async def test_a_lost_worker_of_a_job_past_its_deadline_leaves_it_timed_out(desk: JobDesk) -> None:
    job = await desk.submit(timeout_seconds=1, retry_on_lost=3)
    await desk.start(await desk.worker())

    await desk.age(job.job_id, LEASE)
    await desk.reap()

    ended = await desk.read(job.job_id)
    assert (ended.status, ended.reason, ended.fault) == (JobStatus.TIMEOUT, Reason.TIMEOUT_RUN, Fault.USER)


async def test_the_deadline_of_a_lost_run_does_not_bind_the_next(desk: JobDesk) -> None:
    job = await desk.submit(timeout_seconds=20, retry_on_lost=1)
    await desk.start(await desk.worker())
    await desk.age(job.job_id, LEASE)
    await desk.reap()
    await desk.age(job.job_id, 60)

    await desk.claim(await desk.worker("worker-2"))
    await desk.age(job.job_id, START)
    await desk.reap()

    assert (await desk.read(job.job_id)).status is JobStatus.QUEUED


async def test_a_job_that_waits_too_long_times_out_in_the_queue(desk: JobDesk) -> None:
    job = await desk.submit(queue_timeout_seconds=60)
    worker = await desk.worker()

    await desk.age(job.job_id, 61)
    claims = await desk.attempts.claim(worker, 1, NO_WAIT)
    await desk.reap()

    ended = await desk.read(job.job_id)
    assert claims == []
    assert (ended.status, ended.reason, ended.fault) == (
        JobStatus.TIMEOUT,
        Reason.TIMEOUT_QUEUE,
        Fault.INFRA,
    )


async def test_a_job_claimed_in_time_may_start_after_its_time_in_the_queue(desk: JobDesk) -> None:
    claimed = await desk.submit(queue_timeout_seconds=5)
    claim = await desk.claim(await desk.worker())
    waiting = await desk.submit(queue_timeout_seconds=5)
    for job in (claimed, waiting):
        await desk.age(job.job_id, 6)

    await desk.reap()
    await desk.attempts.start(claim)

    assert (await desk.read(claimed.job_id)).status is JobStatus.RUNNING
    assert (await desk.read(waiting.job_id)).status is JobStatus.TIMEOUT


async def test_crd_04_a_coordinator_that_was_away_gives_workers_a_lease_of_amnesty(desk: JobDesk) -> None:
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim
    await desk.age(job.job_id, 2 * LOST)
    clock = Clock()
    maintenance = desk.maintenance(clock)

    for _ in range(7):
        await maintenance.run_round()
        clock.pass_time(2)
    spared = await desk.read(job.job_id)
    renewed = await desk.beat(claim)
    for _ in range(5):
        await maintenance.run_round()
        clock.pass_time(2)

    assert (spared.status, renewed) == (JobStatus.RUNNING, "go_on")
    await desk.attempts.finish(claim, outcome())
    assert (await desk.read(job.job_id)).status is JobStatus.COMPLETED


async def test_a_pause_of_maintenance_itself_grants_amnesty(desk: JobDesk) -> None:
    job = await desk.submit()
    clock = Clock()
    maintenance = desk.maintenance(clock)
    for _ in range(10):
        await maintenance.run_round()
        clock.pass_time(2)
    await desk.start(await desk.worker())
    await desk.age(job.job_id, 2 * LOST)

    clock.pass_time(100)
    await maintenance.run_round()
    after_pause = await desk.read(job.job_id)
    for _ in range(8):
        clock.pass_time(2)
        await maintenance.run_round()

    assert after_pause.status is JobStatus.RUNNING
    assert (await desk.read(job.job_id)).status is JobStatus.FAILED


async def test_a_database_that_was_away_grants_amnesty_and_stops_no_chore(desk: JobDesk) -> None:
    job = await desk.submit()
    clock, done = Clock(), []
    is_away = False

    async def reach_database() -> None:
        if is_away:
            raise Unavailable("database")

    async def break_down() -> None:
        raise RuntimeError("a chore with a bug")

    async def count() -> None:
        done.append(clock.now)

    maintenance = desk.maintenance(clock, [reach_database, break_down, count])
    for _ in range(10):
        await maintenance.run_round()
        clock.pass_time(2)
    await desk.start(await desk.worker())
    is_away = True
    await maintenance.run_round()
    is_away = False
    await desk.age(job.job_id, 2 * LOST)

    clock.pass_time(2)
    await maintenance.run_round()
    after_outage = await desk.read(job.job_id)
    for _ in range(8):
        clock.pass_time(2)
        await maintenance.run_round()

    assert len(done) == 20
    assert after_outage.status is JobStatus.RUNNING
    assert (await desk.read(job.job_id)).status is JobStatus.FAILED


async def test_an_object_store_that_is_away_keeps_nobody_from_reaping(desk: JobDesk) -> None:
    async def seal_logs() -> None:
        raise Unavailable("object store")

    job = await desk.submit()
    await desk.start(await desk.worker())
    await desk.age(job.job_id, LOST)
    clock = Clock()
    maintenance = desk.maintenance(clock, [seal_logs])

    for _ in range(9):
        await maintenance.run_round()
        clock.pass_time(2)

    assert (await desk.read(job.job_id)).status is JobStatus.FAILED


async def test_a_new_boot_ends_what_the_old_one_held_and_spares_what_it_spooled(desk: JobDesk) -> None:
    names = ("running", "again", "unstarted", "spooled")
    jobs = {name: await desk.submit(name=name, retry_on_lost=int(name == "again")) for name in names}
    worker = (await desk.attempts.register(boot(), [])).worker_id
    claims = {c.job_id: c for c in await desk.attempts.claim(worker, 10, NO_WAIT)}
    for name in ("running", "again", "spooled"):
        await desk.attempts.start(claims[jobs[name].job_id])
    spooled = claims[jobs["spooled"].job_id]
    await desk.age(spooled.job_id, LOST + 1)

    again = await desk.attempts.register(boot(), [spooled])
    await desk.reap()

    statuses = {name: (await desk.read(job.job_id)).status.value for name, job in jobs.items()}
    assert again.worker_id == worker
    assert statuses == {
        "running": "failed",
        "again": "queued",
        "unstarted": "queued",
        "spooled": "running",
    }
    await desk.attempts.finish(spooled, outcome())
    assert (await desk.read(spooled.job_id)).status is JobStatus.COMPLETED


async def test_registering_the_same_boot_again_keeps_its_jobs(desk: JobDesk) -> None:
    job = await desk.submit()
    identity = boot()
    worker = (await desk.attempts.register(identity, [])).worker_id
    await desk.start(worker)

    again = await desk.attempts.register(identity, [])

    assert again.worker_id == worker
    assert (await desk.read(job.job_id)).status is JobStatus.RUNNING


async def test_a_process_whose_name_was_taken_is_refused_and_cannot_retire_its_successor(
    desk: JobDesk, make_user: MakeUser
) -> None:
    old, new = boot(), boot()
    worker = (await desk.attempts.register(old, [])).worker_id
    await desk.attempts.admit(worker, old.boot_id, None)

    await desk.attempts.register(new, [])
    await desk.attempts.deregister(worker, old.boot_id)

    with pytest.raises(Superseded):
        await desk.attempts.admit(worker, old.boot_id, None)
    await desk.attempts.admit(worker, new.boot_id, None)
    (seen,) = await Overview(desk.database).workers(await make_user(Role.ADMIN))
    assert (seen.is_live, seen.slots) == (True, 2)


async def test_a_registration_that_was_long_on_its_way_does_not_unseat_a_later_process(desk: JobDesk) -> None:
    early, late = boot(), boot()
    early_turn, late_turn = await desk.attempts.take_turn(), await desk.attempts.take_turn()
    worker = (await desk.attempts.register(late, [], turn=late_turn)).worker_id
    job = await desk.submit(retry_on_lost=1)
    started = await desk.start(worker)

    with pytest.raises(Superseded):
        await desk.attempts.register(early, [], turn=early_turn)

    assert await desk.beat(started.claim) == "go_on"
    assert (await desk.read(job.job_id)).attempt == 1
    again = await desk.attempts.register(late, [started.claim], turn=late_turn)
    assert again.worker_id == worker


async def test_a_name_belongs_to_the_user_whose_worker_had_it_first(
    desk: JobDesk, make_user: MakeUser
) -> None:
    owner, other = await make_user(kind=TokenKind.WORKER), await make_user(kind=TokenKind.WORKER)
    worker = (await desk.attempts.register(boot(), [], caller=owner)).worker_id

    with pytest.raises(Forbidden):
        await desk.attempts.register(boot(), [], caller=other)

    # The owner's next token may, and so may who has the database.
    next_token = replace(owner, token_id=str(uuid.uuid4()))
    assert (await desk.attempts.register(boot(), [], caller=next_token)).worker_id == worker
    assert (await desk.attempts.register(boot(), [])).worker_id == worker


async def test_a_remote_worker_may_take_the_name_of_one_that_shared_the_database_once_it_has_gone(
    desk: JobDesk, make_user: MakeUser
) -> None:
    caller = await make_user(kind=TokenKind.WORKER)
    worker = await desk.worker()

    with pytest.raises(Forbidden):
        await desk.attempts.register(boot(), [], caller=caller)
    await desk.attempts.deregister(worker, desk.boots[worker])

    assert (await desk.attempts.register(boot(), [], caller=caller)).worker_id == worker


async def test_auth_16_a_worker_is_spoken_for_with_its_own_token_only(
    desk: JobDesk, make_user: MakeUser
) -> None:
    owner, other = await make_user(kind=TokenKind.WORKER), await make_user(kind=TokenKind.WORKER)
    identity = boot()
    worker = (await desk.attempts.register(identity, [], caller=owner)).worker_id

    for caller in (other, None, replace(owner, token_id=str(uuid.uuid4()))):
        with pytest.raises(Forbidden):
            await desk.attempts.admit(worker, identity.boot_id, caller)
    await desk.attempts.admit(worker, identity.boot_id, owner)


async def test_auth_16_who_has_no_business_with_a_worker_is_not_told_which_process_it_has(
    desk: JobDesk, make_user: MakeUser
) -> None:
    owner, other = await make_user(kind=TokenKind.WORKER), await make_user(kind=TokenKind.WORKER)
    identity = boot()
    worker = (await desk.attempts.register(identity, [], caller=owner)).worker_id

    for caller in (other, None):
        for boot_id in (identity.boot_id, str(uuid.uuid4())):
            with pytest.raises(Forbidden):
                await desk.attempts.admit(worker, boot_id, caller)


async def test_an_unknown_worker_is_not_admitted(desk: JobDesk) -> None:
    for worker_id in (str(uuid.uuid4()), "nonsense"):
        with pytest.raises(NotFound):
            await desk.attempts.admit(worker_id, str(uuid.uuid4()), None)


async def test_a_worker_that_beats_but_does_not_obey_loses_the_job_after_its_deadline(desk: JobDesk) -> None:
    job = await desk.submit(timeout_seconds=10)
    claim = (await desk.start(await desk.worker())).claim
    grace = TIMING.cancel_grace.total_seconds()

    await desk.age(job.job_id, 10 + grace + 1)
    order = await desk.beat(claim)
    await desk.reap()
    patient = await desk.read(job.job_id)
    await desk.age(job.job_id, LOST)
    await desk.beat(claim)
    await desk.age(job.job_id, LOST)
    await desk.reap()
    after = await desk.read(job.job_id)

    assert (order, patient.status) == ("kill", JobStatus.RUNNING)
    assert (after.status, after.reason) == (JobStatus.TIMEOUT, Reason.TIMEOUT_RUN)
    assert await desk.beat(claim) == "abandon"


async def test_what_a_worker_reports_is_kept_and_the_next_boot_begins_anew(
    desk: JobDesk, make_user: MakeUser
) -> None:
    worker, admin = await desk.worker(), await make_user(Role.ADMIN)

    await desk.attempts.heartbeat(
        worker, [], WorkerReport(draining=True, has_room=False, spooled=3, spool_bytes=2**40)
    )
    (told,) = await Overview(desk.database).workers(admin)
    await desk.worker()
    (reborn,) = await Overview(desk.database).workers(admin)

    assert (told.draining, told.disk_full, told.spooled, told.spool_bytes) == (True, True, 3, 2**40)
    assert (reborn.draining, reborn.disk_full, reborn.spooled, reborn.spool_bytes) == (False, False, 0, 0)


async def test_a_spool_full_of_nonsense_does_not_hinder_registration(desk: JobDesk) -> None:
    registration = await desk.attempts.register(boot(), [Claim("x", -1, "y", "z")])

    assert (registration.lease_seconds, registration.heartbeat_seconds) == (15.0, 5.0)


async def test_a_worker_that_takes_leave_is_live_no_more_and_gives_its_claims_back(
    desk: JobDesk, make_user: MakeUser
) -> None:
    job = await desk.submit()
    worker = await desk.worker()
    claim = await desk.claim(worker)

    await desk.attempts.deregister(worker, desk.boots[worker])

    (seen,) = await Overview(desk.database).workers(await make_user(Role.ADMIN))
    assert (seen.is_live, seen.running) == (False, 0)
    assert (await desk.claim(await desk.worker("worker-2"))).job_id == job.job_id
    with pytest.raises(ClaimLost):
        await desk.attempts.start(claim)


async def test_a_cancel_during_the_amnesty_still_ends_a_job_that_waits(desk: JobDesk) -> None:
    job = await desk.submit(retry_on_lost=1)
    claim = (await desk.start(await desk.worker())).claim
    await desk.age(job.job_id, LEASE)
    await desk.reap()

    cancelled = await desk.jobs.cancel(desk.user, job.job_id)

    assert cancelled.status is JobStatus.CANCELLED
    with pytest.raises(ClaimLost):
        await desk.attempts.finish(claim, CANCELLED)
