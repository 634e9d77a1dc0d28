"""`worker`: a worker of its own, on the coordinator's database or on another host, over HTTP."""

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli.errors import CommandFailed

if TYPE_CHECKING:
    from reactorcide.config import Settings
    from reactorcide.worker.gateway.port import Gateway

_TOKEN = "WORKER_TOKEN"  # noqa: S105 - the name of a setting


@click.command()
@click.option("--coordinator", metavar="URL", help="Work for the coordinator at this URL.")
@click.option(
    "--token-file", type=click.Path(dir_okay=False), help="File with the worker's token for --coordinator."
)
@click.option("--queue", "queues", multiple=True, help="Queue to take from; repeatable.")
@click.option("--concurrency", type=int, help="Jobs at once (default: one a core).")
@click.option("--name", help="Stays over restarts (default: the host's name).")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where spool and workspaces are kept.")
@click.option(
    "--unsandboxed", is_flag=True, help="Run jobs without a sandbox: they can do all that the worker can."
)
def worker(
    *,
    coordinator: str | None,
    token_file: str | None,
    queues: tuple[str, ...],
    concurrency: int | None,
    name: str | None,
    data_dir: str | None,
    unsandboxed: bool,
) -> None:
    """Run jobs of a coordinator: of the one at COORDINATOR_URL, or of the one whose database is DB_URI.

    Another host needs the URL and a worker's token ('reactorcide tokens create NAME --kind worker'), no
    database, no object store and no key.

    SIGTERM lets running jobs end; a second one kills them.
    """
    from reactorcide.cli.service import as_variables, make_data_dir, read_settings, run_service

    flags = {
        "coordinator_url": coordinator,
        "worker_token_file": token_file,
        "worker_queue": ",".join(queues) or None,
        "worker_concurrency": concurrency,
        "worker_name": name,
        "data_dir": data_dir,
        "unsandboxed": unsandboxed,
    }
    environ = {**os.environ, **as_variables(flags)}
    if token_file is not None:
        # Said for this call, so it is meant rather than what the environment has.
        environ.pop(f"REACTORCIDE_{_TOKEN}", None)
    settings = read_settings(environ, {}).settings
    _require_one_way(settings)
    make_data_dir(settings)
    run_service(settings, _work(settings, environ))


def _require_one_way(settings: "Settings") -> None:
    if settings.coordinator_url is not None and settings.db_uri is not None:
        raise CommandFailed(
            "both REACTORCIDE_COORDINATOR_URL and REACTORCIDE_DB_URI are set: a worker has one coordinator",
            "unset one of them",
        )
    if settings.coordinator_url is not None and settings.worker_token is None:
        raise CommandFailed(
            "a worker needs a token for its coordinator: REACTORCIDE_WORKER_TOKEN_FILE is not set",
            "make one with 'reactorcide tokens create NAME --kind worker'; see --token-file",
        )
    if settings.coordinator_url is None and settings.db_uri is None:
        raise CommandFailed(
            "a worker of its own needs its coordinator: neither REACTORCIDE_COORDINATOR_URL nor"
            " REACTORCIDE_DB_URI is set",
            "see --coordinator; 'reactorcide up' has a worker in it already",
        )


async def _work(settings: "Settings", environ: Mapping[str, str]) -> None:
    from reactorcide.cli.service import require_isolation, stop_signals
    from reactorcide.wiring.worker import make_worker, working

    async with AsyncExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        isolation = await require_isolation(settings, environ)
        gateway = await _reach(stack, settings, environ)
        url = settings.public_url or settings.coordinator_url
        made = make_worker(gateway, settings, environ, isolation.name, url)
        task = await stack.enter_async_context(working(made))
        stopper.hand_over(made)
        await task


async def _reach(stack: AsyncExitStack, settings: "Settings", environ: Mapping[str, str]) -> "Gateway":
    """Return the way to the coordinator; nothing is imported that it does not need."""
    if settings.coordinator_url is not None:
        from reactorcide.wiring.worker import remote_gateway

        reading = _TokenReader(environ, settings.worker_token)
        return await stack.enter_async_context(
            remote_gateway(settings, settings.coordinator_url, reading.read)
        )
    from reactorcide.wiring.core import keep_trying, open_core, prepare_database
    from reactorcide.wiring.worker import direct_gateway

    assert settings.db_uri is not None  # noqa: S101 - one of them is set
    core = await stack.enter_async_context(
        open_core(settings, settings.db_uri, objects_dir=Path("objects"), is_patient=True)
    )
    await keep_trying(partial(prepare_database, core))
    return direct_gateway(core)


class _TokenReader:
    """Reads the worker's token anew whenever asked; what cannot be read now is as it was."""

    def __init__(self, environ: Mapping[str, str], token: str | None) -> None:
        self._environ = environ
        self._token = token

    def read(self) -> str | None:
        import structlog

        from reactorcide.config import read_secret

        try:
            self._token = read_secret(self._environ, _TOKEN) or self._token
        except ValueError as error:
            structlog.get_logger().error("token.not_read", detail=str(error))
        return self._token
