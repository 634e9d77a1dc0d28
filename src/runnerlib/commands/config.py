"""Look at a run before it is one: its configuration, and what is wrong with it."""

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from runnerlib.commands.run import load_or_exit, run_options

if TYPE_CHECKING:
    from runnerlib.validation import Finding


@click.command()
@click.argument("file", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@run_options
def config(flags: dict[str, str], file: str | None, as_json: bool) -> None:
    """Print every value of a run, of FILE or of flags and environment, and where it came from."""
    from runnerlib.dry_run import describe_config

    loaded = load_or_exit(flags, file)
    rows = list(describe_config(loaded))
    if as_json:
        told = [{"name": name, "value": value, "source": source} for name, value, source in rows]
        click.echo(json.dumps(told, indent=2))
        return
    for name, value, source in rows:
        click.echo(f"{name:24} {value}  [{source}]")


@click.command()
@click.argument("file", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of job files, and nothing else.")
@run_options
def validate(flags: dict[str, str], file: str | None, as_json: bool, schema: bool) -> None:
    """Say everything that is wrong or odd about a run, of FILE or of flags; exit 1 if it could not start."""
    if schema:
        from runnerlib.spec.job_file_schema import job_file_schema

        click.echo(json.dumps(job_file_schema(), indent=2))
        return
    findings = _find(flags, file)
    is_fit = not any(finding.level == "error" for finding in findings)
    if as_json:
        click.echo(json.dumps({"fit": is_fit, "findings": [f.as_json() for f in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo("it would start" if is_fit else "it would not start")
    sys.exit(0 if is_fit else 1)


def _find(flags: dict[str, str], file: str | None) -> "list[Finding]":
    from runnerlib.validation import RunRefused, probe_runtime, read_run
    from runnerlib.validation import validate as look

    try:
        loaded = read_run(flags, os.environ, file)
    except RunRefused as error:
        return error.findings
    return look(loaded, probe_runtime(loaded.config))
