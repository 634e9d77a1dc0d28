"""One attempt at one job, from the claim to the delivered outcome.

Duties, in this order:

1. start the attempt (T4), which hands out the job and its secrets;
2. give the frozen spec to a runner, and pass on to it every renewal and order of the coordinator;
3. ship the log from the spool while it grows;
4. when the runner has ended, tell how, as often as it takes; a slow log store delays this by
   seconds only, the rest of the log is shipped afterwards, and so are the artifacts.
"""

import asyncio
import math
import time
from collections.abc import Awaitable
from dataclasses import replace
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import Claim, StartedAttempt
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.worker.artifacts import bring_artifacts, finish_delivery
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.run_spec import AttemptPlace, HostTerms, compose_run_spec
from reactorcide.worker.runner import Runner, RunnerPool
from reactorcide.worker.shipping import (
    NOT_OURS,
    LogShipper,
    ShippingEnd,
    deliver_result,
    pause_before_retry,
)
from reactorcide.worker.spool import AttemptSpool, Spool, SpoolReader
from reactorcide.worker.trees import TreePorter, bring_in_time
from runnerlib.spec import LogGrew, PhaseEntered, Renewed, RunResult, RunSpec, Stop

log = structlog.get_logger()

LOG_PATIENCE_SECONDS = 5.0
"""How long the outcome waits for the rest of the log."""
STOP_PATIENCE_SECONDS = 15.0
"""A runner that has not ended so long after it had to is killed, and its sandbox with it."""

Order = Literal["cancel", "kill", "shutdown", "lose_log", "abandon"]
_STRENGTH: dict[Order | None, int] = {
    None: 0,
    "cancel": 1,
    "kill": 2,
    "shutdown": 3,
    "lose_log": 3,
    "abandon": 4,
}
_OUR_DOING: dict[Order | None, tuple[Reason, str]] = {
    "shutdown": (Reason.WORKER_LOST, "the worker was shut down before the job ended"),
    "lose_log": (
        Reason.LOG_LOST,
        "the log cannot be kept: the store holds other bytes, or the spool is broken",
    ),
}


