"""A coordinator on the test's database, and workers of it in this process and in others."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from fixture_types import MakeUser
from reactorcide.config import Settings, load_settings
from reactorcide.domain.accounts import Principal
from reactorcide.domain.jobs import Job
from reactorcide.domain.submission import JobRequest
from reactorcide.wiring.core import Core, maintaining, open_core
from reactorcide.wiring.worker import direct_gateway, make_worker, working
from reactorcide.worker.loop import Worker

WORKER_COMMAND = (sys.executable, "-c", "from reactorcide.cli.worker import worker; worker()")
ENDED_WITHIN = timedelta(seconds=30)


def variables(data_dir: Path, **changed: str) -> dict[str, str]:
    """Settings with short times, as a worker process gets them."""
    return {
        "REACTORCIDE_DATA_DIR": str(data_dir),
        "REACTORCIDE_OBJECT_STORE_BASE_PATH": str(data_dir / "objects"),
        "REACTORCIDE_WORKER_NAME": "tested",
        "REACTORCIDE_WORKER_CONCURRENCY": "2",
        "REACTORCIDE_LEASE": "6",
        "REACTORCIDE_HEARTBEAT": "1",
        "REACTORCIDE_LOST_AFTER": "6",
        "REACTORCIDE_START_DEADLINE": "3",
        "REACTORCIDE_REAP_INTERVAL": "0.2",
        "REACTORCIDE_CANCEL_GRACE": "1",
        **changed,
    }


@dataclass
class Coordinator:
    """The services, in the hands of one user of them."""

    core: Core
    caller: Principal
    data_dir: Path
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def submit(self, command: str, **fields: object) -> str:
        request = JobRequest(name="tested", source_type="none", job_command=command, **fields)  # type: ignore[arg-type]
        return (await self.core.jobs.submit(self.caller, request)).job.job_id

    async def until(self, job_id: str, holds: Callable[[Job], bool]) -> Job:
        """Wait until the job is so; fail after a while."""
        version = None
        try:
            async with asyncio.timeout(ENDED_WITHIN.total_seconds()):
                while True:
                    job = await self.core.jobs.wait_for_change(
                        self.caller, job_id, version, timedelta(seconds=1)
                    )
                    if holds(job):
                        return job
                    version = job.version
        except TimeoutError:
            pytest.fail(f"not within {ENDED_WITHIN}: {await self.core.jobs.get(self.caller, job_id)}")

    async def ended(self, job_id: str) -> Job:
        return await self.until(job_id, lambda job: job.status.is_final)

    async def log(self, job_id: str) -> bytes:
        stored = await self.core.log_reader.find(job_id)
        return b"".join([part async for part in self.core.log_reader.read(stored, 0, stored.length)])

    async def printed(self, job_id: str, text: bytes) -> None:
        """Wait until the job's log holds ``text``."""
        await until(lambda: self._holds(job_id, text))

    async def _holds(self, job_id: str, text: bytes) -> bool:
        return text in await self.log(job_id)

    async def start_worker(self, **changed: str) -> asyncio.subprocess.Process:
        """Start a worker in a process of its own, and wait for nothing."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.data_dir),
            **variables(self.data_dir, REACTORCIDE_DB_URI=self.core.dsn, **changed),
        }
        with (self.data_dir / "worker.out").open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *WORKER_COMMAND, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.processes.append(process)
        return process


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Look every few milliseconds until ``holds`` (a coroutine function or not) says so."""
    async with asyncio.timeout(seconds):
        while True:
            answer = holds()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.02)


def processes_of(mark: str) -> list[int]:
    """Return the processes that have ``mark`` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in arguments:
            found.append(int(path.parent.name))
    return found


@asynccontextmanager
async def worker_of(core: Core) -> AsyncIterator[Worker]:
    """A registered worker in this process; its jobs are killed at the end."""
    worker = make_worker(direct_gateway(core), core.settings, os.environ, "tested", None)
    async with working(worker) as task:
        ready = asyncio.create_task(worker.is_registered.wait())
        await asyncio.wait({ready, task}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert worker.is_registered.is_set(), task
        yield worker


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(variables(tmp_path)).settings


@pytest.fixture
async def coordinator(
    settings: Settings, dsn: str, tmp_path: Path, make_user: MakeUser
) -> AsyncIterator[Coordinator]:
    async with open_core(settings, dsn, objects_dir=tmp_path / "objects") as core, maintaining(core):
        made = Coordinator(core, await make_user(), tmp_path)
        yield made
        for process in made.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
async def worker(coordinator: Coordinator) -> AsyncIterator[Worker]:
    async with worker_of(coordinator.core) as made:
        yield made
