"""The state machine under any order of calls, late, repeated and crossed: a property test.

`JOB_MODEL_EXAMPLES` raises the number of examples.
"""

import asyncio
import os
import uuid
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from job_desk import CANCELLED, FAILED, NO_WAIT, Clock, JobDesk, outcome
from job_laws import check_laws
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.errors import ClaimLost, Conflict
from reactorcide.domain.jobs import AttemptOutcome, Claim
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.store.database import Database

T = TypeVar("T")

EXAMPLES = int(os.environ.get("JOB_MODEL_EXAMPLES", "15"))
TIMED_OUT = outcome(JobStatus.TIMEOUT, Reason.TIMEOUT_RUN, exit_code=None)
OUTCOMES = [outcome(), FAILED, CANCELLED, TIMED_OUT]
WORKERS = ["worker-1", "worker-2"]


class JobMachine(RuleBasedStateMachine):
    """Clients, workers and maintenance act in any order; the laws are checked after each step."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self.runner = runner
        self.database = database
        self.clock = Clock()
        self.ended: dict[str, JobStatus] = {}
        self.finished: dict[Claim, AttemptOutcome] = {}

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @initialize()
    def begin(self) -> None:
        user = Principal(str(uuid.uuid4()), str(uuid.uuid4()), TokenKind.USER, frozenset({Role.USER}))
        self.desk = JobDesk(self.database, user)

        async def clear() -> None:
            async with self.database.transaction() as tx:
                await tx.execute("TRUNCATE jobs, workers, users CASCADE")
                await tx.execute("INSERT INTO users (user_id, username) VALUES (%s, 'one')", [user.user_id])

        self.do(clear())
        self.workers = {name: self.do(self.desk.worker(name)) for name in WORKERS}
        self.maintenance = self.desk.maintenance(self.clock)
        for _ in range(5):
            self.reap()

    @rule(target=jobs, retries=st.integers(0, 2), timeout=st.sampled_from([20, 3600]))
    def submit(self, retries: int, timeout: int) -> str:
        return self.do(self.desk.submit(retry_on_lost=retries, timeout_seconds=timeout)).job_id

    @rule(target=claims, worker=st.sampled_from(WORKERS), slots=st.integers(1, 3))
    def claim(self, worker: str, slots: int) -> Any:
        return multiple(*self.do(self.desk.attempts.claim(self.workers[worker], slots, NO_WAIT)))

    @rule(claim=claims)
    def start(self, claim: Claim) -> None:
        try:
            started = self.do(self.desk.attempts.start(claim))
        except ClaimLost:
            return
        assert started.claim == claim
        assert claim.job_id not in self.ended
        assert self.do(self.desk.read(claim.job_id)).attempt == claim.attempt

    @rule(claim=claims)
    def heartbeat(self, claim: Claim) -> None:
        order = self.do(self.desk.beat(claim))
        if order != "abandon":
            assert claim.job_id not in self.ended
            assert self.do(self.desk.read(claim.job_id)).attempt == claim.attempt

    @rule(claim=claims, told=st.sampled_from(OUTCOMES))
    def finish(self, claim: Claim, told: AttemptOutcome) -> None:
        try:
            self.do(self.desk.attempts.finish(claim, told))
        except ClaimLost:
            assert self.finished.get(claim) != told
        else:
            assert self.finished.setdefault(claim, told) == told
            assert self.do(self.desk.read(claim.job_id)).attempt == claim.attempt

    @rule(claim=consumes(claims))
    def release(self, claim: Claim) -> None:
        self.do(self.desk.attempts.release(claim))

    @rule(job_id=jobs, force=st.booleans())
    def cancel(self, job_id: str, force: bool) -> None:
        ended_as = self.ended.get(job_id, JobStatus.CANCELLED)
        with nullcontext() if ended_as is JobStatus.CANCELLED else pytest.raises(Conflict):
            job = self.do(self.desk.jobs.cancel(self.desk.user, job_id, force=force))
            assert job.status is JobStatus.CANCELLED or job.cancel_requested

    @rule(seconds=st.sampled_from([1, 11, 16, 31, 100_000]), job_id=jobs)
    def pass_time(self, seconds: int, job_id: str) -> None:
        self.do(self.desk.age(job_id, seconds))

    @rule()
    def reap(self) -> None:
        self.clock.pass_time(5)
        self.do(self.maintenance.run_round())

    @rule(worker=st.sampled_from(WORKERS), spooled=st.lists(claims, max_size=2))
    def reboot(self, worker: str, spooled: list[Claim]) -> None:
        identity = WorkerIdentity(worker, str(uuid.uuid4()), ("reactorcide-jobs",), 2, "1", "none")
        registration = self.do(self.desk.attempts.register(identity, spooled))
        assert registration.worker_id == self.workers[worker]

    @invariant()
    def the_laws_hold(self) -> None:
        statuses = self.do(check_laws(self.database))
        for job_id, status in self.ended.items():
            assert statuses[job_id] is status
        self.ended |= {job_id: status for job_id, status in statuses.items() if status.is_final}


def test_no_order_of_calls_breaks_a_law(dsn: str) -> None:
    with asyncio.Runner() as runner:
        database = runner.run(Database.open(dsn))
        try:
            run_state_machine_as_test(
                lambda: JobMachine(runner, database),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
