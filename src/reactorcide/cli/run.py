"""`run`: submit a command, show its log, exit as it exits."""

import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli import render
from reactorcide.cli.answers import JobAnswer, exit_code_of
from reactorcide.cli.errors import CommandFailed, ExitCode
from reactorcide.cli.job_file import (
    JobBody,
    compose_submission,
    infer_source_type,
    merge_bodies,
    read_job_file,
)
from reactorcide.cli.logs import follow_to_end, tell_end
from reactorcide.cli.options import (
    ClientOptions,
    HereOptions,
    dirty_option,
    here_options,
    job_options,
    json_option,
)

if TYPE_CHECKING:
    from reactorcide.cli.client import ApiClient

_MAX_NAME = 60


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@click.option("-f", "--file", metavar="FILE", help="Job file (JSON or YAML; - is stdin); flags win over it.")
@click.option("--local", "is_local", is_flag=True, help="Run it on this machine, without a coordinator.")
@here_options
@dirty_option
@job_options
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    *,
    command: tuple[str, ...],
    file: str | None,
    is_local: bool,
    here: HereOptions,
    is_dirty: bool,
    body: JobBody,
    as_json: bool,
) -> None:
    """Run COMMAND, or the job of a file, and follow its log; exit with its exit code.

    A single argument is a shell command as it stands; several are quoted and joined. Ctrl-C leaves the
    job running and says how to cancel it; with --local it cancels the job.
    """
    if is_local and (path := body.get("source_path")):
        # No link on the way: a copy follows none.
        body["source_path"] = str(Path(str(path)).resolve())
    whole = compose_body(file, command, body)
    if is_local:
        from reactorcide.cli.local import run_submission

        own_paths = _find_own_paths(whole, file, is_named="source_path" in body)
        bring_tree = None
        if is_dirty:
            from reactorcide.cli.local import lay_contents
            from reactorcide.cli.tree_upload import take_working_tree

            bring_tree = partial(lay_contents, take_working_tree(whole, Path()))
        ctx.exit(run_submission(whole, here, own_paths=own_paths, bring_tree=bring_tree, as_json=as_json))
    if here.given:
        raise click.UsageError(f"{', '.join(here.given)}: only with --local")
    options: ClientOptions = ctx.obj
    with options.connect() as client:
        if is_dirty:
            from reactorcide.cli.tree_upload import send_working_tree

            send_working_tree(client, whole, Path())
        job = client.submit_job(whole)
        ctx.exit(attend(client, job, as_json=as_json))


def compose_body(file: str | None, command: tuple[str, ...], flags: JobBody) -> JobBody:
    """Return the submission of a job file with the flags over it, and the command over both.

    Raises:
        CommandFailed: the file cannot be submitted.
    """
    if file is None and not command:
        raise click.UsageError("give a command behind --, or a job file with -f")
    told = compose_submission(read_job_file(file), file, os.environ) if file else {}
    body = merge_bodies(told, flags)
    if command:
        body["job_command"] = join_command(command)
    infer_source_type(body)
    if isinstance(text := body.get("job_command"), str):
        body.setdefault("name", default_name(text))
    return body


def _find_own_paths(body: JobBody, file: str | None, *, is_named: bool) -> tuple[str, ...]:
    """Return the directory to copy if the person has chosen it; that of a job file is made absolute.

    Who names a file has chosen what lies beside it, and nothing else of this machine.
    """
    from runnerlib.spec.rules import is_inside

    path = body.get("source_path")
    if not isinstance(path, str):
        return ()
    if is_named or file in (None, "-"):
        return (path,) if is_named else ()
    folder = Path(str(file)).resolve().parent
    body["source_path"] = found = str((folder / path).resolve())
    return (found,) if is_inside(found, str(folder)) else ()


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
