"""The command ``runnerlib``: one job on this host, and what a worker asks of its host."""

import sys
from collections.abc import Sequence

import click

from runnerlib.commands.config import config, validate
from runnerlib.commands.git import git
from runnerlib.commands.isolation import isolation
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


cli.add_command(isolation)
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
