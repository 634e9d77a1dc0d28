"""How long it takes until a loss is noticed, a cancel obeyed, a timeout kept: C8, C9 and C10, measured.

Everything is real: a cluster of processes, workers that are killed with -9, jobs in sandboxes. Ends are taken
from the rows, in the database's time, which on one host is also ours.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2

from reactorcide.domain.workers import WorkerIdentity
from reactorcide.worker.gateway.http import HttpGateway
from robustness.cluster import Cluster, ClusterPlan
from robustness.cluster_profile import TEST, Profile

QUEUE = "reactorcide-jobs"
NOBODYS = "nobodys"
GHOSTS = "ghosts"
OBEDIENT = "sleep 600"
DEAF = "trap '' TERM; while :; do sleep 0.2; done"
TIMEOUTS = (1, 3, 10)
PATIENCE_SECONDS = 120.0
"""Beyond its limit; who has not ended by then never will."""


@dataclass(frozen=True)
class Size:
    """How often each thing is tried; 0: not at all."""

    kills: int
    cancels: int
    timeouts: int
    workers: int = 10
    slots: int = 3
    timeout_seconds: tuple[int, ...] = TIMEOUTS


@dataclass(frozen=True)
class Figure:
    """How long something took each time, and how long it may take."""

    goal: str
    what: str
    limit: float
    seconds: Sequence[float]
    is_p99: bool = False
    """Whether the limit is for 99 of 100; else it is for all."""
    least: float = 0.0

    def quantile(self, share: float) -> float:
        """Return the time within which so great a share was done."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def holds(self, allowance: float = 0.0) -> bool:
        """Tell whether the limit was kept, with so many seconds more for a busy machine."""
        longest = self.quantile(0.99) if self.is_p99 else max(self.seconds)
        return longest <= self.limit + allowance and min(self.seconds) >= self.least

    def __str__(self) -> str:
        kind = "p99" if self.is_p99 else "all"
        verdict = "kept" if self.holds() else "BROKEN"
        times = f"{self.quantile(0.5):7.2f} {self.quantile(0.99):7.2f} {max(self.seconds):7.2f}"
        limit = f"{kind} <= {self.limit:5.1f}  {verdict}"
        return f"{self.goal:<4} {self.what:<46} {len(self.seconds):>5} {times}  {limit}"


HEADING = f"{'':<4} {'seconds from … to …':<46} {'n':>5} {'p50':>7} {'p99':>7} {'max':>7}  limit"


async def measure(
    root: Path,
    size: Size,
    seed: int,
    *,
    profile: Profile = TEST,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Figure]:
    """Measure all of it on a cluster in ``root``; ``tell`` hears each figure as soon as it is known."""
    plan = ClusterPlan(root, profile, coordinators=1, workers=size.workers, slots=size.slots)
    figures: list[Figure] = []
    async with (
        Cluster(plan) as cluster,
        httpx2.AsyncClient(
            base_url=cluster.urls[0],
            headers={"Authorization": f"Bearer {cluster.token}"},
            timeout=30,
            trust_env=False,
        ) as client,
    ):
        bench = _Bench(cluster, client, profile, random.Random(seed))
        parts = (
            (bench.time_timeouts, size.timeouts),
            (bench.time_cancels, size.cancels),
            (bench.time_unstarted, size.kills),
            (bench.time_kills, size.kills),
        )
        for part, count in parts:
            for figure in await part(size) if count else ():
                figures.append(figure)
                tell(str(figure))
    return figures


