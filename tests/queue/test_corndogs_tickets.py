"""Tickets, and what becomes of jobs while a Corndogs is down, slow, doubled, late or wiped."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from fakes.corndogs_server import CorndogsServer
from fakes.corndogs_store import StoredTask
from fixture_types import MakeUser
from job_desk import NO_WAIT, JobDesk
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import Job
from reactorcide.domain.status import JobStatus
from reactorcide.queue.corndogs.addresses import open_client
from reactorcide.queue.corndogs.messages import CorndogsClient
from reactorcide.queue.corndogs.ready_queue import CorndogsQueue
from reactorcide.queue.corndogs.relay import TicketRelay
from reactorcide.queue.corndogs.terms import DRAWN, READY
from reactorcide.queue.corndogs.upkeep import TicketUpkeep
from reactorcide.services.overview import Overview
from reactorcide.store.database import Database

QUEUE = "reactorcide-jobs"
SOON = 10.0
HOUR = 3600 * 10**9


@dataclass
class TicketOffice:
    """A coordinator, its queue, and the service behind that."""

    server: CorndogsServer
    desk: JobDesk
    queue: CorndogsQueue
    client: CorndogsClient
    relay: TicketRelay
    upkeep: TicketUpkeep
    worker_id: str

    def waiting(self, state: str = READY) -> list[StoredTask]:
        """Return the live tickets in a state."""
        return [task for task in self.server.store.live.values() if task.current_state == state]

    async def claim_all(self) -> list[str]:
        """Claim until nothing is ready any more; return the jobs' ids."""
        claimed: list[str] = []
        while taken := await self.desk.attempts.claim(self.worker_id, 50, NO_WAIT):
            claimed += [claim.job_id for claim in taken]
        return claimed

    async def until_cleared(self) -> None:
        """Wait until the service holds no live ticket."""
        await until(lambda: not self.server.store.live)

    async def sweep(self, *, ahead: int = HOUR) -> int:
        """Return drawn tickets as if time had passed."""
        return await self.client.sweep(QUEUE, self.queue.clock.now() + ahead)


async def until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(SOON):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture
async def office(database: Database, make_user: MakeUser) -> AsyncIterator[TicketOffice]:
    async with CorndogsServer() as server:
        client = open_client(
            [server.address], api_key="the key", ca_file=None, call_timeout=timedelta(seconds=1)
        )
        desk = JobDesk(
            database,
            await make_user(),
            make_queue=lambda own, bell, metrics: CorndogsQueue(client, own, bell, watch=metrics),
        )
        queue = desk.queue
        assert isinstance(queue, CorndogsQueue)
        relay = TicketRelay(client, queue, database, desk.bell, watch=desk.metrics)
        upkeep = TicketUpkeep(client, queue.clock, database, desk.bell)
        yield TicketOffice(server, desk, queue, client, relay, upkeep, await desk.worker())
        await queue.close()


async def publish(office: TicketOffice, **fields: object) -> Job:
    job = await office.desk.submit(**fields)
    await office.relay.run_round()
    return job


async def test_a_ticket_says_what_runs_and_for_whom_and_nothing_secret(office: TicketOffice) -> None:
    job = await publish(
        office,
        name="build",
        source_type="git",
        git_url="https://bot:hunter2-hunter2@example.org/a.git",
        git_ref="main",
        job_command="make all",
        job_env_vars={"PLAIN": "plain-value"},
        job_secrets={"DEPLOY": "deploy-secret"},
        priority=7,
    )

    (task,) = office.waiting()

    assert (task.queue, task.priority, task.timeout, task.auto_target_state) == (QUEUE, 7, 0, DRAWN)
    told = json.loads(task.payload)
    assert (told["job_id"], told["job_type"], told["attempt"]) == (job.job_id, "run", 0)
    assert told["config"] == {
        "image": "runner",
        "command": "make all",
        "working_dir": "/job/src",
        "timeout": 3600,
        "code_dir": "/job/src",
        "job_dir": "/job/src",
    }
    assert told["source"]["type"] == "git"
    assert told["source"]["ref"] == "main"
    assert told["metadata"]["name"] == "build"
    for hidden in (b"hunter2", b"plain-value", b"deploy-secret"):
        assert hidden not in task.payload
    assert office.server.auths == {"the key"}


