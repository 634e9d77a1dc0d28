"""Plays the history of `crash_points_case` again and again, with one fault at a time, and tells what held."""
# ruff: noqa: T201 - the table is what the programs are for

import argparse
import asyncio
import os
import random
import re
import shutil
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from crash_points_case import Case
from crash_points_hooks import Plan
from crash_points_nursery import Nursery
from psycopg import sql
from psycopg.conninfo import make_conninfo

from reactorcide.observability.logging import configure_logging
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.migrate import migrate

INTERESTING = (
    "submit",
    "cancel",
    "claim",
    "start",
    "append",
    "finish",
    "seal",
    "purge",
    "reap",
    "register",
    "answer",
)
MOST_OF_ONE_PLACE = 4
"""A place that is passed again and again is looked at so often."""
MOST_OF_A_DULL_PLACE = 1
AT_ONCE = 5
SEED = "REACTORCIDE_TEST_SEED"
"""A variable: the seed of a sample that is to be tried again."""


@dataclass(frozen=True)
class Verdict:
    """What a run with a fault at one point came to."""

    point: str
    fault: str
    seconds: float
    was_reached: bool
    trouble: str | None

    @property
    def word(self) -> str:
        return "BROKEN" if self.trouble else "holds" if self.was_reached else "not reached"


def is_long() -> bool:
    """Tell whether tests shall try every point."""
    return bool(os.environ.get("REACTORCIDE_LONG_TESTS"))


def path_of(point: str) -> str:
    """Return the path of interest of a point, e.g. `finish`."""
    return point.split("[", 1)[1].split("]", 1)[0]


def kind_of(point: str) -> str:
    """Return the kind of a point, e.g. `fsync:before`."""
    return point.split()[1]


def worth_it(point: str) -> bool:
    """Tell whether a point is tried: of places that are passed often only the first passings are."""
    most = MOST_OF_ONE_PLACE if path_of(point) in INTERESTING else MOST_OF_A_DULL_PLACE
    return int(point.rsplit("#", 1)[1]) <= most


