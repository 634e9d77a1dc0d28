"""A desk for tests of a job's state: the services over one database, and shortcuts for their usual calls."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta

from reactorcide.domain.accounts import Principal
from reactorcide.domain.jobs import AttemptOutcome, Claim, Job, StartedAttempt
from reactorcide.domain.reasons import Fault, Reason, usual_fault
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest, SubmissionPolicy
from reactorcide.domain.workers import Timing, WorkerIdentity, WorkerReport
from reactorcide.observability.metrics import Metrics
from reactorcide.queue.database import DatabaseQueue
from reactorcide.queue.port import ReadyQueue
from reactorcide.services.attempts import AttemptService
from reactorcide.services.jobs import JobService
from reactorcide.services.maintenance import Chore, Maintenance
from reactorcide.services.tally import JobTally
from reactorcide.services.vault import Vault
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

POLICY = SubmissionPolicy(
    default_queue_name="reactorcide-jobs",
    default_timeout_seconds=3600,
    default_runner_image="runner",
    git_allowed_protocols=("https", "ssh"),
    git_allowed_hosts=(),
    copy_source_roots=(),
)
TIMING = Timing(
    lease=timedelta(seconds=15),
    heartbeat=timedelta(seconds=5),
    start_deadline=timedelta(seconds=10),
    lost_after=timedelta(seconds=30),
    reap_interval=timedelta(seconds=2),
    cancel_grace=timedelta(seconds=5),
)
EMPTY_LOG = hashlib.sha256(b"").digest()
NO_WAIT = timedelta()


class Clock:
    """A monotonic clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


class JobDesk:
    """Everything of a coordinator that moves jobs, with one user. Time in the database passes by `age`.

    ``make_queue`` makes another ready queue than the rows of jobs.
    """

    def __init__(
        self,
        database: Database,
        user: Principal,
        *,
        make_queue: Callable[[Database, Bell, Metrics], ReadyQueue] | None = None,
    ) -> None:
        self.database = database
        self.user = user
        self.bell = Bell(database)
        self.metrics = Metrics()
        self.queue: ReadyQueue = (
            make_queue(database, self.bell, self.metrics)
            if make_queue
            else DatabaseQueue(database, self.bell)
        )
        self.vault = Vault(bytes(range(32)))
        self.tally = JobTally(database, self.metrics)
        self.boots: dict[str, str] = {}
        self.jobs = JobService(database, self.queue, self.bell, self.vault, POLICY, tally=self.tally)
        self.attempts = AttemptService(database, self.queue, self.bell, self.vault, TIMING, tally=self.tally)

    async def submit(self, **fields: object) -> Job:
        return (await self.jobs.submit(self.user, request(**fields))).job

    async def read(self, job_id: str) -> Job:
        return await self.jobs.get(self.user, job_id)

    async def worker(
        self, name: str = "worker-1", *, queues: Sequence[str] = ("reactorcide-jobs",), slots: int = 8
    ) -> str:
        identity = WorkerIdentity(name, str(uuid.uuid4()), tuple(queues), slots, "1", "bubblewrap")
        worker_id = (await self.attempts.register(identity, [])).worker_id
        self.boots[worker_id] = identity.boot_id
        return worker_id

    async def claim(self, worker_id: str) -> Claim:
        (claim,) = await self.attempts.claim(worker_id, 1, NO_WAIT)
        return claim

    async def start(self, worker_id: str) -> StartedAttempt:
        return await self.attempts.start(await self.claim(worker_id))

    async def beat(self, claim: Claim, *, draining: bool = False) -> str:
        (order,) = await self.attempts.heartbeat(claim.worker_id, [claim], WorkerReport(draining=draining))
        return order.order

    def maintenance(self, clock: Clock, chores: Sequence[Chore] = ()) -> Maintenance:
        return Maintenance(
            self.database, self.bell, self.queue, TIMING, chores, tally=self.tally, monotonic=clock
        )

    async def reap(self) -> None:
        """Do a round of maintenance whose amnesty is over."""
        clock = Clock()
        maintenance = self.maintenance(clock)
        await maintenance.run_round()
        for _ in range(4):
            clock.pass_time(5)
            await maintenance.run_round()

    async def age(self, job_id: str, seconds: float) -> None:
        """Let ``seconds`` pass for one job and its attempts."""
        shift = {"job_id": job_id, "shift": timedelta(seconds=seconds)}
        async with self.database.transaction() as tx:
            await tx.execute(
                "UPDATE jobs SET not_before = not_before - %(shift)s, deadline_at = deadline_at - %(shift)s,"
                " queue_deadline_at = queue_deadline_at - %(shift)s"
                " WHERE job_id = %(job_id)s AND completed_at IS NULL",
                shift,
            )
            await tx.execute(
                "UPDATE attempts SET lease_expires_at = lease_expires_at - %(shift)s"
                " WHERE job_id = %(job_id)s",
                shift,
            )

    async def rows(self, statement: str, **given: object) -> list[dict[str, object]]:
        async with self.database.transaction() as tx:
            return await (await tx.execute(statement.encode(), given)).fetchall()


def request(**fields: object) -> JobRequest:
    usual: dict[str, object] = {"name": "job", "source_type": "none", "job_command": "true"}
    return JobRequest(**{**usual, **fields})  # type: ignore[arg-type]


def outcome(
    status: JobStatus = JobStatus.COMPLETED,
    reason: Reason = Reason.OK,
    *,
    exit_code: int | None = 0,
    fault: Fault | None = None,
    message: str | None = None,
) -> AttemptOutcome:
    return AttemptOutcome(
        status=status,
        reason=reason,
        fault=fault or usual_fault(reason),
        log_length=0,
        log_sha256=EMPTY_LOG,
        exit_code=exit_code,
        message=message,
        isolation="bubblewrap",
    )


FAILED = outcome(JobStatus.FAILED, Reason.EXIT_NONZERO, exit_code=3)
CANCELLED = outcome(JobStatus.CANCELLED, Reason.CANCELLED_USER, exit_code=None)