async def test_a_job_is_submitted_until_it_is_announced_and_queued_from_then_on(office: TicketOffice) -> None:
    job = await office.desk.submit()
    before = await office.desk.read(job.job_id)
    await office.relay.run_round()
    after = await office.desk.read(job.job_id)

    assert (job.status, before.status) == (JobStatus.SUBMITTED, JobStatus.SUBMITTED)
    assert before.corndogs_task_id is None
    assert after.status is JobStatus.QUEUED
    assert [after.corndogs_task_id] == [task.uuid for task in office.waiting()]
    events = await office.desk.jobs.events(office.desk.user, job.job_id)
    assert [event.to_status for event in events] == [JobStatus.SUBMITTED, JobStatus.QUEUED]


async def test_a_claimed_job_leaves_no_ticket(office: TicketOffice) -> None:
    job = await publish(office)

    assert await office.claim_all() == [job.job_id]

    await office.until_cleared()
    (ended,) = office.server.store.archive.values()
    assert ended.current_state == "completed"


async def test_q_01_what_was_submitted_while_the_queue_was_down_starts_soon_after_its_return(
    office: TicketOffice,
) -> None:
    await office.server.stop()
    job = await office.desk.submit()
    relaying = asyncio.create_task(office.relay.run())
    try:
        with pytest.raises(Unavailable):
            await office.client.ping()
        waiting = await office.desk.read(job.job_id)
        why = await office.desk.jobs.waiting_reason(waiting)

        await office.server.start()
        returned = time.monotonic()
        (claim,) = await office.desk.attempts.claim(office.worker_id, 1, timedelta(seconds=20))
        took = time.monotonic() - returned
    finally:
        relaying.cancel()
        await asyncio.wait({relaying})

    assert waiting.status is JobStatus.SUBMITTED
    assert why == "the queue service has not been told of it yet"
    assert claim.job_id == job.job_id
    assert took < 10


async def test_q_02_a_ticket_whose_reply_was_lost_leads_to_one_execution(office: TicketOffice) -> None:
    office.server.faults.lose_replies = {"SubmitTask": 1}
    job = await office.desk.submit()
    with pytest.raises(Unavailable):
        await office.relay.run_round()
    await office.relay.run_round()

    doubled = len(office.waiting())
    claimed = await office.claim_all()

    assert doubled == 2
    assert claimed == [job.job_id]
    await office.until_cleared()


async def test_q_03_of_one_ticket_delivered_to_ten_workers_one_leads_to_a_start(office: TicketOffice) -> None:
    job = await publish(office)
    workers = [await office.desk.worker(f"worker-{number}") for number in range(10)]
    office.server.faults.copies = 10

    batches = await asyncio.gather(
        *(office.desk.attempts.claim(worker_id, 1, NO_WAIT) for worker_id in workers)
    )

    assert [claim.job_id for batch in batches for claim in batch] == [job.job_id]
    await office.until_cleared()


async def test_q_04_a_queue_that_lost_everything_is_told_again_of_every_waiting_job(
    office: TicketOffice,
) -> None:
    waiting = {(await office.desk.submit()).job_id for _ in range(200)}
    await office.relay.run_round()
    await age_tickets(office, seconds=30)
    office.server.wipe()
    assert await office.claim_all() == []

    await office.upkeep.run_round()
    while await office.relay.run_round():
        pass

    claimed = await office.claim_all()
    assert sorted(claimed) == sorted(waiting)
    await office.until_cleared()


async def test_one_ticket_lost_among_many_is_missed(office: TicketOffice) -> None:
    jobs = [await office.desk.submit() for _ in range(5)]
    await office.relay.run_round()
    await age_tickets(office, seconds=30)
    office.server.store.cancel(office.waiting()[2].uuid)

    await office.upkeep.run_round()
    await office.relay.run_round()

    assert sorted(await office.claim_all()) == sorted(job.job_id for job in jobs)


async def test_a_lost_ticket_that_a_surplus_one_hides_is_found_by_asking_after_each(
    office: TicketOffice,
) -> None:
    job = await publish(office)
    office.server.store.cancel(office.waiting()[0].uuid)
    office.server.store.submit(QUEUE, READY, DRAWN, -1, b'{"job_id":"none of ours"}', 0)
    await office.upkeep.run_round()
    untouched = await office.relay.run_round()

    await age_tickets(office, seconds=300)
    await office.relay.run_round()

    assert untouched == 0
    assert await office.claim_all() == [job.job_id]


