"""A worker of the simulation: it follows D.6, as `worker.loop`, `worker.attempt` and `runnerlib.guardian` do.

A host keeps its spool and its sandboxes over the life of its worker processes. A sandbox has a guardian
of its own that no freeze of the worker stops.
"""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from reactorcide.domain.errors import (
    ClaimLost,
    LogMismatch,
    NotFound,
    OffsetGap,
    ReactorcideError,
    Superseded,
    Unavailable,
)
from reactorcide.domain.jobs import AttemptOutcome, Claim, LogPiece
from reactorcide.domain.reasons import Reason
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from robustness.simulation_coordinator import TIMING
from robustness.simulation_ledger import Broken, Ledger
from robustness.simulation_sandbox import CANCELLED, LOST, Sandbox, SpoolEntry
from robustness.simulation_world import Call, Process, Script, Sleep, World

NOT_OURS = (ClaimLost, Superseded, NotFound)
QUEUE = "reactorcide-jobs"
SLOTS = 2


@dataclass
class Attempt:
    """What a worker process knows of a claim in one of its slots."""

    claim: Claim
    is_held: bool = False
    order: str | None = None
    sandbox: Sandbox | None = None

    def obey(self, order: str) -> None:
        if order == "go_on" or self.order in ("abandon", order):
            return
        self.order = order
        if self.sandbox is None:
            return
        if order == "cancel":
            self.sandbox.stop(CANCELLED)
        else:
            self.sandbox.kill(CANCELLED if order == "kill" else LOST)


class Host:
    """A machine with a worker on it, and what outlives the worker's process."""

    def __init__(self, world: World, ledger: Ledger, name: str) -> None:
        self.world = world
        self.ledger = ledger
        self.name = name
        self.spool: dict[Claim, SpoolEntry] = {}
        self.sandboxes: list[Sandbox] = []
        self.worker: Worker | None = None
        self._boots = 0

    @property
    def is_up(self) -> bool:
        return self.worker is not None and self.worker.process.is_alive

    def boot(self) -> None:
        """Start a worker, unless one is there; its first act is to kill what its former self left."""
        if self.is_up:
            return
        for sandbox in self.sandboxes:
            sandbox.kill(LOST)
        self.sandboxes.clear()
        self._boots += 1
        self.world.note(self.name, f"boots for the {self._boots}. time")
        self.worker = Worker(self, str(uuid.UUID(int=self.world.random.getrandbits(128))))

    def crash(self) -> None:
        """`kill -9` of the worker: its guardians see the end of their pipes."""
        if self.worker is not None:
            self.worker.process.kill()
        self.world.note(self.name, "is killed")
        for sandbox in self.sandboxes:
            self.world.after(self.world.random.uniform(0.0, 0.3), lambda s=sandbox: s.kill(LOST))


