"""Finding logs and artifacts that rows name and the object store no longer has.

What a listing does not show is asked for by its key before anything is said of it. A loss is marked in the
row, so that readers are told of it, recorded as any removal is, and logged once as an error.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import msgspec
import structlog

from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.removals import RemovalCause, RemovedThing
from reactorcide.objects.port import ObjectInfo, ObjectNotFound, ObjectStore, StoreUnavailable
from reactorcide.objects.threads import StoreThreads
from reactorcide.observability.metrics import Metrics
from reactorcide.services.log_chunks import sealed_key
from reactorcide.services.store_marks import StoreMarks
from reactorcide.services.stored_keys import read_job_key
from reactorcide.store import removals, searches
from reactorcide.store.database import Database, Transaction
from reactorcide.store.retention import RuleEffect
from reactorcide.store.searches import NamedPart, Part

ACTOR = "system:orphans"
_NAMED_AT_ONCE = 1_000
_SHOWN_PATHS = 20

log = structlog.get_logger()


@dataclass
class SearchTally:
    """What a search found, by the names of what it looks for."""

    _count: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _size_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, rule: str, sizes: Iterable[int]) -> None:
        """Count what has these sizes."""
        for size in sizes:
            self._count[rule] += 1
            self._size_bytes[rule] += size

    def effects(self) -> list[RuleEffect]:
        """Return all that was counted."""
        return [RuleEffect(rule, count, self._size_bytes[rule]) for rule, count in self._count.items()]


@dataclass(frozen=True)
class Search:
    """One search under way."""

    acts: bool
    """Else it only tells."""
    began: datetime
    """By the database's clock: what the rows say since may not be in a listing yet."""
    tally: SearchTally = field(default_factory=SearchTally)


class LossFinder:
    """Compares what rows name with what a listing shows."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        marks: StoreMarks,
        *,
        metrics: Metrics,
        calls: StoreThreads,
    ) -> None:
        self._calls = calls
        self._database = database
        self._objects = objects
        self._marks = marks
        self._metrics = metrics

    async def find(
        self,
        search: Search,
        part: Part,
        infos: Sequence[ObjectInfo],
        *,
        after: tuple[str, int],
        until_job: str,
    ) -> None:
        """Mark what is lost of the attempts behind ``after``, up to the last of ``until_job``.

        Args:
            infos: all objects of ``part`` that a listing shows of these jobs.

        Raises:
            Unavailable: the database or the object store cannot be reached.
        """
        listed, sizes = {info.key for info in infos}, _content_sizes(infos)
        while named := await self._database.run(
            partial(
                searches.list_named,
                part=part,
                after=after,
                until_job=until_job,
                before=search.began,
                limit=_NAMED_AT_ONCE,
            )
        ):
            for entry in named:
                if _named_key(part, entry) not in listed:
                    await self._settle(search, part, entry)
                elif part == "artifacts" and sizes[entry.job_id, entry.attempt] < entry.size_bytes:
                    await self._settle_files(search, entry)
            after = (named[-1].job_id, named[-1].attempt)

    async def _settle(self, search: Search, part: Part, named: NamedPart) -> None:
        if not await self._calls.run(self._is_gone, _named_key(part, named)):
            return
        search.tally.add("lost_logs" if part == "log" else "lost_artifacts", [named.size_bytes])
        if not search.acts:
            return
        await self._check_store()
        if await self._database.run(partial(searches.lose_part, part=part, named=named, actor=ACTOR)):
            self._metrics.removed(RemovedThing(part), RemovalCause.LOST, 1, named.size_bytes)
            log.error(f"{part}.lost", job_id=named.job_id, attempt=named.attempt, size_bytes=named.size_bytes)

    async def _settle_files(self, search: Search, named: NamedPart) -> None:
        """Tell once of artifacts that are gone though their list is there."""
        try:
            kept, lost = await self._calls.run(self._check_files, named)
        except ObjectNotFound:
            return
        left, gone = sum(kept.values()), sum(artifact.size_bytes for artifact in lost.values())
        search.tally.add("lost_artifacts", [gone] if lost else [])
        if not search.acts:
            return
        await self._check_store()

        async def settle(tx: Transaction) -> bool:
            if not await searches.shrink_artifacts(tx, named, left):
                return False
            if lost:
                await removals.record_lost_files(
                    tx,
                    named.job_id,
                    named.attempt,
                    size_bytes=gone,
                    objects=len(lost),
                    object_key=f"{_artifact_folder(named)}{min(lost)}",
                    actor=ACTOR,
                )
            return True

        if await self._database.run(settle) and lost:
            self._metrics.removed(RemovedThing.OBJECTS, RemovalCause.LOST, len(lost), gone)
            paths = [artifact.path for artifact in lost.values()][:_SHOWN_PATHS]
            log.error("artifacts.lost_in_part", job_id=named.job_id, attempt=named.attempt, paths=paths)

    async def _check_store(self) -> None:
        """Make sure that this is still our store: one that has just gone away may look empty."""
        if await self._marks.check() is None:
            raise StoreUnavailable("it is not the one that it was")

    def _check_files(self, named: NamedPart) -> tuple[dict[str, int], dict[str, Artifact]]:
        """Return the sizes of contents that are there, and the artifacts whose contents are not."""
        folder = _artifact_folder(named)
        listed = msgspec.json.decode(self._objects.read(f"{folder}manifest.json"), type=tuple[Artifact, ...])
        kept: dict[str, int] = {}
        lost: dict[str, Artifact] = {}
        for artifact in listed:
            if self._is_gone(f"{folder}{artifact.sha256}"):
                lost[artifact.sha256] = artifact
            else:
                kept[artifact.sha256] = artifact.size_bytes
        return kept, lost

    def _is_gone(self, key: str) -> bool:
        try:
            self._objects.size(key)
        except ObjectNotFound:
            return True
        return False


def _named_key(part: Part, named: NamedPart) -> str:
    if part == "log":
        return sealed_key(named.job_id, named.attempt)
    return f"{_artifact_folder(named)}manifest.json"


def _artifact_folder(named: NamedPart) -> str:
    return f"artifacts/{named.job_id}/{named.attempt}/"


def _content_sizes(infos: Sequence[ObjectInfo]) -> dict[tuple[str, int], int]:
    """Return the bytes of contents of artifacts by attempt."""
    sizes: dict[tuple[str, int], int] = defaultdict(int)
    for info in infos:
        key = read_job_key(info.key)
        if key is not None and key.role == "artifact" and not info.key.endswith("/manifest.json"):
            sizes[key.job_id, key.attempt] += info.size_bytes
    return sizes
