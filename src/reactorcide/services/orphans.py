"""Searching the object store for what no row owns, and the rows for objects that are gone.

The store is walked in the order of its keys, in pieces, one coordinator at a time; where a walk stopped, the
next one goes on. Both questions are answered from one listing: a job that has none of its objects in it has
lost them. Nothing is acted upon for the listing alone: rows are looked at after it, and an object that seems
gone is asked for by its key. What goes leaves by the outbox, and every step is recorded as any removal is.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

import structlog

from reactorcide.domain.ids import is_id
from reactorcide.domain.removals import Removal, RemovalCause, RemovedThing
from reactorcide.objects.port import ObjectInfo, ObjectStore, StoreUnavailable
from reactorcide.objects.threads import StoreThreads
from reactorcide.observability.metrics import Metrics
from reactorcide.services.losses import ACTOR, LossFinder, Search
from reactorcide.services.slow_chore import SlowChore
from reactorcide.services.store_listing import Listing, folder_of, last_of_a_job, split_last
from reactorcide.services.store_marks import StoreMarks
from reactorcide.services.stored_keys import JobKey, TreeKey, created_at, read_job_key, read_tree_key
from reactorcide.store import chores, outbox, removals, retention, searches
from reactorcide.store.database import Database, Transaction
from reactorcide.store.retention import RuleEffect
from reactorcide.store.searches import Owner, Part

TURN = "orphans"
TURN_HELD = timedelta(minutes=10)
"""A coordinator that died in a search is followed by another one after this time."""
SAFE_AGE = timedelta(days=1)
"""Nothing younger is taken for an orphan: neither a job, nor a removal that may not be done yet."""
PIECE = 1_000
"""Objects looked at together."""
_PAUSE_SECONDS = 0.05
_MOST_OWED_SECONDS = 600.0
_FIRST = ("00000000-0000-0000-0000-000000000000", 0)
_HIGHEST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_ANY_ATTEMPT = 2**31 - 1

K = TypeVar("K", JobKey, TreeKey)

log = structlog.get_logger()


@dataclass(frozen=True)
class _Found(Generic[K]):
    """An object of ours, and what its key says."""

    info: ObjectInfo
    key: K


@dataclass(frozen=True)
class _Belonging:
    """Whose objects were that no row names any more, as far as their keys tell."""

    job_id: str | None = None
    user_id: str | None = None


class OrphanSearch:
    """Searches for objects without rows, and for rows without their objects. Close it at the end.

    Args:
        every: from the end of a search to the next one.
        is_dry_run: only tell what is found.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        *,
        every: timedelta,
        is_dry_run: bool = False,
        metrics: Metrics | None = None,
        calls: StoreThreads | None = None,
    ) -> None:
        self.every = every
        self._calls = calls or StoreThreads()
        self._database = database
        self._objects = objects
        self._is_dry_run = is_dry_run
        self._metrics = metrics or Metrics()
        self._marks = StoreMarks(database, objects, self._calls)
        self._losses = LossFinder(database, objects, self._marks, metrics=self._metrics, calls=self._calls)
        self._chore = SlowChore(self._take_turn)

    async def search_due(self) -> None:
        """Go on with a search, or begin one if it is time and nobody else has. Raises Unavailable."""
        await self._chore()

    async def close(self) -> None:
        """Break off a search that goes on; the next one begins where it stopped."""
        await self._chore.close()

    async def search(self) -> list[RuleEffect]:
        """Search all of the store now, from where the last search stopped; return what was found.

        Only told is what is found in a store that was marked within the last day.

        Raises:
            Unavailable: the database or the object store cannot be reached.
        """
        mark = await self._marks.check()
        if mark is None:
            return []
        owed = await self._database.run(outbox.count_owed)
        if owed.oldest_seconds > _MOST_OWED_SECONDS:
            # What was removed but is still there is no orphan.
            log.warning("orphans.postponed", owed=owed.entries, oldest_seconds=owed.oldest_seconds)
            return []
        started = time.monotonic()
        began = await self._database.run(partial(retention.read_clock, ago=timedelta()))
        search = Search(mark.is_settled and not self._is_dry_run, began)
        await self._walk_jobs(search, "log", "logs/")
        await self._walk_jobs(search, "artifacts", "artifacts/")
        await self._walk_trees(search)
        effects = search.tally.effects()
        await self._enter_round(search, effects, timedelta(seconds=time.monotonic() - started))
        return effects

    async def _take_turn(self) -> None:
        if not await self._database.run(partial(chores.take_turn, name=TURN, every=TURN_HELD)):
            return
        due_in = min(self.every, TURN_HELD)
        try:
            await self.search()
            due_in = self.every
        except StoreUnavailable as error:
            log.warning("orphans.search_postponed", detail=error.detail)
        finally:
            await self._database.run(partial(chores.set_turn, name=TURN, due_in=due_in))

    async def _enter_round(self, search: Search, effects: Sequence[RuleEffect], took: timedelta) -> None:
        async def enter(tx: Transaction) -> None:
            await searches.forget_old_suspects(tx, kept_for=3 * max(self.every, SAFE_AGE))
            await retention.enter_round(tx, TURN, took=took, is_dry_run=not search.acts, removed=effects)

        await self._database.run(enter)
        event = "orphans.settled" if search.acts else "orphans.found"
        for effect in effects:
            log.info(event, rule=effect.rule, count=effect.count, size_bytes=effect.size_bytes)

    async def _walk_jobs(self, search: Search, part: Part, prefix: str) -> None:
        """Walk through what is kept of jobs, whole jobs at a time."""
        position = await self._database.run(partial(searches.read_position, place=prefix))
        after = (folder_of(position), _ANY_ATTEMPT) if is_id(folder_of(position)) else _FIRST
        listing, is_end = Listing(self._objects, prefix, position), False
        rest: list[ObjectInfo] = []
        while not is_end:
            piece = await self._calls.run(listing.take, PIECE)
            is_end = len(piece) < PIECE
            whole, rest = split_last(rest + piece, is_end=is_end)
            await self._clear_jobs(search, whole)
            last = last_of_a_job(whole)
            if last is None and not is_end:
                continue
            until = _HIGHEST_ID if is_end or last is None else folder_of(last.key)
            await self._losses.find(search, part, whole, after=after, until_job=until)
            after = (until, _ANY_ATTEMPT)
            await self._go_on(prefix, "" if is_end or last is None else last.key)

    async def _walk_trees(self, search: Search) -> None:
        prefix, is_end = "trees/", False
        position = await self._database.run(partial(searches.read_position, place=prefix))
        listing = Listing(self._objects, prefix, position)
        while not is_end:
            piece = await self._calls.run(listing.take, PIECE)
            is_end = len(piece) < PIECE
            await self._clear_trees(search, piece)
            await self._go_on(prefix, "" if is_end else piece[-1].key)

    async def _go_on(self, place: str, position: str) -> None:
        async def save(tx: Transaction) -> None:
            await searches.save_position(tx, place, position)
            await chores.set_turn(tx, TURN, due_in=TURN_HELD)

        await self._database.run(save)
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _clear_jobs(self, search: Search, infos: Sequence[ObjectInfo]) -> None:
        """Remove those objects that no attempt owns."""
        spared_from = search.began - SAFE_AGE
        found = [
            _Found(info, key)
            for info in infos
            if (key := read_job_key(info.key)) is not None and created_at(key.job_id) < spared_from
        ]
        if not found:
            return
        job_ids = {entry.key.job_id for entry in found}
        owners, deleted = await self._database.run(
            partial(searches.find_owners, job_ids=job_ids, safe_age=SAFE_AGE)
        )
        orphans = [
            entry
            for entry in found
            if entry.key.job_id not in deleted
            and _is_orphan(entry.key, owners.get((entry.key.job_id, entry.key.attempt)))
        ]
        await self._remove(search, orphans, lambda key: _Belonging(job_id=key.job_id))

    async def _clear_trees(self, search: Search, infos: Sequence[ObjectInfo]) -> None:
        """Remove those contents that have no row, once they were seen so twice."""
        found = [_Found(info, key) for info in infos if (key := read_tree_key(info.key)) is not None]
        if not found:
            return
        blob_ids = {entry.key.blob_id for entry in found}
        known = await self._database.run(partial(searches.find_blobs, blob_ids=blob_ids))
        orphans = [entry for entry in found if entry.key.blob_id not in known]
        if orphans and search.acts:
            keys = [entry.info.key for entry in orphans]
            again = set(await self._database.run(partial(searches.suspect, keys=keys, safe_age=SAFE_AGE)))
            orphans = [entry for entry in orphans if entry.info.key in again]
        await self._remove(search, orphans, lambda key: _Belonging(user_id=key.user_id))

    async def _remove(
        self, search: Search, orphans: Sequence[_Found[K]], belonging: Callable[[K], _Belonging]
    ) -> None:
        """Owe the deletion of objects and record it, in one transaction."""
        search.tally.add("orphan_objects", [entry.info.size_bytes for entry in orphans])
        if not orphans or not search.acts:
            return
        groups: dict[_Belonging, list[ObjectInfo]] = defaultdict(list)
        for entry in orphans:
            groups[belonging(entry.key)].append(entry.info)
        told = [_removal(owner, infos, search.began) for owner, infos in groups.items()]
        keys = [entry.info.key for entry in orphans]

        async def remove(tx: Transaction) -> None:
            await removals.record_orphans(tx, told, actor=ACTOR)
            await searches.forget_suspects(tx, keys)
            dedupe = f"orphans:{search.began.isoformat()}:{keys[0]}"
            await outbox.add_entry(tx, outbox.PURGE_OBJECTS, dedupe, outbox.purge_payload(keys=keys))

        await self._database.run(remove)
        size = sum(removal.size_bytes for removal in told)
        self._metrics.removed(RemovedThing.OBJECTS, RemovalCause.ORPHAN, len(orphans), size)


def _is_orphan(key: JobKey, owner: Owner | None) -> bool:
    if owner is None:
        return True
    if key.role == "artifact":
        return owner.are_artifacts_removed
    return owner.is_log_removed or (key.role == "chunk" and owner.is_long_sealed)


def _removal(owner: _Belonging, infos: Sequence[ObjectInfo], at: datetime) -> Removal:
    return Removal(
        removal_id=0,
        removed_at=at,
        what=RemovedThing.OBJECTS,
        why=RemovalCause.ORPHAN,
        actor=ACTOR,
        size_bytes=sum(info.size_bytes for info in infos),
        job_id=owner.job_id,
        user_id=owner.user_id,
        objects=len(infos),
        object_key=infos[0].key,
    )
