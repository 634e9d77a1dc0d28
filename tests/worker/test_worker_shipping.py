"""Bringing log and outcome to the coordinator, against its real services."""

import asyncio
import hashlib
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from worker_fixtures import Coordinator, coordinator, settings

from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.worker.gateway.direct import DirectGateway
from reactorcide.worker.shipping import LogShipper, ShippingEnd, deliver_result
from reactorcide.worker.spool import AttemptSpool, Spool, SpoolReader
from runnerlib.spec import RunResult

__all__ = ["coordinator", "settings"]


@pytest.fixture
def gateway(coordinator: Coordinator) -> DirectGateway:
    core = coordinator.core
    return DirectGateway(core.attempts, core.logs, core.artifacts, core.trees)


@pytest.fixture
async def claim(coordinator: Coordinator, gateway: DirectGateway) -> Claim:
    """A started attempt of a worker that is this test."""
    identity = WorkerIdentity("by hand", str(uuid.uuid4()), ("reactorcide-jobs",), 1, "0", "none")
    registration = await gateway.register(identity, [])
    await coordinator.submit("true")
    (claim,) = await gateway.claim(registration.worker_id, 1, timedelta(seconds=5))
    await gateway.start(claim)
    return claim


@pytest.fixture
def spool(tmp_path: Path, claim: Claim) -> AttemptSpool:
    return Spool(tmp_path / "spool").create(claim)


def write(spool: AttemptSpool, data: bytes) -> None:
    with (spool.path / "log").open("ab") as log, (spool.path / "index").open("a") as index:
        log.write(data)
        log.flush()
        index.write(f"1700000000000 o {len(data)}\n")


def result(data: bytes = b"", **changed: object) -> RunResult:
    fields = {
        "status": "completed",
        "reason": "ok",
        "fault": "none",
        "exit_code": 0,
        "log_length": len(data),
        "log_sha256": hashlib.sha256(data).hexdigest(),
        "isolation": "none",
    }
    return RunResult(**{**fields, **changed})  # type: ignore[arg-type]


async def test_a_growing_log_is_shipped_as_it_grows(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    shipper = LogShipper(gateway, claim, SpoolReader(spool))
    shipping = asyncio.create_task(shipper.run())
    write(spool, b"first\n")
    shipper.hint()
    await coordinator.printed(claim.job_id, b"first")

    write(spool, b"second\n")
    shipper.end()

    assert await shipping is ShippingEnd.SHIPPED
    assert await coordinator.log(claim.job_id) == b"first\nsecond\n"


async def test_growth_that_nobody_hinted_at_is_found_all_the_same(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    shipping = asyncio.create_task(LogShipper(gateway, claim, SpoolReader(spool)).run())

    write(spool, b"quiet\n")

    await coordinator.printed(claim.job_id, b"quiet")
    shipping.cancel()


async def test_log_21_a_gap_is_filled_from_the_spool(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    write(spool, b"lost")
    reader = SpoolReader(spool)
    reader.read(100, ended=False)
    write(spool, b"+rest")
    shipper = LogShipper(gateway, claim, reader)

    shipper.end()

    assert await shipper.run() is ShippingEnd.SHIPPED
    assert await coordinator.log(claim.job_id) == b"lost+rest"


async def test_log_21_bytes_that_were_stored_before_are_not_stored_twice(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    write(spool, b"whole line\n")
    await gateway.append_log(claim, 0, b"whole", [LogPiece(1_700_000_000_000, "o", 5)])
    shipper = LogShipper(gateway, claim, SpoolReader(spool))

    shipper.end()

    assert await shipper.run() is ShippingEnd.SHIPPED
    assert await coordinator.log(claim.job_id) == b"whole line\n"


async def test_log_21_other_bytes_at_the_same_place_end_the_shipping(
    gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    await gateway.append_log(claim, 0, b"theirs", [LogPiece(1_700_000_000_000, "o", 6)])
    write(spool, b"mine!!")
    shipper = LogShipper(gateway, claim, SpoolReader(spool))

    assert await shipper.run() is ShippingEnd.MISMATCHED


async def test_log_21_a_log_of_an_attempt_that_is_not_ours_is_refused(
    gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    write(spool, b"mine")
    foreign = Claim(claim.job_id, claim.attempt, str(uuid.uuid4()), claim.worker_id)
    shipper = LogShipper(gateway, foreign, SpoolReader(spool))

    assert await shipper.run() is ShippingEnd.REFUSED


async def test_a_log_may_follow_its_outcome(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim, spool: AttemptSpool
) -> None:
    write(spool, b"late")
    shipper = LogShipper(gateway, claim, SpoolReader(spool))

    assert await deliver_result(gateway, claim, result(b"late"))
    shipper.end()

    assert await shipper.run() is ShippingEnd.SHIPPED
    assert await coordinator.log(claim.job_id) == b"late"


async def test_wrk_06_an_outcome_may_be_told_five_times(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim
) -> None:
    told = [await deliver_result(gateway, claim, result()) for _ in range(5)]

    events = await coordinator.core.jobs.events(coordinator.caller, claim.job_id)
    assert told == [True] * 5
    assert [event.to_status.is_final for event in events].count(True) == 1


async def test_an_outcome_of_an_attempt_that_is_not_ours_changes_nothing(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim
) -> None:
    foreign = Claim(claim.job_id, claim.attempt, str(uuid.uuid4()), claim.worker_id)

    told = await deliver_result(gateway, foreign, result())

    job = await coordinator.core.jobs.get(coordinator.caller, claim.job_id)
    assert not told
    assert job.status is JobStatus.RUNNING


@pytest.mark.parametrize("nonsense", [{"reason": "bad luck"}, {"exit_code": 3}, {"log_sha256": "00"}])
async def test_a_result_that_makes_no_sense_ends_the_job_as_our_own_fault(
    coordinator: Coordinator, gateway: DirectGateway, claim: Claim, nonsense: dict[str, object]
) -> None:
    await deliver_result(gateway, claim, result(**nonsense))

    job = await coordinator.ended(claim.job_id)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.INTERNAL)
