"""`workers`: who runs jobs, and how much."""

import click

from reactorcide.cli import render
from reactorcide.cli.answers import WorkerAnswer
from reactorcide.cli.options import ClientOptions, json_option
from reactorcide.domain.spelling import spell_size


@click.command()
@json_option
@click.pass_obj
def workers(options: ClientOptions, as_json: bool) -> None:
    """List workers (admins)."""
    with options.connect() as client:
        found = client.list_workers()
    if as_json:
        render.write_json(found.raw)
        return
    rows = [
        (
            worker.name,
            _state(worker),
            f"{worker.running}/{worker.slots}",
            _spool(worker),
            ",".join(worker.queues),
            worker.isolation,
            worker.version,
            render.show_time(worker.last_seen_at),
        )
        for worker in found.workers
    ]
    columns = ("NAME", "STATE", "SLOTS", "SPOOL", "QUEUES", "ISOLATION", "VERSION", "LAST SEEN")
    render.write_table(
        *render.drop_columns(
            columns, rows, () if any(worker.spooled for worker in found.workers) else ("SPOOL",)
        ),
        empty="no workers",
        optional=("VERSION", "ISOLATION", "LAST SEEN", "SPOOL"),
    )


def _state(worker: WorkerAnswer) -> str:
    if not worker.is_live:
        return "silent"
    if worker.draining:
        return "draining"
    return "disk full" if worker.disk_full else "live"


def _spool(worker: WorkerAnswer) -> str:
    """Return the attempts that a worker keeps, running ones too, and what they take."""
    return f"{worker.spooled} ({spell_size(worker.spool_bytes)})" if worker.spooled else ""
