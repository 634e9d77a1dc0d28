"""`up`: the whole product on one machine, in one process; `--detach` leaves it in the background."""

import asyncio
import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli.errors import ExitCode

if TYPE_CHECKING:
    from reactorcide.config import Settings
    from reactorcide.worker.host import Isolation

LOG_FILE = "up.log"
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_HEAVY = ("reactorcide.wiring.worker", "reactorcide.wiring.api")
"""Imported while PostgreSQL starts."""


@click.command()
@click.option("--port", type=int, help="API port; 0 takes any free one.")
@click.option("--host", help="API address (default 127.0.0.1).")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where everything is kept.")
@click.option("--concurrency", type=int, help="Jobs at once (default: one a core).")
@click.option(
    "--unsandboxed", is_flag=True, help="Run jobs without a sandbox if need be: they can do all you can."
)
@click.option("--detach", is_flag=True, help="Start in the background and return when it is ready.")
@click.option("--ready-fd", type=int, hidden=True)
def up(
    *,
    port: int | None,
    host: str | None,
    data_dir: str | None,
    concurrency: int | None,
    unsandboxed: bool,
    detach: bool,
    ready_fd: int | None,
) -> None:
    """Start database, API and worker on this machine.

    Ctrl-C lets running jobs end and then stops everything; a second Ctrl-C stops the jobs too.
    """
    from reactorcide.cli.service import make_data_dir, read_settings, run_service, sole_owner

    flags = {
        "port": port,
        "host": host,
        "data_dir": data_dir,
        "worker_concurrency": concurrency,
        "unsandboxed": unsandboxed,
    }
    settings = read_settings(os.environ, flags).settings
    folder = make_data_dir(settings)
    if detach:
        start_detached(folder, flags)
        return
    with sole_owner(folder):
        run_service(settings, _run(settings, os.environ, ready_fd))


async def _run(settings: "Settings", environ: Mapping[str, str], ready_fd: int | None) -> None:

    from reactorcide.cli.service import check_address, server_file, stop_signals

    async with AsyncExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        host = settings.host or "127.0.0.1"
        check_address(host, settings.port)
        dsn, isolation = await _start_foundation(stack, settings, environ)
        from reactorcide.wiring.api import serving
        from reactorcide.wiring.core import ensure_admin, maintaining, open_core
        from reactorcide.wiring.worker import direct_gateway, make_worker, working

        core = await stack.enter_async_context(
            open_core(settings, dsn, objects_dir=settings.data_dir / "objects")
        )
        await ensure_admin(core, make_one=True)
        url = await stack.enter_async_context(serving(core, host))
        await stack.enter_async_context(maintaining(core))
        gateway = direct_gateway(core)
        worker = make_worker(gateway, settings, environ, isolation.name, settings.public_url or url)
        task = await stack.enter_async_context(working(worker))
        stopper.hand_over(worker)
        stack.enter_context(server_file(settings.data_dir, url))
        ready = asyncio.create_task(worker.is_registered.wait())
        await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            _announce(settings.public_url or url, settings, isolation)
            _tell_ready(ready_fd)
        await task


async def _start_foundation(
    stack: AsyncExitStack, settings: "Settings", environ: Mapping[str, str]
) -> tuple[str, "Isolation"]:
    """Start the database, look for a sandbox and import the rest, all at once."""
    from reactorcide.cli.service import require_isolation
    from reactorcide.wiring.database import open_database

    importing = asyncio.create_task(asyncio.to_thread(_import_heavy))
    probing = asyncio.create_task(require_isolation(settings, environ))
    try:
        dsn = await stack.enter_async_context(open_database(settings))
        isolation = await probing
        await importing
    finally:
        probing.cancel()
    return dsn, isolation


def _import_heavy() -> None:
    for name in _HEAVY:
        importlib.import_module(name)


def _announce(url: str, settings: "Settings", isolation: "Isolation") -> None:
    from reactorcide.cli.discovery import TOKEN_FILE

    kept = isolation.detail if isolation.is_present else f"NONE: {isolation.detail}"
    lines = (
        f"Reactorcide is up at {url}",
        f"  isolation  {kept}",
        f"  data       {settings.data_dir}",
        f"  token      {settings.data_dir / TOKEN_FILE}",
        "  try        reactorcide run -- echo hello",
    )
    click.echo("\n".join(lines), err=True)


def _tell_ready(ready_fd: int | None) -> None:
    if ready_fd is not None:
        with contextlib.suppress(OSError):
            os.write(ready_fd, b"ready\n")
        os.close(ready_fd)


def start_detached(folder: Path, flags: Mapping[str, object]) -> None:
    """Start `up` in the background and return when it is ready; one that is up already is as good.

    Raises:
        CommandFailed: it did not get ready; the end of its log is told.
    """
    from reactorcide.cli.discovery import read_local_url
    from reactorcide.cli.service import as_variables

    if url := read_local_url(folder):
        click.echo(f"Reactorcide is up already at {url}", err=True)
        return
    reading, writing = os.pipe()
    log_path = folder / LOG_FILE
    with os.fdopen(reading, "rb") as ready, os.fdopen(os.open(log_path, _APPEND, 0o600), "wb") as log_file:
        begin = log_file.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", "reactorcide", "up", "--ready-fd", str(writing)],
            env={**os.environ, **as_variables(flags)},
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        # End of file without a word: it has ended. It never hangs silently: every wait of it is bounded.
        is_ready = ready.read() == b"ready\n"
    if not is_ready:
        code = process.wait()
        with log_path.open("rb") as written:
            written.seek(begin)
            told = written.read()[-4000:].decode(errors="replace").strip()
        click.echo(told, err=True)
        raise SystemExit(code or ExitCode.TROUBLE)
    process.returncode = 0  # it goes on without us
    click.echo(f"Reactorcide is up at {read_local_url(folder)}; 'reactorcide down' stops it", err=True)
