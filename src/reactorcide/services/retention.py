"""Retention: ended jobs, and their logs and artifacts before them, go after a time or for want of room.

Rules are walked in small batches, oldest first, beside the rounds of maintenance and by one coordinator at
a time. A batch is one short transaction: it makes the rows say so, records each removal, and owes the
deletion of the objects to the outbox. So a crash or a store that is away loses nothing and leaves nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import structlog

from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import Forbidden, InputFault, InvalidInput
from reactorcide.domain.ids import is_id
from reactorcide.domain.removals import Removal, RemovalCause, RemovedThing
from reactorcide.objects.port import ObjectStore, StoreUnavailable
from reactorcide.objects.threads import StoreThreads
from reactorcide.observability.metrics import Metrics
from reactorcide.services import log_chunks
from reactorcide.services.purging import artifact_folder
from reactorcide.services.slow_chore import SlowChore
from reactorcide.store import chores, outbox, removals
from reactorcide.store import retention as rows
from reactorcide.store.database import Database, Transaction
from reactorcide.store.outbox import purge_payload
from reactorcide.store.retention import AttemptKey, Bound, Kept, RemovedPart, Round, RuleEffect, Survey

__all__ = ["RemovalPage", "Retention", "RetentionRules", "Round", "RuleEffect"]

TURN = "retention"
TURN_HELD = timedelta(minutes=10)
"""A coordinator that died in a round is followed by another one after this time."""
DELIVERY = timedelta(hours=48)
"""What a worker has not brought yet is waited for so long after the end; a log that has not come by then
was sealed as it is."""
PREVIEW_SECONDS = 3.0
"""A preview counts for so long for each rule, and then says that there is more."""
_ACTOR = "system:retention"
_BATCHES: dict[Kept | str, int] = {"jobs": 20, "log": 100, "artifacts": 20}
_PAUSE_SECONDS = 0.02
"""Between two batches: requests come first."""
_SURVEYED = 5_000
_SUMMED = 50_000
_MEASURED = 50
_EXPIRED = 1_000
_LAST_MANY = 2**63 - 1

log = structlog.get_logger()


@dataclass(frozen=True)
class RetentionRules:
    """How long and how much is kept; None: that is no matter. Times count from a job's end."""

    jobs: timedelta | None = None
    logs: timedelta | None = None
    log_bytes: int | None = None
    artifacts: timedelta | None = None
    artifact_bytes: int | None = None
    removals: timedelta = timedelta(days=365)
    """The record of removals itself."""
    interval: timedelta = timedelta(minutes=5)
    is_dry_run: bool = False


@dataclass(frozen=True)
class RemovalPage:
    """A page of the record of removals, newest first."""

    removals: list[Removal]
    next_cursor: str | None


@dataclass(frozen=True)
class _Rule:
    """One rule in force."""

    name: str
    part: Kept | None
    """None: whole jobs."""
    kept_for: timedelta | None = None
    limit_bytes: int | None = None


