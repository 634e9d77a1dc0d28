"""`worker`: a worker that shares the coordinator's database and object store."""

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli.errors import CommandFailed

if TYPE_CHECKING:
    from reactorcide.config import Settings


@click.command()
@click.option("--queue", "queues", multiple=True, help="Queue to take from; repeatable.")
@click.option("--concurrency", type=int, help="Jobs at once (default: one a core).")
@click.option("--name", help="Stays over restarts (default: the host's name).")
@click.option(
    "--unsandboxed", is_flag=True, help="Run jobs without a sandbox: they can do all that the worker can."
)
def worker(queues: tuple[str, ...], concurrency: int | None, name: str | None, unsandboxed: bool) -> None:
    """Run jobs of the coordinator whose database DB_URI names.

    SIGTERM lets running jobs end; a second one kills them.
    """
    from reactorcide.cli.service import make_data_dir, read_settings, run_service

    flags = {
        "worker_queue": ",".join(queues) or None,
        "worker_concurrency": concurrency,
        "worker_name": name,
        "unsandboxed": unsandboxed,
    }
    settings = read_settings(os.environ, flags).settings
    if settings.db_uri is None:
        raise CommandFailed(
            "a worker of its own needs the coordinator's database: REACTORCIDE_DB_URI is not set",
            "'reactorcide up' has a worker in it already",
        )
    make_data_dir(settings)
    run_service(settings, _work(settings, settings.db_uri, os.environ))


async def _work(settings: "Settings", dsn: str, environ: Mapping[str, str]) -> None:

    from reactorcide.cli.service import require_isolation, stop_signals
    from reactorcide.wiring.core import open_core
    from reactorcide.wiring.worker import make_worker, working

    async with AsyncExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        isolation = await require_isolation(settings, environ)
        core = await stack.enter_async_context(open_core(settings, dsn, objects_dir=Path("objects")))
        made = make_worker(core, environ, isolation.name, settings.public_url)
        task = await stack.enter_async_context(working(made))
        stopper.hand_over(made)
        await task
