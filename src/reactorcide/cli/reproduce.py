"""`reproduce`: a job that ran at a coordinator once more on this machine, and whether it ends alike."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reactorcide.cli import render
from reactorcide.cli.answers import read_answer
from reactorcide.cli.errors import CommandFailed, ExitCode
from reactorcide.cli.local import read_host_settings, run_frozen, tell_local_end
from reactorcide.cli.options import ID, ClientOptions, HereOptions, here_options, json_option, parse_secrets
from reactorcide.cli.reproduction import (
    JobRecord,
    as_of_attempt,
    describe_source,
    end_of,
    follow_isolation,
    foresee_differences,
    rebuild,
    spell_limits,
    why_incomparable,
)
from reactorcide.cli.run import join_command
from reactorcide.domain.reasons import Fault

if TYPE_CHECKING:
    from reactorcide.cli.client import ApiClient
    from reactorcide.cli.local_runner import LocalEnd
    from reactorcide.config import Settings


@click.command()
@click.argument("job_id", type=ID)
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; without it, the newest.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="K[=@FILE]", help="Secret from your environment or a file."
)
@click.option("--no-secrets", is_flag=True, help="Leave the secrets that are not given empty.")
@click.option("--source-path", type=click.Path(), help="Where the directory of a copy source is here.")
@here_options
@json_option
@click.pass_context
def reproduce(
    ctx: click.Context,
    *,
    job_id: str,
    command: tuple[str, ...],
    attempt: int | None,
    secrets: tuple[str, ...],
    no_secrets: bool,
    source_path: str | None,
    here: HereOptions,
    as_json: bool,
) -> None:
    """Run the very job JOB_ID on this machine, and say whether it ends alike.

    It has the same commit, image, limits and environment as it had; COMMAND is run instead of its own.
    Secrets are asked for. Exit code: 0 if it ended alike, 1 if not; that of the job where there is nothing to
    compare with; 125 if this machine failed, 130 if it was interrupted.
    """
    options: ClientOptions = ctx.obj
    with options.connect() as client:
        record = _choose_attempt(read_answer(JobRecord, client.get_job(job_id).raw), attempt)
        here = follow_isolation(record, here)
        settings = read_host_settings(here)
        place = _find_copy_source(client, record, source_path, settings)
    bring_tree = _find_tree(record)
    values, left_empty = _take_secrets(record, secrets, no_secrets=no_secrets)
    differences = foresee_differences(
        record, isolation_here=_isolation_here(settings), source_path=place, left_empty=left_empty
    )
    if command:
        differences.append("command: another one is run")
    _tell_what(record, settings, place, differences)
    job = rebuild(record, values, source_path=place, command=join_command(command) if command else None)
    end = run_frozen(
        job,
        settings,
        here,
        copy_roots=() if place is None else (place,),
        attempt=max(record.attempt, 1),
        bring_tree=bring_tree,
        as_json=as_json,
    )
    tell_local_end(job, end, as_json=as_json)
    why_not = "another command was run" if command else why_incomparable(record)
    ctx.exit(_compare(record, end, differences, why_not, as_json=as_json))


def _choose_attempt(record: JobRecord, attempt: int | None) -> JobRecord:
    if attempt is None or attempt == record.attempt:
        return record
    if attempt > record.attempt:
        had = f"its newest is {record.attempt}" if record.attempt else "it has had none yet"
        raise CommandFailed(f"the job has no attempt {attempt}: {had}")
    return as_of_attempt(record, attempt)


def _find_copy_source(
    client: "ApiClient", record: JobRecord, named: str | None, settings: "Settings"
) -> str | None:
    """Return the directory to copy: the one that was named, else the job's own if its owner asks."""
    from runnerlib.spec.rules import is_inside

    if record.source_type != "copy":
        if named is not None:
            raise click.UsageError("--source-path goes with a job whose source is a copy")
        return None
    path = str(Path(named or record.source_path or "").resolve())
    if not Path(path).is_dir():
        raise CommandFailed(
            f"the job copied the directory {named or record.source_path}, which is not on this machine",
            "name the same one here with --source-path DIR",
        )
    is_allowed = any(is_inside(path, root) for root in settings.copy_source_roots)
    if named is None and not is_allowed and client.me().user.user_id != record.user_id:
        # Who wrote a job shall not choose what of another person's machine it gets to see.
        raise CommandFailed(
            f"the job of another user would get a copy of {path} of this machine",
            f"if that is meant, say --source-path {path}",
        )
    return path


