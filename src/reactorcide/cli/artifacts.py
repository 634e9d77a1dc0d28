"""`artifacts`: what a job left behind, listed and downloaded."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli import render
from reactorcide.cli.answers import ArtifactAnswer, ArtifactList
from reactorcide.cli.errors import CommandFailed
from reactorcide.cli.options import DURATION, ID, ClientOptions, json_option
from reactorcide.domain.removals import Loss, RemovalCause, RemovedThing

if TYPE_CHECKING:
    from reactorcide.cli.client import ApiClient

_CAUSES = frozenset(RemovalCause)
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0


@click.group()
def artifacts() -> None:
    """List and download what jobs left behind."""


@artifacts.command("list")
@click.argument("job_id", type=ID)
@json_option
@click.pass_obj
def list_(options: ClientOptions, job_id: str, as_json: bool) -> None:
    """List the artifacts of a job."""
    with options.connect() as client:
        found = client.list_artifacts(job_id)
    if as_json:
        render.write_json(found.raw)
        return
    rows = [
        [artifact.path, render.show_size(artifact.size), artifact.content_type, artifact.sha256]
        for artifact in found.artifacts
    ]
    empty = _why_none(found)
    render.write_table(["PATH", "SIZE", "TYPE", "SHA256"], rows, empty=empty, optional=["TYPE", "SHA256"])
    if found.artifacts and not found.complete:
        render.say("some artifacts are missing: their worker could not bring them")


@artifacts.command()
@click.argument("job_id", type=ID)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="here",
    help="Directory to write to; made if it is not there.",
)
@click.option("--all", "wants_all", is_flag=True, help="Every artifact of the job.")
@click.option(
    "--wait", type=DURATION, default="30s", show_default=True, help="For artifacts still on their way."
)
@json_option
@click.pass_obj
def get(
    options: ClientOptions,
    *,
    job_id: str,
    paths: tuple[str, ...],
    output: Path,
    wants_all: bool,
    wait: int,
    as_json: bool,
) -> None:
    """Download artifacts of a job, each checked against its SHA-256.

    A folder stands for all that is in it. What is there under the same name is replaced.
    """
    from reactorcide.cli.downloads import Download

    if bool(paths) == wants_all:
        raise click.UsageError("name the artifacts to get, or say --all")
    with options.connect() as client:
        found = _await_artifacts(client, job_id, wait)
        if found.removed_at is not None:
            raise CommandFailed(_why_none(found))
        chosen = list(found.artifacts) if wants_all else _choose(found, paths)
        with Download(client, job_id, output) as download, _progress(chosen) as advance:
            for artifact in chosen:
                download.fetch(artifact, advance)
    if as_json:
        render.write_json({"artifacts": [artifact.raw for artifact in chosen], "complete": found.complete})
    else:
        for artifact in chosen:
            render.write_text(str(output / artifact.path))
    if wants_all and not found.complete:
        raise CommandFailed(
            "not all artifacts of the job have arrived", "try again later, or with a longer --wait"
        )


def _why_none(found: ArtifactList) -> str:
    """Say why there are no artifacts."""
    if found.removed_at is None:
        return "the job left no artifacts" if found.complete else "no artifacts have arrived yet"
    why = RemovalCause(found.removed_why) if found.removed_why in _CAUSES else RemovalCause.AGE
    return Loss(found.removed_at, why).describe(RemovedThing.ARTIFACTS)


def _await_artifacts(client: "ApiClient", job_id: str, wait: int) -> ArtifactList:
    """Return the artifacts, waiting a while for those that are on their way."""
    end, pause = time.monotonic() + wait, _FIRST_PAUSE_SECONDS
    while True:
        found = client.list_artifacts(job_id)
        left = end - time.monotonic()
        if found.complete or found.artifacts or left <= 0:
            return found
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _choose(found: ArtifactList, paths: tuple[str, ...]) -> list[ArtifactAnswer]:
    chosen = []
    for path in paths:
        folder = path.rstrip("/") + "/"
        named = [
            artifact
            for artifact in found.artifacts
            if artifact.path == path or artifact.path.startswith(folder)
        ]
        if not named:
            why = "the job left no such artifact" if found.complete else "it has not arrived yet"
            raise CommandFailed(f"{path}: {why}", "'reactorcide artifacts list' shows those there are")
        chosen += [artifact for artifact in named if artifact not in chosen]
    return chosen


@contextmanager
def _progress(chosen: list[ArtifactAnswer]) -> "Iterator[Callable[[int], None]]":
    """Show how much has come, to a person who watches; yield what is told of more bytes."""
    import sys

    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True, no_color=not render.wants_colour())
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(artifact.size for artifact in chosen))
        yield lambda size: progress.advance(task, size)
