"""A worker of this host: how it reaches its coordinator, and how it works."""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import reactorcide
from reactorcide.config import Settings
from reactorcide.domain.workers import WorkerIdentity
from reactorcide.services.new_ids import IdSource
from reactorcide.worker.attempt import HostTerms
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.host import HostCommands, inherited
from reactorcide.worker.loop import Worker, WorkerPlan
from reactorcide.worker.runner import RunnerPool
from runnerlib.spec import HostPolicy, Resources

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
        terms=_host_terms(settings, url),
    )
    host = HostCommands(environment)
    return Worker(gateway, plan, RunnerPool(environment), partial(host.clean, plan.terms.work_dir))


def direct_gateway(core: "Core") -> Gateway:
    """Return the way to the services of this process."""
    from reactorcide.worker.gateway.direct import DirectGateway

    return DirectGateway(core.attempts, core.logs, core.artifacts)


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


def _host_terms(settings: Settings, url: str | None) -> HostTerms:
    policy = HostPolicy(
        executor=cast(Literal["auto", "process", "container"], settings.executor),
        unsandboxed=settings.unsandboxed,
        container_engine=settings.container_engine,
        container_user=settings.container_user,
        container_allow_root=settings.container_allow_root,
        container_pull=cast(Literal["missing", "always", "never"], settings.container_pull),
        container_pull_seconds=settings.container_pull_seconds.total_seconds(),
        container_network=settings.container_network,
        container_read_only=settings.container_read_only,
        read_only_paths=settings.sandbox_paths,
        plugin_dir=None if settings.plugin_dir is None else str(settings.plugin_dir),
        default_resources=Resources(memory_mb=settings.job_memory_mb, pids=settings.job_pids),
        workspace_limit_bytes=settings.job_disk_bytes,
        log_limit_bytes=settings.log_limit_bytes,
        artifact_limit_bytes=settings.artifact_limit_bytes,
        copy_source_roots=settings.copy_source_roots,
        git_allowed_protocols=settings.git_allowed_protocols,
        git_allowed_hosts=settings.git_allowed_hosts,
        cancel_grace_seconds=settings.cancel_grace.total_seconds(),
    )
    return HostTerms(
        policy=policy,
        work_dir=settings.work_dir or settings.data_dir / "work",
        lost_after=settings.lost_after,
        uid_base=settings.sandbox_uid_base if os.geteuid() == 0 else None,
        public_url=url,
    )