class _Bench:
    """A cluster, and a client of it."""

    def __init__(
        self, cluster: Cluster, client: httpx2.AsyncClient, profile: Profile, chance: random.Random
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._profile = profile
        self._chance = chance

    async def time_timeouts(self, size: Size) -> list[Figure]:
        """C10: from the start to the end of jobs that take too long, the half of them deaf to TERM."""
        jobs: dict[int, list[str]] = {seconds: [] for seconds in size.timeout_seconds}
        for number in range(size.timeouts):
            seconds = size.timeout_seconds[number % len(size.timeout_seconds)]
            command = (OBEDIENT, DEAF)[number // len(size.timeout_seconds) % 2]
            jobs[seconds].append(await self._submit(command, timeout_seconds=seconds))
        ids = [job_id for some in jobs.values() for job_id in some]
        waves = 1 + len(ids) // (size.workers * size.slots)
        await self._until_ended(ids, waves * (max(jobs) + self._profile.grace + 5))
        figures = []
        for seconds, some in jobs.items():
            rows = await self._rows(
                "SELECT status, extract(epoch FROM completed_at - started_at)::float8 AS took"
                " FROM jobs WHERE job_id = ANY(%s)",
                some,
            )
            _require({row["status"] for row in rows} == {"timeout"}, f"other ends than timeout: {rows}")
            limit = seconds + self._profile.grace + 2
            took = [row["took"] for row in rows]
            figures.append(Figure("C10", f"start to end, timeout {seconds}", limit, took, least=seconds))
        return figures

    async def time_cancels(self, size: Size) -> list[Figure]:
        """C9: from the request to the end of the job: a third waits, a sixth is claimed, the half runs."""
        waiting, claimed = max(1, size.cancels // 3), max(1, size.cancels // 6)
        in_queue = [await self._submit("true", queue_name=NOBODYS) for _ in range(waiting)]
        # Ten a second: it is the time of one that is measured, not how many can be done.
        asked = await self._cancel(in_queue, spread=waiting / 10)
        figures = [Figure("C9", "cancel to end, queued", 1, await self._ends(asked, 1))]
        held = await self._haunt(claimed)
        asked = await self._cancel(held, spread=self._profile.start_deadline / 2)
        limit = self._profile.start_deadline + self._profile.reap + 2
        figures.append(Figure("C9", "cancel to end, claimed", limit, await self._ends(asked, limit)))
        limit = self._profile.cancel_bound
        took: dict[str, list[float]] = {OBEDIENT: [], DEAF: []}
        left = max(2, size.cancels - waiting - claimed)
        while left > 0:
            batch = min(left, size.workers * size.slots)
            commands = [(OBEDIENT, DEAF)[(left + number) % 2] for number in range(batch)]
            jobs = {await self._submit(command): command for command in commands}
            await self._until_running(list(jobs))
            asked = await self._cancel(list(jobs), spread=self._profile.heartbeat)
            for job_id, seconds in zip(asked, await self._ends(asked, limit), strict=True):
                took[jobs[job_id]].append(seconds)
            left -= batch
        figures.append(Figure("C9", "cancel to end, running", limit, took[OBEDIENT], is_p99=True))
        figures.append(Figure("C9", "cancel to end, running, deaf to TERM", limit, took[DEAF], is_p99=True))
        return figures

    async def time_unstarted(self, size: Size) -> list[Figure]:
        """C8: from the claim of a worker that is never heard of again to the return of its job."""
        ids = await self._haunt(size.kills)
        limit = self._profile.start_deadline + self._profile.reap + 2
        statement = (
            "SELECT extract(epoch FROM ended_at - claimed_at)::float8 AS took FROM attempts"
            " WHERE job_id = ANY(%s) AND attempt = 1 AND ended_at IS NOT NULL"
        )
        rows = await self._until_found(statement, ids, limit)
        await self._cancel(ids, spread=0)
        return [Figure("C8", "claim to return, never started", limit, [row["took"] for row in rows])]

    async def time_kills(self, size: Size) -> list[Figure]:
        """C8: from the kill of a worker to the return of jobs that may run again, and the end of others."""
        back: list[float] = []
        gone: list[float] = []
        workers = {part.name: part for part in self._cluster.workers}
        left = size.kills
        while left > 0:
            doomed = self._chance.sample(sorted(workers), min(left, len(workers)))
            left -= len(doomed)
            count = len(workers) * size.slots
            jobs = {await self._submit(OBEDIENT, retry_on_lost=n % 2): n % 2 for n in range(count)}
            await self._until_running(list(jobs))
            killed_at: dict[str, float] = {}
            for name in doomed:
                killed_at[name] = time.time()
                await workers[name].kill()
                # The reaper is met at any moment of its round.
                await asyncio.sleep(self._chance.uniform(0, self._profile.reap / len(doomed)))
            held = {
                row["job_id"]: row["worker_name"]
                for row in await self._rows(
                    "SELECT job_id, worker_name FROM jobs WHERE job_id = ANY(%s)", list(jobs)
                )
                if row["worker_name"] in killed_at
            }
            for is_retried, found, limit in ((1, back, self._requeue_limit), (0, gone, self._profile.stuck)):
                ids = [job_id for job_id in held if jobs[job_id] == is_retried]
                rows = await self._until_found(_FIRST_LOSS, ids, limit)
                found += [row["at"] - killed_at[held[row["job_id"]]] for row in rows]
            await self._cancel(list(jobs), spread=0)
            for name in doomed:
                workers[name].launch()
            await self._until_ended(list(jobs), self._profile.cancel_bound)
        return [
            Figure("C8", "kill to return, retry_on_lost", self._requeue_limit, back, is_p99=True),
            Figure("C8", "kill to end, at most once", self._profile.stuck, gone),
        ]

    @property
    def _requeue_limit(self) -> float:
        return self._profile.lease + self._profile.reap + 2

    async def _submit(self, command: str, **fields: Any) -> str:
        body = {"name": "timed", "source_type": "none", "job_command": command, "queue_name": QUEUE}
        answer = await self._client.post("/api/v1/jobs", json=body | fields)
        _require(answer.status_code == 201, answer.text)
        return str(answer.json()["job_id"])

    async def _cancel(self, jobs: Sequence[str], *, spread: float) -> dict[str, float]:
        """Cancel jobs at random moments of ``spread`` seconds; return when each was asked for."""
        asked: dict[str, float] = {}

        async def cancel(job_id: str) -> None:
            await asyncio.sleep(self._chance.uniform(0, spread))
            asked[job_id] = time.time()
            answer = await self._client.put(f"/api/v1/jobs/{job_id}/cancel")
            _require(answer.status_code in (200, 202, 409), answer.text)

        await asyncio.gather(*map(cancel, jobs))
        return asked

    async def _haunt(self, count: int) -> list[str]:
        """Have so many jobs claimed by workers that are never heard of again; return the jobs."""
        jobs = {await self._submit("true", queue_name=GHOSTS) for _ in range(count)}
        token = (self._cluster.plan.root / "worker.token").read_text().strip()
        claimed: list[str] = []

        async def haunt() -> None:
            await asyncio.sleep(self._chance.uniform(0, 2 * self._profile.reap))
            boot_id = str(uuid.uuid4())
            gateway = HttpGateway(self._cluster.urls[0], lambda: token, slots=1)
            identity = WorkerIdentity(f"ghost-{boot_id}", boot_id, (GHOSTS,), 1, "1", "none")
            worker_id = (await gateway.register(identity, [])).worker_id
            claims = await gateway.claim(worker_id, 1, timedelta(seconds=30))
            claimed.extend(claim.job_id for claim in claims)
            await gateway.close()

        await asyncio.gather(*(haunt() for _ in range(count)))
        _require(set(claimed) == jobs, f"{len(claimed)} of {count} were claimed")
        return claimed

    async def _ends(self, asked: dict[str, float], limit: float) -> list[float]:
        """Return how long after it was asked for each of the jobs ended, in their order."""
        await self._until_ended(list(asked), limit)
        rows = await self._rows(_ENDS, list(asked))
        _require({row["status"] for row in rows} == {"cancelled"}, f"other ends than cancelled: {rows}")
        ends = {row["job_id"]: row["at"] for row in rows}
        return [ends[job_id] - at for job_id, at in asked.items()]

    async def _until_running(self, jobs: list[str]) -> None:
        statement = "SELECT job_id FROM jobs WHERE job_id = ANY(%s) AND status = 'running'"
        await self._until_found(statement, jobs, 60)

    async def _until_ended(self, jobs: list[str], limit: float) -> None:
        await self._until_found(_ENDS, jobs, limit)

    async def _until_found(self, statement: str, jobs: list[str], limit: float) -> list[dict[str, Any]]:
        """Return the rows of a statement as soon as there is one for each of the jobs."""
        end = time.monotonic() + limit + PATIENCE_SECONDS
        while len(rows := await self._rows(statement, jobs)) < len(jobs):
            _require(time.monotonic() < end, f"only {len(rows)} of {len(jobs)}: {statement}")
            await asyncio.sleep(0.2)
        return rows

    async def _rows(self, statement: str, jobs: list[str]) -> list[dict[str, Any]]:
        async with await self._cluster.monitor() as connection:
            rows = await (await connection.execute(statement.encode(), [jobs])).fetchall()
        return [row | {"job_id": str(row["job_id"])} if "job_id" in row else dict(row) for row in rows]


_ENDS = """
    SELECT job_id, status, extract(epoch FROM completed_at)::float8 AS at FROM jobs
     WHERE job_id = ANY(%s) AND completed_at IS NOT NULL
"""
_FIRST_LOSS = """
    SELECT job_id, extract(epoch FROM min(at))::float8 AS at FROM job_events
     WHERE job_id = ANY(%s) AND from_status = 'running' GROUP BY job_id
"""


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)
