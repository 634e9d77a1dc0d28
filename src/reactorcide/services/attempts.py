"""Attempts, as their workers see them: register, admit, claim, start, heartbeat, finish, release.

Every call names its fencing pair, and the statement behind it decides; who comes too late, twice or for
somebody else changes nothing. The promises are those of `reactorcide.worker.gateway.port`.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import (
    ClaimLost,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    Superseded,
)
from reactorcide.domain.ids import is_id
from reactorcide.domain.jobs import AttemptOutcome, Claim, HeartbeatOrder, JobSpec, StartedAttempt
from reactorcide.domain.outcomes import check_outcome
from reactorcide.domain.status import JobStatus
from reactorcide.domain.workers import (
    Registration,
    Timing,
    WorkerIdentity,
    WorkerReport,
    check_identity,
)
from reactorcide.queue.port import Announcement, ReadyQueue
from reactorcide.services.dispatch import Dispatch
from reactorcide.services.jobs import GIT_URL_SECRET
from reactorcide.services.kept_ears import KeptEars
from reactorcide.services.tally import JobTally
from reactorcide.services.vault import Vault
from reactorcide.store import attempts, workers
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database, Transaction

SEAT_KNOWN_SECONDS = 1.0
"""So late is noticed that a worker's name was taken over, or its token changed."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _KnownSeat:
    seat: workers.Seat
    until: float


