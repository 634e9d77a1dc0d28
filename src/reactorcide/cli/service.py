"""What the commands that run a service share: settings, signals, one owner of a data directory."""

import asyncio
import fcntl
import json
import os
import signal
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from reactorcide.cli.discovery import SERVER_FILE, read_local_url
from reactorcide.cli.errors import CommandFailed, ExitCode
from reactorcide.config import PREFIX, LoadedSettings, Settings, load_settings
from reactorcide.domain.errors import InvalidInput, Misconfigured, Unavailable

if TYPE_CHECKING:
    from reactorcide.worker.host import Isolation

LOCK_FILE = "up.lock"


class ServiceRuns(CommandFailed):
    """Another service has the data directory."""


def read_settings(environ: Mapping[str, str], flags: Mapping[str, object]) -> LoadedSettings:
    """Return the settings of the environment, each flag that was given in its place.

    Raises:
        SystemExit: with code 2, after every fault was told.
    """
    try:
        loaded = load_settings({**environ, **as_variables(flags)})
    except InvalidInput as error:
        for fault in error.faults:
            click.echo(f"error: {fault.pointer} {fault.detail}", err=True)
        raise SystemExit(ExitCode.USAGE) from error
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded


def as_variables(flags: Mapping[str, object]) -> dict[str, str]:
    """Return flags that were given as the variables they stand for."""
    given = {name: value for name, value in flags.items() if value is not None and value is not False}
    return {PREFIX + name.upper(): str(value) for name, value in given.items()}


def run_service(settings: Settings, main: Coroutine[Any, Any, None], *, is_quiet: bool = False) -> None:
    """Run a service to its end; what an operator must mend or wait for is told in a line.

    ``is_quiet``: its own log tells of trouble only, as it should of what ends at once.

    Raises:
        CommandFailed: the service could not start, or not go on.
    """
    from reactorcide.observability.logging import configure_logging

    configure_logging("warning" if is_quiet else settings.log_level, settings.log_format)
    try:
        asyncio.run(main)
    except Misconfigured as error:
        raise CommandFailed(str(error)) from error
    except Unavailable as error:
        raise CommandFailed(str(error), "see 'reactorcide doctor'") from error
    except asyncio.CancelledError:
        raise SystemExit(ExitCode.INTERRUPTED) from None


def make_data_dir(settings: Settings) -> Path:
    """Make the data directory, owner-only, if it is not there.

    Raises:
        CommandFailed: it cannot be made or written.
    """
    path = settings.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be made: {error.strerror}", "set REACTORCIDE_DATA_DIR") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise CommandFailed(f"{path} is not writable for this user", "set REACTORCIDE_DATA_DIR")
    return path


@contextmanager
def sole_owner(data_dir: Path) -> Iterator[None]:
    """Be the only service on a data directory; the lock dies with this process.

    Raises:
        ServiceRuns: another one runs there; its URL is told.
    """
    with (data_dir / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            url = read_local_url(data_dir)
            where = f" at {url}" if url else ""
            raise ServiceRuns(
                f"a service already runs on {data_dir}{where}",
                "stop it with 'reactorcide down', or set REACTORCIDE_DATA_DIR to another directory",
            ) from error
        yield


def check_address(host: str, port: int) -> None:
    """Tell of an address that cannot be had before anything else is started.

    Raises:
        CommandFailed: it is in use or not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise CommandFailed(
            f"port {port} of {host} cannot be had: {os.strerror(error.errno or 0)}",
            "choose another with --port or REACTORCIDE_PORT (0: any free one)",
        ) from error


@contextmanager
def server_file(data_dir: Path, url: str) -> Iterator[None]:
    """Tell clients of this user where the service is, for as long as it is there."""
    from reactorcide.services.private_files import write_private_file

    path = data_dir / SERVER_FILE
    write_private_file(path, json.dumps({"url": url, "pid": os.getpid()}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def find_isolation(settings: Settings, environ: Mapping[str, str]) -> "Isolation":
    """Find out what isolates jobs on this host, as the operator wants it."""
    from reactorcide.wiring.host import host_terms
    from reactorcide.worker.host import HostCommands, inherited

    return await HostCommands(inherited(environ)).isolation(host_terms(settings).policy)


async def require_isolation(settings: Settings, environ: Mapping[str, str]) -> "Isolation":
    """As `find_isolation`, for who is about to run jobs.

    Raises:
        CommandFailed: nothing isolates them, and the operator did not say that this is wanted; or what
            does is less than the operator requires.
    """
    isolation = await find_isolation(settings, environ)
    if not isolation.is_present and not settings.unsandboxed:
        raise CommandFailed(
            f"no sandbox can be made on this host: {isolation.detail}",
            "see 'reactorcide doctor'; --unsandboxed runs jobs without one, with all that you may do",
        )
    if isolation.unmet:
        raise CommandFailed(
            f"not enforced on this host, but in REACTORCIDE_REQUIRE_ISOLATION: {', '.join(isolation.unmet)}",
            "see 'reactorcide doctor' for what to do about each",
        )
    return isolation


class Stoppable(Protocol):
    """What stops in two steps, such as a worker."""

    @property
    def running(self) -> int: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...


class Stopper:
    """Obeys SIGTERM and SIGINT: the first drains, each further one stops; before a hand-over they cancel."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._charge: Stoppable | None = None
        self._count = 0

    def hand_over(self, charge: Stoppable) -> None:
        """Name what is to be stopped from now on."""
        self._charge = charge

    def obey(self) -> None:
        """Take one signal."""
        self._count += 1
        if self._charge is None:
            self._task.cancel()
        elif self._count == 1:
            if self._charge.running:
                click.echo(
                    f"Waiting for {self._charge.running} running job(s); once more kills them.", err=True
                )
            self._charge.drain()
        else:
            self._charge.stop()


@contextmanager
def stop_signals() -> Iterator[Stopper]:
    """Let the current task's service be stopped by signals, instead of dying of them."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called from a coroutine
    loop = asyncio.get_running_loop()
    stopper = Stopper(task)
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stopper.obey)
    try:
        yield stopper
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
