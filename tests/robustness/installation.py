"""An installation for the rows of the programme: real `serve` and `worker` processes on one database.

Every process has a data directory of its own, as on hosts of their own; objects and keys are shared.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

PROGRAM = (sys.executable, "-m", "reactorcide")
USER_ID = "01890000-0000-7000-8000-00000000ab0b"
IS_LONG = os.environ.get("REACTORCIDE_LONG_TESTS") == "1"
FINAL = {"completed", "failed", "cancelled", "timeout"}
OUT_OF_REACH = (httpx2.TransportError,)


@dataclass
class Part:
    """One process of the product; it may be ended and started again."""

    command: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def output(self) -> str:
        """What the process, and those before it, wrote."""
        return (self.folder / "out").read_text(errors="replace")

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "out").open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, env=self.environment, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
            )

    async def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            async with asyncio.timeout(seconds):
                return await self.process.wait()
        except TimeoutError:
            pytest.fail(f"{self.command} still lives {seconds} s after {number.name}: {self.output[-4000:]}")

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)


@dataclass
class Serve(Part):
    """A coordinator; its port stays over restarts."""

    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start, and wait until requests are answered."""
        await super().start()
        process = self.process
        assert process is not None

        def answers() -> bool:
            assert process.returncode is None, self.output[-4000:]
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                return False
            return True

        await until(answers, 40, lambda: self.output[-4000:])


@dataclass
class Installation:
    """What the processes share; `serve` and `worker` start more of them."""

    dsn: str
    folder: Path
    settings: dict[str, str]
    parts: list[Part] = field(default_factory=list)
    clients: list[httpx2.AsyncClient] = field(default_factory=list)

    async def serve(self, name: str = "serve", *, dsn: str | None = None, **settings: str) -> Serve:
        """Start a coordinator; the first of an installation makes the admin."""
        port = free_port()
        own = {"REACTORCIDE_HOST": "127.0.0.1", "REACTORCIDE_PORT": str(port)}
        environment = self._environment(name, {"REACTORCIDE_DB_URI": dsn or self.dsn, **own, **settings})
        made = Serve((*PROGRAM, "serve"), environment, self.folder / name, port=port)
        self.parts.append(made)
        await made.start()
        return made

    async def worker(self, name: str = "one", *, command: tuple[str, ...] = (), **settings: str) -> Part:
        """Start a worker that shares the database, unless ``settings`` say otherwise; wait for nothing."""
        own = {"REACTORCIDE_WORKER_NAME": name, "REACTORCIDE_WORKER_CONCURRENCY": "2"}
        if "REACTORCIDE_COORDINATOR_URL" not in settings:
            own["REACTORCIDE_DB_URI"] = self.dsn
        environment = self._environment(name, {**own, **settings})
        made = Part(command or (*PROGRAM, "worker"), environment, self.folder / name)
        self.parts.append(made)
        await made.start()
        return made

    async def remote_worker(self, serve: Serve, name: str = "one", *, port: int = 0, **settings: str) -> Part:
        """Start a worker that reaches its coordinator over HTTP, at another ``port`` through a proxy."""
        token_file = self.folder / f"{name}.token"
        if not token_file.exists():
            async with httpx2.AsyncClient(base_url=serve.url, trust_env=False) as client:
                answer = await client.post(
                    "/api/v1/tokens",
                    json={"name": name, "kind": "worker"},
                    headers={"Authorization": f"Bearer {self.token}"},
                )
            assert answer.status_code == 201, answer.text
            token_file.write_text(answer.json()["token"])
        own = {
            "REACTORCIDE_COORDINATOR_URL": f"{serve.scheme}://127.0.0.1:{port or serve.port}",
            "REACTORCIDE_WORKER_TOKEN_FILE": str(token_file),
        }
        return await self.worker(name, **own, **settings)

    def client(self, url: str, token: str | None = None, **options: Any) -> httpx2.AsyncClient:
        """Return a client of a coordinator with the admin's token, or another."""
        made = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token or self.token}"},
            timeout=30,
            trust_env=False,
            limits=httpx2.Limits(max_connections=500),
            **options,
        )
        self.clients.append(made)
        return made

    @property
    def token(self) -> str:
        """The admin's token."""
        return next(self.folder.glob("*/admin-token")).read_text().strip()

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        for part in self.parts:
            if part.process is not None and part.process.returncode is None:
                part.process.kill()
                await part.process.wait()

    def _environment(self, name: str, settings: dict[str, str]) -> dict[str, str]:
        kept = {
            variable: os.environ[variable] for variable in ("PATH", "PYTHONPATH") if variable in os.environ
        }
        return {
            **kept,
            "HOME": str(self.folder),
            "REACTORCIDE_DATA_DIR": str(self.folder / name),
            "REACTORCIDE_OBJECT_STORE_BASE_PATH": str(self.folder / "objects"),
            "REACTORCIDE_DEFAULT_USER_ID": USER_ID,
            "REACTORCIDE_ENCRYPTION_KEY": "ab" * 32,
            "REACTORCIDE_LOG_FORMAT": "json",
            **self.settings,
            **settings,
        }


