"""`serve`: the API and the rounds of maintenance, without a worker."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reactorcide.config import Settings


@click.command()
@click.option("--port", type=int, help="API port; 0 takes any free one.")
@click.option("--host", help="API address (default 0.0.0.0).")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where the program keeps its own files.")
def serve(port: int | None, host: str | None, data_dir: str | None) -> None:
    """Serve the API and do the maintenance; workers run elsewhere."""
    from reactorcide.cli.service import make_data_dir, read_settings, run_service, sole_owner

    settings = read_settings(os.environ, {"port": port, "host": host, "data_dir": data_dir}).settings
    with sole_owner(make_data_dir(settings)):
        run_service(settings, _serve(settings))


class _Serving:
    """An API in the eyes of the signals: nothing runs in it that would have to end first."""

    running = 0

    def __init__(self) -> None:
        self.is_over = asyncio.Event()

    def drain(self) -> None:
        """Stop; requests in flight get their answers."""
        self.is_over.set()

    def stop(self) -> None:
        """As `drain`: what goes on then is bounded."""
        self.is_over.set()


async def _serve(settings: "Settings") -> None:
    from reactorcide.cli.service import check_address, server_file, stop_signals
    from reactorcide.wiring.api import serving
    from reactorcide.wiring.core import ensure_admin, maintaining, open_core
    from reactorcide.wiring.database import open_database

    async with AsyncExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        host = settings.host or "0.0.0.0"  # noqa: S104 - a server is there for others
        check_address(host, settings.port)
        dsn = await stack.enter_async_context(open_database(settings))
        core = await stack.enter_async_context(open_core(settings, dsn, objects_dir=Path("objects")))
        await ensure_admin(core, make_one=False)
        url = await stack.enter_async_context(serving(core, host))
        await stack.enter_async_context(maintaining(core))
        stack.enter_context(server_file(settings.data_dir, url))
        service = _Serving()
        stopper.hand_over(service)
        click.echo(f"Reactorcide serves at {settings.public_url or url}", err=True)
        await service.is_over.wait()
