"""Reading jobs: access, lists and their pages, waiting for a change, and what a waiting job is told."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from fixture_types import MakeUser
from job_desk import NO_WAIT, JobDesk, outcome, request
from reactorcide.domain.accounts import Role
from reactorcide.domain.errors import Forbidden, InvalidInput, NotFound
from reactorcide.domain.workers import WorkerReport
from reactorcide.services.jobs import JobFilter
from reactorcide.services.overview import Overview
from reactorcide.store.database import Database

MISSING = "01890000-0000-7000-8000-000000000000"
HOUR = timedelta(hours=1)


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user())


async def names(desk: JobDesk, wanted: JobFilter) -> list[str]:
    page = await desk.jobs.list_page(desk.user, wanted, limit=100, offset=0)
    assert page.total == len(page.jobs)
    return [job.spec.name for job in page.jobs]


@pytest.mark.parametrize("job_id", [MISSING, "nonsense", "..", "x" * 10_240, MISSING + " ", "'; SELECT 1"])
async def test_api_17_an_id_of_no_job_is_not_found(desk: JobDesk, job_id: str) -> None:
    for call in (desk.jobs.get, desk.jobs.cancel, desk.jobs.events, desk.jobs.retry):
        with pytest.raises(NotFound):
            await call(desk.user, job_id)


async def test_auth_07_a_foreign_job_can_be_neither_seen_nor_changed(
    desk: JobDesk, make_user: MakeUser
) -> None:
    job = await desk.submit()
    other = await make_user()

    for call in (desk.jobs.get, desk.jobs.cancel, desk.jobs.events, desk.jobs.retry, desk.jobs.delete):
        with pytest.raises(Forbidden):
            await call(other, job.job_id)
    with pytest.raises(Forbidden):
        await desk.jobs.wait_for_change(other, job.job_id, None, NO_WAIT)
    with pytest.raises(Forbidden):
        await desk.jobs.list_page(other, JobFilter(user_id=desk.user.user_id), limit=1, offset=0)

    own = await desk.jobs.list_page(other, JobFilter(), limit=100, offset=0)
    assert (own.jobs, own.total) == ([], 0)
    assert await desk.read(job.job_id) == job


async def test_an_admin_sees_every_job_or_those_of_one_user(desk: JobDesk, make_user: MakeUser) -> None:
    admin = await make_user(Role.ADMIN)
    theirs = await desk.submit()
    mine = (await desk.jobs.submit(admin, request())).job

    everything = await desk.jobs.list_page(admin, JobFilter(), limit=10, offset=0)
    one = await desk.jobs.list_page(admin, JobFilter(user_id=desk.user.user_id), limit=10, offset=0)

    assert [job.job_id for job in everything.jobs] == [mine.job_id, theirs.job_id]
    assert [job.job_id for job in one.jobs] == [theirs.job_id]
    with pytest.raises(InvalidInput):
        await desk.jobs.list_page(admin, JobFilter(user_id="nobody"), limit=10, offset=0)


async def test_each_filter_finds_what_it_names(desk: JobDesk) -> None:
    await desk.submit(name="plain")
    await desk.submit(name="labelled", labels={"team": "blue", "stage": "1"})
    await desk.submit(name="elsewhere", queue_name="gpu", labels={"team": "red"})
    cancelled = await desk.submit(name="cancelled")
    await desk.jobs.cancel(desk.user, cancelled.job_id)
    now = datetime.now(UTC)

    assert await names(desk, JobFilter(statuses=("cancelled",))) == ["cancelled"]
    assert len(await names(desk, JobFilter(statuses=("cancelled", "queued")))) == 4
    assert await names(desk, JobFilter(statuses=("running",))) == []
    assert await names(desk, JobFilter(queue_names=("gpu", "cpu"))) == ["elsewhere"]
    assert await names(desk, JobFilter(name="plain")) == ["plain"]
    assert await names(desk, JobFilter(labels=(("team", "blue"),))) == ["labelled"]
    assert await names(desk, JobFilter(labels=(("team", "blue"), ("stage", "2")))) == []
    assert await names(desk, JobFilter(labels=(("team", "blue"), ("team", "red")))) == []
    assert await names(desk, JobFilter(source_types=("git",))) == []
    assert len(await names(desk, JobFilter(source_types=("none",), created_after=now - HOUR))) == 4
    assert await names(desk, JobFilter(created_before=now - HOUR)) == []


async def test_api_16_metacharacters_in_filters_find_nothing_and_change_nothing(desk: JobDesk) -> None:
    await desk.submit()
    text = "x' OR pg_sleep(5) IS NULL; DELETE FROM jobs; --%s %(name)s {}"

    for wanted in (
        JobFilter(statuses=(text,)),
        JobFilter(queue_names=(text, text)),
        JobFilter(name=text),
        JobFilter(labels=((text, text),)),
    ):
        assert await names(desk, wanted) == []

    assert len(await names(desk, JobFilter())) == 1


async def test_pages_by_cursor_show_each_job_once_while_new_ones_arrive(desk: JobDesk) -> None:
    await asyncio.gather(*(desk.submit(name=f"old {n}") for n in range(25)))
    first = await desk.jobs.list_page(desk.user, JobFilter(), limit=10, offset=0)

    seen, cursor = [job.job_id for job in first.jobs], first.next_cursor
    while cursor is not None:
        await desk.submit(name="new")
        page = await desk.jobs.list_after(desk.user, JobFilter(), limit=10, cursor=cursor)
        assert page.total is None
        seen, cursor = seen + [job.job_id for job in page.jobs], page.next_cursor

    assert first.total == 25
    assert len(seen) == len(set(seen)) == 25
    assert seen == sorted(seen, reverse=True)


async def test_pages_by_offset_have_the_true_total(desk: JobDesk) -> None:
    for _ in range(5):
        await desk.submit()

    page = await desk.jobs.list_page(desk.user, JobFilter(), limit=2, offset=4)

    assert (len(page.jobs), page.total, page.next_cursor) == (1, 5, None)


@pytest.mark.parametrize("cursor", ["", "x", "é", "AAAA", "=" * 32, "_" * 32, "A" * 31, "A" * 36, "\0" * 32])
async def test_a_cursor_that_is_not_ours_is_refused(desk: JobDesk, cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await desk.jobs.list_after(desk.user, JobFilter(), limit=1, cursor=cursor)

    assert [fault.pointer for fault in refused.value.faults] == ["?cursor"]


async def test_who_waits_is_woken_by_a_change(desk: JobDesk) -> None:
    job = await desk.submit()

    waiting = asyncio.create_task(
        desk.jobs.wait_for_change(desk.user, job.job_id, job.version, timedelta(seconds=60))
    )
    await asyncio.sleep(0)
    await desk.start(await desk.worker())

    changed = await asyncio.wait_for(waiting, 4)
    assert changed.version > job.version


async def test_waiting_ends_at_once_for_another_version_and_for_an_ended_job(desk: JobDesk) -> None:
    job = await desk.submit()

    other = await desk.jobs.wait_for_change(desk.user, job.job_id, 1, HOUR)
    await desk.jobs.cancel(desk.user, job.job_id)
    ended = await desk.jobs.wait_for_change(desk.user, job.job_id, None, HOUR)

    assert (other.version, ended.status) == (job.version, "cancelled")


async def test_waiting_ends_after_its_timeout(desk: JobDesk) -> None:
    job = await desk.submit()

    same = await desk.jobs.wait_for_change(desk.user, job.job_id, None, timedelta(milliseconds=20))

    assert same == job


async def test_a_waiting_job_is_told_why(desk: JobDesk) -> None:
    first, second = await desk.submit(), await desk.submit()
    nobody = await desk.jobs.waiting_reason(first)
    worker = await desk.worker()
    behind = await desk.jobs.waiting_reason(second)
    claim = await desk.claim(worker)
    taken = await desk.jobs.waiting_reason(first)
    await desk.attempts.start(claim)
    running = await desk.jobs.waiting_reason(await desk.read(first.job_id))
    await desk.age(second.job_id, -30)
    resting = await desk.jobs.waiting_reason(second)

    assert nobody == "no live worker takes jobs from the queue reactorcide-jobs"
    assert behind == "8 of 8 slots of the queue reactorcide-jobs are free; its position is 2"
    assert taken == "worker worker-1 has taken it and is about to start it"
    assert running is None
    assert resting == "it is tried again in 30 s"


async def test_a_waiting_job_is_told_that_every_slot_is_busy(desk: JobDesk) -> None:
    _, _, third = [await desk.submit() for _ in range(3)]
    first, second = await desk.worker("w1", slots=1), await desk.worker("w2", slots=1)
    await desk.start(first)
    one_free = await desk.jobs.waiting_reason(third)
    await desk.claim(second)
    none_free = await desk.jobs.waiting_reason(third)

    assert one_free == "1 of 2 slots of the queue reactorcide-jobs are free; its position is 2"
    assert none_free == "all 2 slots of the queue reactorcide-jobs are busy; its position is 1"


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        ([WorkerReport(has_room=False)] * 2, "reports a full disk"),
        ([WorkerReport(draining=True)] * 2, "is draining"),
        ([WorkerReport(draining=True), WorkerReport(has_room=False)], "is draining or reports a full disk"),
    ],
)
async def test_a_waiting_job_is_told_that_no_live_worker_takes_jobs_now(
    desk: JobDesk, reports: list[WorkerReport], told: str
) -> None:
    job = await desk.submit()
    for number, report in enumerate(reports):
        await desk.attempts.heartbeat(await desk.worker(f"w{number}"), [], report)

    waiting = await desk.jobs.waiting_reason(job)
    (queue,) = await Overview(desk.database).queues(desk.user)

    assert waiting == f"every live worker of the queue reactorcide-jobs {told}"
    assert queue.live_workers == 2
    assert queue.draining_workers == sum(report.draining for report in reports)
    assert queue.full_workers == sum(not report.has_room for report in reports)


async def test_the_overview_counts_queues_and_workers(desk: JobDesk, make_user: MakeUser) -> None:
    overview = Overview(desk.database)
    ended, *_ = [await desk.submit() for _ in range(3)]
    await desk.submit(queue_name="gpu")
    worker = await desk.worker(slots=3)
    claim = (await desk.start(worker)).claim
    await desk.attempts.finish(claim, outcome())
    await desk.start(worker)

    queues = {queue.name: queue for queue in await overview.queues(desk.user)}
    (seen,) = await overview.workers(await make_user(Role.SYSTEM_ADMIN))

    assert claim.job_id == ended.job_id
    main, gpu = queues["reactorcide-jobs"], queues["gpu"]
    assert (main.ready, main.running, main.live_workers) == (1, 1, 1)
    assert (gpu.ready, gpu.running, gpu.live_workers) == (1, 0, 0)
    assert main.oldest_wait_seconds is not None
    assert (seen.name, seen.slots, seen.running, seen.is_live) == ("worker-1", 3, 1, True)
    with pytest.raises(Forbidden):
        await overview.workers(desk.user)


async def test_a_worker_silent_for_three_heartbeats_is_live_no_more(
    desk: JobDesk, make_user: MakeUser
) -> None:
    job = await desk.submit()
    worker = await desk.worker()
    async with desk.database.transaction() as tx:
        await tx.execute("UPDATE workers SET last_seen_at = now() - interval '31 seconds'")

    (silent,) = await Overview(desk.database).workers(await make_user(Role.ADMIN))
    told = await desk.jobs.waiting_reason(job)
    await desk.attempts.heartbeat(worker, [], WorkerReport(draining=True))
    (draining,) = await Overview(desk.database).workers(await make_user(Role.ADMIN))

    assert not silent.is_live
    assert told == "no live worker takes jobs from the queue reactorcide-jobs"
    assert (draining.is_live, draining.draining) == (True, True)