TIMES = {
    "REACTORCIDE_LEASE": "6",
    "REACTORCIDE_HEARTBEAT": "1",
    "REACTORCIDE_LOST_AFTER": "6",
    "REACTORCIDE_START_DEADLINE": "3",
    "REACTORCIDE_REAP_INTERVAL": "0.2",
    "REACTORCIDE_CANCEL_GRACE": "1",
}
"""The test profile, scaled: L = 6, H = 1, LOST = 6, S = 3, R = 0.2, G = 1."""


@asynccontextmanager
async def installed(dsn: str, folder: Path, **settings: str) -> AsyncIterator[Installation]:
    """Yield an installation with short times; its processes are killed at the end."""
    made = Installation(dsn, folder, {**TIMES, **settings})
    try:
        yield made
    finally:
        await made.close()


async def until(
    holds: Callable[[], object], seconds: float = 30, explain: Callable[[], object] = lambda: ""
) -> None:
    """Look every few milliseconds until ``holds`` (a coroutine function or not) says so."""
    end = time.monotonic() + seconds
    while True:
        answer = holds()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {explain()}")
        await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def job_of(name: str, command: str = "true", **fields: object) -> dict[str, object]:
    return {"name": name, "source_type": "none", "job_command": command, **fields}


async def submit(client: httpx2.AsyncClient, name: str, command: str = "true", **fields: object) -> str:
    answer = await client.post("/api/v1/jobs", json=job_of(name, command, **fields))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


async def read_job(client: httpx2.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def wait_for_job(
    client: httpx2.AsyncClient,
    job_id: str,
    holds: Callable[[dict[str, Any]], object],
    seconds: float = 40,
) -> dict[str, Any]:
    """Poll, through any outage, until the job is so."""
    last: object = None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            answer = await client.get(f"/api/v1/jobs/{job_id}")
        except OUT_OF_REACH as error:
            last = error
        else:
            last = answer.text
            if answer.status_code == 200 and holds(job := answer.json()):
                assert isinstance(job, dict)
                return job
        await asyncio.sleep(0.05)
    return pytest.fail(f"not within {seconds} s: {last}")


async def ended(client: httpx2.AsyncClient, job_id: str, seconds: float = 40) -> dict[str, Any]:
    return await wait_for_job(client, job_id, lambda job: job["status"] in FINAL, seconds)


async def log_of(client: httpx2.AsyncClient, job_id: str) -> bytes:
    answer = await client.get(f"/api/v1/jobs/{job_id}/logs", headers={"Accept": "text/plain"})
    return answer.content if answer.status_code == 200 else b""


async def printed(client: httpx2.AsyncClient, job_id: str, text: bytes, seconds: float = 30) -> None:
    """Wait until the job's log holds ``text``."""
    last = b""

    async def holds() -> bool:
        nonlocal last
        last = await log_of(client, job_id)
        return text in last

    await until(holds, seconds, lambda: last[-2000:])