class Retention:
    """Keeps to the rules, and tells admins of them and of every removal. Close it at the end."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        rules: RetentionRules,
        *,
        metrics: Metrics | None = None,
        calls: StoreThreads | None = None,
    ) -> None:
        self.rules = rules
        self._calls = calls or StoreThreads()
        self._database = database
        self._objects = objects
        self._metrics = metrics or Metrics()
        self._in_force = _rules_in_force(rules)
        self._chore = SlowChore(self._take_round)

    async def round_due(self) -> None:
        """Go on with a round, or begin one if it is time and nobody else has. Raises Unavailable."""
        await self._chore()

    async def close(self) -> None:
        """Break off a round that goes on; a later one takes up what it left."""
        await self._chore.close()

    async def run_round(self) -> list[RuleEffect]:
        """Keep to every rule now, and return what each has removed; with dry run, what it would have.

        Raises:
            Unavailable: the database cannot be reached; what was done until then is done.
        """
        began = time.monotonic()
        if self.rules.is_dry_run:
            effects = await self.preview_rules(seconds=None)
        else:
            effects = [await self._keep_to(rule) for rule in self._in_force]
            await self._expire_record()
        told = [effect for effect in effects if effect.count]
        took = timedelta(seconds=time.monotonic() - began)
        await self._database.run(
            partial(rows.enter_round, kind=TURN, took=took, is_dry_run=self.rules.is_dry_run, removed=told)
        )
        event = "retention.would_remove" if self.rules.is_dry_run else "retention.removed"
        for effect in told:
            log.info(event, rule=effect.rule, count=effect.count, size_bytes=effect.size_bytes)
        return effects

    async def preview_rules(self, *, seconds: float | None = PREVIEW_SECONDS) -> list[RuleEffect]:
        """Return what each rule would remove now if it were the only one; nothing is changed.

        Args:
            seconds: to count for each rule; None: to the end.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return [await self._survey(rule, seconds) for rule in self._in_force]

    async def preview(self, caller: Principal) -> list[RuleEffect]:
        """As `preview_rules`. Raises Forbidden: the caller is no admin."""
        _check_admin(caller)
        return await self.preview_rules()

    async def rounds(self, caller: Principal, *, limit: int = 20) -> list[Round]:
        """Return the last rounds that did something, and the last of each kind; newest first.

        Raises:
            Forbidden: the caller is no admin.
        """
        _check_admin(caller)
        return await self._database.run(partial(rows.list_rounds, limit=limit))

    async def list_removals(
        self, caller: Principal, *, limit: int, cursor: str | None = None, job_id: str | None = None
    ) -> RemovalPage:
        """Return a page of the record, newest first; behind ``cursor``, of one job if ``job_id`` is given.

        Raises:
            Forbidden: the caller is no admin.
            InvalidInput: the cursor is not one of ours, the id no id.
        """
        _check_admin(caller)
        if job_id is not None and not is_id(job_id):
            raise InvalidInput([InputFault("?job_id", "must be the id of a job")])
        before = _LAST_MANY if cursor is None else _read_cursor(cursor)
        found = await self._database.run(
            partial(removals.list_removals, job_id=job_id, before=before, limit=limit + 1)
        )
        shown = found[:limit]
        return RemovalPage(shown, str(shown[-1].removal_id) if len(found) > limit else None)

    async def _take_round(self) -> None:
        if not await self._database.run(partial(chores.take_turn, name=TURN, every=TURN_HELD)):
            return
        try:
            await self.run_round()
        finally:
            await self._database.run(partial(chores.set_turn, name=TURN, due_in=self.rules.interval))

    async def _keep_to(self, rule: _Rule) -> RuleEffect:
        if rule.part is None:
            return await self._remove_all(rule, self._remove_jobs)
        if rule.part == "artifacts" and rule.limit_bytes is not None:
            await self._measure_artifacts()
        bound = await self._bound_of(rule, rule.part)
        if bound is None:
            return RuleEffect(rule.name, 0, 0)
        place = _Place()

        async def remove(tx: Transaction) -> list[RemovedPart]:
            return await self._remove_parts(tx, rule.part or "log", bound, place)

        return await self._remove_all(rule, remove)

    async def _remove_all(
        self, rule: _Rule, remove: Callable[[Transaction], Awaitable[Sequence[RemovedPart]]]
    ) -> RuleEffect:
        """Remove batch after batch until nothing is left."""
        effect = RuleEffect(rule.name, 0, 0)
        what = RemovedThing(rule.part or RemovedThing.JOB)
        why = RemovalCause.AGE if rule.kept_for is not None else RemovalCause.BYTES
        while batch := await self._database.run(remove):
            size = sum(part.size_bytes for part in batch)
            effect = replace(effect, count=effect.count + len(batch), size_bytes=effect.size_bytes + size)
            self._metrics.removed(what, why, len(batch), size)
            await self._database.run(partial(chores.set_turn, name=TURN, due_in=TURN_HELD))
            await asyncio.sleep(_PAUSE_SECONDS)
        return effect

    async def _remove_jobs(self, tx: Transaction) -> Sequence[RemovedPart]:
        if self.rules.jobs is None:
            return ()
        gone = await removals.delete_old_jobs(
            tx, kept_for=self.rules.jobs, delivery=DELIVERY, actor=_ACTOR, limit=_BATCHES["jobs"]
        )
        folders = [
            folder
            for job_id, _ in gone
            for folder in (log_chunks.job_folder(job_id), artifact_folder(job_id))
        ]
        if gone:
            payload = purge_payload(folders=folders)
            await outbox.add_entry(tx, outbox.PURGE_OBJECTS, f"purge:{gone[0][0]}", payload)
        return [RemovedPart(AttemptKey("infinity", job_id), size) for job_id, size in gone]

    async def _remove_parts(
        self, tx: Transaction, part: Kept, bound: Bound, place: "_Place"
    ) -> list[RemovedPart]:
        batch = await rows.remove_parts(
            tx,
            part,
            bound,
            after=place.key,
            delivery=DELIVERY,
            actor=_ACTOR,
            limit=_BATCHES[part],
        )
        if not batch:
            return []
        if part == "log":
            payload = purge_payload(
                keys=[
                    name(removed.key.job_id, removed.key.attempt)
                    for removed in batch
                    for name in (log_chunks.sealed_key, log_chunks.sealed_index_key)
                ]
            )
        else:
            payload = purge_payload(folders=sorted({artifact_folder(item.key.job_id) for item in batch}))
        first = batch[0].key
        dedupe = f"purge_{part}:{first.job_id}:{first.attempt}"
        await outbox.add_entry(tx, outbox.PURGE_OBJECTS, dedupe, payload)
        place.key = batch[-1].key
        return batch

    async def _bound_of(self, rule: _Rule, part: Kept) -> Bound | None:
        """Return how far a rule reaches; None: nothing is beyond it."""
        if rule.kept_for is not None:
            before = await self._database.run(partial(rows.read_clock, ago=rule.kept_for))
            return Bound(RemovalCause.AGE, AttemptKey(before), before)
        room, place = rule.limit_bytes or 0, rows.LAST
        while page := await self._database.run(
            partial(rows.sum_back, part=part, before=place, limit=_SUMMED)
        ):
            size, last = page
            if size > room:
                passed = await self._database.run(
                    partial(rows.find_limit, part=part, before=place, room=room, limit=_SUMMED)
                )
                # What was sealed or removed between the two looks is for the next round.
                return Bound(RemovalCause.BYTES, passed) if passed else None
            room, place = room - size, last
        return None

    async def _measure_artifacts(self) -> None:
        """Find out how large those artifacts are of which nobody wrote it down."""
        while unknown := await self._database.run(
            partial(rows.list_unmeasured, delivery=DELIVERY, limit=_MEASURED)
        ):
            for found in unknown:
                try:
                    size = await self._calls.run(self._size_of, found)
                except StoreUnavailable as error:
                    log.warning("retention.measuring_postponed", detail=error.detail)
                    return
                await self._database.run(partial(rows.measure, found=found, size_bytes=size))
            await asyncio.sleep(_PAUSE_SECONDS)

    def _size_of(self, found: rows.Unmeasured) -> int:
        folder = f"{artifact_folder(found.job_id)}{found.attempt}/"
        return sum(
            info.size_bytes for info in self._objects.list(folder) if not info.key.endswith("/manifest.json")
        )

    async def _survey(self, rule: _Rule, seconds: float | None) -> RuleEffect:
        found, place, end = Survey(), rows.FIRST, None if seconds is None else time.monotonic() + seconds
        bound: Bound | None = None
        if rule.part is not None:
            bound = await self._bound_of(rule, rule.part)
            if bound is None:
                return RuleEffect(rule.name, 0, 0)
        before = await self._database.run(partial(rows.read_clock, ago=rule.kept_for or timedelta()))
        look = (
            partial(rows.survey_jobs, ended_before=before)
            if rule.part is None or bound is None
            else partial(rows.survey_parts, part=rule.part, bound=bound)
        )
        while True:
            page = await self._database.run(partial(look, after=place, delivery=DELIVERY, limit=_SURVEYED))
            if page is None:
                return _effect(rule, found, more=False)
            found, place = found + page[0], page[1]
            if end is not None and time.monotonic() > end:
                return _effect(rule, found, more=True)

    async def _expire_record(self) -> None:
        kept_for = self.rules.removals
        expire = partial(removals.expire_removals, kept_for=kept_for, limit=_EXPIRED)
        # More than a batch a round is the work of more than one round.
        await self._database.run(expire)


@dataclass
class _Place:
    """How far a rule has come in a round; what is passed over waits for the next one."""

    key: AttemptKey = rows.FIRST


def _rules_in_force(rules: RetentionRules) -> list[_Rule]:
    every = (
        _Rule("jobs_by_age", None, kept_for=rules.jobs),
        _Rule("logs_by_age", "log", kept_for=rules.logs),
        _Rule("logs_by_bytes", "log", limit_bytes=rules.log_bytes),
        _Rule("artifacts_by_age", "artifacts", kept_for=rules.artifacts),
        _Rule("artifacts_by_bytes", "artifacts", limit_bytes=rules.artifact_bytes),
    )
    return [rule for rule in every if rule.kept_for is not None or rule.limit_bytes is not None]


def _effect(rule: _Rule, found: Survey, *, more: bool) -> RuleEffect:
    return RuleEffect(rule.name, found.count, found.size_bytes, found.oldest, found.newest, more)


def _check_admin(caller: Principal) -> None:
    if not caller.is_admin:
        raise Forbidden("only an admin may see what is kept and what was removed")


def _read_cursor(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 18):
        raise InvalidInput([InputFault("?cursor", "is not a next_cursor of an earlier page")])
    return int(cursor)
