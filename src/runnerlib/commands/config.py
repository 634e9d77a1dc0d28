"""Look at a run before it is one: its configuration, and what is wrong with it."""

import os
import sys

import click

from runnerlib.commands.run import load_or_exit, run_options


@click.command()
@click.argument("file", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@run_options
def config(flags: dict[str, str], file: str | None, as_json: bool) -> None:
    """Print every value of a run, of FILE or of flags and environment, and where it came from."""
    import json
    from dataclasses import asdict

    from runnerlib.dry_run import describe_config

    loaded = load_or_exit(flags, file)
    rows = list(describe_config(loaded))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for row in rows:
        click.echo(f"{row.name:24} {row.text}  [{row.source}]")


@click.command()
@click.argument("file", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of job files, and nothing else.")
@run_options
def validate(flags: dict[str, str], file: str | None, as_json: bool, schema: bool) -> None:
    """Say everything that is wrong or odd about a run, of FILE or of flags; exit 1 if it could not start."""
    import json

    from runnerlib.validation import RunRefused, has_errors, look_ahead, read_run

    if schema:
        from runnerlib.spec.job_file_schema import job_file_schema

        click.echo(json.dumps(job_file_schema(), indent=2))
        return
    try:
        findings = look_ahead(read_run(flags, os.environ, file)).findings
    except RunRefused as error:
        findings = error.findings
    is_fit = not has_errors(findings)
    if as_json:
        click.echo(json.dumps({"fit": is_fit, "findings": [f.as_json() for f in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo("it would start" if is_fit else "it would not start")
    sys.exit(0 if is_fit else 1)
