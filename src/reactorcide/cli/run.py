"""`run`: submit a command, show its log, exit as it exits."""

import shlex
from typing import TYPE_CHECKING

import click

from reactorcide.cli import render
from reactorcide.cli.answers import JobAnswer, exit_code_of
from reactorcide.cli.errors import CommandFailed, ExitCode
from reactorcide.cli.job_file import JobBody, infer_source_type
from reactorcide.cli.logs import follow_to_end, tell_end
from reactorcide.cli.options import ClientOptions, job_options, json_option

if TYPE_CHECKING:
    from reactorcide.cli.client import ApiClient

_MAX_NAME = 60


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@job_options
@json_option
@click.pass_context
def run(ctx: click.Context, command: tuple[str, ...], body: JobBody, as_json: bool) -> None:
    """Run COMMAND as a job and follow its log; exit with its exit code.

    A single argument is a shell command as it stands; several are quoted and joined. Ctrl-C leaves the
    job running and says how to cancel it.
    """
    body["job_command"] = join_command(command)
    infer_source_type(body)
    body.setdefault("name", default_name(str(body["job_command"])))
    options: ClientOptions = ctx.obj
    with options.connect() as client:
        job = client.submit_job(body)
        ctx.exit(attend(client, job, as_json=as_json))


def join_command(arguments: tuple[str, ...]) -> str:
    """Return the shell command that ``arguments`` stand for."""
    return arguments[0] if len(arguments) == 1 else shlex.join(arguments)


def default_name(command: str) -> str:
    """Return a name for a job that has none: the first line of what it does, shortened."""
    first = next((line for line in command.splitlines() if line.strip()), "job")
    name = " ".join("".join(c if c.isprintable() else " " for c in first).split())
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def attend(client: "ApiClient", job: JobAnswer, *, as_json: bool) -> int:
    """Follow a job that was just submitted to its end and return the exit code that stands for it.

    Interrupted from the keyboard, it leaves the job alone.
    """
    from reactorcide.cli.watch import watch_until_started

    if as_json:
        render.write_json_line({"type": "job", "job": job.raw})
    render.say(f"job {job.name} submitted as {job.job_id}")
    try:
        watch_until_started(client, job)
        ended = follow_to_end(client, job.job_id, as_json=as_json)
    except KeyboardInterrupt:
        render.say("")  # the terminal shows ^C on the line we are on
        render.say(f"detached; job {job.name} goes on")
        render.say(f"  follow it:  reactorcide logs -f {job.job_id}")
        render.say(f"  cancel it:  reactorcide cancel {job.job_id}")
        return ExitCode.INTERRUPTED
    except CommandFailed as error:
        error.hint = error.hint or f"the job is not affected: reactorcide logs -f {job.job_id}"
        raise
    tell_end(ended, as_json=as_json)
    return exit_code_of(ended)
