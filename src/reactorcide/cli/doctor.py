"""`doctor`: look at everything the program needs on this host, and say what to do about what is wrong."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from reactorcide.config import Settings
    from reactorcide.worker.host import Isolation

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_GIT = (2, 30)
_LEAST_FREE_BYTES = 1024**3


@dataclass(frozen=True)
class Finding:
    """What one look found; ``remedy`` says what to do where something is wrong."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str | None = None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check settings, database, sandbox, git, disk and port; exit 1 if something must be mended."""
    from reactorcide.cli.service import read_settings
    from reactorcide.observability.logging import configure_logging

    loaded = read_settings(os.environ, {})
    # What is wrong is told as a finding, not by the parts that meet it.
    configure_logging("error", loaded.settings.log_format)
    findings = [
        Finding("settings", "warn", text, "correct its name, or unset it") for text in loaded.warnings
    ]
    findings = findings or [Finding("settings", "ok", "every value is good; see 'reactorcide config'")]
    findings += asyncio.run(_examine(loaded.settings, os.environ))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            state = click.style(f"{finding.state:4}", fg=_COLOURS[finding.state])
            click.echo(f"{state}  {finding.name:{width}}  {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':{width + 8}}-> {finding.remedy}")
    if any(finding.state == "fail" for finding in findings):
        raise SystemExit(1)


async def _examine(settings: "Settings", environ: Mapping[str, str]) -> list[Finding]:
    looks: tuple[Callable[[], Awaitable[Finding]], ...] = (
        lambda: asyncio.to_thread(_examine_data_dir, settings.data_dir),
        lambda: _examine_database(settings),
        lambda: _examine_queue(settings),
        lambda: _examine_objects(settings),
        lambda: asyncio.to_thread(_examine_git),
        lambda: asyncio.to_thread(_examine_disk, settings.data_dir),
        lambda: asyncio.to_thread(_examine_port, settings),
    )
    isolation = asyncio.create_task(_examine_isolation(settings, environ))
    data, database, queue, objects, *others = await asyncio.gather(*(look() for look in looks))
    return [data, database, queue, objects, *await isolation, *others]


def _examine_data_dir(path: Path) -> Finding:
    existing = _existing(path)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data", "fail", f"{existing} is not writable", "set REACTORCIDE_DATA_DIR")
    if path.exists() and path.stat().st_mode & 0o077:
        return Finding("data", "warn", f"{path} is open to other users", f"chmod 700 {path}")
    return Finding("data", "ok", str(path) + ("" if path.exists() else " (made at the first start)"))


async def _examine_database(settings: "Settings") -> Finding:
    from reactorcide.domain.errors import Misconfigured, Unavailable
    from reactorcide.store.postgres_programs import find_programs, find_runner

    try:
        if settings.db_uri is None:
            runner = await asyncio.to_thread(find_runner)
            programs = await asyncio.to_thread(find_programs, settings.pg_bin, runner)
            where = Path(programs.path("postgres")).parent
            return Finding("database", "ok", f"embedded PostgreSQL {programs.major} from {where}")
        from reactorcide.store.migrate import pending, weak_settings

        names = await pending(settings.db_uri)
        weak = await weak_settings(settings.db_uri)
    except Misconfigured as error:
        return Finding("database", "fail", str(error), "the text before says it")
    except Unavailable as error:
        return Finding("database", "fail", str(error), "is the server up, and REACTORCIDE_DB_URI right?")
    if names:
        return Finding("database", "warn", f"lacks {', '.join(names)}", "run 'reactorcide migrate'")
    if weak:
        text = f"a power cut may undo what was acknowledged: off is {', '.join(weak)}"
        return Finding("database", "warn", text, "set it to on, for this database or for the server")
    return Finding("database", "ok", "reachable, and its schema is up to date")


async def _examine_queue(settings: "Settings") -> Finding:
    if not settings.corndogs_base_url:
        return Finding("queue", "ok", "the rows of jobs")
    from reactorcide.domain.errors import Misconfigured
    from reactorcide.queue.corndogs.errors import QueueUnavailable
    from reactorcide.wiring.queues import open_corndogs

    where = ", ".join(settings.corndogs_base_url)
    try:
        client = open_corndogs(settings)
        try:
            await client.ping()
        finally:
            await client.close()
    except Misconfigured as error:
        return Finding("queue", "fail", str(error), "the text before says it")
    except QueueUnavailable as error:
        text = f"Corndogs at {where}: {error.detail}"
        return Finding("queue", "fail", text, "is it up, and REACTORCIDE_CORNDOGS_BASE_URL right?")
    return Finding("queue", "ok", f"Corndogs at {where} answers")


