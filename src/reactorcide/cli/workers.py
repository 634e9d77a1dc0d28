"""`workers`: who runs jobs, and how much."""

import click

from reactorcide.cli import render
from reactorcide.cli.answers import WorkerAnswer
from reactorcide.cli.options import ClientOptions, json_option


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
            ",".join(worker.queues),
            worker.isolation,
            worker.version,
            render.show_time(worker.last_seen_at),
        )
        for worker in found.workers
    ]
    columns = ("NAME", "STATE", "SLOTS", "QUEUES", "ISOLATION", "VERSION", "LAST SEEN")
    render.write_table(columns, rows, empty="no workers", optional=("VERSION", "ISOLATION", "LAST SEEN"))


def _state(worker: WorkerAnswer) -> str:
    if not worker.is_live:
        return "silent"
    return "draining" if worker.draining else "live"