class AttemptService:
    """The coordinator's half of a worker's life."""

    def __init__(
        self,
        database: Database,
        queue: ReadyQueue,
        bell: Bell,
        vault: Vault,
        timing: Timing,
        *,
        tally: JobTally,
        public_url: str | None = None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._bell = bell
        self._vault = vault
        self._timing = timing
        self._tally = tally
        self._public_url = public_url
        self._dispatch = Dispatch(
            queue,
            start_within=timing.start_deadline,
            mark_seen=self._mark_seen,
            seen_every=timing.heartbeat,
            give_back=self.give_back,
        )
        self._ears = KeptEars(bell)
        self._seats: dict[str, _KnownSeat] = {}

    async def close(self) -> None:
        """Stop what goes on by itself."""
        await self._dispatch.close()

    async def take_turn(self) -> int:
        """Return the number by which a process that has just begun is known as the latest of its name."""
        return await workers.take_turn(self._database)

    async def register(
        self,
        identity: WorkerIdentity,
        spooled: Sequence[Claim],
        *,
        turn: int | None = None,
        caller: Principal | None = None,
    ) -> Registration:
        """Write a worker process down; what an earlier boot of its name still holds is lost.

        Of that, ``spooled`` is spared for one lease, in which the results of it may be delivered.

        Args:
            turn: as `take_turn` told the process when it began, so that a registration which was long on
                its way does not unseat a later process; None: there is no later one.
            caller: whose token the worker has; None: it shares our database, and needs none.

        Raises:
            InvalidInput: with every fault of the identity.
            Forbidden: the name belongs to a worker of another user.
            Superseded: a later process has registered.
        """
        if faults := list(check_identity(identity)):
            raise InvalidInput(faults)
        in_turn = await self.take_turn() if turn is None else turn

        async def register(tx: Transaction) -> tuple[str, list[tuple[Claim, attempts.LeaseEnd]]]:
            worker = await workers.register_worker(
                tx,
                identity,
                in_turn,
                user_id=caller.user_id if caller else None,
                token_id=caller.token_id if caller else None,
            )
            if worker is workers.NameTaken.BY_A_LATER_PROCESS:
                raise Superseded(identity.name)
            if worker is workers.NameTaken.BY_ANOTHER_USER:
                raise Forbidden(f"the name {identity.name!r} belongs to a worker of another user")
            if not worker.is_new_boot:
                return worker.worker_id, []
            kept = {_pair(claim) for claim in spooled}
            ends = []
            for claim in await attempts.find_held(tx, worker.worker_id):
                if _pair(claim) in kept:
                    continue
                end = await attempts.end_lease(tx, claim, actor="system:register", at_once=True)
                if end is not None:
                    ends.append((claim, end))
            sound = [claim for claim in spooled if _is_sound(claim)]
            await attempts.lend_time(tx, worker.worker_id, sound, lease=self._timing.lease)
            return worker.worker_id, ends

        worker_id, ends = await self._database.run(register)
        self._seats.pop(worker_id, None)
        # An earlier process that waits for orders is to learn that it has been superseded.
        self._bell.ring(f"worker:{worker_id}")
        for claim, end in ends:
            self._tally.note_loss(end.queue_name, worker_id, end.status, by="register")
            await self._tell_end(claim, end)
        log.info("worker.registered", worker_id=worker_id, worker=identity.name, lost=len(ends))
        return Registration(
            worker_id=worker_id,
            lease_seconds=self._timing.lease.total_seconds(),
            heartbeat_seconds=self._timing.heartbeat.total_seconds(),
            lost_after_seconds=self._timing.lost_after.total_seconds(),
            cancel_grace_seconds=self._timing.cancel_grace.total_seconds(),
            public_url=self._public_url,
        )

    async def admit(self, worker_id: str, boot_id: str, caller: Principal | None) -> None:
        """Check that a call comes from the process that is registered; what is known may be 1 s old.

        Args:
            caller: as of `register`.

        Raises:
            NotFound: no such worker is registered.
            Forbidden: it is another user's, or this process is registered with another token.
            Superseded: a newer process has its place, whatever token of the same user that one has.
        """
        seat = await self._find_seat(worker_id)
        if seat.user_id not in (None, caller.user_id if caller else None):
            raise Forbidden("this worker is registered by another user")
        if seat.boot_id != boot_id:
            raise Superseded(worker_id)
        if seat.token_id != (caller.token_id if caller else None):
            raise Forbidden("this worker is registered with another token")

    async def claim(self, worker_id: str, free_slots: int, wait: timedelta) -> list[Claim]:
        """Claim jobs of the worker's queues (T3), waiting up to ``wait`` for the first.

        A worker that waits here counts as seen.

        Raises:
            NotFound: no such worker is registered.
        """
        queues = (await self._find_seat(worker_id)).queues
        claims = await self._dispatch.claim(worker_id, queues, free_slots, wait)
        if claims:
            self._bell.ring(*(f"job:{claim.job_id}" for claim in claims))
        return claims

    async def start(self, claim: Claim) -> StartedAttempt:
        """Begin the attempt (T4); only this hands out secrets.

        Raises:
            ClaimLost: cancelled, expired or taken. If it was cancelled, this has ended the job.
        """
        if not _is_sound(claim):
            raise ClaimLost(claim.job_id, claim.attempt)

        async def start(tx: Transaction) -> StartedAttempt | attempts.LeaseEnd | None:
            row = await attempts.start_attempt(tx, claim, lease=self._timing.lease)
            if row is None:
                # Cancelled or too late: under the same fence the claim goes back, or its job ends.
                return await attempts.end_lease(
                    tx, claim, actor="system:start", at_once=True, started_too=False
                )
            return StartedAttempt(
                claim=claim,
                spec=self._unseal(claim.job_id, row.spec, row.sealed),
                deadline_seconds=max(0.0, row.deadline_seconds),
                lease_seconds=self._timing.lease.total_seconds(),
                lease_left_seconds=row.lease_left_seconds,
                may_run_again=row.may_run_again,
            )

        try:
            answer = await self._database.run(start)
        except Misconfigured as error:
            answer = await self._fail_unstartable(claim, str(error))
        if isinstance(answer, StartedAttempt):
            self._bell.ring(f"job:{claim.job_id}")
            return answer
        if answer is not None:
            await self._tell_end(claim, answer)
        raise ClaimLost(claim.job_id, claim.attempt)

    async def heartbeat(
        self, worker_id: str, held: Sequence[Claim], report: WorkerReport
    ) -> list[HeartbeatOrder]:
        """Renew the leases of all held attempts (T5), and answer one order for each."""
        sound = [claim for claim in held if _is_sound(claim) and claim.worker_id == worker_id]

        async def renew(tx: Transaction) -> list[HeartbeatOrder]:
            return await attempts.renew_leases(
                tx,
                worker_id,
                sound,
                report,
                lease=self._timing.lease,
                grace=self._timing.cancel_grace,
                patience=self._timing.lost_after,
            )

        orders = await self._database.run(renew, urgent=True) if is_id(worker_id) else []
        told = {order.claim for order in orders}
        return orders + [HeartbeatOrder(claim, "abandon") for claim in held if claim not in told]

    async def wait_for_orders(self, worker_id: str, timeout: timedelta) -> bool:
        """Wait until a heartbeat would bring something new. False: ``timeout`` passed.

        What rings between two calls is kept for the second.
        """
        return await self._ears.wait(f"worker:{worker_id}", timeout)

    async def finish(self, claim: Claim, outcome: AttemptOutcome) -> None:
        """Write down how the attempt ended (T6). Repeating the same outcome succeeds.

        Raises:
            InvalidInput: the outcome contradicts itself.
            ClaimLost: the attempt is not this worker's, or ended otherwise.
        """
        told = check_outcome(outcome)

        async def finish(tx: Transaction) -> bool:
            return await attempts.finish_attempt(tx, claim, told)

        if not _is_sound(claim) or not await self._database.run(finish, urgent=True):
            raise ClaimLost(claim.job_id, claim.attempt)
        self._tally.note_end(claim.job_id)
        self._bell.ring(f"job:{claim.job_id}", f"log:{claim.job_id}")
        log.info(
            "job.finished",
            job_id=claim.job_id,
            attempt=claim.attempt,
            worker_id=claim.worker_id,
            status=outcome.status,
            reason=outcome.reason,
            exit_code=outcome.exit_code,
        )

    async def release(self, claim: Claim) -> None:
        """Give back a claim that was not started. One that is no longer held is no error."""
        if not _is_sound(claim):
            return

        async def release(tx: Transaction) -> attempts.LeaseEnd | None:
            return await attempts.end_lease(
                tx, claim, actor="system:release", at_once=True, started_too=False
            )

        end = await self._database.run(release)
        if end is not None:
            await self._tell_end(claim, end)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Release claims that nobody will start; what cannot be released goes back by its start deadline."""
        results = await asyncio.gather(*map(self.release, claims), return_exceptions=True)
        failed = [str(result) for result in results if isinstance(result, BaseException)]
        log.info("claims.given_back", claims=len(claims), failed=failed)

    async def deregister(self, worker_id: str, boot_id: str) -> None:
        """Take leave of a worker: its claims that were not started go back; it is live no more.

        Of a process that was superseded nothing is changed.
        """
        if not is_id(worker_id):
            return

        async def retire(tx: Transaction) -> list[Claim]:
            if not await workers.retire_worker(tx, worker_id, boot_id):
                return []
            return await attempts.find_held(tx, worker_id)

        held = await self._database.run(retire)
        self._seats.pop(worker_id, None)
        for claim in held:
            await self.release(claim)

    async def _find_seat(self, worker_id: str) -> workers.Seat:
        """Return whose place a worker's is, known for a moment: a call shall cost one statement, not two."""
        now = asyncio.get_running_loop().time()
        known = self._seats.get(worker_id)
        if known is None or now > known.until:
            self._seats = {kept_id: kept for kept_id, kept in self._seats.items() if now <= kept.until}
            seat = await workers.find_seat(self._database, worker_id) if is_id(worker_id) else None
            if seat is None:
                raise NotFound("worker", worker_id)
            known = _KnownSeat(seat, now + SEAT_KNOWN_SECONDS)
            self._seats[worker_id] = known
        return known.seat

    async def _mark_seen(self, worker_ids: Collection[str]) -> None:
        async with self._database.transaction(urgent=True) as tx:
            await workers.mark_seen(tx, worker_ids)

    async def _fail_unstartable(self, claim: Claim, why: str) -> attempts.LeaseEnd | None:
        log.error("job.unstartable", job_id=claim.job_id, detail=why)

        async def fail(tx: Transaction) -> attempts.LeaseEnd | None:
            return await attempts.end_lease(
                tx, claim, actor="system:start", at_once=True, started_too=False, cannot_start=why
            )

        return await self._database.run(fail)

    async def _tell_end(self, claim: Claim, end: attempts.LeaseEnd) -> None:
        self._bell.ring(f"job:{claim.job_id}")
        if end.status.is_final:
            self._tally.note_end(claim.job_id)
        if end.status is JobStatus.QUEUED:
            await self._queue.announce([Announcement(claim.job_id, end.queue_name, claim.attempt)])

    def _unseal(self, job_id: str, spec: JobSpec, sealed: bytes | None) -> JobSpec:
        if sealed is None:
            return spec
        secrets = self._vault.open(job_id, sealed)
        git_url = secrets.pop(GIT_URL_SECRET, spec.git_url)
        return replace(spec, git_url=git_url, job_secrets=secrets)


def _pair(claim: Claim) -> tuple[str, int, str]:
    """Return a claim without its worker, whose id a spool of an earlier boot may have otherwise."""
    return claim.job_id, claim.attempt, claim.lease_id


def _is_sound(claim: Claim) -> bool:
    """Tell whether the database can read this claim at all."""
    ids = (claim.job_id, claim.lease_id, claim.worker_id)
    return all(map(is_id, ids)) and 1 <= claim.attempt <= attempts.MAX_ATTEMPTS
