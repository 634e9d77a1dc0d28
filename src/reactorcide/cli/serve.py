"""`serve`: the API and the rounds of maintenance, without a worker."""

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from reactorcide.config import Settings
    from reactorcide.wiring.core import Core


@click.command()
@click.option("--port", type=int, help="API port; 0 takes any free one.")
@click.option("--host", help="API address (default 0.0.0.0).")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where the program keeps its own files.")
def serve(port: int | None, host: str | None, data_dir: str | None) -> None:
    """Serve the API and do the maintenance; workers run elsewhere.

    While the database is away, also at the start, requests are answered 503.
    """
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

    async def does(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do what may take long. False: it was to stop first."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self.is_over.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            working.result()
            return True
        working.cancel()
        return False


async def _serve(settings: "Settings") -> None:
    from reactorcide.cli.service import check_address, server_file, stop_signals
    from reactorcide.domain.errors import Unavailable
    from reactorcide.wiring.api import serving
    from reactorcide.wiring.core import keep_trying, maintaining, open_core
    from reactorcide.wiring.database import open_database

    async with AsyncExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        host = settings.host or "0.0.0.0"  # noqa: S104 - a server is there for others
        check_address(host, settings.port)
        dsn = await stack.enter_async_context(open_database(settings))
        core = await stack.enter_async_context(
            open_core(settings, dsn, objects_dir=Path("objects"), is_patient=True)
        )
        prepare = partial(_prepare, core)
        is_prepared = True
        try:
            await prepare()
        except Unavailable:
            is_prepared = False
        url = await stack.enter_async_context(serving(core, host))
        service = _Serving()
        stopper.hand_over(service)
        if not is_prepared and not await service.does(keep_trying(prepare)):
            return
        await stack.enter_async_context(maintaining(core))
        stack.enter_context(server_file(settings.data_dir, url))
        click.echo(f"Reactorcide serves at {settings.public_url or url}", err=True)
        await service.is_over.wait()


async def _prepare(core: "Core") -> None:
    """Bring the database up to date, and make the admin that is named, if there is none."""
    from reactorcide.wiring.core import ensure_admin, prepare_database

    await prepare_database(core)
    await ensure_admin(core, make_one=False)
