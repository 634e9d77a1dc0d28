"""The contract of every gateway. A way's test gives a `GatewayBench` and nothing else."""

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

import pytest

from job_desk import EMPTY_LOG, FAILED, outcome
from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import (
    ClaimLost,
    InvalidInput,
    LogMismatch,
    NotFound,
    OffsetGap,
    Superseded,
    Unavailable,
)
from reactorcide.domain.jobs import AttemptLimits, AttemptOutcome, Claim, Job, LogPiece
from reactorcide.domain.reasons import Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from reactorcide.wiring.core import Core
from reactorcide.worker.gateway.port import Gateway

NO_WAIT = timedelta()
LONG = timedelta(seconds=50)
SOON_SECONDS = 10.0
"""What happens at once has happened by then, however busy the machine is."""
IDLE = WorkerReport()
NOBODY = Claim(str(uuid.UUID(int=1)), 1, str(uuid.UUID(int=2)), str(uuid.UUID(int=3)))


class GatewayBench(Protocol):
    """A coordinator, a user of it, and ways to it."""

    core: Core
    user: Principal

    async def connect(self) -> Gateway:
        """Return the way of another worker process."""

    async def cut_off(self) -> None:
        """Take the coordinator away."""


@dataclass
class Seat:
    """A worker process that has registered."""

    gateway: Gateway
    identity: WorkerIdentity
    registration: Registration

    @property
    def worker_id(self) -> str:
        return self.registration.worker_id

    async def claim(self, free_slots: int = 1, wait: timedelta = NO_WAIT) -> list[Claim]:
        return await self.gateway.claim(self.worker_id, free_slots, wait)

    async def take(self) -> Claim:
        (claim,) = await self.claim()
        return claim

    async def run(self) -> Claim:
        claim = await self.take()
        await self.gateway.start(claim)
        return claim

    async def order_for(self, claim: Claim) -> str:
        (order,) = await self.gateway.heartbeat(self.worker_id, [claim], IDLE)
        assert order.claim == claim
        return order.order


