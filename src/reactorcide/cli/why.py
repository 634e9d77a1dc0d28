"""`why`: what a job does, what it waits for, or why it ended."""

import click

from reactorcide.cli import render
from reactorcide.cli.options import ID, ClientOptions, json_option


@click.command()
@click.argument("job_id", type=ID)
@json_option
@click.pass_obj
def why(options: ClientOptions, job_id: str, as_json: bool) -> None:
    """Say what a job does, what it waits for, or why it ended."""
    with options.connect() as client:
        told = client.explain_job(job_id)
    if as_json:
        render.write_json(told.raw)
    else:
        render.write_text(told.why)
