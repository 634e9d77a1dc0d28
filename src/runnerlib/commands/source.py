"""Bring a job's files to a directory as a run would, and remove what dead runs left."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from runnerlib.spec import HostPolicy, JobSource

_EXIT_INTERRUPTED = 130
_code_dir = click.option(
    "--code-dir",
    envvar="REACTORCIDE_CODE_DIR",
    default="/job/src",
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
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
@click.argument("work_dir", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.argument("attempts", nargs=-1, metavar="[JOB_ID.ATTEMPT]...")
@click.option("--also-running", is_flag=True, help="End also those whose runner lives.")
def cleanup(work_dir: Path | None, attempts: tuple[str, ...], also_running: bool) -> None:
    """Remove what dead attempts left in WORK_DIR: processes, control groups, containers and workspaces.

    Without a name, all that are there; without WORK_DIR, where `run` makes workspaces. Whatever no runner
    made stays.
    """
    from runnerlib.cleanup import clean_up

    names = frozenset(attempts) if attempts else None
    try:
        found = clean_up(work_dir or _work_dir(), names, spares_running=not also_running)
    except OSError as error:
        click.echo(f"runnerlib: not all could be removed: {error.strerror or error}", err=True)
        sys.exit(1)
    click.echo(json.dumps(asdict(found)))


def _work_dir() -> Path:
    told = os.environ.get("REACTORCIDE_WORK_DIR")
    if told:
        return Path(told)
    from runnerlib.configuration import default_work_dir

    return default_work_dir(os.environ)


def _prepare(source: "JobSource", target: Path, policy: "HostPolicy") -> str | None:
    """Bring a source. What a failure left is removed, so that one may try again."""
    from runnerlib.source import SourceError, prepare_source

    try:
        is_new = not target.exists()
        if not is_new and any(target.iterdir()):
            _fail(f"{target} is not empty")
        try:
            prepared = prepare_source(
                source,
                target,
                policy,
                log=lambda text: click.echo(f"runnerlib: {text}", err=True),
                should_stop=lambda: False,
            )
        except BaseException:
            _empty(target, is_new=is_new)
            raise
    except KeyboardInterrupt:
        click.echo("runnerlib: interrupted", err=True)
        sys.exit(_EXIT_INTERRUPTED)
    except SourceError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or target}: {error.strerror or error}")
    return prepared.resolved_sha


def _fail(words: str) -> NoReturn:
    click.echo(f"runnerlib: {words}", err=True)
    sys.exit(1)


def _empty(target: Path, *, is_new: bool) -> None:
    from runnerlib.removal import remove_tree

    for path in target.iterdir() if target.is_dir() else ():
        remove_tree(path)
    if is_new and target.is_dir():
        target.rmdir()
