"""`submit`: a job from a file or from flags, watched or not."""

import os
from pathlib import Path

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
from reactorcide.cli.options import ClientOptions, dirty_option, job_options, json_option
from reactorcide.cli.run import attend, default_name


@click.command()
@click.argument("file", required=False, metavar="[FILE]")
@click.option("-c", "--command", "job_command", help="Shell command to run.")
@dirty_option
@job_options
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; exit with the job's exit code.")
@click.option("-f", "--follow", is_flag=True, help="Follow the log; exit with the job's exit code.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context,
    *,
    file: str | None,
    job_command: str | None,
    is_dirty: bool,
    body: JobBody,
    is_waiting: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Submit a job: from FILE (JSON or YAML; - is stdin), from flags, or both, where flags win.

    Prints the id of the job.
    """
    if job_command is not None:
        body["job_command"] = job_command
    if file is None and job_command is None:
        raise click.UsageError("give a FILE or a --command")
    told = compose_submission(read_job_file(file), file, os.environ) if file else {}
    whole = merge_bodies(told, body)
    infer_source_type(whole)
    if isinstance(command := whole.get("job_command"), str):
        whole.setdefault("name", default_name(command))
    options: ClientOptions = ctx.obj
    with options.connect() as client:
        if is_dirty:
            from reactorcide.cli.tree_upload import send_working_tree

            send_working_tree(client, whole, Path())
        job = client.submit_job(whole)
        if follow:
            ctx.exit(attend(client, job, as_json=as_json))
        if not (as_json and is_waiting):
            write_submitted(job, as_json=as_json)
        if not is_waiting:
            return
        from reactorcide.cli.watch import watch_until_ended

        try:
            job = watch_until_ended(client, job.job_id)
        except KeyboardInterrupt:
            render.say("")
            render.say(f"job {job.name} goes on; cancel it with: reactorcide cancel {job.job_id}")
            ctx.exit(ExitCode.INTERRUPTED)
        except CommandFailed as error:
            error.hint = error.hint or f"the job is not affected: reactorcide wait {job.job_id}"
            raise
    if as_json:
        render.write_json(job.raw)
    render.say(render.sum_up(job))
    ctx.exit(exit_code_of(job))


def write_submitted(job: JobAnswer, *, as_json: bool) -> None:
    """Write the job that was taken: its id, for a shell to keep, or the whole."""
    if as_json:
        render.write_json(job.raw)
    else:
        render.write_text(job.job_id)