async def _examine_objects(settings: "Settings") -> Finding:
    kind = settings.object_store_type
    if kind == "memory":
        return Finding(
            "objects", "warn", "logs and artifacts are lost with the process", "unset OBJECT_STORE_TYPE"
        )
    if kind == "filesystem":
        return Finding(
            "objects", "ok", f"files below {settings.object_store_base_path or settings.data_dir / 'objects'}"
        )
    from reactorcide.domain.errors import Misconfigured
    from reactorcide.objects.port import StoreUnavailable
    from reactorcide.wiring.objects import examine_bucket

    where = f"bucket {settings.object_store_bucket} of {kind}"
    try:
        await examine_bucket(settings)
    except Misconfigured as error:
        return Finding("objects", "fail", str(error), "the text before says it")
    except StoreUnavailable as error:
        return Finding("objects", "fail", f"{where}: {error.detail}", "is it up, and its address right?")
    return Finding("objects", "ok", f"{where} keeps, lists and forgets an object")


async def _examine_isolation(settings: "Settings", environ: Mapping[str, str]) -> list[Finding]:
    from reactorcide.cli.service import find_isolation

    isolation = await find_isolation(settings, environ)
    return [_examine_sandbox(settings, isolation), *_examine_measures(settings, isolation)]


def _examine_sandbox(settings: "Settings", isolation: "Isolation") -> Finding:
    if isolation.unmet and isolation.name != "none":
        text = f"no job is run, as REQUIRE_ISOLATION is not met: {', '.join(isolation.unmet)}"
        return Finding("sandbox", "fail", text, "mend what is told below, or require less")
    if isolation.is_present:
        return Finding("sandbox", "ok", isolation.detail)
    if settings.unsandboxed:
        return Finding("sandbox", "warn", "jobs run without one, as REACTORCIDE_UNSANDBOXED says", "unset it")
    return Finding(
        "sandbox",
        "fail",
        f"none can be made: {isolation.detail}",
        "install bubblewrap 0.8 or newer and allow user namespaces, or podman or docker;"
        " see REACTORCIDE_EXECUTOR; or accept --unsandboxed",
    )


def _examine_measures(settings: "Settings", isolation: "Isolation") -> list[Finding]:
    """Return a line for each measure. Without a sandbox there is nothing to tell one by one."""
    found = []
    for measure in isolation.measures if isolation.is_present else ():
        name, remedy = f"sandbox: {measure.name}", measure.remedy
        if measure.name in settings.require_isolation and not measure.is_enforced:
            found.append(Finding(name, "fail", f"required, but seen to by {measure.by}", remedy))
        elif measure.by == "nothing":
            found.append(Finding(name, "warn", "nothing enforces it", remedy))
        else:
            found.append(Finding(name, "ok", measure.by))
    return found


def _examine_git() -> Finding:
    path = shutil.which("git")
    if path is None:
        return Finding("git", "warn", "not found: jobs with a git source will fail", "install git")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    numbers = tuple(int(part) for part in said.split()[2].split(".")[:2] if part.isdigit())
    if numbers < _GIT:
        return Finding("git", "warn", f"{said.strip()} is old", "install git 2.30 or newer")
    return Finding("git", "ok", said.strip())


def _examine_disk(path: Path) -> Finding:
    free = shutil.disk_usage(_existing(path)).free
    text = f"{free / 1024**3:.1f} GiB free at {path}"
    if free < _LEAST_FREE_BYTES:
        return Finding("disk", "warn", text, "make room: below 32 MiB no job is taken")
    return Finding("disk", "ok", text)


def _examine_port(settings: "Settings") -> Finding:
    from reactorcide.cli.discovery import read_local_url

    host = settings.host or "127.0.0.1"
    if url := read_local_url(settings.data_dir):
        return Finding("port", "ok", f"a service runs at {url}")
    try:
        with socket.create_connection((host, settings.port), timeout=1):
            pass
    except OSError:
        return Finding("port", "ok", f"{settings.port} of {host} is free")
    return Finding(
        "port", "fail", f"{settings.port} of {host} is in use", "set REACTORCIDE_PORT, or use --port"
    )


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
