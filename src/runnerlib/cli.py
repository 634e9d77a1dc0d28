"""The command ``runnerlib``: one job on this host, and what a worker asks of its host."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from runnerlib.commands.run import run_spec
from runnerlib.commands.secrets import register_secret


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run jobs in isolation, without a coordinator."""


@cli.command()
def attempt() -> None:
    """Run the attempt whose spec is on standard input, as a worker has it done."""
    from runnerlib.attempt import main as run_attempt

    sys.exit(run_attempt())


@cli.command()
@click.option("--unsandboxed", is_flag=True, help="Say what jobs get without a sandbox.")
@click.option("--read-only-path", multiple=True, help="A host path that jobs may read. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Everything known, as JSON.")
def isolation(*, unsandboxed: bool, read_only_path: tuple[str, ...], as_json: bool) -> None:
    """Print what isolation jobs have on this host."""
    from runnerlib.isolation import probe_isolation
    from runnerlib.spec import HostPolicy

    found = probe_isolation(HostPolicy(unsandboxed=unsandboxed, read_only_paths=read_only_path))
    click.echo(json.dumps(asdict(found)) if as_json else f"{found.name}: {found.detail}")


@cli.command()
@click.argument("workspace_root", type=click.Path(path_type=Path))
@click.argument("attempts", nargs=-1, metavar="[JOB_ID.ATTEMPT]...")
def clean(workspace_root: Path, attempts: tuple[str, ...]) -> None:
    """Remove what dead attempts left: their processes, control groups, containers and workspaces.

    Without a name, all that have a workspace there are dead.
    """
    from runnerlib.executors.cgroups import remove_stale_groups
    from runnerlib.executors.container_cleanup import remove_containers
    from runnerlib.workspace import names_in, remove_workspaces

    names = names_in(workspace_root)
    if attempts:
        names &= frozenset(attempts)
    groups = remove_stale_groups(names)
    # Before the workspaces, which say where the containers are.
    containers = remove_containers(workspace_root, names)
    workspaces = remove_workspaces(workspace_root, names)
    click.echo(json.dumps({"groups": groups, "containers": containers, "workspaces": workspaces}))


cli.add_command(register_secret)
cli.add_command(run_spec)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    cli(arguments, prog_name="runnerlib")


if __name__ == "__main__":
    main()