class Attempt:
    """Carries out one claim. `run` never raises for what a job, a runner or the coordinator does."""

    def __init__(
        self,
        claim: Claim,
        slot: int,
        *,
        gateway: Gateway,
        runners: RunnerPool,
        spool: Spool,
        terms: HostTerms,
        trees: TreePorter,
    ) -> None:
        self.claim = claim
        self.is_held = False
        """Whether heartbeats must name it: started, and its outcome not delivered yet."""
        self.is_runner_lost = False
        """Whether the runner died without a word, so that nobody has cleared its workspace."""
        self._slot = slot
        self._gateway = gateway
        self._runners = runners
        self._spool = spool
        self._terms = terms
        self._trees = trees
        self._ordered = asyncio.Event()
        self._runner: Runner | None = None
        self._shipper: LogShipper | None = None
        self._order: Order | None = None
        self._has_runner_ended = False
        self._may_run_again = False
        self._renewed_at = -math.inf
        """When the last renewal was sent, by the monotonic clock; the start is one."""
        self._backstop: asyncio.TimerHandle | None = None
        self._log = log.bind(job_id=claim.job_id, attempt=claim.attempt)

    async def run(self) -> Awaitable[None] | None:
        """Run the attempt until its outcome is delivered, or somebody else decided it.

        What is returned, if anything, ships what is left of the log and then clears the spool.
        """
        started = await self._start()
        if started is None:
            return None
        self.is_held = True
        self._may_run_again = started.may_run_again
        self._log.info("attempt.started", slot=self._slot, name=started.spec.name)
        try:
            spool = await asyncio.to_thread(self._spool.create, self.claim)
        except OSError as error:
            await self._give_up(_refusal(error, "the spool cannot be made"))
            return None
        shipper = self._shipper = LogShipper(self._gateway, self.claim, SpoolReader(spool))
        shipping = asyncio.create_task(self._ship(shipper))
        try:
            result = await self._execute(started, spool, shipper)
        except BaseException:
            shipping.cancel()
            raise
        shipper.end()
        await asyncio.wait({shipping}, timeout=LOG_PATIENCE_SECONDS)
        return await self._settle(spool, result, shipping)

    def renew(self, sent_at: float) -> None:
        """Tell the runner that the lease was renewed by what was sent at ``sent_at`` (monotonic)."""
        self._renewed_at = max(self._renewed_at, sent_at)
        if self._runner is not None:
            self._runner.send(Renewed(age_seconds=time.monotonic() - self._renewed_at))

    def obey(self, order: Order) -> None:
        """Stop the job as ordered; a weaker order after a stronger one changes nothing.

        `shutdown` and `lose_log` are kills whose outcome is reported as the worker's doing.
        """
        if self._has_runner_ended or _STRENGTH[order] <= _STRENGTH[self._order]:
            return
        self._order = order
        self._ordered.set()
        self._log.info("attempt.stop_ordered", order=order)
        if self._runner is not None:
            self._pass_on_order(self._runner)

    def hurry_log(self) -> None:
        """Bring the log soon: somebody follows it."""
        if self._shipper is not None:
            self._shipper.hurry()

    async def _start(self) -> StartedAttempt | None:
        tries = 0
        while True:
            tries += 1
            try:
                if self._order is not None:
                    await self._gateway.release(self.claim)
                    return None
                sent_at = time.monotonic()
                started = await self._gateway.start(self.claim)
            except NOT_OURS as error:
                self._log.info("attempt.not_started", reason=str(error))
                return None
            except Unavailable as error:
                self._log.warning("attempt.start_delayed", part=error.part, tries=tries)
                await pause_before_retry(tries)
            else:
                # An earlier try may have started it, and only its answer was lost.
                self._renewed_at = sent_at - (started.lease_seconds - started.lease_left_seconds)
                return started

    async def _execute(self, started: StartedAttempt, spool: AttemptSpool, shipper: LogShipper) -> RunResult:
        tree, began = started.spec.source_tree, time.monotonic()
        if tree is None:
            return await self._attend_runner(started, spool, shipper, began=began)
        limit = min(started.deadline_seconds, self._terms.policy.source_timeout_seconds)
        shelf = await bring_in_time(self._trees, self.claim, tree, ordered=self._ordered, limit_seconds=limit)
        if isinstance(shelf, RunResult):
            self._has_runner_ended = True
            return self._as_ordered(shelf)
        try:
            result = await self._attend_runner(started, spool, shipper, began=began, tree_dir=shelf.path)
            if (result.reason, result.fault) == (Reason.SOURCE_FAILED.value, "infra"):
                await asyncio.to_thread(shelf.drop_damaged)
        finally:
            await asyncio.to_thread(shelf.remove)
        return result

    async def _attend_runner(
        self,
        started: StartedAttempt,
        spool: AttemptSpool,
        shipper: LogShipper,
        *,
        began: float,
        tree_dir: Path | None = None,
    ) -> RunResult:
        try:
            runner = await self._runners.take()
        except OSError as error:
            self._has_runner_ended = True
            return _refusal(error, "the runner cannot be started")
        self._runner = runner
        try:
            left = max(0.0, started.deadline_seconds - (time.monotonic() - began))
            runner.begin(self._compose_spec(replace(started, deadline_seconds=left), spool, tree_dir))
            if self._order is not None:
                self._pass_on_order(runner)
            hearing = asyncio.create_task(self._hear(runner, shipper))
            code = await runner.wait()
            _, deaf = await asyncio.wait({hearing}, timeout=1)
            for task in deaf:
                task.cancel()
        finally:
            self._has_runner_ended = True
            runner.kill()
            if self._backstop is not None:
                self._backstop.cancel()
        seconds = time.monotonic() - began
        said = await asyncio.to_thread(spool.read_result)
        if said is None:
            self._log.error("runner.died", exit_code=code, seconds=round(seconds, 3))
            self.is_runner_lost = True
            said = await self._explain_death(spool, code, is_late=seconds >= started.deadline_seconds)
        result = self._as_ordered(said)
        # What the worker decided outlives it too: a later boot delivers this, not what the runner said.
        if result is not said or not (spool.path / "result.json").exists():
            try:
                await asyncio.to_thread(spool.keep_result, result)
            except OSError as error:
                # As on a full disk. It is told all the same, unless this process dies first.
                self._log.warning("attempt.result_not_kept", detail=error.strerror)
        return result

    async def _hear(self, runner: Runner, shipper: LogShipper) -> None:
        async for event in runner.events():
            if isinstance(event, LogGrew):
                shipper.hint()
            elif isinstance(event, PhaseEntered):
                self._log.debug("attempt.phase_entered", phase=event.phase)

    async def _ship(self, shipper: LogShipper) -> ShippingEnd:
        try:
            end = await shipper.run()
        except Exception:  # noqa: BLE001 - the top of a task; the job must learn of it
            self._log.exception("log.shipping_crashed")
            end = ShippingEnd.MISMATCHED
        if end is ShippingEnd.REFUSED:
            self.obey("abandon")
        elif end is ShippingEnd.MISMATCHED:
            self.obey("lose_log")
        return end

    async def _settle(
        self, spool: AttemptSpool, result: RunResult, shipping: asyncio.Task[ShippingEnd]
    ) -> Awaitable[None] | None:
        if self._order == "abandon":
            shipping.cancel()
            self._log.warning("attempt.abandoned")
            await asyncio.to_thread(spool.remove)
            self.is_held = False
            return None
        if self._may_run_again and is_lost(result):
            # Nothing to tell: the lease ends, and then the coordinator lets the job run again.
            self.is_held = False
            self._log.warning("attempt.lost", detail=result.message)
            return finish_delivery(None, spool, shipping)
        await deliver_result(self._gateway, self.claim, result)
        self.is_held = False
        self._log.info(
            "attempt.finished", status=result.status, reason=result.reason, exit_code=result.exit_code
        )
        if shipping.done() and not result.artifacts:
            await asyncio.to_thread(spool.remove)
            return None
        return finish_delivery(self._gateway, spool, shipping)

    async def _give_up(self, result: RunResult) -> None:
        self._log.error("attempt.given_up", reason=result.reason, detail=result.message)
        await deliver_result(self._gateway, self.claim, result)
        self.is_held = False

    def _pass_on_order(self, runner: Runner) -> None:
        how: Literal["cancel", "kill", "abandon"]
        how = self._order if self._order in ("cancel", "abandon") else "kill"
        runner.send(Stop(how=how))
        patience = STOP_PATIENCE_SECONDS
        if how == "cancel":
            patience += self._terms.policy.cancel_grace_seconds
        if self._backstop is not None:
            self._backstop.cancel()
        self._backstop = asyncio.get_running_loop().call_later(patience, runner.kill)

    async def _explain_death(self, spool: AttemptSpool, code: int, *, is_late: bool) -> RunResult:
        """Say how an attempt ended whose runner left no result: nobody knows how far the job came."""
        length, digest = await asyncio.to_thread(spool.measure_log)
        status: Literal["failed", "cancelled", "timeout"] = "failed"
        reason, fault = Reason.SANDBOX_DIED, Fault.INFRA
        if self._order is not None:
            status, reason, fault = "cancelled", Reason.CANCELLED_USER, Fault.NONE
            if is_late:
                status, reason, fault = "timeout", Reason.TIMEOUT_RUN, Fault.USER
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return RunResult(
            status=status,
            reason=reason,
            fault=fault.value,
            message=f"the runner ended without a result ({end})",
            log_length=length,
            log_sha256=digest,
            isolation="none",
        )

    def _as_ordered(self, result: RunResult) -> RunResult:
        # A job that ended by itself keeps its own result, whatever was ordered meanwhile.
        if self._order not in _OUR_DOING or result.status != "cancelled":
            return result
        reason, message = _OUR_DOING[self._order]
        return msgspec.structs.replace(
            result, status="failed", reason=reason.value, fault="infra", message=message
        )

    def _compose_spec(self, started: StartedAttempt, spool: AttemptSpool, tree_dir: Path | None) -> RunSpec:
        terms, job_id = self._terms, self.claim.job_id
        # A job that may run again must be dead before its next attempt can start; any other had
        # better live through a long outage.
        fence = 0.7 * started.lease_seconds if started.may_run_again else 4 * terms.lost_after.total_seconds()
        place = AttemptPlace(
            job_id=job_id,
            attempt=self.claim.attempt,
            spool_dir=spool.path,
            work_dir=terms.work_dir,
            policy=terms.policy_of_slot(self._slot),
            job_url=f"{terms.public_url}/api/v1/jobs/{job_id}" if terms.public_url else None,
            tree_dir=tree_dir,
        )
        return compose_run_spec(
            started.spec,
            place,
            timeout_seconds=started.deadline_seconds,
            fence_seconds=fence,
            fence_used_seconds=time.monotonic() - self._renewed_at,
        )


