"""How soon a follower sees a line, and what an unwatched log costs the object store.

    python bench/live_log.py [seconds] [filesystem|s3]     (default 20, both)

A coordinator and a worker in this process, jobs in sandboxes of their own. First a job prints the time ten
times a second while a follower reads along: printed to seen. Then one prints as much and nobody follows: the
calls of the store. `s3` is an emulator in a process beside us, which adds its own time. Goals: seen within a
second; while nobody follows, at most one put in 5 seconds on S3, and the two of sealing.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.s3_server import S3Server
from reactorcide.config import load_settings
from reactorcide.domain.accounts import Principal
from reactorcide.domain.submission import JobRequest
from reactorcide.observability.logging import configure_logging
from reactorcide.services.log_reading import LogChunk
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.wiring.core import Core, maintaining, open_core
from reactorcide.wiring.worker import direct_gateway, make_worker, working

USER_ID = "01890000-0000-7000-8000-00000000abcd"


def main() -> None:
    configure_logging("error", "text")
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for store in sys.argv[2:] or ["filesystem", "s3"]:
        asyncio.run(measure(store, seconds))


async def measure(store: str, seconds: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="reactorcide-bench-") as folder,
        S3Server() if store == "s3" else nullcontext() as server,
    ):
        given = {"DATA_DIR": folder, "WORKER_CONCURRENCY": "2"}
        if server is not None:
            given |= {
                "OBJECT_STORE_TYPE": "s3",
                "OBJECT_STORE_BUCKET": server.make_bucket(),
                "AWS_ENDPOINT_URL": server.s3_url,
                "AWS_ACCESS_KEY_ID": "somebody",
                "AWS_SECRET_ACCESS_KEY": "secret",
            }
        async with product(given, Path(folder)) as (core, caller):
            await watched(core, caller, store, seconds)
            await unwatched(core, caller, store, seconds)


@asynccontextmanager
async def product(given: dict[str, str], folder: Path) -> AsyncIterator[tuple[Core, Principal]]:
    settings = load_settings(given).settings
    postgres = EmbeddedPostgres(folder / "pg", is_durable=True)
    await postgres.start()
    try:
        async with open_core(settings, postgres.dsn, objects_dir=folder / "objects") as core:
            await core.accounts.bootstrap_admin(USER_ID, folder / "admin-token")
            caller = await core.accounts.authenticate((folder / "admin-token").read_text().strip())
            worker = make_worker(direct_gateway(core), settings, os.environ, "bubblewrap", None)
            async with maintaining(core), working(worker):
                await worker.is_registered.wait()
                yield core, caller
    finally:
        await postgres.stop()


async def submit(core: Core, caller: Principal, seconds: int) -> str:
    command = f"for n in $(seq {seconds * 10}); do date +%s.%N; sleep 0.1; done"
    request = JobRequest(name="bench", source_type="none", job_command=command)
    return (await core.jobs.submit(caller, request)).job.job_id


async def watched(core: Core, caller: Principal, store: str, seconds: int) -> None:
    job_id, delays, rest = await submit(core, caller, seconds), [], b""
    async for news in core.log_reader.follow(job_id):
        if isinstance(news, LogChunk):
            seen = time.time()
            *lines, rest = (rest + news.data).split(b"\n")
            delays += [seen - float(line) for line in lines if line[:1].isdigit()]
    delays.sort()
    p50, p99 = statistics.median(delays), delays[int(0.99 * (len(delays) - 1))]
    print(f"{store}: printed to seen p50 {p50:.3f} s, p99 {p99:.3f} s, {len(delays)} lines")
    await sealed(core, caller, job_id)
    # Its chunks are deleted a moment after, which is not to count for the next job.
    await asyncio.sleep(3)


async def unwatched(core: Core, caller: Principal, store: str, seconds: int) -> None:
    before = calls(core)
    job_id = await submit(core, caller, seconds)
    await sealed(core, caller, job_id)
    made = calls(core) - before
    told = ", ".join(f"{count} {name}" for name, count in sorted(made.items()))
    print(f"{store}: unwatched for {seconds} s: {told} (2 puts are of sealing)")


async def sealed(core: Core, caller: Principal, job_id: str) -> None:
    job = await core.jobs.get(caller, job_id)
    while not job.logs_object_key:
        job = await core.jobs.wait_for_change(caller, job_id, job.version, timedelta(seconds=5))


def calls(core: Core) -> Counter[str]:
    """Return the calls of the object store so far, by operation."""
    found: Counter[str] = Counter()
    for metric in core.metrics.registry.collect():
        if metric.name == "reactorcide_object_store_seconds":
            for sample in metric.samples:
                if sample.name.endswith("_count"):
                    found[sample.labels["op"]] += int(sample.value)
    return found


if __name__ == "__main__":
    main()
