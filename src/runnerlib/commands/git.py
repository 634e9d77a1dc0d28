"""Ask a repository that is here already."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

_folder = click.option(
    "-C",
    "--directory",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The repository, or a directory in it; without this, where you are.",
)


@click.group()
def git() -> None:
    """Ask a git repository what changed, and where it stands."""


@git.command("files-changed")
@click.argument("ref")
@_folder
@click.option("-z", "ends_with_nul", is_flag=True, help="End each path with NUL instead of a new line.")
@click.option("--merge-base", "from_merge_base", is_flag=True, help="Compare with where HEAD left REF.")
def files_changed(ref: str, folder: Path, ends_with_nul: bool, from_merge_base: bool) -> None:
    """Print the paths of files that differ between REF and HEAD, one a line.

    REF is a branch, tag or commit, or an ancestor of one such as HEAD~2. It must be here already: a
    job's own checkout has but one commit. What is not committed does not count.
    """
    from runnerlib.repository import list_changed_files
    from runnerlib.source_errors import SourceError

    try:
        names = list_changed_files(folder, ref, from_merge_base=from_merge_base)
    except SourceError as error:
        click.echo(f"runnerlib: {error}", err=True)
        sys.exit(1)
    end = b"\0" if ends_with_nul else b"\n"
    click.echo(b"".join(os.fsencode(name) + end for name in names), nl=False)


@git.command()
@_folder
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def info(folder: Path, as_json: bool) -> None:
    """Print branch, commit, whether something is not committed, and the remotes."""
    from runnerlib.repository import as_shown, describe_repository
    from runnerlib.source_errors import SourceError

    try:
        found = describe_repository(folder)
    except SourceError as error:
        click.echo(f"runnerlib: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    click.echo(f"branch: {as_shown(found.branch or 'detached HEAD')}")
    click.echo(f"commit: {found.commit or 'none yet'}")
    click.echo(f"dirty:  {'yes' if found.is_dirty else 'no'}")
    for name, url in found.remotes.items():
        click.echo(as_shown(f"remote: {name} {url}"))
