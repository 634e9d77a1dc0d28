"""One short history of jobs on real processes of which one meets a fault, and what must hold after it.

The history: jobs that succeed, fail, are cancelled and are lost with their worker; each submitted and
cancelled again and again until it is acknowledged. A process that dies is started again at once. At the
end everything must be as if nothing had happened, but for what the fault took with it and what is told so.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
from crash_points_hooks import Plan
from crash_points_nursery import Nursery
from crash_points_parts import Broken, Ledger, Part, free_port, lines_of

from job_desk import JobDesk
from job_laws import check_laws
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.status import JobStatus
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.services.store_marks import MARK_KEY
from reactorcide.store.database import Database, Row
from reactorcide.worker.cancelling import cancel_tasks

USER_ID = "01890000-0000-7000-8000-0000000c0de5"
WORKER_TOKEN = "the-token-of-a-worker-in-tests"
GHOSTS = "ghosts"
ENDS_WITHIN_SECONDS = 45.0
TIDY_WITHIN_SECONDS = 30.0
LOOK_SECONDS = 0.06
MOST_UNPLANNED_EXITS = 1
"""A process whose start meets a full disk may give up once; not again and again."""
_PLATFORM_LINE = re.compile(rb"^reactorcide: .*\n", re.MULTILINE)


@dataclass
class Case:
    """One history. `run` raises `Broken` with what does not hold."""

    nursery: Nursery
    folder: Path
    dsn: str
    plan: Plan
    is_remote: bool = False
    """Whether the worker works over HTTP, rather than on the coordinator's database."""
    ledger: Ledger = field(default_factory=Ledger)
    ids: dict[str, str] = field(default_factory=dict)
    seen_lengths: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def worker_dir(self) -> Path:
        """Where the worker keeps its spool and workspaces."""
        return self.folder / ("worker" if self.is_remote else "data")

    @property
    def killed(self) -> str | None:
        """Which process the plan lets die or fail."""
        return self.plan.target.split()[0] if self.plan.target else None

    async def run(self) -> None:
        """Play the history, and check it."""
        self.port = free_port()
        self.database = await Database.open(self.dsn, size=2)
        server = await asyncio.start_server(self.ledger.hear, "127.0.0.1", 0)
        self.ledger.port = server.sockets[0].getsockname()[1]
        try:
            async with httpx2.AsyncClient(timeout=20) as self.http:
                await self._start_parts()
                watching = asyncio.create_task(self._watch_lengths())
                try:
                    await self._play()
                finally:
                    await cancel_tasks({watching})
                await self._check()
        finally:
            for part in self.parts.values():
                await part.stop(signal.SIGKILL)
            server.close()
            await self.database.close()

    async def _start_parts(self) -> None:
        token = await self._make_admin()
        self.http.headers["Authorization"] = f"Bearer {token}"
        shared = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self._variables()}
        local = {"REACTORCIDE_DB_URI": self.dsn}
        remote = {
            "REACTORCIDE_DATA_DIR": str(self.worker_dir),
            "REACTORCIDE_COORDINATOR_URL": f"http://127.0.0.1:{self.port}",
            "REACTORCIDE_WORKER_TOKEN": WORKER_TOKEN,
        }
        for role in ("serve", "worker"):
            environment = {**shared, **(remote if role == "worker" and self.is_remote else local)}
            plan = replace(self.plan, process=role)
            self.parts[role] = Part(self.nursery, role, plan, environment, self.folder / f"{role}.out")
            self.parts[role].start()

    def _variables(self) -> dict[str, str]:
        return {
            "REACTORCIDE_DATA_DIR": str(self.folder / "data"),
            "REACTORCIDE_OBJECT_STORE_BASE_PATH": str(self.folder / "objects"),
            "REACTORCIDE_DEFAULT_USER_ID": USER_ID,
            "REACTORCIDE_DB_POOL_SIZE": "4",
            "REACTORCIDE_HOST": "127.0.0.1",
            "REACTORCIDE_PORT": str(self.port),
            "REACTORCIDE_WORKER_NAME": "tested",
            "REACTORCIDE_WORKER_CONCURRENCY": "3",
            "REACTORCIDE_LEASE": "2",
            "REACTORCIDE_HEARTBEAT": "0.3",
            "REACTORCIDE_LOST_AFTER": "6",
            "REACTORCIDE_START_DEADLINE": "2",
            "REACTORCIDE_REAP_INTERVAL": "0.2",
            "REACTORCIDE_CANCEL_GRACE": "1",
        }

    async def _make_admin(self) -> str:
        user_id, token_id = str(uuid.uuid4()), str(uuid.uuid4())
        async with self.database.transaction() as tx:
            await tx.execute(
                "INSERT INTO users (user_id, username, roles) VALUES (%s, 'tester', %s)",
                [user_id, [Role.ADMIN.value]],
            )
            await tx.execute(
                "INSERT INTO api_tokens (token_id, user_id, token_hash, name, kind)"
                " VALUES (%s, %s, sha256(%s), 'test', 'user')",
                [token_id, user_id, token_id.encode()],
            )
            await tx.execute(
                "INSERT INTO api_tokens (token_id, user_id, token_hash, name, kind)"
                " VALUES (gen_random_uuid(), %s, sha256(%s), 'worker', 'worker')",
                [user_id, WORKER_TOKEN.encode()],
            )
        self.admin = Principal(user_id, token_id, TokenKind.USER, frozenset({Role.ADMIN}))
        return token_id

    # --- the history

    async def _play(self) -> None:
        ghosts = asyncio.create_task(self._lose_jobs())
        try:
            await self._submit("good", self.ledger.command("good"))
            await self._submit("bad", self.ledger.command("bad", exit_code=3, stream=2))
            await self._submit("long", self.ledger.command("long", lasts="sleep 77;"))
            await self._until("long has begun or ended", self._long_goes)
            await self._cancel("long")
            await ghosts
            await self._until("all jobs have ended", self._all_ended)
        finally:
            await cancel_tasks({ghosts})
        # The fault may be so late that it meets the job after it; the one after that must go well.
        for name in ("after", "later"):
            await self._submit(name, self.ledger.command(name))
            await self._until(f"{name} has ended", self._all_ended)
            if await self._is(name, "completed"):
                return
            await asyncio.sleep(self.plan.seconds)  # so long the disk may stay full

    async def _lose_jobs(self) -> None:
        """Have a worker that is never heard of again start two jobs, one of which may run again."""
        await self._submit("lost", "true", queue_name=GHOSTS)
        await self._submit("again", "true", queue_name=GHOSTS, retry_on_lost=1)
        desk = JobDesk(self.database, self.admin)
        ghost = await desk.worker("ghost", queues=(GHOSTS,))
        for _ in range(2):
            started = await desk.start(ghost)
            await desk.age(started.claim.job_id, 0.1)
            async with self.database.transaction() as tx:
                await tx.execute(
                    "UPDATE attempts SET lease_expires_at = now() - interval '1 hour' WHERE job_id = %s",
                    [started.claim.job_id],
                )
        await self._until("again is queued again", lambda: self._is("again", "queued"))
        await self._cancel("again")

    async def _submit(self, name: str, command: str, **fields: object) -> None:
        body = {"name": name, "source_type": "none", "job_command": command, **fields}
        answer = await self._call("POST", "", json=body, headers={"Idempotency-Key": f"key-{name}"})
        if answer.status_code != 201:
            raise Broken(f"submitting {name} is answered by {answer.status_code}: {answer.text}")
        self.ids[name] = answer.json()["job_id"]

    async def _cancel(self, name: str) -> None:
        answer = await self._call("POST", f"/{self.ids[name]}/cancel")
        if answer.status_code not in (200, 409):
            raise Broken(f"cancelling {name} is answered by {answer.status_code}: {answer.text}")

    async def _call(self, method: str, path: str, **given: Any) -> httpx2.Response:
        """Call the API again and again until it answers for good, as a client is told to."""
        deadline = time.monotonic() + ENDS_WITHIN_SECONDS
        while True:
            said = "nothing"
            with contextlib.suppress(httpx2.TransportError):
                answer = await self.http.request(
                    method, f"http://127.0.0.1:{self.port}/api/v1/jobs{path}", **given
                )
                if answer.status_code not in (500, 503):
                    return answer
                said = f"{answer.status_code} {answer.text}"
            if time.monotonic() > deadline:
                raise Broken(f"{method} {path}: {said} for {ENDS_WITHIN_SECONDS} s")
            await asyncio.sleep(0.05)

    async def _until(
        self, what: str, holds: Callable[[], Awaitable[object]], seconds: float = ENDS_WITHIN_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not await holds():
            if time.monotonic() > deadline:
                rows = await self._rows("SELECT name, status, attempt, runs, desired, reason FROM jobs")
                jobs = [" ".join(str(value) for value in row.values()) for row in rows]
                raise Broken(f"not within {seconds} s: {what}; {jobs}; {await self._find_left()}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _rows(self, statement: str, **given: object) -> list[Row]:
        return await self.database.read(statement, given)

    async def _is(self, name: str, *statuses: str) -> bool:
        rows = await self._rows("SELECT status FROM jobs WHERE job_id = %(id)s", id=self.ids[name])
        return bool(rows) and rows[0]["status"] in statuses

    async def _long_goes(self) -> bool:
        if self.seen_lengths["long"] >= len(lines_of("long")):
            return True
        return not await self._is("long", "submitted", "queued", "running")

    async def _all_ended(self) -> bool:
        rows = await self._rows("SELECT count(*) AS n FROM jobs WHERE completed_at IS NULL")
        return bool(rows[0]["n"] == 0)

    async def _watch_lengths(self) -> None:
        """Keep in mind how much of each log has been acknowledged."""
        while True:
            for row in await self._rows(
                "SELECT name, log_length FROM jobs JOIN attempts USING (job_id, attempt)"
            ):
                self.seen_lengths[row["name"]] = max(self.seen_lengths[row["name"]], row["log_length"])
            await asyncio.sleep(LOOK_SECONDS)

    # --- what must hold

    async def _check(self) -> None:
        await self._until("nothing is left to be done", self._is_tidy, TIDY_WITHIN_SECONDS)
        statuses = await check_laws(self.database)
        await self._check_submissions(statuses)
        rows = await self._rows(
            "SELECT j.name, j.status, j.reason, j.fault, j.message, a.log_length, a.log_sealed_at IS NOT NULL"
            " AS is_sealed, a.final_log_sha256, a.started_at IS NOT NULL AS is_started, j.attempt, j.runs"
            " FROM jobs j LEFT JOIN attempts a USING (job_id, attempt)"
        )
        for row in rows:
            self._check_end(row)
            await self._check_log(row)
        self._check_parts()
        for role in ("worker", "serve"):
            code = await self.parts[role].stop()
            # One that died just now may be asked before it can listen.
            is_excused = self.plan.fault == "kill" and self.killed == role
            if code not in (0, None) and not is_excused:
                raise Broken(f"{role} ended with {code} when asked to stop")
        self._check_store()

    async def _is_tidy(self) -> bool:
        return not await self._find_left()

    async def _find_left(self) -> list[object]:
        """Return what is not sealed, still owed to the object store, or left of attempts on the host."""
        unsealed = await self._rows(
            "SELECT job_id, log_length, final_log_length FROM attempts"
            " WHERE final_log_sha256 IS NOT NULL AND log_sealed_at IS NULL"
        )
        owed = await self._rows("SELECT kind, payload, tries FROM outbox WHERE done_at IS NULL")
        folders = self.worker_dir / "spool", self.worker_dir / "work"
        return [*unsealed, *owed, *(path for folder in folders for path in _entries(folder))]

    async def _check_submissions(self, statuses: dict[str, JobStatus]) -> None:
        if sorted(statuses) != sorted(self.ids.values()):
            raise Broken(f"acknowledged were {self.ids}, there are {statuses}")
        for name, job_id in dict(self.ids).items():
            rows = await self._rows("SELECT name FROM jobs WHERE job_id = %(id)s", id=job_id)
            if [row["name"] for row in rows] != [name]:
                raise Broken(f"{name} is {rows}")

    def _check_end(self, row: Row) -> None:
        name, end = row["name"], (row["status"], row["reason"])
        usual = {
            "good": ("completed", "ok"),
            "after": ("completed", "ok"),
            "later": ("completed", "ok"),
            "bad": ("failed", "exit_nonzero"),
            "long": ("cancelled", "cancelled_user"),
            "again": ("cancelled", "cancelled_user"),
            "lost": ("failed", "worker_lost"),
        }[name]
        excused = self.killed in ("worker", "runner") and name in ("good", "bad", "long", "after")
        is_told = end[0] == "failed" and row["fault"] == "infra"
        if end != usual and not (excused and is_told):
            raise Broken(f"{name} ended as {end}, not {usual}: {row['message']}")
        if self.ledger.count(name, "start") > 1:
            raise Broken(f"{name} was started twice: {self.ledger.said[name]}")
        if end == usual and name in ("good", "bad", "after", "later") and not self.ledger.count(name, "end"):
            raise Broken(f"{name} is {end} and never came to its end: {self.ledger.said[name]}")

    async def _check_log(self, row: Row) -> None:
        name, promised = row["name"], row["final_log_sha256"]
        # A job that was cancelled and whose worker died then is cancelled too, but nobody promised its log.
        is_whole = row["reason"] in ("ok", "exit_nonzero") or (
            row["reason"] == "cancelled_user" and promised is not None
        )
        if not row["is_started"] or name in ("lost", "again"):
            return
        answer = await self._call("GET", f"/{self.ids[name]}/logs", headers={"Accept": "text/plain"})
        stored, expected = answer.content, lines_of(name)
        if answer.status_code != 200 or len(stored) != row["log_length"]:
            raise Broken(f"the log of {name}: {answer.status_code}, {len(stored)} of {row['log_length']}")
        if len(stored) < self.seen_lengths[name]:
            raise Broken(f"{name} lost acknowledged bytes: {len(stored)} < {self.seen_lengths[name]}")
        own = _PLATFORM_LINE.sub(b"", stored)
        # A line of the platform begins on a new line, even where the job's last one was cut.
        is_prefix = expected.startswith(own) or expected.startswith(own.removesuffix(b"\n"))
        if own != expected if is_whole else not is_prefix:
            raise Broken(f"the log of {name} is {stored!r}")
        if promised is not None and promised != hashlib.sha256(stored).digest():
            raise Broken(f"the log of {name} is not what its digest says")
        if is_whole and not row["is_sealed"]:
            raise Broken(f"the log of {name} is not sealed")

    def _check_parts(self) -> None:
        for role, part in self.parts.items():
            killed = sum(code == -signal.SIGKILL for code in part.exits)
            others = [code for code in part.exits if code != -signal.SIGKILL]
            planned = int(self.plan.fault == "kill" and self.killed == role)
            if killed > planned or len(others) > (0 if self.plan.fault == "kill" else MOST_UNPLANNED_EXITS):
                raise Broken(f"{role} ended by itself: {part.exits}")

    def _check_store(self) -> None:
        """Nothing but what counts is in the store; parts of the dead go when a later process starts."""
        partial = self.folder / "objects" / "partial"
        for part in _entries(partial):
            os.utime(part, (0, 0))
        store = FilesystemObjectStore(self.folder / "objects")
        if _entries(partial):
            raise Broken(f"parts are left: {_entries(partial)}")
        known = {*self.ids.values(), MARK_KEY}
        strays = [info.key for info in store.list("") if not any(job_id in info.key for job_id in known)]
        if strays:
            raise Broken(f"objects of nobody: {strays}")
        hidden = [path for path in _entries(self.folder / "data") if path.name.startswith(".")]
        if hidden and self.plan.fault != "kill":
            raise Broken(f"temporary files are left: {hidden}")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