def _find_tree(record: JobRecord) -> Callable[[Path], None] | None:
    """Return what brings the files of a sent tree: they are to be had only where they came from."""
    if record.source_type != "tree":
        return None
    from reactorcide.cli.dirty import gather_tree, read_tree
    from reactorcide.cli.local import lay_contents

    why = "the working tree here is another one"
    try:
        found = read_tree(gather_tree(Path.cwd()))
    except CommandFailed as error:
        why = error.message
    else:
        if found.name == record.source_tree:
            return lambda folder: lay_contents(found, folder)
    commit = f"commit {record.source_commit}" if record.source_commit else "no commit"
    raise CommandFailed(
        f"the job ran on a working tree that was sent, which no coordinator gives out again, and {why}",
        f"go to the tree as it was sent: {commit} with {record.source_changes or 0} changed files",
    )


def _take_secrets(
    record: JobRecord, given: tuple[str, ...], *, no_secrets: bool
) -> tuple[dict[str, str], list[str]]:
    """Return the values of the job's secrets, and the names of those that were left empty."""
    values = parse_secrets(given)
    if unknown := sorted(values.keys() - set(record.secret_names)):
        known = ", ".join(record.secret_names) or "none"
        raise click.UsageError(f"--secret {unknown[0]}: the job has no such secret; it has: {known}")
    missing = [name for name in record.secret_names if name not in values]
    if not missing or no_secrets:
        return values | dict.fromkeys(missing, ""), missing
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"the job has secrets whose values are not known here: {', '.join(missing)}",
            "export them and name each with --secret NAME, or leave them empty with --no-secrets",
        )
    for name in missing:
        values[name] = click.prompt(
            f"Secret {name}", hide_input=True, default="", show_default=False, err=True
        )
    return values, [name for name in missing if not values[name]]


def _isolation_here(settings: "Settings") -> str:
    if settings.unsandboxed:
        return "unsandboxed"
    return {"process": "bubblewrap", "container": "container"}.get(settings.executor, "bubblewrap")


def _tell_what(
    record: JobRecord, settings: "Settings", source_path: str | None, differences: list[str]
) -> None:
    there = record.status
    if why_incomparable(record) is None:
        end = end_of(record.status, record.reason, record.exit_code)
        there = f"exit code {end.label}" if end.is_exit_code else end.label
    attempt = f", attempt {record.attempt}" if record.attempt > 1 else ""
    render.say(f"reproducing job {record.name} ({record.job_id}{attempt}); there: {there}")
    render.say(f"  source     {describe_source(record, source_path)}")
    if settings.executor == "container" and not settings.unsandboxed:
        render.say(f"  image      {record.image}")
    render.say(f"  limits     {spell_limits(record)}")
    render.say(f"  isolation  there {record.isolation or 'unknown'}, here {_isolation_here(settings)}")
    for line in differences:
        render.say(f"  differs    {line}")


def _compare(
    record: JobRecord, end: "LocalEnd", differences: list[str], why_not: str | None, *, as_json: bool
) -> int:
    """Say whether both ended alike, and return the exit code for that."""
    result = end.result
    there = end_of(record.status, record.reason, record.exit_code)
    here = end_of(result.status, result.reason, result.exit_code)
    found = [*differences, *_late_difference(record, result.isolation, differences)]
    same: bool | None = there == here
    code = ExitCode.OK if same else ExitCode.JOB_FAILED
    if result.status == "cancelled":
        why_not, code = "it was interrupted here", ExitCode.INTERRUPTED
    elif Fault(result.fault) is Fault.INFRA:
        why_not, code = "this machine could not run it", ExitCode.HOST_TROUBLE
    if why_not is not None:
        same = None
    if as_json:
        told: dict[str, object] = {"type": "comparison", "differences": found, "here": here.label}
        told |= {"there": there.label, "same": same} if same is not None else {"why": why_not}
        render.write_json_line(told)
    if why_not is not None:
        render.say(f"nothing to compare: {why_not}")
        is_ours = code in (ExitCode.INTERRUPTED, ExitCode.HOST_TROUBLE)
        return int(code) if is_ours else end.exit_code
    for line in found if not same else ():
        render.say(f"  differs    {line}")
    what = "exit code" if there.is_exit_code and here.is_exit_code else "end"
    verdict = f"yes ({here.label})" if same else f"no (there {there.label}, here {here.label})"
    render.say(f"same {what}: {verdict}")
    return int(code)


def _late_difference(record: JobRecord, isolation: str, known: list[str]) -> list[str]:
    """Return what the run itself has shown to be otherwise."""
    if isolation in (record.isolation, "none") or record.isolation in (None, "none"):
        return []
    if any(line.startswith("isolation:") for line in known):
        return []
    return [f"isolation: it ran in {record.isolation}, here it ran in {isolation}"]