def sample(points: Sequence[str], size: int, seed: int) -> list[str]:
    """Return ``size`` points that are spread over kinds and paths."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for point in points:
        groups[point.split()[0], kind_of(point), path_of(point)].append(point)
    chance = random.Random(seed)
    order = sorted(groups)
    chance.shuffle(order)
    order.sort(key=lambda group: group[2] not in INTERESTING)
    chosen: list[str] = []
    while len(chosen) < min(size, len(points)):
        for group in order:
            if groups[group] and len(chosen) < size:
                chosen.append(groups[group].pop(chance.randrange(len(groups[group]))))
    return chosen


def combine(points: Sequence[str], faults: Sequence[tuple[str, float]]) -> list[tuple[str, str, float]]:
    """Return every point with every fault; a server that cannot commit has one way not to."""
    return [
        (point, *fault) for point in points for fault in faults if fault[0] != "EIO" or "commit:" not in point
    ]


class Series:
    """Runs of the history in a folder, each on a database of its own."""

    def __init__(
        self, nursery: Nursery, folder: Path, make_dsn: Callable[[], str], *, is_remote: bool
    ) -> None:
        self._nursery = nursery
        self._folder = folder
        self._make_dsn = make_dsn
        self._is_remote = is_remote
        self._number = 0

    async def count_points(self, fault: str = "kill") -> list[str]:
        """Play the history without a fault and return the points it passed. Raises Broken."""
        case = self._make_case(None, fault, 0)
        await case.run()
        passed = set(Path(case.plan.trace).read_text().splitlines())
        if fault != "kill":
            passed = {point for point in passed if kind_of(point).endswith(":before")}
        return sorted(filter(worth_it, passed))

    async def try_point(self, point: str, fault: str = "kill", seconds: float = 0) -> Verdict:
        """Play the history with a fault at ``point``."""
        case = self._make_case(point, fault, seconds)
        began, trouble = time.monotonic(), None
        try:
            async with asyncio.timeout(180):
                await case.run()
        except Exception as error:
            trouble = f"{type(error).__name__}: {error} (see {case.folder})"
        was_reached = Path(case.plan.marker).exists()
        if trouble is None:
            await asyncio.to_thread(shutil.rmtree, case.folder)
        return Verdict(point, fault, time.monotonic() - began, was_reached, trouble)

    async def try_points(
        self,
        points: Sequence[tuple[str, str, float]],
        tell: Callable[[Verdict], None],
        at_once: int = AT_ONCE,
    ) -> list[Verdict]:
        """Play the history once for each of ``points``, which are a point, a fault and its seconds."""
        turns = asyncio.Semaphore(at_once)

        async def turn(point: str, fault: str, seconds: float) -> Verdict:
            async with turns:
                verdict = await self.try_point(point, fault, seconds)
                if verdict.word == "not reached":
                    # Which timing decides; once more, before it is told so.
                    verdict = await self.try_point(point, fault, seconds)
                tell(verdict)
                return verdict

        return await asyncio.gather(*(turn(*given) for given in points))

    def _make_case(self, target: str | None, fault: str, seconds: float) -> Case:
        self._number += 1
        folder = self._folder / f"case-{self._number}"
        folder.mkdir(mode=0o755)
        plan = Plan(
            process="",
            trace=str(folder / "trace"),
            marker=str(folder / "happened"),
            target=target,
            fault=fault,
            seconds=seconds,
        )
        return Case(self._nursery, folder, self._make_dsn(), plan, is_remote=self._is_remote)


@contextmanager
def own_databases(folder: Path) -> Iterator[Callable[[], str]]:
    """Start a PostgreSQL, and yield what makes a migrated database on it."""
    server = EmbeddedPostgres(folder / "pg", is_durable=False)
    asyncio.run(server.start())
    try:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_of_cases")
            asyncio.run(migrate(make_conninfo(server.dsn, dbname="template_of_cases")))

            def make() -> str:
                name = f"case_{uuid.uuid4().hex}"
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE template_of_cases STRATEGY FILE_COPY").format(
                        sql.Identifier(name)
                    )
                )
                return make_conninfo(server.dsn, dbname=name)

            yield make
    finally:
        asyncio.run(server.stop())


def print_verdict(verdict: Verdict) -> None:
    """Print a line of the table."""
    print(f"{verdict.word:11} {verdict.fault:6} {verdict.seconds:5.1f} s  {verdict.point}", flush=True)
    if verdict.trouble:
        print(f"            {verdict.trouble}", flush=True)


def print_summary(verdicts: Sequence[Verdict]) -> None:
    """Print how many points of each kind and path there were, and what they came to."""
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        table[path_of(verdict.point), kind_of(verdict.point)][verdict.word] += 1
    for (path, kind), words in sorted(table.items()):
        print(f"{path:12} {kind:14} " + ", ".join(f"{n} {word}" for word, n in sorted(words.items())))
    print(dict(Counter(verdict.word for verdict in verdicts)))


@asynccontextmanager
async def open_series(folder: Path, make_dsn: Callable[[], str], *, is_remote: bool) -> AsyncIterator[Series]:
    """Yield a series whose processes end with the block; its worker works over HTTP if it ``is_remote``."""
    nursery = Nursery()
    await nursery.start()
    try:
        yield Series(nursery, folder, make_dsn, is_remote=is_remote)
    finally:
        await nursery.close()


@dataclass(frozen=True)
class Program:
    """A command line over points and faults; ``faults`` are names and for how many seconds they last."""

    description: str
    faults: Sequence[tuple[str, float]]
    size: int

    def run(self) -> int:
        """Do what the command line asks for; 1: something does not hold."""
        parser = argparse.ArgumentParser(description=self.description)
        parser.add_argument("--all", action="store_true", help="every point")
        parser.add_argument("--count", action="store_true", help="only list the points")
        parser.add_argument("--remote", action="store_true", help="with a worker that works over HTTP")
        parser.add_argument("--point", action="append", help="this point; repeatable")
        parser.add_argument("--match", default="", help="only points that this regular expression finds")
        parser.add_argument("--seed", type=int, default=random.randrange(2**32))
        parser.add_argument("--size", type=int, default=self.size, help="of the sample")
        parser.add_argument("--at-once", type=int, default=AT_ONCE)
        asked = parser.parse_args()
        configure_logging("warning", "text")
        folder = Path(tempfile.mkdtemp(prefix="crash-points-"))
        folder.chmod(0o711)
        with own_databases(folder) as make_dsn:
            code = asyncio.run(self._run(asked, folder, make_dsn))
        if code == 0:
            shutil.rmtree(folder)
        return code

    async def _run(self, asked: argparse.Namespace, folder: Path, make_dsn: Callable[[], str]) -> int:
        began = time.monotonic()
        async with open_series(folder, make_dsn, is_remote=asked.remote) as series:
            points = asked.point or await series.count_points(self.faults[0][0])
            points = [point for point in points if re.search(asked.match, point)]
            print(f"seed {asked.seed}, {len(points)} points, {time.monotonic() - began:.1f} s", flush=True)
            if asked.count:
                print("\n".join(points))
                return 0
            if not (asked.all or asked.point or asked.match):
                points = sample(points, asked.size, asked.seed)
            verdicts = await series.try_points(combine(points, self.faults), print_verdict, asked.at_once)
        print_summary(verdicts)
        print(f"{time.monotonic() - began:.0f} s")
        return int(any(verdict.trouble for verdict in verdicts))
