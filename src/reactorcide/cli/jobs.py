"""`jobs`, `cancel`, `retry` and `wait`: look at jobs, end them, run them again."""

import time

import click

from reactorcide.cli import render
from reactorcide.cli.answers import JobAnswer, JobList, JsonObject, describe_limits, exit_code_of
from reactorcide.cli.client import ApiClient
from reactorcide.cli.options import DURATION, ID, ClientOptions, json_option
from reactorcide.domain.status import JobStatus

_PAGE = 100
_SHOWN_FIELDS = (
    ("id", "job_id"),
    ("name", "name"),
    ("description", "description"),
    ("status", "status"),
    ("waiting", "waiting"),
    ("reason", "reason"),
    ("fault", "fault"),
    ("message", "message"),
    ("exit code", "exit_code"),
    ("signal", "signal"),
    ("queue", "queue_name"),
    ("priority", "priority"),
    ("attempt", "attempt"),
    ("worker", "worker"),
    ("source", "source_type"),
    ("git url", "git_url"),
    ("git ref", "git_ref"),
    ("commit", "resolved_sha"),
    ("source path", "source_path"),
    ("source tree", "source_tree"),
    ("source commit", "source_commit"),
    ("changed files", "source_changes"),
    ("timeout", "timeout_seconds"),
    ("log bytes", "log_size"),
    ("log removed", "log_removed_at"),
    ("artifacts removed", "artifacts_removed_at"),
    ("image", "runner_image"),
    ("image digest", "image_digest"),
    ("ran in", "isolation"),
    ("retry of", "retry_of"),
    ("owner", "user_id"),
)


@click.group()
def jobs() -> None:
    """List jobs, look at one, delete one."""


