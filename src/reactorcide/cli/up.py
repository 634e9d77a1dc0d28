"""`up`: the whole product on one machine, in one process; `--detach` leaves it in the background."""

import asyncio
import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli.errors import CommandFailed, ExitCode

if TYPE_CHECKING:
    from reactorcide.config import Settings
    from reactorcide.worker.host import Isolation

LOG_FILE = "up.log"
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_HEAVY = ("reactorcide.wiring.worker", "reactorcide.wiring.api")
"""Imported while PostgreSQL starts."""
_READY, _TAKEN = b"ready\n", b"taken\n"
"""What a detached `up` tells who started it; nothing: it has ended, and its log says why."""
OTHER_START_SECONDS = 60.0
"""So long is waited for another `up` that has the data directory and is not ready yet."""
_LOOK_SECONDS = 0.1
_LOOKS = 20


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
    from reactorcide.cli.service import (
        ServiceRuns,
        make_data_dir,
        read_settings,
        run_service,
        sole_owner,
    )

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
    try:
        with sole_owner(folder):
            run_service(settings, _run(settings, os.environ, ready_fd))
    except ServiceRuns:
        if ready_fd is None:
            raise
        # Who started us waits for the other one, and has the say.
        _tell(ready_fd, _TAKEN)
        raise SystemExit(ExitCode.TROUBLE) from None


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
            _tell(ready_fd, _READY)
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


def _tell(ready_fd: int | None, word: bytes) -> None:
    if ready_fd is not None:
        with contextlib.suppress(OSError):
            os.write(ready_fd, word)
        os.close(ready_fd)


def start_detached(folder: Path, flags: Mapping[str, object]) -> None:
    """Start `up` in the background and return when it is ready; one that is up already is as good.

    So is one that somebody else starts at this moment: it is waited for, and if it fails we try ourselves.

    Raises:
        CommandFailed: the other one did not get ready in time.
        SystemExit: ours did not get ready; the end of its log was told.
    """
    from reactorcide.cli.discovery import read_local_url

    deadline = time.monotonic() + OTHER_START_SECONDS
    while True:
        if url := read_local_url(folder):
            click.echo(f"Reactorcide is up already at {url}", err=True)
            return
        if _start_once(folder, flags):
            url = read_local_url(folder)
            click.echo(f"Reactorcide is up at {url}; 'reactorcide down' stops it", err=True)
            return
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"another service has {folder}, and was not ready within {OTHER_START_SECONDS:.0f} seconds",
                f"see {folder / LOG_FILE}",
            )
        for _ in range(_LOOKS):
            if read_local_url(folder):
                break
            time.sleep(_LOOK_SECONDS)


def _start_once(folder: Path, flags: Mapping[str, object]) -> bool:
    """Start `up` in the background. True: it is ready; False: another one has the data directory.

    Raises:
        SystemExit: it did not get ready; the end of its log was told.
    """
    from reactorcide.cli.service import as_variables

    reading, writing = os.pipe()
    log_path = folder / LOG_FILE
    with os.fdopen(reading, "rb") as told, os.fdopen(os.open(log_path, _APPEND, 0o600), "wb") as log_file:
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
        word = told.read()
    if word == _READY:
        process.returncode = 0  # it goes on without us
        return True
    code = process.wait()
    if word == _TAKEN:
        return False
    with log_path.open("rb") as written:
        written.seek(begin)
        text = written.read()[-4000:].decode(errors="replace").strip()
    click.echo(text, err=True)
    raise SystemExit(code or ExitCode.TROUBLE)
