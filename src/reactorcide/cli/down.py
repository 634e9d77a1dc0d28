"""`down`: stop the service that `up` started on a data directory."""

import contextlib
import json
import os
import signal
import time

import click

from reactorcide.cli.errors import CommandFailed, ExitCode

_POLL_SECONDS = 0.02


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False), help="Of the service to stop.")
@click.option("--now", is_flag=True, help="Kill running jobs; without it they may end first.")
def down(data_dir: str | None, now: bool) -> None:
    """Stop the service that runs on this machine's data directory."""
    from reactorcide.cli.discovery import SERVER_FILE, read_local_url
    from reactorcide.cli.service import read_settings

    folder = read_settings(os.environ, {"data_dir": data_dir}).settings.data_dir
    url = read_local_url(folder)
    if url is None:
        click.echo(f"Nothing runs on {folder}", err=True)
        return
    pid = int(json.loads((folder / SERVER_FILE).read_text())["pid"])
    click.echo(f"Stopping {url}" + ("" if now else " when its jobs have ended"), err=True)
    _stop(pid, now=now)
    try:
        while _is_alive(pid):
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None
    click.echo("Stopped", err=True)


def _stop(pid: int, *, now: bool) -> None:
    _signal(pid)
    if now:
        # Two signals of one kind are one to a process that has not run between them.
        _signal(pid, signal.SIGINT)


def _signal(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise CommandFailed(f"process {pid} belongs to another user") from error


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