@jobs.command("list")
@click.option("--status", multiple=True, type=click.Choice([status.value for status in JobStatus]))
@click.option("-q", "--queue", "queue_name", help="Only of this queue.")
@click.option("--name", help="Only of this name.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Only with this label. Repeatable.")
@click.option("--source-type", type=click.Choice(["git", "copy", "none", "tree"]))
@click.option("--user", "user_id", type=ID, help="Only of this user (admins).")
@click.option("--created-after", metavar="TIME", help="RFC 3339, such as 2030-01-31T12:00:00Z.")
@click.option("--created-before", metavar="TIME")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N")
@click.option("--all", "is_all", is_flag=True, help="All there are.")
@json_option
@click.pass_obj
def list_jobs(
    options: ClientOptions,
    /,
    *,
    status: tuple[str, ...],
    labels: tuple[str, ...],
    limit: int,
    is_all: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """List jobs, newest first."""
    query = [("status", value) for value in status]
    query += [("label", _colon_form(label)) for label in labels]
    query += [(name, value) for name, value in filters.items() if value]
    with options.connect() as client:
        found = _collect(client, query, None if is_all else limit)
    if as_json:
        render.write_json(found.raw | {"jobs": [job.raw for job in found.jobs]})
        return
    render.write_table(
        ("ID", "NAME", "STATUS", "QUEUE", "CREATED", "TOOK", "REASON"),
        [_row(job) for job in found.jobs],
        empty="no jobs",
        optional=("QUEUE", "TOOK", "REASON"),
    )
    if found.next_cursor and found.total is not None:
        render.say(f"{len(found.jobs)} of {found.total}; --limit N or --all shows more")


@jobs.command("get")
@click.argument("job_id", type=ID)
@json_option
@click.pass_obj
def get_job(options: ClientOptions, job_id: str, as_json: bool) -> None:
    """Show one job."""
    with options.connect() as client:
        job = client.get_job(job_id)
    if as_json:
        render.write_json(job.raw)
        return
    fields = [(label, _spell(job.raw.get(name))) for label, name in _SHOWN_FIELDS]
    fields.append(("limits", describe_limits(job.limits) if job.limits else None))
    times = (("created", job.created_at), ("started", job.started_at), ("ended", job.completed_at))
    fields += [(label, render.show_time(at)) for label, at in times if at is not None]
    if job.seconds is not None:
        fields.append(("took", render.show_seconds(job.seconds)))
    render.write_fields(fields)
    for line in str(job.raw.get("job_command", "")).splitlines():
        render.write_text(f"  $ {line}")


@jobs.command("delete")
@click.argument("job_ids", type=ID, nargs=-1, required=True)
@click.pass_obj
def delete_jobs(options: ClientOptions, job_ids: tuple[str, ...]) -> None:
    """Delete ended jobs with their logs (admins)."""
    with options.connect() as client:
        for job_id in job_ids:
            client.delete_job(job_id)
            render.say(f"deleted {job_id}")


@jobs.command("events")
@click.argument("job_id", type=ID)
@json_option
@click.pass_obj
def list_events(options: ClientOptions, job_id: str, as_json: bool) -> None:
    """Show every transition of a job."""
    with options.connect() as client:
        found = client.list_events(job_id)
    if as_json:
        render.write_json(found.raw)
        return
    rows = [
        (
            str(event.seq),
            render.show_time(event.at),
            event.from_status or "-",
            event.to_status,
            str(event.attempt),
            event.actor,
            event.reason or "",
        )
        for event in found.events
    ]
    render.write_table(("SEQ", "AT", "FROM", "STATUS", "ATTEMPT", "ACTOR", "REASON"), rows, empty="no events")


@click.command()
@click.argument("job_ids", type=ID, nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Kill at once, without the grace to clean up.")
@json_option
@click.pass_obj
def cancel(options: ClientOptions, job_ids: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Cancel jobs."""
    with options.connect() as client:
        cancelled = [client.cancel_job(job_id, force=force) for job_id in job_ids]
    if as_json:
        _write_jobs(cancelled)
        return
    for job in cancelled:
        render.say(f"job {job.name} " + ("was cancelled" if job.is_final else "is being cancelled"))


jobs.add_command(cancel)


@click.command()
@click.argument("job_id", type=ID)
@json_option
@click.pass_obj
def retry(options: ClientOptions, job_id: str, as_json: bool) -> None:
    """Run an ended job again, as a new job; its id is printed."""
    with options.connect() as client:
        job = client.retry_job(job_id)
    if as_json:
        render.write_json(job.raw)
    else:
        render.say(f"job {job.name} is run again")
        render.write_text(job.job_id)


jobs.add_command(retry)


@click.command()
@click.argument("job_ids", type=ID, nargs=-1, required=True)
@click.option("--timeout", type=DURATION, help="Give up (exit code 69) after this.")
@json_option
@click.pass_context
def wait(ctx: click.Context, job_ids: tuple[str, ...], timeout: int | None, as_json: bool) -> None:
    """Wait until jobs have ended; exit with the first exit code that is not 0."""
    from reactorcide.cli.watch import watch_until_ended

    options: ClientOptions = ctx.obj
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = []
    with options.connect() as client:
        for job_id in job_ids:
            ended.append(watch_until_ended(client, job_id, deadline=deadline))
            render.say(render.sum_up(ended[-1]))
    if as_json:
        _write_jobs(ended)
    ctx.exit(next((code for job in ended if (code := exit_code_of(job))), 0))


def _collect(client: ApiClient, query: list[tuple[str, str]], limit: int | None) -> JobList:
    """Return up to ``limit`` jobs as if they were one page."""
    size = _PAGE if limit is None else min(limit, _PAGE)
    page = first = client.list_jobs([*query, ("limit", str(size))])
    found = list(first.jobs)
    while page.next_cursor and (limit is None or len(found) < limit):
        size = _PAGE if limit is None else min(limit - len(found), _PAGE)
        page = client.list_jobs([*query, ("limit", str(size)), ("cursor", page.next_cursor)])
        found += page.jobs
    raw: JsonObject = {key: value for key, value in first.raw.items() if key != "next_cursor"}
    if page.next_cursor:
        raw["next_cursor"] = page.next_cursor
    return JobList(found, first.total, page.next_cursor, raw)


def _row(job: JobAnswer) -> tuple[str, ...]:
    took = render.show_seconds(job.seconds)
    created = render.show_time(job.created_at)
    return (job.job_id, job.name, job.status, job.queue_name, created, took, _why(job))


def _why(job: JobAnswer) -> str:
    if job.reason in (None, "ok"):
        return ""
    return f"{job.reason} {job.exit_code}" if job.reason == "exit_nonzero" else str(job.reason)


def _write_jobs(jobs_shown: list[JobAnswer]) -> None:
    """Write one job as itself, several as a list."""
    raw = [job.raw for job in jobs_shown]
    render.write_json(raw[0] if len(raw) == 1 else {"jobs": raw})


def _spell(value: object) -> str | None:
    return None if value is None else str(value)


def _colon_form(label: str) -> str:
    name, equals, value = label.partition("=")
    return f"{name}:{value}" if equals else label