class Worker:
    """One process of a worker."""

    def __init__(self, host: Host, boot_id: str) -> None:
        self.process = Process(host.world, host.name)
        self._host = host
        self._world = host.world
        self._ledger = host.ledger
        self._random = host.world.random
        self._identity = WorkerIdentity(host.name, boot_id, (QUEUE,), SLOTS, "1", "none")
        self._registration: Registration | None = None
        self._turn: int | None = None
        self._attempts: dict[Claim, Attempt] = {}
        self._is_draining = False
        self.process.spawn(self._live())

    def drain(self) -> None:
        self._is_draining = True

    def _pause(self) -> Sleep:
        return Sleep(self._random.uniform(0.2, 3.0))

    @property
    def _worker_id(self) -> str:
        assert self._registration is not None
        return self._registration.worker_id

    def _call(self, what: str, make: Callable[..., object], timeout: float = 10.0) -> Call:
        """Make a call that is admitted first, as both gateways do."""

        async def admitted(coordinator: object) -> object:
            worker_id = self._worker_id
            await coordinator.attempts.admit(worker_id, self._identity.boot_id, None)  # type: ignore[attr-defined]
            return await make(coordinator)  # type: ignore[misc]

        return Call(what, admitted, timeout)

    def _live(self) -> Script:
        yield from self._register()
        for entry in list(self._host.spool.values()):
            entry.claim = replace(entry.claim, worker_id=self._worker_id)
            self.process.spawn(self._deliver_leftover(entry))
        self.process.spawn(self._beat())
        yield from self._claim_until_drained()
        while self._attempts:
            yield Sleep(1.0)
        boot_id = self._identity.boot_id
        with contextlib.suppress(ReactorcideError):
            yield Call("deregister", lambda c: c.attempts.deregister(self._worker_id, boot_id), 2.0)
        self.process.kill()

    def _register(self) -> Script:
        kept = [e.claim for e in self._host.spool.values() if e.result is not None and not _is_lost(e.result)]
        while True:
            try:
                if self._turn is None:
                    self._turn = yield Call("turn", lambda c: c.attempts.take_turn())
                self._registration = yield Call(
                    "register", lambda c: c.attempts.register(self._identity, kept, turn=self._turn)
                )
            except Unavailable:
                yield self._pause()
            else:
                return

    def _claim_until_drained(self) -> Script:
        while not self._is_draining:
            free = SLOTS - len(self._attempts)
            claims: list[Claim] = []
            if free:
                ask = self._call("claim", lambda c, n=free: c.attempts.claim(self._worker_id, n, timedelta()))
                try:
                    claims = yield ask
                except Superseded:
                    self._step_down()
                except NotFound:
                    yield from self._register()
                except Unavailable:
                    pass
            for claim in claims:
                self._world.note(claim.job_id, f"{self._host.name} hears of its claim of {claim.attempt}")
                self._attempts[claim] = Attempt(claim)
                self.process.spawn(self._carry_out(self._attempts[claim]))
            yield Sleep(self._random.uniform(0.5, 5.0))

    def _carry_out(self, attempt: Attempt) -> Script:
        sent_at, started = yield from self._start(attempt)
        if started is not None:
            attempt.is_held = True
            entry = self._host.spool[attempt.claim] = SpoolEntry(attempt.claim)
            renewed_at = sent_at - (started.lease_seconds - started.lease_left_seconds)
            attempt.sandbox = Sandbox(self._world, self._ledger, started, entry, renewed_at)
            self._host.sandboxes.append(attempt.sandbox)
            if attempt.order is not None:
                order, attempt.order = attempt.order, None
                attempt.obey(order)
            yield from self._see_through(attempt, entry, may_run_again=started.may_run_again)
        del self._attempts[attempt.claim]

    def _start(self, attempt: Attempt) -> Script:
        while True:
            sent_at = self._world.now
            try:
                if attempt.order is not None or self._is_draining:
                    yield self._call("release", lambda c: c.attempts.release(attempt.claim))
                    return 0.0, None
                started = yield self._call("start", lambda c: c.attempts.start(attempt.claim))
            except NOT_OURS:
                return 0.0, None
            except Unavailable:
                yield self._pause()
            else:
                return sent_at, started

    def _see_through(self, attempt: Attempt, entry: SpoolEntry, *, may_run_again: bool) -> Script:
        while entry.result is None:
            yield from self._ship(attempt, entry, patience=1.0)
            yield Sleep(self._random.uniform(0.1, 1.0))
        if attempt.order == "abandon":
            self._forget(entry)
            return
        yield from self._ship(attempt, entry, patience=5.0)
        if not (may_run_again and _is_lost(entry.result)):
            yield from self._finish(entry)
        attempt.is_held = False
        self.process.spawn(self._ship_rest(entry))

    def _finish(self, entry: SpoolEntry) -> Script:
        told, claim = entry.result, entry.claim
        assert told is not None
        while True:
            try:
                yield self._call("finish", lambda c: c.attempts.finish(claim, told))
            except NOT_OURS as error:
                self._world.note(claim.job_id, f"the outcome {told.status} is refused: {error}")
                return
            except Unavailable:
                yield self._pause()
            else:
                self._world.note(claim.job_id, f"the outcome {told.status} is accepted")
                self._ledger.finished[claim] = told
                return

    def _ship(self, attempt: Attempt | None, entry: SpoolEntry, *, patience: float) -> Script:
        """Send what of the log is not sent, for a while. Returns whether there is nothing left to do."""
        until = self._world.now + patience
        log = self._ledger.logs[entry.claim]
        while entry.sent < len(log) and self._world.now < until:
            offset = entry.sent
            data = bytes(log[offset : offset + self._random.randint(1, 200)])
            pieces = [LogPiece(1, "o", len(data))]
            append = self._call(
                "append", lambda c, o=offset, d=data, p=pieces: c.logs.append(entry.claim, o, d, p)
            )
            try:
                length = yield append
            except OffsetGap as gap:
                entry.sent = gap.length
            except NOT_OURS:
                if attempt is not None:
                    attempt.obey("abandon")
                return True
            except LogMismatch as error:
                raise Broken(entry.claim.job_id, f"its log is refused: {error}") from error
            except Unavailable:
                yield self._pause()
            else:
                entry.sent += len(data)
                stored = self._ledger.acknowledged
                stored[entry.claim] = max(stored[entry.claim], entry.sent)
                assert length >= entry.sent
        return entry.sent == len(log)

    def _ship_rest(self, entry: SpoolEntry) -> Script:
        is_done = False
        while not is_done:
            is_done = yield from self._ship(None, entry, patience=10.0)
        if entry.sent == len(self._ledger.logs[entry.claim]):
            self._ledger.whole_logs.add(entry.claim)
        self._forget(entry)

    def _forget(self, entry: SpoolEntry) -> None:
        self._host.spool = {claim: kept for claim, kept in self._host.spool.items() if kept is not entry}

    def _deliver_leftover(self, entry: SpoolEntry) -> Script:
        entry.sent = 0
        if entry.result is not None and not _is_lost(entry.result):
            yield from self._finish(entry)
        yield from self._ship_rest(entry)

    def _beat(self) -> Script:
        interval = TIMING.heartbeat.total_seconds()
        while True:
            held = [claim for claim, attempt in self._attempts.items() if attempt.is_held]
            if not held and not self._is_draining:
                # Who asks for work is seen anyway.
                yield Sleep(1.0)
                continue
            sent_at = self._world.now
            report = WorkerReport(draining=self._is_draining)
            beat = self._call(
                "heartbeat", lambda c, h=held, r=report: c.attempts.heartbeat(self._worker_id, h, r)
            )
            pause = interval
            try:
                orders = yield beat
                for told in orders:
                    attempt = self._attempts.get(told.claim)
                    if attempt is None:
                        continue
                    if told.order != "abandon" and attempt.sandbox is not None:
                        attempt.sandbox.renew(sent_at)
                    attempt.obey(told.order)
            except Superseded:
                self._step_down()
                return
            except ReactorcideError:
                pause = 1.0
            yield Sleep(pause)

    def _step_down(self) -> None:
        self._world.note(self._host.name, "steps down")
        for attempt in self._attempts.values():
            attempt.obey("abandon")
        self.process.kill()


def _is_lost(result: AttemptOutcome) -> bool:
    return result.reason is Reason.WORKER_LOST
