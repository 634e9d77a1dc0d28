"""After any order of ends, removals and crashes, objects and rows agree and the limits in bytes hold.

`RETENTION_EXAMPLES` sets the number of examples. A failing one is printed with its steps.
"""

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from kept_things import DAY, Shelf, listed, make_store

from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.errors import Gone, ReactorcideError, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.objects.port import ObjectStore
from reactorcide.store.database import Database

EXAMPLES = int(os.environ.get("RETENTION_EXAMPLES", "20"))
LOG_LIMIT, ARTIFACT_LIMIT = 50, 40
RULES = {"log_bytes": LOG_LIMIT, "artifact_bytes": ARTIFACT_LIMIT, "jobs": 20 * DAY, "logs": 12 * DAY}
_CLEAN = """
    TRUNCATE jobs, attempts, job_events, outbox, removals, removal_rounds, searches, orphan_suspects,
             object_store_mark, chores, idempotency, workers, api_tokens, users CASCADE
"""
_CALLS = ("put", "delete", "list", "size", "read")


class Crash(Exception):
    """The coordinator died here."""


@dataclass(frozen=True)
class Step:
    """Something that happens; ``number`` chooses a job, a size or a place to crash."""

    what: str
    number: int = 0
    operation: str = "put"

    def __str__(self) -> str:
        return f"{self.what}({self.number}, {self.operation})"


@dataclass
class Made:
    """A job that was made, and what it brought."""

    claim: Claim
    log: bytes
    files: dict[str, bytes]
    is_deleted: bool = False


