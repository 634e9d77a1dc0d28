"""Run a job here, without a coordinator."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerlib.run_settings import SETTINGS

if TYPE_CHECKING:
    from runnerlib.configuration import LoadedConfig
    from runnerlib.spec import RunResult, RunSpec
    from runnerlib.validation import Finding

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
        if "job_command" in flags:
            raise click.UsageError("give the command after -- or by --job-command, not both")
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
    from runnerlib.standalone import EXIT_REFUSED, EXIT_TROUBLE, LogUnshown, exit_code_of
    from runnerlib.standalone import run_spec as run_here

    try:
        spec = decode_spec(sys.stdin.buffer.readline(_LONGEST_SPEC_BYTES))
    except ValueError as error:
        _complain(f"the spec is refused: {error}")
        sys.exit(EXIT_REFUSED)
    trouble = None
    try:
        try:
            ended = run_here(spec, sys.stdout.fileno())
        except LogUnshown as error:
            ended, trouble = error.result, str(error)
        if result is not None:
            result.write_bytes(encode_line(ended))
    except OSError as error:
        _complain(f"no result could be written: {_explain(error)}")
        sys.exit(EXIT_TROUBLE)
    if trouble is not None:
        _complain(trouble)
        sys.exit(EXIT_TROUBLE)
    sys.exit(exit_code_of(ended))


def load_or_exit(flags: dict[str, str], file: str | None = None) -> "LoadedConfig":
    """Return the configuration, or tell all that is wrong with it and exit with 1."""
    from runnerlib.validation import RunRefused, read_run

    try:
        return read_run(flags, os.environ, file)
    except RunRefused as error:
        _tell(error.findings)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run_configured(loaded: "LoadedConfig", *, dry_run: bool, as_json: bool) -> None:
    from runnerlib.standalone import EXIT_INTERRUPTED, interruptible

    try:
        with interruptible():
            code = _tell_dry_run(loaded) if dry_run else _check_and_run(loaded, as_json=as_json)
    except KeyboardInterrupt:
        click.echo("runnerlib: interrupted", err=True)
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _check_and_run(loaded: "LoadedConfig", *, as_json: bool) -> int:
    from runnerlib.local_runs import compose_spec, new_job_id, spool_folder
    from runnerlib.standalone import EXIT_REFUSED, EXIT_TROUBLE
    from runnerlib.validation import check_config, has_errors

    findings = check_config(loaded)
    is_refused = has_errors(findings)
    if is_refused or not as_json:
        _tell(findings)
    if is_refused:
        return EXIT_REFUSED
    job_id = new_job_id()
    try:
        with spool_folder(loaded.config.work_dir, job_id) as spool:
            spec = compose_spec(loaded.config, job_id, spool)
            return _run_in(loaded, spec, findings if as_json else None)
    except OSError as error:
        _complain(f"this machine failed: {_explain(error)}")
        return EXIT_TROUBLE


def _run_in(loaded: "LoadedConfig", spec: "RunSpec", warnings: "list[Finding] | None") -> int:
    """Run the spec, keep its artifacts, say how it ended: as JSON, with the warnings, if they are given."""
    from runnerlib.local_runs import put_artifacts
    from runnerlib.runtime import NOTHING, Runtime
    from runnerlib.standalone import EXIT_TROUBLE, LogUnshown, exit_code_of
    from runnerlib.standalone import run_spec as run_here
    from runnerlib.validation import check_runtime

    began = time.monotonic()
    folder = loaded.config.artifacts
    kept, trouble = 0, None
    try:
        ended = run_here(spec, sys.stdout.fileno())
    except LogUnshown as error:
        ended, trouble = error.result, str(error)
    seconds = time.monotonic() - began
    if folder is not None and ended.artifacts:
        try:
            kept = put_artifacts(Path(spec.spool_dir), folder)
        except OSError as error:
            trouble = f"the artifacts cannot be put into {folder}: {_explain(error)}"
    found = [] if ended.isolation == NOTHING else check_runtime(loaded.config, Runtime(ended.isolation, ""))
    if warnings is None:
        _tell(found)
        _tell_end(ended, seconds, kept, folder)
    else:
        _tell_json(ended, seconds, folder if kept else None, [*warnings, *found])
    if trouble is not None:
        _complain(trouble)
        return EXIT_TROUBLE
    return exit_code_of(ended)


def _tell_end(ended: "RunResult", seconds: float, kept: int, folder: Path | None) -> None:
    why = "" if ended.reason == "ok" else f" ({ended.reason})"
    where = "before the job began" if ended.isolation == "none" else f"in {ended.isolation}"
    artifacts = ""
    if kept:
        artifacts = f"; {kept} artifacts are in {folder}"
    elif ended.artifacts and folder is None:
        artifacts = f"; {ended.artifacts} artifacts are dropped: --artifacts DIR keeps them"
    click.echo(f"runnerlib: {ended.status}{why} after {seconds:.2f} s {where}{artifacts}", err=True)


def _tell_json(
    ended: "RunResult", seconds: float, folder: Path | None, warnings: "Sequence[Finding]"
) -> None:
    import msgspec

    told = msgspec.to_builtins(ended) | {
        "seconds": round(seconds, 3),
        "artifacts_folder": None if folder is None else str(folder),
        "warnings": [finding.as_json() for finding in warnings],
    }
    click.echo(msgspec.json.encode(told).decode(), err=True)


def _tell_dry_run(loaded: "LoadedConfig") -> int:
    from runnerlib.dry_run import describe_run
    from runnerlib.local_runs import compose_spec, new_job_id, spool_path
    from runnerlib.validation import look_ahead

    outlook = look_ahead(loaded)
    job_id = new_job_id()
    spec = compose_spec(loaded.config, job_id, spool_path(loaded.config.work_dir, job_id))
    for line in describe_run(loaded, spec, outlook):
        click.echo(line)
    return 0 if outlook.is_fit else 1


def _tell(findings: "Sequence[Finding]") -> None:
    for finding in findings:
        _complain(str(finding))


def _complain(text: str) -> None:
    click.echo(f"runnerlib: {text}", err=True)


def _explain(error: OSError) -> str:
    what = error.strerror or str(error)
    return what if error.filename is None else f"{os.fsdecode(error.filename)}: {what}"