async def test_a_ticket_that_waits_is_looked_after_without_being_doubled(office: TicketOffice) -> None:
    await publish(office)
    (before,) = office.waiting()

    await age_tickets(office, seconds=300)
    looked = await office.relay.run_round()

    assert looked == 1
    assert [task.uuid for task in office.waiting()] == [before.uuid]
    assert await office.relay.run_round() == 0


async def test_q_06_a_ticket_that_comes_before_its_job_is_refused_and_comes_again(
    office: TicketOffice,
) -> None:
    early = str(uuid.uuid4())
    office.server.store.submit(QUEUE, READY, DRAWN, -1, json.dumps({"job_id": early}).encode(), 0)

    refused = await office.claim_all()
    await until(lambda: any(task.timeout == 2 for task in office.waiting(DRAWN)))
    await office.sweep()

    assert refused == []
    assert len(office.waiting()) == 1


async def test_a_ticket_whose_job_nobody_knows_is_completed_in_the_end(office: TicketOffice) -> None:
    now = time.time_ns()
    stamps = iter([now - HOUR, *(now + number for number in range(100))])
    office.server.store._clock = lambda: next(stamps)
    office.server.store.submit(QUEUE, READY, DRAWN, -1, json.dumps({"job_id": str(uuid.uuid4())}).encode(), 0)

    assert await office.claim_all() == []

    await office.until_cleared()


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{}", b'{"job_id": 1}', b'{"job_id": "../x"}', b"[]"])
async def test_a_ticket_that_names_no_job_is_cleared_away(office: TicketOffice, payload: bytes) -> None:
    office.server.store.submit(QUEUE, READY, DRAWN, -1, payload, 9)
    job = await publish(office)

    assert await office.claim_all() == [job.job_id]

    await office.until_cleared()


async def test_q_07_a_ticket_that_comes_again_while_its_job_runs_starts_nothing(office: TicketOffice) -> None:
    job = await publish(office)
    payload = office.waiting()[0].payload
    started = await office.desk.start(office.worker_id)
    office.server.store.submit(QUEUE, READY, DRAWN, -1, payload, 0)

    again = await office.claim_all()

    assert again == []
    assert (await office.desk.read(job.job_id)).status is JobStatus.RUNNING
    assert await office.desk.beat(started.claim) == "go_on"
    await office.until_cleared()


@pytest.mark.parametrize("fault", ["slow", "half open"])
async def test_q_10_submissions_do_not_wait_for_the_queue(office: TicketOffice, fault: str) -> None:
    relaying = asyncio.create_task(office.relay.run())
    if fault == "slow":
        office.server.faults.delay_seconds = 5
    else:
        office.server.faults.is_silent = True
    took = []
    try:
        for _ in range(20):
            begun = time.monotonic()
            await office.desk.submit()
            took.append(time.monotonic() - begun)
    finally:
        relaying.cancel()
        await asyncio.wait({relaying})

    assert max(took) < 1


async def test_a_cancelled_job_s_ticket_is_cancelled(office: TicketOffice) -> None:
    job = await publish(office)

    await office.desk.jobs.cancel(office.desk.user, job.job_id)

    await office.until_cleared()
    (ended,) = office.server.store.archive.values()
    assert ended.current_state == "canceled"


async def test_cancelling_does_not_wait_for_a_dead_queue(office: TicketOffice) -> None:
    job = await publish(office)
    office.server.faults.is_silent = True

    begun = time.monotonic()
    cancelled = await office.desk.jobs.cancel(office.desk.user, job.job_id)

    assert cancelled.status is JobStatus.CANCELLED
    assert time.monotonic() - begun < 0.9


async def test_a_job_that_ended_while_its_ticket_was_published_leaves_none(office: TicketOffice) -> None:
    job = await office.desk.submit()
    office.server.faults.delay_seconds = 0.3
    publishing = asyncio.create_task(office.relay.run_round())
    await until(lambda: office.server.frames)
    await office.desk.jobs.cancel(office.desk.user, job.job_id)

    await publishing

    await office.until_cleared()
    assert await office.claim_all() == []


async def test_a_ticket_drawn_by_one_who_died_comes_again(office: TicketOffice) -> None:
    job = await publish(office)
    office.server.faults.lose_replies = {"GetNextTask": 1}
    with pytest.raises(Unavailable):
        await office.desk.attempts.claim(office.worker_id, 1, NO_WAIT)
    drawn = office.waiting(DRAWN)

    await office.sweep()

    assert len(drawn) == 1
    assert await office.claim_all() == [job.job_id]


