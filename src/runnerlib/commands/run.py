"""Run a job here, without a coordinator."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerlib.run_settings import SETTINGS

if TYPE_CHECKING:
    from runnerlib.configuration import LoadedConfig
    from runnerlib.spec import RunSpec

_LONGEST_SPEC_BYTES = 16 * 1024**2


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every setting of a run; it gets the texts of those used as ``flags``."""

    @wraps(command)
    def collecting(**given: Any) -> None:
        flags = {}
        for setting in SETTINGS:
            told = given.pop(setting.field)
            if told not in (None, ()):
                flags[setting.field] = ",".join(told) if isinstance(told, tuple) else str(told)
        command(flags=flags, **given)

    for setting in reversed(SETTINGS):
        click.option(
            setting.flag,
            setting.field,
            is_flag=setting.is_switch,
            flag_value="true" if setting.is_switch else None,
            default=None,
            multiple=setting.is_repeated,
            help=setting.meaning,
        )(collecting)
    return collecting


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and whether it could start.")
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON on standard error.")
@run_options
def run(flags: dict[str, str], command: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run COMMAND as a job on this machine and exit as it exits.

    A single argument is a shell command as it stands; several are quoted and joined. Exit codes besides
    the job's own: 1 refused, 124 timeout, 125 trouble of this machine, 130 interrupted.
    """
    import shlex

    if command:
        flags["job_command"] = command[0] if len(command) == 1 else shlex.join(command)
    _run_configured(load_or_exit(flags), dry_run=dry_run, as_json=as_json)


@click.command("run-job")
@click.argument("file", metavar="FILE")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and whether it could start.")
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON on standard error.")
@run_options
def run_job(flags: dict[str, str], file: str, dry_run: bool, as_json: bool) -> None:
    """Run the job in FILE (JSON or YAML; - is standard input) on this machine; flags win over the file."""
    loaded = load_or_exit(flags, file)
    _run_configured(loaded, dry_run=dry_run, as_json=as_json)


@click.command("run-spec")
@click.option(
    "--result",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result, one JSON object, to this file.",
)
def run_spec(result: Path | None) -> None:
    """Run the frozen spec on standard input, a line of JSON; show its log; exit as the job exits.

    Exit codes besides the job's own: 1 refused, 124 timeout, 125 trouble of this host, 130 interrupted.
    """
    from runnerlib.spec import decode_spec, encode_line
    from runnerlib.standalone import EXIT_REFUSED, EXIT_TROUBLE, exit_code_of
    from runnerlib.standalone import run_spec as run_here

    try:
        spec = decode_spec(sys.stdin.buffer.readline(_LONGEST_SPEC_BYTES))
    except ValueError as error:
        click.echo(f"runnerlib: the spec is refused: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    try:
        ended = run_here(spec, sys.stdout.fileno())
        if result is not None:
            result.write_bytes(encode_line(ended))
    except OSError as error:
        click.echo(f"runnerlib: no result could be written: {error.strerror or error}", err=True)
        sys.exit(EXIT_TROUBLE)
    sys.exit(exit_code_of(ended))


def load_or_exit(flags: dict[str, str], file: str | None = None) -> "LoadedConfig":
    """Return the configuration, or tell all that is wrong with it and exit with 1."""
    from runnerlib.validation import RunRefused, read_run

    try:
        return read_run(flags, os.environ, file)
    except RunRefused as error:
        for finding in error.findings:
            click.echo(f"runnerlib: {finding}", err=True)
        sys.exit(1)


def _run_configured(loaded: "LoadedConfig", *, dry_run: bool, as_json: bool) -> None:
    from runnerlib.standalone import compose_spec

    if dry_run:
        _tell_dry_run(loaded)
        return
    if loaded.config.job_command is None:
        click.echo("runnerlib: job_command: is missing: give a command after --, or --job-command", err=True)
        sys.exit(1)
    with tempfile.TemporaryDirectory(prefix="runnerlib-") as folder:
        code = _run_in(loaded, compose_spec(loaded.config, Path(folder)), as_json=as_json)
    sys.exit(code)


def _run_in(loaded: "LoadedConfig", spec: "RunSpec", *, as_json: bool) -> int:
    from runnerlib.spec import encode_line
    from runnerlib.standalone import EXIT_TROUBLE, exit_code_of, put_artifacts
    from runnerlib.standalone import run_spec as run_here

    began = time.monotonic()
    folder = loaded.config.artifacts
    try:
        ended = run_here(spec, sys.stdout.fileno())
        kept = 0 if folder is None else put_artifacts(Path(spec.spool_dir), folder)
    except OSError as error:
        click.echo(f"runnerlib: this machine failed: {error.strerror or error}", err=True)
        return EXIT_TROUBLE
    if as_json:
        click.echo(encode_line(ended).decode(), err=True, nl=False)
        return exit_code_of(ended)
    why = "" if ended.reason == "ok" else f", {ended.reason}"
    seconds = time.monotonic() - began
    click.echo(f"runnerlib: {ended.status}{why} after {seconds:.1f} s in {ended.isolation}", err=True)
    if ended.artifacts:
        where = f"{kept} put into {folder}" if folder is not None else "dropped: --artifacts DIR keeps them"
        click.echo(f"runnerlib: {ended.artifacts} artifacts, {where}", err=True)
    return exit_code_of(ended)


def _tell_dry_run(loaded: "LoadedConfig") -> None:
    from runnerlib.dry_run import describe_run
    from runnerlib.standalone import compose_spec
    from runnerlib.validation import probe_runtime, validate

    runtime = probe_runtime(loaded.config)
    findings = validate(loaded, runtime)
    spec = compose_spec(loaded.config, Path("/nonexistent"))
    for line in describe_run(loaded, spec, runtime, findings):
        click.echo(line)
    sys.exit(1 if any(finding.level == "error" for finding in findings) else 0)
