"""How ready jobs come to workers that wait: one look for all, the longest waiting first, none forgotten."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import timedelta

import pytest

from fixture_types import MakeUser
from job_desk import TIMING, JobDesk
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.queue.port import Announcement, Withdrawal
from reactorcide.services.dispatch import MAX_BATCH, Dispatch
from reactorcide.store.database import Database

QUEUES = ("reactorcide-jobs",)
LONG = timedelta(seconds=30)


class CountedQueue:
    """The queue of the desk, which counts what it is asked and can be out of reach."""

    rows_are_the_queue = True

    def __init__(self, desk: JobDesk) -> None:
        self._queue = desk.queue
        self.claims = 0
        self.looks = 0
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.has_claimed = asyncio.Event()

    async def announce(self, jobs: Sequence[Announcement]) -> None:
        await self._queue.announce(jobs)

    async def withdraw(self, jobs: Sequence[Withdrawal]) -> None:
        await self._queue.withdraw(jobs)

    async def claim(
        self, worker_id: str, queue_names: Sequence[str], limit: int, *, start_within: timedelta
    ) -> list[Claim]:
        self.claims += 1
        if self.is_away:
            raise Unavailable("queue")
        claims = await self._queue.claim(worker_id, queue_names, limit, start_within=start_within)
        if claims:
            self.has_claimed.set()
        await self.may_answer.wait()
        return claims

    async def wait(self, queue_names: Sequence[str], timeout: timedelta) -> frozenset[str]:
        self.looks += 1
        if self.is_away:
            raise Unavailable("queue")
        return await self._queue.wait(queue_names, timeout)


class Hall:
    """A dispatch with workers that wait in it."""

    def __init__(self, desk: JobDesk) -> None:
        self.desk = desk
        self.queue = CountedQueue(desk)
        self.seen: set[str] = set()
        self.dispatch = Dispatch(
            self.queue,
            start_within=TIMING.start_deadline,
            mark_seen=self._see,
            seen_every=timedelta(seconds=0.2),
            give_back=self._give_back,
        )
        self.waiting: list[asyncio.Task[list[Claim]]] = []

    async def _see(self, worker_ids: Collection[str]) -> None:
        self.seen |= set(worker_ids)

    async def _give_back(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            await self.desk.attempts.release(claim)

    async def wait(
        self, name: str, slots: int = 1, queues: Sequence[str] = QUEUES, wait: timedelta = LONG
    ) -> asyncio.Task[list[Claim]]:
        """Let a worker wait, and return when it does."""
        worker = await self.desk.worker(name, queues=queues)
        task = asyncio.create_task(self.dispatch.claim(worker, queues, slots, wait))
        self.waiting.append(task)
        await until(lambda: worker in self.waiting_ids())
        return task

    def waiting_ids(self) -> set[str]:
        return {waiter.worker_id for line in self.dispatch._lines.values() for waiter in line.waiters}


async def until(holds: object) -> None:
    async with asyncio.timeout(10):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.005)


@pytest.fixture
async def hall(database: Database, make_user: MakeUser) -> AsyncIterator[Hall]:
    made = Hall(JobDesk(database, await make_user()))
    yield made
    for task in made.waiting:
        task.cancel()
    await asyncio.gather(*made.waiting, return_exceptions=True)
    await made.dispatch.close()


async def test_a_job_goes_to_the_worker_that_has_waited_longest(hall: Hall) -> None:
    first, second = await hall.wait("one"), await hall.wait("two")

    job = await hall.desk.submit()
    (claim,) = await asyncio.wait_for(first, 10)

    assert claim.job_id == job.job_id
    assert not second.done()


async def test_wrk_02_what_is_claimed_for_one_who_has_gone_goes_back_at_once(hall: Hall) -> None:
    gone = await hall.wait("one")
    hall.queue.may_answer.clear()
    job = await hall.desk.submit()
    await asyncio.wait_for(hall.queue.has_claimed.wait(), 10)

    gone.cancel()
    await asyncio.wait({gone})
    hall.queue.may_answer.set()

    taking = hall.dispatch.claim(await hall.desk.worker("two", queues=QUEUES), QUEUES, 1, LONG)
    (claim,) = await asyncio.wait_for(taking, 10)
    assert (claim.job_id, claim.attempt) == (job.job_id, 2)


async def test_many_jobs_reach_all_who_wait(hall: Hall) -> None:
    tasks = [await hall.wait(f"worker-{number}", slots=2) for number in range(5)]

    jobs = {(await hall.desk.submit()).job_id for _ in range(10)}
    claims = [claim for batch in await asyncio.wait_for(asyncio.gather(*tasks), 20) for claim in batch]

    # A worker takes what is there when it looks; the rest is for those who come next.
    assert len({claim.job_id for claim in claims}) == len(claims)
    assert {claim.job_id for claim in claims} <= jobs
    assert all(task.result() for task in tasks)


async def test_a_hundred_waiting_workers_look_as_often_as_one(hall: Hall) -> None:
    for number in range(100):
        await hall.wait(f"worker-{number}")
    claims, looks = hall.queue.claims, hall.queue.looks

    await hall.desk.submit()
    await until(lambda: any(task.done() for task in hall.waiting))

    assert hall.queue.claims - claims <= 2
    assert hall.queue.looks - looks <= 5


async def test_who_comes_while_others_wait_asks_for_nothing_before_them(hall: Hall) -> None:
    first = await hall.wait("one")
    asked = hall.queue.claims

    second = await hall.wait("two")

    assert hall.queue.claims == asked
    job = await hall.desk.submit()
    assert [claim.job_id for claim in await asyncio.wait_for(first, 10)] == [job.job_id]
    assert not second.done()


async def test_a_worker_that_leaves_when_woken_lets_the_next_one_look(hall: Hall) -> None:
    first, second = await hall.wait("one"), await hall.wait("two")
    line = next(iter(hall.dispatch._lines.values()))

    line.waiters[0].wake()
    first.cancel()
    job = await hall.desk.submit()
    (claim,) = await asyncio.wait_for(second, 10)

    assert claim.job_id == job.job_id


async def test_a_worker_gets_jobs_of_its_own_queues_only(hall: Hall) -> None:
    build, deploy = await hall.wait("one", queues=("build",)), await hall.wait("two", queues=("deploy", "x"))

    job = await hall.desk.submit(queue_name="deploy")
    (claim,) = await asyncio.wait_for(deploy, 10)

    assert claim.job_id == job.job_id
    assert not build.done()


async def test_a_wait_is_over_by_its_time(hall: Hall) -> None:
    waiting = await hall.wait("one", wait=timedelta(seconds=0.3))

    assert await asyncio.wait_for(waiting, 5) == []


async def test_no_more_is_claimed_than_slots_are_free_or_a_batch_holds(hall: Hall) -> None:
    worker = await hall.desk.worker()
    for _ in range(3):
        await hall.desk.submit()

    assert await hall.dispatch.claim(worker, QUEUES, 0, LONG) == []
    assert len(await hall.dispatch.claim(worker, QUEUES, 2, LONG)) == 2
    assert len(await hall.dispatch.claim(worker, QUEUES, 10 * MAX_BATCH, LONG)) == 1


async def test_workers_wait_through_an_outage_of_the_queue(hall: Hall) -> None:
    waiting = await hall.wait("one")
    hall.queue.is_away = True
    before = hall.queue.looks
    hall.desk.bell.ring("queue:reactorcide-jobs")
    await until(lambda: hall.queue.looks > before)

    hall.queue.is_away = False
    job = await hall.desk.submit()
    (claim,) = await asyncio.wait_for(waiting, 10)

    assert claim.job_id == job.job_id


async def test_who_asks_while_the_queue_is_away_is_told_so(hall: Hall) -> None:
    worker = await hall.desk.worker()
    hall.queue.is_away = True

    with pytest.raises(Unavailable):
        await hall.dispatch.claim(worker, QUEUES, 1, LONG)


async def test_those_who_wait_are_marked_as_seen(hall: Hall) -> None:
    await hall.wait("one")
    await hall.wait("two")

    await until(lambda: hall.seen == hall.waiting_ids())
