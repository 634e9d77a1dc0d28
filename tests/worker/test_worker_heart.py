"""When a worker beats, and what it does when another process has its name."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from worker_fixtures import Coordinator, coordinator, processes_of, settings, until

from reactorcide.domain.jobs import Claim, HeartbeatOrder
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from reactorcide.worker.attempt import Attempt
from reactorcide.worker.gateway.direct import DirectGateway
from reactorcide.worker.heart import Heart
from reactorcide.worker.run_spec import HostTerms
from reactorcide.worker.runner import RunnerPool
from reactorcide.worker.spool import Spool
from reactorcide.worker.tree_cache import TreeCache
from reactorcide.worker.trees import TreePorter
from runnerlib.spec import HostPolicy

__all__ = ["coordinator", "settings"]


class CountedGateway(DirectGateway):
    """The direct gateway, which keeps what was reported through it, and when last."""

    def __init__(self, coordinator: Coordinator) -> None:
        core = coordinator.core
        super().__init__(core.attempts, core.logs, core.artifacts, core.trees)
        self.reports: list[WorkerReport] = []
        self.asked_at = 0.0

    async def heartbeat(
        self, worker_id: str, held: Sequence[Claim], report: WorkerReport
    ) -> list[HeartbeatOrder]:
        self.reports.append(report)
        self.asked_at = time.monotonic()
        return await super().heartbeat(worker_id, held, report)


class Patient:
    """A worker reduced to its heart, which holds nothing unless ``attempts`` are given."""

    def __init__(
        self,
        gateway: CountedGateway,
        registration: Registration,
        attempts: Mapping[Claim, Attempt] | None = None,
    ) -> None:
        self.gateway = gateway
        self.is_seen = True
        self.report = WorkerReport()
        self.looked = 0
        self.has_stepped_down = asyncio.Event()
        self.heart = Heart(
            gateway,
            replace(registration, heartbeat_seconds=0.02),
            attempts or {},
            report=self._report,
            is_seen=lambda: self.is_seen,
            step_down=self.has_stepped_down.set,
        )

    async def _report(self) -> WorkerReport:
        self.looked += 1
        return self.report

    async def intervals(self, count: int) -> None:
        end = self.looked + count
        await until(lambda: self.looked >= end)


def identity() -> WorkerIdentity:
    return WorkerIdentity("tested", str(uuid.uuid4()), ("reactorcide-jobs",), 2, "1", "none")


async def idle_patient(coordinator: Coordinator) -> Patient:
    gateway = CountedGateway(coordinator)
    return Patient(gateway, await gateway.register(identity(), []))


@asynccontextmanager
async def beating(patient: Patient) -> AsyncIterator[Patient]:
    task = asyncio.create_task(patient.heart.beat())
    try:
        yield patient
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_who_waits_for_work_and_holds_nothing_does_not_beat(coordinator: Coordinator) -> None:
    async with beating(await idle_patient(coordinator)) as patient:
        await patient.intervals(10)

    assert patient.gateway.reports == [WorkerReport()]


async def test_who_is_not_seen_otherwise_beats_every_interval(coordinator: Coordinator) -> None:
    async with beating(await idle_patient(coordinator)) as patient:
        patient.is_seen = False
        await patient.intervals(10)

    assert len(patient.gateway.reports) >= 8


async def test_a_change_of_what_there_is_to_report_is_told(coordinator: Coordinator) -> None:
    async with beating(await idle_patient(coordinator)) as patient:
        await patient.intervals(3)
        patient.report = WorkerReport(has_room=False)
        patient.heart.beat_soon.set()
        await until(lambda: len(patient.gateway.reports) == 2)

    assert patient.gateway.reports == [WorkerReport(), WorkerReport(has_room=False)]


async def test_a_heart_whose_worker_was_superseded_says_so(coordinator: Coordinator) -> None:
    async with beating(await idle_patient(coordinator)) as patient:
        await patient.intervals(1)
        patient.is_seen = False
        await coordinator.core.attempts.register(identity(), [])

        await asyncio.wait_for(patient.has_stepped_down.wait(), 10)


async def test_a_renewal_counts_from_when_it_was_sent(coordinator: Coordinator, tmp_path: Path) -> None:
    gateway = CountedGateway(coordinator)
    registration = await gateway.register(identity(), [])
    await coordinator.submit("true")
    (claim,) = await gateway.claim(registration.worker_id, 1, timedelta(seconds=10))
    terms = HostTerms(HostPolicy(), tmp_path, timedelta(seconds=30))
    attempt = Attempt(
        claim,
        0,
        gateway=gateway,
        runners=RunnerPool({}),
        spool=Spool(tmp_path / "spool"),
        terms=terms,
        trees=TreePorter(gateway, TreeCache(tmp_path / "trees", 0)),
    )
    attempt.is_held = True
    patient = Patient(gateway, registration, {claim: attempt})

    patient.heart.beat_soon.set()
    async with beating(patient):
        await until(lambda: attempt._renewed_at > 0)
        renewed_at, asked_at = attempt._renewed_at, gateway.asked_at

    assert renewed_at <= asked_at


async def test_a_second_worker_of_a_name_takes_over_and_the_first_one_stops(coordinator: Coordinator) -> None:
    mark = f"48{uuid.uuid4().int % 10**9}"
    first = await coordinator.start_worker()
    job_id = await coordinator.submit(f"sleep {mark}")
    await until(lambda: processes_of(mark))

    second = await coordinator.start_worker(
        REACTORCIDE_WORK_DIR=str(coordinator.data_dir / "other-work"),
        REACTORCIDE_SPOOL_DIR=str(coordinator.data_dir / "other-spool"),
    )
    job = await coordinator.ended(job_id)
    code = await asyncio.wait_for(first.wait(), 20)

    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.WORKER_LOST)
    assert code != 0
    assert (
        b"another process has registered as worker 'tested'"
        in (coordinator.data_dir / "worker.out").read_bytes()
    )
    await until(lambda: not processes_of(mark), 5)
    assert second.returncode is None
    assert (await coordinator.ended(await coordinator.submit("true"))).status is JobStatus.COMPLETED


async def test_an_idle_worker_counts_as_live_while_it_waits(coordinator: Coordinator) -> None:
    await coordinator.start_worker()

    async def seen_again() -> bool:
        async with coordinator.core.database.transaction() as tx:
            cursor = await tx.execute(
                "SELECT last_seen_at - registered_at > interval '4 s' AS late FROM workers"
            )
            row = await cursor.fetchone()
        return bool(row and row["late"])

    # More than three heartbeats, after which a silent worker counts as gone.
    await until(seen_again)
