"""Bring a job's files to a directory as a run would, and remove what dead runs left."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runnerlib.spec import HostPolicy, JobSource

_code_dir = click.option(
    "--code-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the files go: a directory that is empty, or is made.",
)


@click.command()
@click.argument("url")
@click.option("--ref", "--git-ref", "ref", help="Branch, tag or commit; without one, the remote's HEAD.")
@_code_dir
@click.option("--allow-host", multiple=True, metavar="HOST[:PORT]", help="A host that is not public.")
@click.option("--allow-protocol", multiple=True, help="Besides https and ssh, such as http or file.")
def checkout(
    url: str, ref: str | None, code_dir: Path, allow_host: tuple[str, ...], allow_protocol: tuple[str, ...]
) -> None:
    """Check out URL as a job's source is, and print the commit."""
    from runnerlib.spec import HostPolicy, JobSource

    policy = HostPolicy(git_allowed_hosts=allow_host, git_allowed_protocols=("https", "ssh", *allow_protocol))
    sha = _prepare(JobSource(type="git", url=url, ref=ref), code_dir, policy)
    click.echo(sha)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, exists=True, path_type=Path))
@_code_dir
def copy(directory: Path, code_dir: Path) -> None:
    """Copy DIRECTORY as a job's source is: links that lead out are refused, special bits dropped."""
    from runnerlib.spec import HostPolicy, JobSource

    path = str(directory.resolve())
    _prepare(JobSource(type="copy", path=path), code_dir, HostPolicy(copy_source_roots=(path,)))


@click.command()
@click.argument("work_dir", type=click.Path(file_okay=False, path_type=Path))
@click.argument("attempts", nargs=-1, metavar="[JOB_ID.ATTEMPT]...")
@click.option("--also-running", is_flag=True, help="End also those whose runner lives.")
def cleanup(work_dir: Path, attempts: tuple[str, ...], also_running: bool) -> None:
    """Remove what dead attempts left in WORK_DIR: processes, control groups, containers and workspaces.

    Without a name, all that are there.
    """
    from runnerlib.cleanup import clean_up

    names = frozenset(attempts) if attempts else None
    try:
        found = clean_up(work_dir, names, spares_running=not also_running)
    except OSError as error:
        click.echo(f"runnerlib: not all could be removed: {error.strerror or error}", err=True)
        sys.exit(1)
    click.echo(json.dumps(asdict(found)))


def _prepare(source: "JobSource", target: Path, policy: "HostPolicy") -> str | None:
    from runnerlib.source import SourceError, prepare_source

    try:
        prepared = prepare_source(
            source,
            target,
            policy,
            log=lambda text: click.echo(f"runnerlib: {text}", err=True),
            should_stop=lambda: False,
        )
    except (SourceError, OSError) as error:
        click.echo(f"runnerlib: {error}", err=True)
        sys.exit(1)
    return prepared.resolved_sha