class World:
    """One shelf, what was put on it, and a coordinator that may die at any call of the store."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.made: list[Made] = []
        self._bytes = (bytes([65 + number % 26]) for number in itertools.count())

    async def take(self, step: Step) -> None:
        with suppress(Crash, Unavailable):
            await getattr(self, step.what)(step)

    async def end_job(self, step: Step) -> None:
        log = next(self._bytes) * (step.number % 40)
        files = {f"f{place}": next(self._bytes) * (step.number % 23) for place in range(step.number % 3)}
        claim = await self.shelf.start()
        made = Made(claim, b"", {})
        self.made.append(made)
        await self.shelf.write(claim, log)
        made.log = log
        await self.shelf.finish(claim, log, artifacts=len(files))
        if files:
            await self.shelf.leave(claim, files)
            made.files = files

    async def bring_half(self, step: Step) -> None:
        claim = await self.shelf.start()
        self.made.append(Made(claim, b"", {}))
        await self.shelf.finish(claim, artifacts=2)
        content = next(self._bytes) * 7
        digest = hashlib.sha256(content).hexdigest()
        await self.shelf.artifacts.put(claim, digest, len(content), iter([content]))

    async def pass_days(self, step: Step) -> None:
        for made in self.made:
            await self.shelf.age(made.claim.job_id, (1 + step.number % 9) * DAY)
        for column in (
            "removals SET removed_at = removed_at",
            "orphan_suspects SET first_seen_at = first_seen_at",
        ):
            await self.shelf.execute(f"UPDATE {column} - interval '3 days'")

    async def seal(self, step: Step) -> None:
        await self.shelf.logs.seal_due()

    async def purge(self, step: Step) -> None:
        await self.shelf.purge()

    async def retain(self, step: Step) -> None:
        await self.shelf.retention(**RULES).run_round()

    async def search(self, step: Step) -> None:
        await self.shelf.search()

    async def delete(self, step: Step) -> None:
        if self.made:
            job_id = self.made[step.number % len(self.made)].claim.job_id
            with suppress(ReactorcideError):
                await self.shelf.desk.jobs.delete(self.shelf.admin, job_id)

    async def go_away(self, step: Step) -> None:
        self.shelf.store.is_down = True

    async def come_back(self, step: Step) -> None:
        self.shelf.store.is_down = False

    async def crash(self, step: Step) -> None:
        """Die at one of the next calls of this kind."""
        left = itertools.count(step.number % 4, -1)

        def die(operation: str, _key: str) -> None:
            if operation == step.operation and next(left) == 0:
                self.shelf.store.on_call = lambda _operation, _key: None
                raise Crash

        self.shelf.store.on_call = die

    async def heal(self) -> None:
        """Let everything work again, and do what is due."""
        self.shelf.store.is_down = False
        self.shelf.store.on_call = lambda _operation, _key: None
        for _ in range(2):
            await self.pass_days(Step("pass_days", 2))
            await self.shelf.settle()
            await self.retain(Step("retain"))
            await self.shelf.purge()
            await self.shelf.search()

    async def check(self) -> None:
        rows = {
            (str(row["job_id"]), row["attempt"]): row
            for row in await self.shelf.desk.rows("SELECT a.* FROM attempts a")
        }
        self._check_objects(rows)
        record = await self.shelf.record()
        kept_logs = kept_artifacts = 0
        for made in self.made:
            row = rows.get((made.claim.job_id, 1))
            entries = [what for what, _ in await self.shelf.record(made.claim.job_id)]
            assert entries.count("job") == (row is None), (made, entries)
            if row is None:
                continue
            assert entries.count("log") == (row["log_removed_at"] is not None)
            assert entries.count("artifacts") == (row["artifacts_removed_at"] is not None)
            kept_logs += await self._check_log(made, removed=row["log_removed_at"] is not None)
            kept_artifacts += await self._check_artifacts(
                made, removed=row["artifacts_removed_at"] is not None
            )
        assert ("log", "lost") not in record
        assert ("artifacts", "lost") not in record
        assert kept_logs <= LOG_LIMIT
        assert kept_artifacts <= ARTIFACT_LIMIT
        assert await self.shelf.desk.rows("SELECT 1 FROM outbox WHERE done_at IS NULL") == []

    def _check_objects(self, rows: dict[tuple[str, object], dict[str, object]]) -> None:
        for key in self.shelf.stored():
            folder, job_id, *_ = key.split("/")
            row = rows[job_id, 1]
            assert row["log_removed_at" if folder == "logs" else "artifacts_removed_at"] is None, key

    async def _check_log(self, made: Made, *, removed: bool) -> int:
        if removed:
            with pytest.raises(Gone):
                await self.shelf.read_log(made.claim.job_id)
            return 0
        assert await self.shelf.read_log(made.claim.job_id) == made.log
        return len(made.log)

    async def _check_artifacts(self, made: Made, *, removed: bool) -> int:
        found = await self.shelf.artifacts.find(made.claim.job_id)
        assert (found.loss is not None) == removed
        assert list(found.artifacts) == ([] if removed else listed(made.files))
        for artifact in found.artifacts:
            data = b"".join([piece async for piece in self.shelf.artifacts.read(found, artifact)])
            assert data == made.files[artifact.path]
        return sum({artifact.sha256: artifact.size_bytes for artifact in found.artifacts}.values())


STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.just("end_job"), st.integers(0, 200)),
        st.builds(Step, st.just("end_job"), st.integers(0, 200)),
        st.builds(Step, st.just("crash"), st.integers(0, 3), st.sampled_from(_CALLS)),
        st.builds(Step, st.just("pass_days"), st.integers(0, 8)),
        st.builds(Step, st.just("delete"), st.integers(0, 20)),
        st.builds(
            Step,
            st.sampled_from(["seal", "purge", "retain", "search", "bring_half", "go_away", "come_back"]),
        ),
    ),
    min_size=4,
    max_size=24,
)


@pytest.fixture
def run(dsn: str) -> Iterator[Callable[[list[Step], ObjectStore], None]]:
    """Run steps on an empty database and an empty store, and check what is there in the end."""
    with asyncio.Runner() as runner:
        database = runner.run(Database.open(dsn, size=3))

        async def run_steps(steps: list[Step], objects: ObjectStore) -> None:
            async with database.transaction() as tx:
                await tx.execute(_CLEAN.encode())
            people = [await make_person(database, role) for role in (Role.USER, Role.ADMIN)]
            shelf = Shelf(database, *people, objects)
            world = World(shelf)
            try:
                for step in steps:
                    await world.take(step)
                await world.heal()
                await world.check()
            finally:
                await shelf.close()

        yield lambda steps, objects: runner.run(run_steps(steps, objects))
        runner.run(database.close())


async def make_person(database: Database, role: Role) -> Principal:
    user_id = hashlib.md5(role.encode()).hexdigest()
    user_id = "-".join((user_id[:8], user_id[8:12], user_id[12:16], user_id[16:20], user_id[20:]))
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO users (user_id, username, roles) VALUES (%s, %s, %s)", [user_id, role, [role]]
        )
    return Principal(user_id, user_id, TokenKind.USER, frozenset({role}))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["memory", "filesystem"])
def test_objects_and_rows_agree_after_any_order_of_steps(
    run: Callable[[list[Step], ObjectStore], None], tmp_path: Path, kind: str
) -> None:
    folders = itertools.count()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS)
    def hold(steps: list[Step]) -> None:
        note(" ".join(map(str, steps)))
        run(steps, make_store(kind, tmp_path / str(next(folders))))

    hold()