class GatewayContract:
    """What a `Gateway` promises."""

    async def sit_down(
        self, bench: GatewayBench, name: str = "tested", *, spooled: Sequence[Claim] = ()
    ) -> Seat:
        identity = WorkerIdentity(name, str(uuid.uuid4()), ("reactorcide-jobs",), 4, "1.2.3", "bubblewrap")
        gateway = await bench.connect()
        return Seat(gateway, identity, await gateway.register(identity, spooled))

    # Registering

    async def test_registering_tells_the_times_to_keep(self, bench: GatewayBench) -> None:
        told = (await self.sit_down(bench)).registration

        timing = bench.core.timing
        assert told.lease_seconds == timing.lease.total_seconds()
        assert told.heartbeat_seconds == timing.heartbeat.total_seconds()
        assert told.lost_after_seconds == timing.lost_after.total_seconds()
        assert told.cancel_grace_seconds == timing.cancel_grace.total_seconds()
        assert told.public_url == bench.core.settings.public_url

    async def test_a_worker_keeps_its_id_over_restarts(self, bench: GatewayBench) -> None:
        first = await self.sit_down(bench)
        second = await self.sit_down(bench)

        assert second.worker_id == first.worker_id
        assert (await self.sit_down(bench, "other")).worker_id != first.worker_id

    async def test_a_process_may_register_twice_and_loses_nothing(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()

        again = await seat.gateway.register(seat.identity, [])

        assert again == seat.registration
        assert await seat.order_for(claim) == "go_on"
        assert (await read(bench, job_id)).status is JobStatus.RUNNING

    async def test_a_new_boot_ends_what_the_old_one_held_at_once(self, bench: GatewayBench) -> None:
        old = await self.sit_down(bench)
        started_id, claimed_id = await submit(bench), await submit(bench)
        await old.run()
        await old.take()

        await self.sit_down(bench)

        lost, back = await read(bench, started_id), await read(bench, claimed_id)
        assert (lost.status, lost.reason) == (JobStatus.FAILED, Reason.WORKER_LOST)
        assert (back.status, back.reason) == (JobStatus.QUEUED, None)

    async def test_wrk_05_a_new_boot_may_finish_what_its_spool_holds(self, bench: GatewayBench) -> None:
        job_id = await submit(bench)
        claim = await (await self.sit_down(bench)).run()

        new = await self.sit_down(bench, spooled=[claim])
        await new.gateway.finish(claim, outcome())

        assert (await read(bench, job_id)).status is JobStatus.COMPLETED

    async def test_the_old_boot_is_told_soon_that_it_is_superseded(self, bench: GatewayBench) -> None:
        old = await self.sit_down(bench)
        await submit(bench)
        claim = await old.run()
        await self.sit_down(bench)

        await eventually_raises(Superseded, lambda: old.gateway.heartbeat(old.worker_id, [claim], IDLE))

        with pytest.raises(Superseded):
            await old.gateway.claim(old.worker_id, 1, NO_WAIT)
        with pytest.raises(Superseded):
            await old.gateway.start(claim)
        with pytest.raises(Superseded):
            await old.gateway.finish(claim, outcome())
        with pytest.raises(Superseded):
            await old.gateway.append_log(claim, 0, b"x", pieces_of(b"x"))
        with pytest.raises(Superseded):
            await old.gateway.wait_for_orders(old.worker_id, LONG)

    async def test_an_old_boot_that_waits_for_orders_is_woken(self, bench: GatewayBench) -> None:
        old = await self.sit_down(bench)
        waiting = asyncio.create_task(old.gateway.wait_for_orders(old.worker_id, LONG))
        await waits(waiting)

        await self.sit_down(bench)

        assert await asyncio.wait_for(waiting, SOON_SECONDS)

    async def test_who_is_not_registered_is_told_so(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)

        with pytest.raises(NotFound):
            await seat.gateway.claim(NOBODY.worker_id, 1, NO_WAIT)
        with pytest.raises(NotFound):
            await seat.gateway.heartbeat(NOBODY.worker_id, [], IDLE)
        with pytest.raises(NotFound):
            await seat.gateway.finish(NOBODY, outcome())

    # Claiming

    async def test_never_more_is_claimed_than_slots_are_free(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        for _ in range(3):
            await submit(bench)

        sizes = [len(await seat.claim(free)) for free in (0, 2, 5, 5)]

        assert sizes == [0, 2, 1, 0]

    async def test_a_claim_waits_for_the_first_job(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        waiting = asyncio.create_task(seat.claim(2, LONG))
        await waits(waiting)

        job_id = await submit(bench)

        (claim,) = await asyncio.wait_for(waiting, SOON_SECONDS)
        assert (claim.job_id, claim.attempt, claim.worker_id) == (job_id, 1, seat.worker_id)

    async def test_a_claim_without_a_job_ends_with_its_wait(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)

        assert await asyncio.wait_for(seat.claim(1, timedelta(seconds=0.2)), SOON_SECONDS) == []

    async def test_a_claim_that_was_given_up_takes_no_job_away(self, bench: GatewayBench) -> None:
        seat, other = await self.sit_down(bench), await self.sit_down(bench, "other")
        given_up = asyncio.create_task(seat.claim(1, LONG))
        await waits(given_up)
        given_up.cancel()
        await asyncio.wait({given_up})

        job_id = await submit(bench)

        (claim,) = await asyncio.wait_for(other.claim(1, LONG), SOON_SECONDS)
        assert claim.job_id == job_id

    async def test_a_released_claim_is_taken_by_another_at_once(self, bench: GatewayBench) -> None:
        seat, other = await self.sit_down(bench), await self.sit_down(bench, "other")
        job_id = await submit(bench)
        claim = await seat.take()

        await seat.gateway.release(claim)
        await seat.gateway.release(claim)

        taken = await other.take()
        assert (taken.job_id, taken.attempt) == (job_id, 2)

    # Starting

    async def test_start_hands_out_the_job_with_its_secrets(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        fields = {
            "job_command": "printf '\\303\\244\\n' 'ü € 😀'",
            "job_env_vars": {"PLAIN": "für alle\n"},
            "job_secrets": {"HIDDEN": "sesame-öpen"},
            "labels": {"team": "core"},
            "timeout_seconds": 77,
            "retry_on_lost": 1,
        }
        job_id = await submit(bench, **fields)
        claim = await seat.take()

        started = await seat.gateway.start(claim)

        spec = started.spec
        assert started.claim == claim
        assert claim.job_id == job_id
        assert {name: getattr(spec, name) for name in fields} == fields
        assert replace(spec, job_secrets={}) == replace((await read(bench, job_id)).spec, job_secrets={})
        assert 0 < started.deadline_seconds <= 77
        assert 0 < started.lease_left_seconds <= started.lease_seconds
        assert started.may_run_again

    async def test_start_may_be_repeated(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench, job_secrets={"HIDDEN": "sesame"})
        claim = await seat.take()

        first, second = await seat.gateway.start(claim), await seat.gateway.start(claim)

        assert second.spec == first.spec
        assert second.lease_left_seconds <= first.lease_left_seconds
        assert (await read(bench, job_id)).runs == 1

    async def test_what_was_cancelled_does_not_start(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.take()
        await bench.core.jobs.cancel(bench.user, job_id)

        with pytest.raises(ClaimLost):
            await seat.gateway.start(claim)

        assert (await read(bench, job_id)).status is JobStatus.CANCELLED

    # Heartbeats and orders

    async def test_a_heartbeat_renews_all_leases_and_has_an_order_for_each(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        for _ in range(3):
            await submit(bench)
        held = [await seat.run() for _ in range(3)]

        orders = await seat.gateway.heartbeat(seat.worker_id, held, IDLE)

        assert {order.claim: order.order for order in orders} == dict.fromkeys(held, "go_on")

    async def test_a_heartbeat_tells_of_the_worker(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)

        orders = await seat.gateway.heartbeat(
            seat.worker_id, [], WorkerReport(draining=True, has_room=False, spooled=3, spool_bytes=2**40)
        )

        (row,) = await rows(bench, "SELECT draining, disk_full, spooled, spool_bytes FROM workers")
        assert orders == []
        assert row == {"draining": True, "disk_full": True, "spooled": 3, "spool_bytes": 2**40}

    @pytest.mark.parametrize(("force", "order"), [(False, "cancel"), (True, "kill")])
    async def test_a_cancel_wakes_the_worker_and_is_its_order(
        self, bench: GatewayBench, *, force: bool, order: str
    ) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        waiting = asyncio.create_task(seat.gateway.wait_for_orders(seat.worker_id, LONG))
        await waits(waiting)

        await bench.core.jobs.cancel(bench.user, job_id, force=force)

        assert await asyncio.wait_for(waiting, SOON_SECONDS)
        assert await seat.order_for(claim) == order

    async def test_without_an_order_the_wait_ends_by_its_timeout(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)

        waiting = seat.gateway.wait_for_orders(seat.worker_id, timedelta(seconds=0.2))

        assert not await asyncio.wait_for(waiting, SOON_SECONDS)

    async def test_auth_16_attempts_of_another_worker_are_to_be_abandoned(self, bench: GatewayBench) -> None:
        seat, other = await self.sit_down(bench), await self.sit_down(bench, "other")
        job_id = await submit(bench)
        claim = await other.run()
        stolen = replace(claim, worker_id=seat.worker_id)

        orders = await seat.gateway.heartbeat(seat.worker_id, [claim, stolen, NOBODY], IDLE)
        with pytest.raises(ClaimLost):
            await seat.gateway.finish(stolen, FAILED)
        with pytest.raises(ClaimLost):
            await seat.gateway.append_log(stolen, 0, b"x", pieces_of(b"x"))
        with pytest.raises(ClaimLost):
            await seat.gateway.start(stolen)
        await seat.gateway.release(stolen)

        assert [order.order for order in orders] == ["abandon"] * 3
        job = await read(bench, job_id)
        assert (job.status, job.attempt, job.log_size or 0) == (JobStatus.RUNNING, 1, 0)
        assert await other.order_for(claim) == "go_on"

    # Finishing

    async def test_wrk_06_the_same_outcome_may_be_told_again_and_no_other_one(
        self, bench: GatewayBench
    ) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()

        for _ in range(5):
            await seat.gateway.finish(claim, FAILED)
        with pytest.raises(ClaimLost):
            await seat.gateway.finish(claim, outcome())

        job = await read(bench, job_id)
        assert (job.status, job.exit_code) == (JobStatus.FAILED, 3)
        events = await bench.core.jobs.events(bench.user, job_id)
        assert sum(event.to_status.is_final for event in events) == 1

    async def test_an_outcome_comes_with_all_that_it_tells(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        told = replace(FAILED, message="es war\0 nichts €", signal=9, resolved_sha="ab" * 20)

        await seat.gateway.finish(claim, told)

        job = await read(bench, job_id)
        assert (job.message, job.signal, job.resolved_sha) == ("es war nichts €", 9, "ab" * 20)
        assert await seat.order_for(claim) == "abandon"

    async def test_what_an_attempt_ran_in_is_kept(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        limits = AttemptLimits(60, "none", memory_mb=512, cpu=0.5)
        told = replace(outcome(), isolation="podman", image_digest=f"sha256:{'ab' * 32}", limits=limits)

        await seat.gateway.finish(await seat.run(), told)

        job = await read(bench, job_id)
        assert (job.isolation, job.image_digest, job.limits) == ("podman", told.image_digest, limits)

    async def test_an_outcome_that_contradicts_itself_is_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()

        for nonsense in (replace(outcome(), exit_code=1), replace(outcome(), image_digest="latest")):
            with pytest.raises(InvalidInput):
                await seat.gateway.finish(claim, nonsense)

        assert await seat.order_for(claim) == "go_on"

    # The log

    async def test_log_21_what_is_sent_twice_or_overlaps_is_stored_once(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        append = seat.gateway.append_log

        lengths = [
            await append(claim, 0, b"one\n", pieces_of(b"one\n")),
            await append(claim, 0, b"one\n", pieces_of(b"one\n")),
            await append(claim, 2, b"e\ntwo\n", pieces_of(b"e\n", b"two\n")),
            await append(claim, 8, b"", []),
        ]

        assert [appended.length for appended in lengths] == [4, 4, 8, 8]
        assert await read_log(bench, job_id) == b"one\ntwo\n"

    async def test_log_21_a_gap_is_answered_with_the_length(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        await seat.gateway.append_log(claim, 0, b"one\n", pieces_of(b"one\n"))

        with pytest.raises(OffsetGap) as gap:
            await seat.gateway.append_log(claim, 9, b"two\n", pieces_of(b"two\n"))

        assert gap.value.length == 4
        assert await read_log(bench, job_id) == b"one\n"

    async def test_log_21_other_bytes_at_a_place_are_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        await seat.gateway.append_log(claim, 0, b"one\n", pieces_of(b"one\n"))

        with pytest.raises(LogMismatch):
            await seat.gateway.append_log(claim, 0, b"two\n", pieces_of(b"two\n"))

        assert await read_log(bench, job_id) == b"one\n"

    async def test_log_21_a_wrong_attempt_is_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()

        with pytest.raises(ClaimLost):
            await seat.gateway.append_log(replace(claim, attempt=2), 0, b"x", pieces_of(b"x"))

    async def test_log_21_pieces_that_do_not_add_up_are_refused(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()

        with pytest.raises(InvalidInput):
            await seat.gateway.append_log(claim, 0, b"xx", pieces_of(b"x"))

    async def test_log_21_a_log_grows_after_the_end_until_it_is_sealed(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        await seat.gateway.append_log(claim, 0, b"one\n", pieces_of(b"one\n"))
        await seat.gateway.finish(claim, ended_with(b"one\ntwo\n"))

        assert await bench.core.logs.seal_due() == 0
        assert (await seat.gateway.append_log(claim, 4, b"two\n", pieces_of(b"two\n"))).length == 8
        await sealed(bench)

        with pytest.raises(ClaimLost):
            await seat.gateway.append_log(claim, 8, b"three\n", pieces_of(b"three\n"))
        assert await read_log(bench, job_id) == b"one\ntwo\n"

    async def test_an_append_may_be_of_any_size(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await seat.run()
        data = bytes(number % 251 for number in range(2_500_000))
        pieces = [LogPiece(1_700_000_000_000, "o", 1)] * 40_000
        pieces += [LogPiece(1_700_000_000_001, "e", len(data) - 40_000)]

        appended = await seat.gateway.append_log(claim, 0, data, pieces)

        assert appended.length == len(data)
        assert await read_log(bench, job_id) == data

    # Good-bye, and worse

    async def test_after_good_bye_nothing_is_held_or_taken(self, bench: GatewayBench) -> None:
        seat, other = await self.sit_down(bench), await self.sit_down(bench, "other")
        job_id = await submit(bench)
        await seat.take()

        await seat.gateway.deregister(seat.worker_id)

        assert (await other.take()).job_id == job_id
        await submit(bench)
        assert await seat.claim() == []

    async def test_the_good_bye_of_a_superseded_process_changes_nothing(self, bench: GatewayBench) -> None:
        old = await self.sit_down(bench)
        new = await self.sit_down(bench)
        job_id = await submit(bench)
        claim = await new.take()

        await old.gateway.deregister(old.worker_id)

        await new.gateway.start(claim)
        assert (await read(bench, job_id)).status is JobStatus.RUNNING

    async def test_without_a_coordinator_every_call_is_unavailable(self, bench: GatewayBench) -> None:
        seat = await self.sit_down(bench)
        await submit(bench)
        claim = await seat.run()
        await bench.cut_off()

        calls = (
            lambda: seat.gateway.register(seat.identity, []),
            lambda: seat.claim(1, NO_WAIT),
            lambda: seat.gateway.start(claim),
            lambda: seat.gateway.heartbeat(seat.worker_id, [claim], IDLE),
            lambda: seat.gateway.append_log(claim, 0, b"x", pieces_of(b"x")),
            lambda: seat.gateway.finish(claim, outcome()),
            lambda: seat.gateway.release(claim),
        )
        for call in calls:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(call(), 20)


async def submit(bench: GatewayBench, **fields: object) -> str:
    usual: dict[str, object] = {"name": "job", "source_type": "none", "job_command": "true"}
    request = JobRequest(**{**usual, **fields})  # type: ignore[arg-type]
    return (await bench.core.jobs.submit(bench.user, request)).job.job_id


async def read(bench: GatewayBench, job_id: str) -> Job:
    return await bench.core.jobs.get(bench.user, job_id)


async def read_log(bench: GatewayBench, job_id: str) -> bytes:
    stored = await bench.core.log_reader.find(job_id)
    return b"".join([part async for part in bench.core.log_reader.read(stored, 0, stored.length)])


async def rows(bench: GatewayBench, statement: str) -> list[dict[str, object]]:
    async with bench.core.database.transaction() as tx:
        return await (await tx.execute(statement.encode())).fetchall()


async def sealed(bench: GatewayBench) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while not await bench.core.logs.seal_due():
            await asyncio.sleep(0.02)


async def waits(task: "asyncio.Task[object]") -> None:
    """Give a call time to begin; that it does not end is what is to be seen."""
    await asyncio.wait({task}, timeout=0.3)
    assert not task.done()


async def eventually_raises(kind: type[Exception], call: object) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            try:
                await call()  # type: ignore[operator]
            except kind:
                return
            await asyncio.sleep(0.05)


def pieces_of(*parts: bytes) -> list[LogPiece]:
    return [LogPiece(1_700_000_000_000, "o", len(part)) for part in parts]


def ended_with(log: bytes) -> AttemptOutcome:
    done = outcome()
    assert done.log_sha256 == EMPTY_LOG
    return replace(done, log_length=len(log), log_sha256=hashlib.sha256(log).digest())
