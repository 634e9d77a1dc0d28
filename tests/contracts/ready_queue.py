"""The contract of every ready queue. A backend's test gives a `QueueBench` and nothing else."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import pytest

from reactorcide.domain.jobs import Claim
from reactorcide.queue.port import ReadyQueue

NO_WAIT = timedelta()
SOON = timedelta(seconds=10)
QUEUES = ("build", "deploy")


class QueueBench(Protocol):
    """A queue in a world of its own, with two workers."""

    queue: ReadyQueue
    worker_id: str
    other_worker_id: str

    async def make_ready(self, queue_name: str, *, priority: int = 0) -> str:
        """Submit a job and announce it; return its id."""

    async def cancel(self, job_id: str) -> None:
        """Cancel a job, and tell the queue nothing."""

    async def release(self, claim: Claim) -> None:
        """Give a claim back and announce its job again."""


class ReadyQueueContract:
    """What a `ReadyQueue` promises."""

    async def take(self, bench: QueueBench, limit: int, *queues: str) -> list[Claim]:
        return await bench.queue.claim(bench.worker_id, queues or QUEUES, limit, start_within=SOON)

    async def test_an_empty_queue_gives_nothing(self, bench: QueueBench) -> None:
        assert await self.take(bench, 5) == []

    async def test_no_slot_or_no_queue_gives_nothing(self, bench: QueueBench) -> None:
        await bench.make_ready("build")

        assert await self.take(bench, 0) == []
        assert await bench.queue.claim(bench.worker_id, (), 1, start_within=SOON) == []

    async def test_jobs_come_by_priority_then_age(self, bench: QueueBench) -> None:
        normal = await bench.make_ready("build")
        late = await bench.make_ready("build")
        low = await bench.make_ready("build", priority=-1)
        urgent = await bench.make_ready("build", priority=10)

        order = [claim.job_id for claim in await self.take(bench, 10, "build")]

        assert order == [urgent, normal, late, low]

    async def test_priority_counts_over_several_queues(self, bench: QueueBench) -> None:
        normal = await bench.make_ready("build")
        urgent = await bench.make_ready("deploy", priority=10)
        late = await bench.make_ready("build")

        order = [(await self.take(bench, 1))[0].job_id for _ in range(3)]

        assert order == [urgent, normal, late]

    async def test_only_the_queues_asked_for_are_touched(self, bench: QueueBench) -> None:
        job_id = await bench.make_ready("deploy")

        assert await self.take(bench, 1, "build") == []
        assert [claim.job_id for claim in await self.take(bench, 1, "deploy")] == [job_id]

    async def test_a_batch_is_never_larger_than_the_limit(self, bench: QueueBench) -> None:
        for _ in range(5):
            await bench.make_ready("build")

        sizes = [len(await self.take(bench, 2)) for _ in range(4)]

        assert sizes == [2, 2, 1, 0]

    async def test_a_claim_names_a_new_attempt_and_the_worker_that_asked(self, bench: QueueBench) -> None:
        await bench.make_ready("build")

        (first,) = await self.take(bench, 1)
        await bench.release(first)
        (second,) = await bench.queue.claim(bench.other_worker_id, QUEUES, 1, start_within=SOON)

        assert (first.attempt, first.worker_id) == (1, bench.worker_id)
        assert (second.attempt, second.worker_id) == (2, bench.other_worker_id)
        assert first.lease_id != second.lease_id

    @pytest.mark.parametrize("queues", [QUEUES[:1], QUEUES], ids=["one", "several"])
    async def test_q_03_of_many_claims_at_once_each_job_goes_to_one(
        self, bench: QueueBench, queues: Sequence[str]
    ) -> None:
        wanted = {await bench.make_ready(queues[number % len(queues)]) for number in range(20)}
        workers = (bench.worker_id, bench.other_worker_id)

        async def claim_all(worker_id: str) -> list[Claim]:
            taken: list[Claim] = []
            for _ in range(10):
                taken += await bench.queue.claim(worker_id, queues, 3, start_within=SOON)
            return taken

        batches = await asyncio.gather(*(claim_all(worker_id) for worker_id in workers * 4))

        claims = [claim for batch in batches for claim in batch]
        assert sorted(claim.job_id for claim in claims) == sorted(wanted)

    async def test_a_cancelled_job_is_not_handed_out(self, bench: QueueBench) -> None:
        job_id = await bench.make_ready("build")
        await bench.cancel(job_id)

        assert await self.take(bench, 1) == []

    async def test_wait_ends_when_a_job_becomes_ready(self, bench: QueueBench) -> None:
        waiting = asyncio.create_task(bench.queue.wait(QUEUES, timedelta(seconds=30)))

        await bench.make_ready("deploy")

        assert await asyncio.wait_for(waiting, 5)

    async def test_wait_sees_what_became_ready_before_it(self, bench: QueueBench) -> None:
        await bench.make_ready("build")

        assert await asyncio.wait_for(bench.queue.wait(QUEUES, timedelta(seconds=30)), 5)

    async def test_wait_is_over_by_its_timeout(self, bench: QueueBench) -> None:
        started = asyncio.get_running_loop().time()

        assert not await bench.queue.wait(QUEUES, timedelta(milliseconds=50))
        assert asyncio.get_running_loop().time() - started < 2

    async def test_announcing_what_is_not_ready_does_no_harm(self, bench: QueueBench) -> None:
        await bench.queue.announce([])
        job_id = await bench.make_ready("build")
        await bench.cancel(job_id)

        assert await self.take(bench, 1) == []