async def test_upkeep_returns_drawn_tickets_whose_time_is_up(office: TicketOffice) -> None:
    await publish(office)
    office.server.faults.lose_replies = {"GetNextTask": 1}
    with pytest.raises(Unavailable):
        await office.desk.attempts.claim(office.worker_id, 1, NO_WAIT)
    office.queue.clock.note(time.time_ns() + HOUR)

    await office.upkeep.run_round()

    assert len(office.waiting()) == 1


async def test_a_completion_that_was_lost_is_made_good_at_the_next_draw(office: TicketOffice) -> None:
    job = await publish(office)
    office.server.faults.lose_calls = {"CompleteTask": 1}
    claimed = await office.claim_all()
    await until(lambda: office.server.calls["CompleteTask"] == 1)
    await office.sweep()

    again = await office.claim_all()

    assert (claimed, again) == ([job.job_id], [])
    await office.until_cleared()


async def test_a_job_that_went_back_gets_a_ticket_of_its_next_attempt(office: TicketOffice) -> None:
    job = await publish(office)
    (claim,) = await office.desk.attempts.claim(office.worker_id, 1, NO_WAIT)
    await office.until_cleared()
    await office.desk.attempts.release(claim)

    await office.relay.run_round()

    (task,) = office.waiting()
    assert json.loads(task.payload)["attempt"] == 1
    assert await office.claim_all() == [job.job_id]


async def test_what_a_relay_has_taken_no_other_relay_publishes(office: TicketOffice) -> None:
    for _ in range(30):
        await office.desk.submit()
    other = TicketRelay(
        office.client, office.queue, office.desk.database, office.desk.bell, watch=office.desk.metrics
    )

    await asyncio.gather(office.relay.run_round(), other.run_round())

    assert len(office.waiting()) == 30


async def test_jobs_of_the_time_before_corndogs_are_adopted(
    office: TicketOffice, database: Database, make_user: MakeUser
) -> None:
    before = JobDesk(database, await make_user())
    job = await before.submit()
    assert await office.relay.run_round() == 0

    await office.upkeep.run_round()
    await office.relay.run_round()

    assert await office.claim_all() == [job.job_id]


async def test_jobs_with_tickets_are_claimed_by_their_rows_when_corndogs_is_given_up(
    office: TicketOffice, database: Database, make_user: MakeUser
) -> None:
    announced = await publish(office)
    unannounced = await office.desk.submit()
    after = JobDesk(database, await make_user())

    claims = await after.attempts.claim(await after.worker("after"), 5, NO_WAIT)

    assert [claim.job_id for claim in claims] == [announced.job_id, unannounced.job_id]


async def test_q_tickets_of_both_sides_are_shown(office: TicketOffice, database: Database) -> None:
    await publish(office)
    await publish(office)
    overview = Overview(database, tickets=office.queue)
    counted = await overview.tickets([QUEUE])
    await office.server.stop()

    with pytest.raises(Unavailable):
        await overview.tickets([QUEUE])

    assert counted is not None
    assert (counted[QUEUE].ready, counted[QUEUE].drawn) == (2, 0)
    assert await Overview(database).tickets([QUEUE]) is None


async def test_submissions_and_polls_are_counted(office: TicketOffice) -> None:
    await publish(office)
    await office.claim_all()
    office.server.faults.lose_replies = {"SubmitTask": 1}
    await office.desk.submit()
    with pytest.raises(Unavailable):
        await office.relay.run_round()

    text = office.desk.metrics.render().decode()

    for line in (
        f'reactorcide_corndogs_task_submissions_total{{queue="{QUEUE}",result="ok"}} 1.0',
        f'reactorcide_corndogs_task_submissions_total{{queue="{QUEUE}",result="unknown"}} 1.0',
        f'reactorcide_corndogs_task_polls_total{{queue="{QUEUE}",result="task"}} 1.0',
        f'reactorcide_corndogs_task_polls_total{{queue="{QUEUE}",result="empty"}}',
    ):
        assert line in text


async def age_tickets(office: TicketOffice, *, seconds: int) -> None:
    """Let tickets be so much older."""
    async with office.desk.database.transaction() as tx:
        await tx.execute(
            "UPDATE jobs SET ticket_due_at = ticket_due_at - %(by)s", {"by": timedelta(seconds=seconds)}
        )
