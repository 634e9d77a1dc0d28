"""What idle remote workers cost a coordinator: requests of their own, its memory and its CPU.

    python bench/idle_workers.py [workers]     (default 500)

One `reactorcide serve` on its embedded PostgreSQL; `workers` idle ones of one slot in a single client
process, each waiting for work through the gateway that a real worker uses, and one real worker loop with
50 idle slots. Goals: the 50 slots make less than 1 request a second; with 500 workers the coordinator
stays below 400 MiB and below 5 % of a core.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2

from reactorcide.config import load_settings
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.observability.logging import configure_logging
from reactorcide.wiring.worker import make_worker, remote_gateway, working
from reactorcide.worker.loop import CLAIM_WAIT
from reactorcide.worker.shipping import pause_before_retry

A = TypeVar("A")

SECONDS = 60.0
SLOTS = 50
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    configure_logging("error", "text")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory(prefix="reactorcide-bench-") as folder:
        data_dir = Path(folder)
        environment = os.environ | {
            "REACTORCIDE_DATA_DIR": str(data_dir / "serve"),
            "REACTORCIDE_OBJECT_STORE_BASE_PATH": str(data_dir / "objects"),
            "REACTORCIDE_HOST": "127.0.0.1",
            "REACTORCIDE_PORT": "0",
            "REACTORCIDE_DEFAULT_USER_ID": str(uuid.uuid4()),
        }
        with (data_dir / "serve.out").open("wb") as out:
            serve = subprocess.Popen(
                [Path(sys.executable).with_name("reactorcide"), "serve"],
                env=environment,
                stdout=out,
                stderr=out,
            )
        try:
            url, token = wait_for(serve, data_dir / "serve")
            asyncio.run(measure(count, serve.pid, url, token, data_dir))
        finally:
            serve.send_signal(signal.SIGTERM)
            serve.wait(30)


def wait_for(serve: "subprocess.Popen[bytes]", data_dir: Path) -> tuple[str, str]:
    end = time.monotonic() + 60
    while time.monotonic() < end and serve.poll() is None:
        try:
            url = json.loads((data_dir / "server.json").read_text())["url"]
            return url, (data_dir / "admin-token").read_text().strip()
        except OSError:
            time.sleep(0.05)
    raise SystemExit("serve was not ready within 60 s")


async def measure(count: int, pid: int, url: str, admin: str, data_dir: Path) -> None:
    async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {admin}"}) as http:
        made = await http.post("/api/v1/tokens", json={"name": "bench", "kind": "worker"})
        token = made.raise_for_status().json()["token"]
        settings = load_settings(
            {
                "DATA_DIR": str(data_dir / "worker"),
                "COORDINATOR_URL": url,
                "WORKER_NAME": "fifty",
                "WORKER_CONCURRENCY": str(SLOTS),
                "UNSANDBOXED": "true",
            }
        ).settings
        alone = memory(pid)
        async with remote_gateway(settings, url, lambda: token) as gateway:
            fifty = make_worker(gateway, settings, os.environ, "unsandboxed", url)
            async with working(fifty):
                await asyncio.wait_for(fifty.is_registered.wait(), 30)
                before, cpu = await requests(http), cpu_seconds(pid)
                await asyncio.sleep(SECONDS)
                rate, used = (await requests(http) - before) / SECONDS, (cpu_seconds(pid) - cpu) / SECONDS
                print(f"one worker, {SLOTS} idle slots: {rate:.3f} requests/s (goal < 1)")
                print(f"  CPU of the coordinator {100 * used:.1f} % of a core")
                fifty.drain()
        begun = time.monotonic()
        ready, door = asyncio.Semaphore(0), asyncio.Semaphore(10)
        tasks = [asyncio.create_task(idle(number, url, token, ready, door)) for number in range(count)]
        for _ in tasks:
            await asyncio.wait_for(ready.acquire(), 120)
        print(f"{count} workers registered in {time.monotonic() - begun:.1f} s")
        await asyncio.sleep(5)
        before, cpu, at = await requests(http), cpu_seconds(pid), time.monotonic()
        await asyncio.sleep(SECONDS)
        passed = time.monotonic() - at
        rate, used = (await requests(http) - before) / passed, (cpu_seconds(pid) - cpu) / passed
        rss, pss = memory(pid)
        print(f"coordinator alone: {alone[0]:.0f} MiB resident")
        print(f"{count} idle workers: {rss:.0f} MiB resident, {pss:.0f} MiB proportional (goal < 400)")
        print(f"  CPU {100 * used:.1f} % of a core over {passed:.0f} s (goal < 5), {rate:.1f} requests/s")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def idle(number: int, url: str, token: str, ready: asyncio.Semaphore, door: asyncio.Semaphore) -> None:
    settings = load_settings({"COORDINATOR_URL": url, "WORKER_CONCURRENCY": "1"}).settings
    identity = WorkerIdentity(
        f"idle-{number}", str(uuid.uuid4()), ("reactorcide-jobs",), 1, "bench", "unsandboxed"
    )
    async with remote_gateway(settings, url, lambda: token) as gateway:
        # Not all at once: what is measured comes after this.
        async with door:
            registration = await again(lambda: gateway.register(identity, []))
        ready.release()
        # As a fleet that was not started in one moment.
        wait = timedelta(seconds=number % 50)
        while True:
            await again(partial(gateway.claim, registration.worker_id, 1, wait))
            wait = CLAIM_WAIT


async def again(call: Callable[[], Awaitable[A]]) -> A:
    """Call until it is answered, as a worker does."""
    tries = 0
    while True:
        try:
            return await call()
        except Unavailable:
            tries += 1
            await pause_before_retry(tries)


async def requests(http: httpx2.AsyncClient) -> float:
    """Return how many calls of workers the coordinator has answered."""
    text = (await http.get("/metrics")).raise_for_status().text
    counts = re.findall(r"^\w*requests?\w*_total\{[^}]*/api/v1/worker/[^}]*\} (\S+)$", text, re.M)
    return sum(map(float, counts))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> tuple[float, float]:
    """Return resident and proportional memory in MiB."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(told["Rss"].split()[0]) / 1024, int(told["Pss"].split()[0]) / 1024


if __name__ == "__main__":
    main()
