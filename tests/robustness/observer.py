"""Watches a cluster from outside while it works, and takes stock of it afterwards."""

import asyncio
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psycopg
from ahocorasick_rs import BytesAhoCorasick
from psycopg.types.string import TextLoader

from job_laws import _SNAPSHOT, JobFacts, check_job
from robustness.cluster import Cluster
from robustness.cluster_parts import descendants, shares_our_processes
from robustness.history import AttemptRow, History, JobRow, ServedLog, StuckLease
from robustness.ledger import Ledger
from robustness.workload import Plan, giveaways

SAMPLE_SECONDS = 3.0
READERS = 8
READ_TRIES = 6
_LENGTHS = """
    SELECT job_id::text, attempt, log_length FROM attempts
     WHERE ended_at IS NULL OR ended_at > now() - interval '20 s'
"""
_LEASES = """
    SELECT job_id::text, extract(epoch FROM now() - lease_expires_at)::float8 AS over_for
      FROM attempts WHERE ended_at IS NULL AND lease_expires_at < now()
"""
_UNENDED = "SELECT job_id::text, name FROM jobs WHERE completed_at IS NULL"
_JOBS = """
    SELECT job_id::text, name, status, reason, attempt, runs, max_runs, exit_code, worker_name,
           extract(epoch FROM completed_at)::float8 AS completed_at
      FROM jobs ORDER BY name
"""
_ATTEMPTS = """
    SELECT job_id::text, attempt, log_length, started_at IS NOT NULL AS is_started, end_status,
           final_log_length AS promised_length, final_log_sha256 AS promised_sha256,
           log_sealed_at IS NOT NULL AS is_sealed
      FROM attempts ORDER BY job_id, attempt
"""
_OUTBOX = "SELECT kind, dedupe FROM outbox WHERE done_at IS NULL"
_UNSEALED = """
    SELECT job_id::text, attempt FROM attempts WHERE final_log_sha256 IS NOT NULL AND log_sealed_at IS NULL
"""
_TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
Row = dict[str, object]


class SecretSearch:
    """Looks for the spellings of every secret of the workload, in what it is given."""

    def __init__(self, plans: list[Plan]) -> None:
        forms = {form: plan.key for plan in plans if plan.secret for form in giveaways(plan.secret)}
        self._keys = list(forms.values())
        self._automaton = BytesAhoCorasick(list(forms)) if forms else None
        self.hits: dict[str, None] = {}
        """In the order of their finding, each once."""
        self.searched_bytes = 0

    def look_at(self, where: str, data: bytes) -> None:
        """Search some bytes."""
        self.searched_bytes += len(data)
        if self._automaton is None:
            return
        for index, start, _ in self._automaton.find_matches_as_indexes(data):
            self.hits[f"{where}: a secret of {self._keys[index]} at byte {start}"] = None

    def look_into(self, folder: Path, *, what: str) -> None:
        """Search every file below a directory, as far as it stays while being read."""
        for path in folder.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink():
                    self.look_at(f"{what} {path.relative_to(folder)}", path.read_bytes())
            except OSError:
                continue


