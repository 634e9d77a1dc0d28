"""The command ``runnerlib``: one job on this host, and what a worker asks of its host."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from runnerlib.commands.config import config, validate
from runnerlib.commands.git import git
from runnerlib.commands.run import run, run_job, run_spec
from runnerlib.commands.secrets import register_secret
from runnerlib.commands.source import checkout, cleanup, copy


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


cli.add_command(checkout)
cli.add_command(cleanup)
cli.add_command(copy)
cli.add_command(git)
cli.add_command(register_secret)
cli.add_command(run)
cli.add_command(run_job)
cli.add_command(run_spec)
cli.add_command(config)
cli.add_command(validate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    cli(arguments, prog_name="runnerlib")


if __name__ == "__main__":
    main()
