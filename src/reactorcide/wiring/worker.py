"""A worker of this host: how it reaches its coordinator, and how it works."""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import reactorcide
from reactorcide.config import Settings
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.services.new_ids import IdSource
from reactorcide.wiring.host import host_terms
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.host import HostCommands, inherited
from reactorcide.worker.loop import Worker, WorkerPlan
from reactorcide.worker.runner import RunnerPool
from reactorcide.worker.tree_cache import TreeCache

if TYPE_CHECKING:
    from reactorcide.wiring.core import Core


def make_worker(
    gateway: Gateway, settings: Settings, environ: Mapping[str, str], isolation: str, url: str | None
) -> Worker:
    """Return a worker of this host; it does nothing yet.

    ``url`` is where jobs and people find the API as far as this side knows; the coordinator may know better.
    """
    environment = inherited(environ)
    plan = WorkerPlan(
        identity=WorkerIdentity(
            name=settings.worker_name or platform.node() or "worker",
            boot_id=IdSource().new_id(),
            queues=settings.worker_queue,
            slots=_slots(settings),
            version=reactorcide.__version__,
            isolation=isolation,
        ),
        spool_dir=settings.spool_dir or settings.data_dir / "spool",
        poll_interval=settings.worker_poll_interval,
        drain_limit=settings.drain_limit,
        terms=host_terms(settings, url),
        tree_cache=TreeCache(settings.data_dir / "trees", settings.tree_cache_bytes),
    )
    host = HostCommands(environment)
    return Worker(gateway, plan, RunnerPool(environment), partial(host.clean, plan.terms.work_dir))


def direct_gateway(core: "Core") -> Gateway:
    """Return the way to the services of this process."""
    from reactorcide.worker.gateway.direct import DirectGateway

    return DirectGateway(core.attempts, core.logs, core.artifacts, core.trees)


@asynccontextmanager
async def remote_gateway(
    settings: Settings, url: str, read_token: Callable[[], str | None]
) -> AsyncIterator[Gateway]:
    """Yield the way to the coordinator at ``url``.

    Raises:
        Misconfigured: its certificates cannot be checked as the settings say.
    """
    from reactorcide.worker.gateway.http import HttpGateway

    gateway = HttpGateway(url, read_token, slots=_slots(settings), ca_file=settings.coordinator_ca_file)
    try:
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """Let the worker work; leaving the block early kills its jobs, and says so of them."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        await asyncio.wait({task})


def _slots(settings: Settings) -> int:
    return settings.worker_concurrency or len(os.sched_getaffinity(0))
