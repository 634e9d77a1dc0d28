"""The rules of the state machine: whoever has a say does anything in any order, late, repeated and crossed.

Every answer is compared with the model's, and after every step every row, and the laws of `job_laws`.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from job_desk import CANCELLED, FAILED, NO_WAIT, JobDesk, outcome, request
from job_laws import JobFacts, LawBook
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.errors import (
    ClaimLost,
    Conflict,
    IdempotencyMismatch,
    LogMismatch,
    NotFound,
    OffsetGap,
    Superseded,
)
from reactorcide.domain.jobs import AttemptOutcome, Claim, LogPiece
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import WorkerIdentity, WorkerReport
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.jobs import IdempotencyKey
from reactorcide.services.logs import LogService
from reactorcide.store.database import Database
from robustness.simulation_clock import SimulatedClock
from robustness.state_machine_model import (
    Model,
    ModelJob,
    ModelKey,
    ModelWorker,
    may_be_sealed,
    predicted,
    seen,
)

T = TypeVar("T")

TIMED_OUT = outcome(JobStatus.TIMEOUT, Reason.TIMEOUT_RUN, exit_code=None)
LOST = outcome(JobStatus.FAILED, Reason.WORKER_LOST, exit_code=None)
OUTCOMES = [outcome(), FAILED, CANCELLED, TIMED_OUT, LOST]
NAMES = ["worker-1", "worker-2"]
LOG = bytes(range(256)) * 8
UNHEARD_OF = {"chore.failed", "chore.postponed", "log.bytes_missed"}


class JobMachine(RuleBasedStateMachine):
    """Clients, workers and maintenance act in any order, over and over with what once was."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self, runner: asyncio.Runner, database: Database, clock: SimulatedClock) -> None:
        super().__init__()
        self.runner = runner
        self.database = database
        self.clock = clock
        self.objects = MemoryObjectStore()
        self.model = Model()
        self.laws = LawBook(database)
        self.boots: dict[str, list[str]] = {}
        self.turns: dict[str, int] = {}

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        # No two calls happen at one moment.
        self.clock.move_to(0)
        return self.runner.run(call)

    def teardown(self) -> None:
        self.do(self.desk.attempts.close())

    @initialize()
    def begin(self) -> None:
        self.clock.restart()
        self.user = Principal(str(uuid.uuid4()), str(uuid.uuid4()), TokenKind.USER, frozenset({Role.USER}))
        self.admin = replace(self.user, roles=frozenset({Role.ADMIN}))

        async def make_user() -> None:
            async with self.database.transaction() as tx:
                await tx.execute(
                    "INSERT INTO users (user_id, username) VALUES (%s, 'one')", [self.user.user_id]
                )

        self.do(make_user())
        self.compose()
        self.workers: dict[str, str] = {}
        for name in NAMES:
            boot_id = str(uuid.uuid4())
            self.turns[boot_id] = self.do(self.desk.attempts.take_turn())
            first = self.desk.attempts.register(_identity(name, boot_id), [], turn=self.turns[boot_id])
            worker_id = self.do(first).worker_id
            self.workers[name] = worker_id
            self.boots[worker_id] = [boot_id]
            self.model.workers[worker_id] = ModelWorker(boot_id)

    def compose(self) -> None:
        self.desk = JobDesk(self.database, self.user)
        self.logs = LogService(self.database, self.objects, self.desk.bell)
        chores = [self.logs.seal_due, self.logs.purge_due]
        self.maintenance = self.desk.maintenance(self.clock, chores)  # type: ignore[arg-type]

    @rule()
    def restart_coordinator(self) -> None:
        self.do(self.desk.attempts.close())
        self.compose()
        self.model.restart_coordinator()

    # Clients

    @rule(
        target=jobs,
        retries=st.integers(0, 2),
        timeout=st.sampled_from([20, 3600]),
        queue_timeout=st.sampled_from([30, 86400]),
        priority=st.integers(0, 1),
        key=st.sampled_from([None, None, None, "a", "b"]),
    )
    def submit(self, retries: int, timeout: int, queue_timeout: int, priority: int, key: str | None) -> Any:
        asked = request(
            retry_on_lost=retries,
            timeout_seconds=timeout,
            queue_timeout_seconds=queue_timeout,
            priority=priority,
        )
        fingerprint = hashlib.sha256(repr(asked).encode()).digest()
        known = self.model.keys.get(key or "")
        call = self.desk.jobs.submit(self.user, asked, IdempotencyKey(key, fingerprint) if key else None)
        if known is not None and (known.fingerprint != fingerprint or known.job_id in self.model.deleted):
            refusal = IdempotencyMismatch if known.fingerprint != fingerprint else Conflict
            with pytest.raises(refusal):
                self.do(call)
            return multiple()
        made = self.do(call)
        if known is not None:
            assert (made.replayed, made.job.job_id) == (True, known.job_id)
            return multiple()
        assert not made.replayed
        job_id, now = made.job.job_id, self.clock.now
        if key:
            self.model.keys[key] = ModelKey(job_id, fingerprint, now)
        self.add_job(
            ModelJob(job_id, retries + 1, timeout, queue_timeout, priority, now, now, now + queue_timeout)
        )
        return job_id

    @rule(target=jobs, job_id=jobs)
    def retry(self, job_id: str) -> Any:
        old = self.model.jobs.get(job_id)
        call = self.desk.jobs.retry(self.user, job_id)
        if old is None or not old.status.is_final:
            with pytest.raises(Conflict if old else NotFound):
                self.do(call)
            return multiple()
        new, now = self.do(call).job_id, self.clock.now
        self.add_job(
            ModelJob(
                new,
                old.max_runs,
                old.timeout,
                old.queue_timeout,
                old.priority,
                now,
                now,
                now + old.queue_timeout,
            )
        )
        return new

    def add_job(self, job: ModelJob) -> None:
        assert job.job_id not in self.model.jobs
        self.model.jobs[job.job_id] = job

    @rule(job_id=jobs, force=st.booleans())
    def cancel(self, job_id: str, force: bool) -> None:
        call = self.desk.jobs.cancel(self.user, job_id, force=force)
        if job_id in self.model.deleted:
            with pytest.raises(NotFound):
                self.do(call)
            return
        refusal = self.model.cancel(job_id, force=force)
        if refusal is not None:
            with pytest.raises(Conflict) as told:
                self.do(call)
            assert told.value.status is refusal
            return
        job = self.do(call)
        assert job.status is JobStatus.CANCELLED or job.cancel_requested

    @rule(job_id=jobs, dice=st.integers(0, 2))
    def delete(self, job_id: str, dice: int) -> None:
        job = self.model.jobs.get(job_id)
        call = self.desk.jobs.delete(self.admin, job_id)
        if job is None or not job.status.is_final:
            with pytest.raises(Conflict if job else NotFound):
                self.do(call)
        elif dice:
            # Most jobs are kept, so that much can come too late for them.
            call.close()
        else:
            self.do(call)
            del self.model.jobs[job_id]
            self.model.deleted.add(job_id)

    # Workers

    @rule(target=claims, name=st.sampled_from(NAMES), slots=st.integers(1, 3), starts=st.booleans())
    def claim(self, name: str, slots: int, starts: bool) -> Any:
        worker_id = self.workers[name]
        claims = self.do(self.desk.attempts.claim(worker_id, slots, NO_WAIT))
        now = self.clock.now
        ready = self.model.claimable(now) if self.model.workers[worker_id].takes_jobs else []
        assert [claim.job_id for claim in claims] == ready[:slots]
        assert all(claim.worker_id == worker_id for claim in claims)
        self.model.claim(claims, now)
        for claim in claims:
            assert claim.attempt == len(self.model.jobs[claim.job_id].attempts)
            if starts:
                self.start(claim)
        return multiple(*claims)

    @rule(target=claims, claim=claims, how=st.sampled_from(["worker", "lease", "attempt", "job", "unsound"]))
    def forge(self, claim: Claim, how: str) -> Claim:
        """Make a claim that nobody was given."""
        others = [worker_id for worker_id in self.workers.values() if worker_id != claim.worker_id]
        changes: dict[str, Any] = {
            "worker": {"worker_id": others[0]},
            "lease": {"lease_id": str(uuid.uuid4())},
            "attempt": {"attempt": claim.attempt + 1},
            "job": {"job_id": next(iter(self.model.jobs), claim.job_id)},
            "unsound": {"lease_id": "none", "attempt": 0},
        }[how]
        return replace(claim, **changes)

    @rule(claim=claims)
    def start(self, claim: Claim) -> None:
        call = self.desk.attempts.start(claim)
        try:
            started = self.do(call)
        except ClaimLost:
            assert not self.model.start(claim, self.clock.now)
            return
        assert self.model.start(claim, self.clock.now)
        job = self.model.jobs[claim.job_id]
        assert started.claim == claim
        assert started.may_run_again == (job.runs < job.max_runs)
        assert job.holder is not None
        assert job.deadline is not None
        assert started.lease_left_seconds == pytest.approx(job.holder.lease_until - self.clock.now, abs=1e-3)
        left = max(0.0, job.deadline - self.clock.now)
        assert started.deadline_seconds == pytest.approx(left, abs=1e-3)

    @rule(name=st.sampled_from(NAMES), held=st.lists(claims, max_size=4, unique=True), draining=st.booleans())
    def heartbeat(self, name: str, held: list[Claim], draining: bool) -> None:
        worker_id = self.workers[name]
        orders = self.do(self.desk.attempts.heartbeat(worker_id, held, WorkerReport(draining=draining)))
        expected = self.model.heartbeat(worker_id, held, self.clock.now)
        assert {order.claim: order.order for order in orders} == expected
        assert len(orders) == len(held)

    @rule(claim=claims, seconds=st.integers(1, 14), beats=st.integers(1, 4))
    def hold(self, claim: Claim, seconds: int, beats: int) -> None:
        """Beat for one attempt for a while, as an honest worker does."""
        name = next(name for name, worker_id in self.workers.items() if worker_id == claim.worker_id)
        for _ in range(beats):
            self.clock.pass_time(seconds)
            self.heartbeat(name, [claim], draining=False)

    @rule(claim=claims, told=st.sampled_from(OUTCOMES), promise=st.sampled_from(["empty", "same", "more"]))
    def finish(self, claim: Claim, told: AttemptOutcome, promise: str) -> None:
        attempt = self.model.attempt(claim)
        if attempt is not None and promise != "empty":
            whole = bytes(attempt.log)
            whole += LOG[len(whole) : len(whole) + 7] if promise == "more" else b""
            digest = hashlib.sha256(whole).digest()
            told = replace(told, log_length=len(whole), log_sha256=digest)
        try:
            self.do(self.desk.attempts.finish(claim, told))
        except ClaimLost:
            assert not self.model.finish(claim, told, self.clock.now)
        else:
            assert self.model.finish(claim, told, self.clock.now)

    @rule(
        claim=claims,
        back=st.sampled_from([-3, 0, 0, 0, 5, 100]),
        size=st.integers(0, 40),
        is_other=st.sampled_from([False, False, False, True]),
    )
    def append_log(self, claim: Claim, back: int, size: int, is_other: bool) -> None:
        """Append at the end, again, over it, or behind a gap; other bytes only where some are stored."""
        attempt = self.model.attempt(claim)
        length = len(attempt.log) if attempt else 0
        offset = max(0, length - back)
        data = LOG[offset : offset + size]
        if is_other and offset < length and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        expected = self.model.append(claim, offset, data)
        pieces = [LogPiece(1, "o", len(data))] if data else []
        try:
            answer: int | str = self.do(self.logs.append(claim, offset, data, pieces))
        except ClaimLost:
            answer = "lost"
        except OffsetGap as gap:
            answer = f"gap {gap.length}"
        except LogMismatch:
            answer = "mismatch"
        assert answer == expected

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        self.do(self.desk.attempts.release(claim))
        self.model.release(claim, self.clock.now)

    @rule(
        name=st.sampled_from(NAMES), spooled=st.lists(claims, max_size=3), former=st.sampled_from([0, 0, 1])
    )
    def reboot(self, name: str, spooled: list[Claim], former: int) -> None:
        """Register a new process with what it found in its spool, or a former one comes late."""
        worker_id = self.workers[name]
        boot_id = self.boots[worker_id][-2:][0] if former else str(uuid.uuid4())
        if boot_id not in self.turns:
            self.turns[boot_id] = self.do(self.desk.attempts.take_turn())
        call = self.desk.attempts.register(_identity(name, boot_id), spooled, turn=self.turns[boot_id])
        if self.turns[boot_id] < self.turns[self.model.workers[worker_id].boot_id]:
            with pytest.raises(Superseded):
                self.do(call)
            return
        assert self.do(call).worker_id == worker_id
        self.model.register(worker_id, boot_id, spooled, self.clock.now)
        self.boots[worker_id].append(boot_id)

    @rule(name=st.sampled_from(NAMES), former=st.sampled_from([-1, -1, -2]))
    def deregister(self, name: str, former: int) -> None:
        worker_id = self.workers[name]
        boot_id = self.boots[worker_id][former:][0]
        self.do(self.desk.attempts.deregister(worker_id, boot_id))
        self.model.deregister(worker_id, boot_id, self.clock.now)

    @rule(name=st.sampled_from(NAMES))
    def ask_who_is_admitted(self, name: str) -> None:
        worker_id = self.workers[name]
        for boot_id in self.boots[worker_id][-3:]:
            call = self.desk.attempts.admit(worker_id, boot_id, None)
            if boot_id == self.model.workers[worker_id].boot_id:
                self.do(call)
            else:
                with pytest.raises(Superseded):
                    self.do(call)

    # Time

    @rule(seconds=st.sampled_from([1, 4, 11, 16, 31, 700, 100_000]))
    def pass_time(self, seconds: int) -> None:
        self.clock.pass_time(seconds)

    @rule(rounds=st.integers(1, 8))
    def maintain(self, rounds: int) -> None:
        for _ in range(rounds):
            self.clock.pass_time(5)
            with structlog.testing.capture_logs() as said:
                self.do(self.maintenance.run_round())
            assert not UNHEARD_OF & {line["event"] for line in said}, said
            waits = self.model.do_round(self.clock.now)
            self.learn(self.do(self.laws.check()))
            for job, least, longest in waits:
                assert least - 1e-3 <= job.not_before <= longest + 1e-3

    def learn(self, found: dict[str, JobFacts]) -> None:
        """Take over what the services were free to choose: the jitter of waits, when a log is sealed."""
        for job_id, job in self.model.jobs.items():
            job.not_before = found[job_id].row["not_before"].timestamp() - _EPOCH
            for attempt, row in zip(job.attempts, found[job_id].attempts, strict=True):
                if row["is_sealed"] and not attempt.is_sealed:
                    assert may_be_sealed(attempt)
                    attempt.is_sealed = True
                    attempt.final_sha256 = hashlib.sha256(attempt.log).digest()
                    stored = self.objects.read(f"logs/{job_id}/{row['attempt']}.log")
                    assert stored == attempt.log

    @invariant()
    def the_laws_hold_and_the_rows_are_the_models(self) -> None:
        found = self.do(self.laws.check())
        assert found.keys() == self.model.jobs.keys()
        for job_id, job in self.model.jobs.items():
            assert seen(found[job_id]) == predicted(job)


_EPOCH = 1893456000.0


def _identity(name: str, boot_id: str) -> WorkerIdentity:
    return WorkerIdentity(name, boot_id, ("reactorcide-jobs",), 2, "1", "none")