def is_lost(result: RunResult) -> bool:
    """Tell whether the attempt was lost with its worker, which is for the coordinator to decide on."""
    return result.reason == Reason.WORKER_LOST.value


def has_outcome(spool: AttemptSpool) -> bool:
    """Tell whether the attempt came to an end that must be told."""
    result = spool.read_result()
    return result is not None and not is_lost(result)


async def deliver_leftover(gateway: Gateway, spool: AttemptSpool) -> None:
    """Bring to the coordinator what an earlier process of this worker left in its spool; then clear it.

    Of an attempt that was lost with that process only the log is brought.
    """
    result = await asyncio.to_thread(spool.read_result)
    if result is not None and not is_lost(result):
        accepted = await deliver_result(gateway, spool.claim, result)
        log.info("spool.outcome_delivered", job_id=spool.claim.job_id, accepted=accepted)
    shipper = LogShipper(gateway, spool.claim, SpoolReader(spool))
    shipper.end()
    end = await shipper.run()
    log.info("spool.log_delivered", job_id=spool.claim.job_id, end=end.value)
    await bring_artifacts(gateway, spool)
    await asyncio.to_thread(spool.remove)


def _refusal(error: OSError, what: str) -> RunResult:
    is_full = error.errno in (ENOSPC, EDQUOT)
    return RunResult(
        status="failed",
        reason=Reason.WORKER_DISK if is_full else Reason.INTERNAL,
        fault="infra",
        message=f"{what}: {error.strerror or error}",
        log_length=0,
        log_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        isolation="none",
    )