class Observer:
    """Samples the cluster until told to stop; then reads everything there is."""

    def __init__(self, cluster: Cluster, ledger: Ledger, plans: list[Plan]) -> None:
        self.search = SecretSearch(plans)
        self.acknowledged_bytes: dict[tuple[str, int], int] = {}
        self.stuck: list[StuckLease] = []
        self.is_healed = False
        self._cluster = cluster
        self._ledger = ledger
        self._plans = {plan.key: plan for plan in plans}
        self._mounts = _mounts_below(cluster.plan.root)

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            # The database is under faults too.
            with suppress(psycopg.Error):
                await self._sample_database()
            self._sample_processes()
            await asyncio.sleep(1.0 if self.is_healed else SAMPLE_SECONDS)

    async def unended(self) -> list[str]:
        """Return the names of the jobs that have not ended."""
        return [str(row["name"]) for row in await self._query(_UNENDED)]

    async def leftovers(self) -> list[str]:
        """Return what should be gone when every job has ended."""
        found = [f"attempt {job_id}.{attempt} lives" for job_id, attempt in self._ledger.alive()]
        found += self._left_processes()
        for part in self._cluster.workers:
            for folder in (self._cluster.work_dir(part), self._cluster.spool_dir(part)):
                found += [f"{part.name}: {path.parent.name}/{path.name}" for path in _entries(folder)]
        found += [f"objects: partial/{path.name}" for path in _entries(self._cluster.objects_dir / "partial")]
        found += [f"outbox: {row['kind']} {row['dedupe']}" for row in await self._query(_OUTBOX)]
        found += [f"log not sealed: {row['job_id']}.{row['attempt']}" for row in await self._query(_UNSEALED)]
        found += [
            f"mount: {mount}" for mount in sorted(_mounts_below(self._cluster.plan.root) - self._mounts)
        ]
        return found + await self._left_groups()

    async def take_history(self, history: History) -> None:
        """Read the database and every log into a history, and search all there is for secrets."""
        offset = time.time() - time.monotonic()
        jobs = await self._query(_JOBS)
        for row in jobs:
            completed = row["completed_at"]
            row["completed_at"] = completed - offset if isinstance(completed, float) else None
        history.jobs = [JobRow(**row) for row in jobs]  # type: ignore[arg-type]
        history.attempts = [AttemptRow(**row) for row in await self._query(_ATTEMPTS)]  # type: ignore[arg-type]
        history.lives = self._ledger.lives
        history.acknowledged_bytes = self.acknowledged_bytes
        history.stuck = self.stuck
        history.logs = await self._read_logs(history)
        async with await self._cluster.monitor() as connection:
            history.broken_laws = await broken_laws(connection)
        await self._search_everything()
        history.secret_hits = list(self.search.hits)
        history.searched_bytes = self.search.searched_bytes

    async def _query(self, statement: str) -> list[Row]:
        async with await self._cluster.monitor() as connection:
            return await (await connection.execute(statement)).fetchall()  # type: ignore[call-overload,no-any-return]

    async def _sample_database(self) -> None:
        for row in await self._query(_LENGTHS):
            key, length = (str(row["job_id"]), int(str(row["attempt"]))), int(str(row["log_length"]))
            self.acknowledged_bytes[key] = max(length, self.acknowledged_bytes.get(key, 0))
        if self.is_healed:
            self.stuck += [
                StuckLease(str(row["job_id"]), float(str(row["over_for"])))
                for row in await self._query(_LEASES)
            ]

    def _sample_processes(self) -> None:
        """Look at arguments, environments and spools of the product's own processes."""
        for info in descendants(os.getpid()):
            if not shares_our_processes(info.pid):
                continue
            self.search.look_at(f"arguments of {info.arguments[:80]!r}", info.arguments)
            try:
                environment = Path(f"/proc/{info.pid}/environ").read_bytes()
            except OSError:
                continue
            self.search.look_at(f"environment of {info.arguments[:80]!r}", environment)
        for part in self._cluster.workers:
            self.search.look_into(self._cluster.spool_dir(part), what=f"spool of {part.name}")

    def _left_processes(self) -> Iterator[str]:
        known = {part.pid for part in (*self._cluster.coordinators, *self._cluster.workers)}
        known.add(self._cluster.postgres.pid or 0)
        known |= self._cluster.strangers
        workers = {part.pid: part.name for part in self._cluster.workers}
        runners: dict[int, int] = {}
        for info in descendants(os.getpid()):
            if info.state == "Z":
                continue
            if not shares_our_processes(info.pid) and Path(f"/proc/{info.pid}").exists():
                yield f"process {info.pid} in a sandbox: {info.arguments[:100]!r}"
            elif info.parent == os.getpid() and info.pid not in known:
                yield f"orphan {info.pid} ({info.state}): {info.arguments[:100]!r}"
            elif info.parent in workers:
                runners[info.parent] = runners.get(info.parent, 0) + 1
        # One runner is kept warm for the next job.
        yield from (f"{workers[pid]}: {number} runners" for pid, number in runners.items() if number > 1)

    async def _left_groups(self) -> list[str]:
        ours = {str(row["job_id"]) for row in await self._query(_JOBS)}
        groups = Path("/sys/fs/cgroup").rglob("reactorcide.*")
        return [f"control group {path}" for path in groups if path.name.split(".")[1] in ours]

    async def _read_logs(self, history: History) -> dict[tuple[str, int], ServedLog]:
        names = {job.job_id: job.name for job in history.jobs}
        waiting = [row for row in history.attempts if row.is_started]
        logs: dict[tuple[str, int], ServedLog] = {}
        headers = {"Authorization": f"Bearer {self._cluster.token}", "Accept": "text/plain"}

        async def read() -> None:
            while waiting:
                row = waiting.pop()
                path = f"{self._cluster.urls[0]}/api/v1/jobs/{row.job_id}/logs"
                plan = self._plans.get(names.get(row.job_id, ""))
                parts: list[bytes | None] = []
                for stream in ("combined", "stdout", "stderr"):
                    if stream == "stderr" and (plan is None or not plan.has_errors):
                        parts.append(b"")
                        continue
                    parts.append(await _read(http, path, {"attempt": str(row.attempt), "stream": stream}))
                whole, stdout, stderr = parts
                if whole is not None and stdout is not None and stderr is not None:
                    logs[row.job_id, row.attempt] = ServedLog(whole, stdout, stderr)

        async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            await asyncio.gather(*(read() for _ in range(READERS)))
        return logs

    async def _search_everything(self) -> None:
        async with await self._cluster.monitor() as connection:
            for row in await self._query(_TABLES):
                async with connection.cursor().copy(f'COPY public."{row["relname"]}" TO STDOUT') as copy:  # type: ignore[call-overload]
                    async for data in copy:
                        self.search.look_at(f"table {row['relname']}", bytes(data))
        for folder, what in (
            (self._cluster.postgres.data_dir, "database file"),
            (self._cluster.objects_dir, "object"),
        ):
            await asyncio.to_thread(self.search.look_into, folder, what=what)
        for part in (*self._cluster.coordinators, *self._cluster.workers):
            self.search.look_at(f"log of {part.name}", part.log_path.read_bytes())
            self.search.look_into(self._cluster.spool_dir(part), what=f"spool of {part.name}")


async def _read(http: httpx2.AsyncClient, path: str, parameters: dict[str, str]) -> bytes | None:
    """Return what is there; None: it is not, or nobody says so after some tries."""
    for number in range(READ_TRIES):
        with suppress(httpx2.HTTPError):
            answer = await http.get(path, params=parameters)
            if answer.status_code == 200:
                return answer.content
            if answer.status_code != 503:
                return None
        await asyncio.sleep(number)
    return None


async def broken_laws(connection: psycopg.AsyncConnection[Row]) -> list[str]:
    """Return which jobs of a database break a law of the rows, and how."""
    connection.adapters.register_loader("uuid", TextLoader)
    broken = []
    for row in await (await connection.execute(_SNAPSHOT)).fetchall():
        facts = JobFacts(row)
        try:
            check_job(facts)
        except AssertionError as law:
            broken.append(f"{facts.job_id}: {law or traceback.format_exc(limit=-1)}")
    return broken


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _mounts_below(folder: Path) -> set[str]:
    points = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return {point for point in points if Path(point).is_relative_to(folder)}
