"""The command line: every command by name, and how each of them ends.

A command is imported when it is used; the table below says where it is and what to say of it in
`--help`, so that the help of the whole costs nothing.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from reactorcide import __version__
from reactorcide.cli.errors import ApiProblem, CommandFailed, ExitCode
from reactorcide.cli.options import ClientOptions
from reactorcide.cli.terminal import show_inert

_LAST_CALLS_SECONDS = 1.0
"""Calls of the object store that go on at the end are waited for so long."""


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is (`module:name`), and its line in the help."""

    place: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, name = self.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


_HERE = "reactorcide.cli"
SECTIONS: Mapping[str, Mapping[str, LazyCommand]] = {
    "Service": {
        "up": LazyCommand(f"{_HERE}.up:up", "Start database, API and worker on this machine."),
        "down": LazyCommand(f"{_HERE}.down:down", "Stop what 'up' started."),
        "serve": LazyCommand(f"{_HERE}.serve:serve", "Serve the API; workers run elsewhere."),
        "worker": LazyCommand(f"{_HERE}.worker:worker", "Run jobs of a coordinator."),
        "migrate": LazyCommand(f"{_HERE}.migrate:migrate", "Bring the database up to date."),
        "bootstrap": LazyCommand(f"{_HERE}.bootstrap:bootstrap", "Make the first admin and a token."),
        "doctor": LazyCommand(f"{_HERE}.doctor:doctor", "Check what this machine offers."),
        "config": LazyCommand(f"{_HERE}.config:config", "Show every setting and where it came from."),
    },
    "Jobs": {
        "run": LazyCommand(f"{_HERE}.run:run", "Run a command as a job and follow its log."),
        "reproduce": LazyCommand(f"{_HERE}.reproduce:reproduce", "Run a coordinator's job once more here."),
        "submit": LazyCommand(f"{_HERE}.submit:submit", "Submit a job, from a file or from flags."),
        "logs": LazyCommand(f"{_HERE}.logs:logs", "Show or follow the log of a job."),
        "artifacts": LazyCommand(f"{_HERE}.artifacts:artifacts", "List and download what jobs left behind."),
        "why": LazyCommand(f"{_HERE}.why:why", "Say what a job does or why it ended."),
        "wait": LazyCommand(f"{_HERE}.jobs:wait", "Wait until jobs have ended."),
        "cancel": LazyCommand(f"{_HERE}.jobs:cancel", "Cancel jobs."),
        "retry": LazyCommand(f"{_HERE}.jobs:retry", "Run an ended job again."),
        "jobs": LazyCommand(f"{_HERE}.jobs:jobs", "List jobs, look at one, delete one."),
    },
    "Accounts": {
        "me": LazyCommand(f"{_HERE}.users:me", "Show who the token belongs to."),
        "tokens": LazyCommand(f"{_HERE}.tokens:tokens", "Create, list and revoke tokens."),
        "users": LazyCommand(f"{_HERE}.users:users", "Create, list and change users."),
    },
    "Overview": {
        "queues": LazyCommand(f"{_HERE}.queues:queues", "List queues."),
        "workers": LazyCommand(f"{_HERE}.workers:workers", "List workers."),
        "retention": LazyCommand(f"{_HERE}.retention:retention", "Show what is kept how long."),
        "removals": LazyCommand(f"{_HERE}.retention:removals", "List what was removed and why."),
        "completion": LazyCommand(f"{_HERE}.completion:completion", "Print a completion script."),
    },
}
COMMANDS: Mapping[str, LazyCommand] = {
    name: command for section in SECTIONS.values() for name, command in section.items()
}


class CommandTable(click.Group):
    """A group whose commands are in a table and imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own form
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - alike
        """Import and return a command; None if there is none of this name."""
        found = COMMANDS.get(cmd_name)
        return found.load() if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begin with; a mistyped one is answered with its like."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"no such command {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - alike
        """Write the commands by section, without importing them."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<10}", command.summary) for name, command in section.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of our output that went away ends it quietly."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes stdout once more at exit, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(ExitCode.BROKEN_PIPE)
        return result


@click.command(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", metavar="URL", help="Coordinator; also REACTORCIDE_API_URL.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that holds the token; also REACTORCIDE_API_TOKEN.",
)
@click.version_option(__version__, "--version", prog_name="reactorcide", message="%(prog)s %(version)s")
@click.pass_context
def commands(ctx: click.Context, url: str | None, token_file: Path | None) -> None:
    """Reactorcide: submit a job, follow its log, trust its state."""
    ctx.obj = ClientOptions(url, token_file)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    code = run_command(arguments)
    if _are_calls_hanging():
        click.echo("warning: calls of the object store still hung at the end", err=True)
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)


def _are_calls_hanging() -> bool:
    """Tell whether threads call an object store, for which Python would wait for as long as they take.

    What they were to do counts only when it was acknowledged, so that nobody loses by their end.
    """
    if "reactorcide.objects.threads" not in sys.modules:
        return False
    from reactorcide.objects.threads import are_calls_hanging

    return are_calls_hanging(_LAST_CALLS_SECONDS)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; what went wrong is told on stderr."""
    try:
        given = None if arguments is None else list(arguments)
        result = commands.main(given, prog_name="reactorcide", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE if isinstance(error, click.UsageError) else ExitCode.TROUBLE
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except CommandFailed as error:
        _tell(error)
        return error.exit_code
    except Exception:  # noqa: BLE001 - the top of the program: a bug is told whole, and not as a job's end
        import traceback

        traceback.print_exc()
        click.echo("error: this is a bug of reactorcide", err=True)
        return ExitCode.TROUBLE
    return result if isinstance(result, int) else ExitCode.OK


def _tell(error: CommandFailed) -> None:
    """Say what failed and what to do about it. The text may hold what a coordinator sent."""
    first, *more = error.message.splitlines() or [""]
    lines = [f"error: {first}", *more]
    if isinstance(error, ApiProblem):
        lines += [f"  {fault.pointer}: {fault.detail}" for fault in error.faults]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    for line in lines:
        click.echo(show_inert(line), err=True)
