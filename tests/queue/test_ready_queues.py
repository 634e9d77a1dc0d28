"""Every ready queue keeps the contract."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from contracts.ready_queue import NO_WAIT, QUEUES, ReadyQueueContract
from fakes.corndogs_grpc import CorndogsGrpcServer
from fakes.corndogs_server import SPLIT, WHOLE, CorndogsServer
from fixture_types import MakeUser
from job_desk import JobDesk
from reactorcide.domain.jobs import Claim
from reactorcide.domain.status import READY, JobStatus, sources_of
from reactorcide.queue import database as database_queue
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.ready_queue import CorndogsQueue
from reactorcide.queue.corndogs.relay import TicketRelay
from reactorcide.store.claims import IS_READY
from reactorcide.store.database import Database


class DatabaseBench:
    def __init__(self, desk: JobDesk, worker_id: str, other_worker_id: str) -> None:
        self.desk = desk
        self.queue = desk.queue
        self.worker_id = worker_id
        self.other_worker_id = other_worker_id

    async def make_ready(self, queue_name: str, *, priority: int = 0) -> str:
        return (await self.desk.submit(queue_name=queue_name, priority=priority)).job_id

    async def cancel(self, job_id: str) -> None:
        await self.desk.jobs.cancel(self.desk.user, job_id)

    async def release(self, claim: Claim) -> None:
        await self.desk.attempts.release(claim)


class CorndogsBench(DatabaseBench):
    """Tickets are published by a relay that does a round when something became ready."""

    def __init__(self, desk: JobDesk, worker_id: str, other_worker_id: str, relay: TicketRelay) -> None:
        super().__init__(desk, worker_id, other_worker_id)
        self.relay = relay

    async def make_ready(self, queue_name: str, *, priority: int = 0) -> str:
        job_id = await super().make_ready(queue_name, priority=priority)
        await self.relay.run_round()
        return job_id

    async def release(self, claim: Claim) -> None:
        await super().release(claim)
        await self.relay.run_round()


class CorndogsQueueContract(ReadyQueueContract):
    """Of a service at the fixture ``address``."""

    @pytest.fixture
    async def bench(
        self, database: Database, make_user: MakeUser, address: str
    ) -> AsyncIterator[CorndogsBench]:
        client = open_client([address], api_key=None, ca_file=None, call_timeout=timedelta(seconds=10))
        desk = JobDesk(
            database,
            await make_user(),
            make_queue=lambda own, bell, metrics: CorndogsQueue(client, own, bell, watch=metrics),
        )
        assert isinstance(desk.queue, CorndogsQueue)
        relay = TicketRelay(client, desk.queue, database, desk.bell, watch=desk.metrics)
        yield CorndogsBench(
            desk,
            await desk.worker("one", queues=QUEUES),
            await desk.worker("two", queues=QUEUES),
            relay,
        )
        await desk.queue.close()


class TestCorndogsQueue(CorndogsQueueContract):
    @pytest.fixture(params=[WHOLE, SPLIT])
    async def address(self, request: pytest.FixtureRequest) -> AsyncIterator[str]:
        async with CorndogsServer(shape=request.param) as server:
            yield server.address


class TestCorndogsQueueWithoutGroups(CorndogsQueueContract):
    @pytest.fixture
    async def address(self) -> AsyncIterator[str]:
        async with CorndogsServer() as server:
            server.faults.unknown = ("GetNextTaskGroup",)
            yield server.address


class TestCorndogsQueueOverGrpc(CorndogsQueueContract):
    @pytest.fixture
    async def address(self) -> AsyncIterator[str]:
        async with CorndogsGrpcServer() as server:
            yield server.address


class TestDatabaseQueue(ReadyQueueContract):
    @pytest.fixture
    async def bench(self, database: Database, make_user: MakeUser) -> DatabaseBench:
        desk = JobDesk(database, await make_user())
        return DatabaseBench(
            desk, await desk.worker("one", queues=QUEUES), await desk.worker("two", queues=QUEUES)
        )

    async def test_a_claimed_job_shows_as_queued_until_it_starts(self, bench: DatabaseBench) -> None:
        job_id = await bench.make_ready("build")
        (claim,) = await self.take(bench, 1)

        job = await bench.desk.read(job_id)

        assert (job.status, job.attempt, claim.attempt) == (JobStatus.QUEUED, 1, 1)

    async def test_a_job_that_is_to_rest_is_not_handed_out_before_its_time(
        self, bench: DatabaseBench
    ) -> None:
        job_id = await bench.make_ready("build")
        await bench.desk.age(job_id, -30)

        early = await self.take(bench, 1)
        await bench.desk.age(job_id, 30)

        assert early == []
        assert [claim.job_id for claim in await self.take(bench, 1)] == [job_id]

    async def test_a_long_poll_takes_a_job_submitted_meanwhile(self, bench: DatabaseBench) -> None:
        assert await bench.desk.attempts.claim(bench.worker_id, 1, NO_WAIT) == []
        job_id = await bench.make_ready("build")

        (claim,) = await bench.desk.attempts.claim(bench.worker_id, 4, timedelta(seconds=30))

        assert claim.job_id == job_id

    async def test_a_worker_registered_anew_takes_from_its_new_queues(self, bench: DatabaseBench) -> None:
        job_id = await bench.make_ready("gpu")
        assert await bench.desk.attempts.claim(bench.worker_id, 1, NO_WAIT) == []

        same = await bench.desk.worker("one", queues=["gpu"])

        assert same == bench.worker_id
        assert (await bench.desk.claim(same)).job_id == job_id

    async def test_claiming_reads_the_index_of_ready_jobs_in_its_order(self, bench: DatabaseBench) -> None:
        async with bench.desk.database.transaction() as tx:
            await tx.execute("SET LOCAL enable_seqscan = off")
            await tx.execute("SET LOCAL enable_sort = off")
            cursor = await tx.execute(
                "EXPLAIN " + database_queue._BEST_OF_ONE_QUEUE, {"queue": "build", "limit": 1}
            )
            plan = "\n".join(row["QUERY PLAN"] for row in await cursor.fetchall())

        assert "Index Scan using jobs_ready" in plan
        assert "Sort" not in plan


def test_what_is_ready_to_be_claimed_is_what_may_start() -> None:
    written = "j.status IN ('submitted', 'queued')"

    assert written in IS_READY
    assert {status for status in JobStatus if f"'{status}'" in written} == READY
    assert set(sources_of(JobStatus.RUNNING)) == READY
