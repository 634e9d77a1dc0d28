"""How many tickets a second go through Corndogs: by the client alone, and with the rows behind them.

    python bench/corndogs.py [jobs] [address]     (default 3000 jobs; our own server in a process beside us)

First the wire: 32 callers submit, claim and complete. Then the product: jobs that lie in PostgreSQL are
announced by the relay, claimed in batches by four workers of 8 slots, and their tickets completed. The
goal is 1,000 a second of announce, claim and complete on 2 cores.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path

from reactorcide.config import load_settings
from reactorcide.domain.submission import JobRequest
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.observability.logging import configure_logging
from reactorcide.observability.metrics import Metrics
from reactorcide.queue.corndogs.messages import NewTask, Override
from reactorcide.queue.corndogs.ready_queue import CorndogsQueue
from reactorcide.queue.corndogs.relay import TicketRelay
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.wiring.core import Core, open_core
from reactorcide.wiring.queues import open_corndogs

USER_ID = "01890000-0000-7000-8000-00000000abcd"
CALLERS, WORKERS, SLOTS = 32, 4, 8
SERVER = Path(__file__).parent.parent / "tests/fakes/corndogs_server.py"


def main() -> None:
    configure_logging("error", "text")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000
    with tempfile.TemporaryDirectory(prefix="reactorcide-bench-") as folder:
        if len(sys.argv) > 2:
            asyncio.run(measure(count, sys.argv[2], Path(folder)))
            return
        port = 20_000 + os.getpid() % 20_000
        server = subprocess.Popen([sys.executable, SERVER, "--port", str(port)], stdout=subprocess.DEVNULL)
        try:
            asyncio.run(measure(count, f"tcp://127.0.0.1:{port}", Path(folder)))
        finally:
            server.terminate()
            server.wait(10)


async def measure(count: int, address: str, folder: Path) -> None:
    await measure_client(count, address)
    postgres = EmbeddedPostgres(folder / "pg", is_durable=True)
    await postgres.start()
    try:
        settings = load_settings({"DATA_DIR": str(folder), "CORNDOGS_BASE_URL": address}).settings
        async with open_core(settings, postgres.dsn, objects_dir=folder / "objects") as core:
            await measure_product(count, core)
    finally:
        await postgres.stop()


async def measure_client(count: int, address: str) -> None:
    client = open_corndogs(load_settings({"CORNDOGS_BASE_URL": address}).settings)
    queue, left = f"bench-{uuid.uuid4()}", iter(range(count))
    override = Override(timeout=60, current_state="working", auto_target_state="submitted")
    for _ in range(100):
        try:
            await client.ping()
            break
        except Exception:  # noqa: BLE001 - the server is coming up
            await asyncio.sleep(0.1)

    async def call() -> None:
        for _ in left:
            await client.submit_task(NewTask(queue, b'{"job_id":"x"}', "submitted", "working"))
            delivery = await client.claim_task([queue], "submitted", override)
            assert delivery is not None
            await client.complete_task(delivery.task.uuid, queue, "working")

    begun = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    passed = time.perf_counter() - begun
    print(f"client: {count / passed:.0f} submit + claim + complete a second ({CALLERS} callers)")
    await client.close()


async def measure_product(count: int, core: Core) -> None:
    queue = core.queue
    assert isinstance(queue, CorndogsQueue)
    await core.accounts.bootstrap_admin(USER_ID, core.settings.data_dir / "admin-token")
    admin = await core.accounts.authenticate((core.settings.data_dir / "admin-token").read_text().strip())
    request = JobRequest(name="bench", source_type="none", job_command="true")
    begun = time.perf_counter()
    await asyncio.gather(*(core.jobs.submit(admin, request) for _ in range(count)))
    print(f"submitted: {count / (time.perf_counter() - begun):.0f} a second")
    workers = [
        (
            await core.attempts.register(
                WorkerIdentity(
                    f"bench-{number}", str(uuid.uuid4()), ("reactorcide-jobs",), SLOTS, "bench", "none"
                ),
                [],
            )
        ).worker_id
        for number in range(WORKERS)
    ]
    relay = TicketRelay(queue._client, queue, core.database, core.bell, watch=Metrics())
    taken = 0

    async def publish() -> None:
        while await relay.run_round():
            pass

    async def work(worker_id: str) -> None:
        nonlocal taken
        while taken < count:
            claims = await core.attempts.claim(worker_id, SLOTS, timedelta(seconds=0.2))
            taken += len(claims)

    begun = time.perf_counter()
    await asyncio.gather(publish(), *map(work, workers))
    while any(
        counted.ready + counted.drawn
        for counted in (await queue.count_tickets(["reactorcide-jobs"])).values()
    ):
        await asyncio.sleep(0.01)
    passed = time.perf_counter() - begun
    print(f"product: {count / passed:.0f} announce + claim + complete a second (goal 1000)")


if __name__ == "__main__":
    main()
