"""`queues`: what waits and what runs, by queue."""

import click

from reactorcide.cli import render
from reactorcide.cli.options import ClientOptions, json_option


@click.command()
@json_option
@click.pass_obj
def queues(options: ClientOptions, as_json: bool) -> None:
    """List queues."""
    with options.connect() as client:
        found = client.list_queues()
    if as_json:
        render.write_json(found.raw)
        return
    rows = [
        (
            queue.name,
            str(queue.ready),
            str(queue.running),
            render.show_seconds(queue.oldest_wait_seconds),
            str(queue.live_workers),
            str(queue.draining_workers),
            str(queue.full_workers),
            f"{queue.tickets.ready} + {queue.tickets.drawn} drawn" if queue.tickets else "",
        )
        for queue in found.queues
    ]
    columns = ("NAME", "READY", "RUNNING", "OLDEST WAIT", "LIVE WORKERS", "DRAINING", "DISK FULL", "TICKETS")
    is_told = {
        "DRAINING": any(queue.draining_workers for queue in found.queues),
        "DISK FULL": any(queue.full_workers for queue in found.queues),
        "TICKETS": any(queue.tickets for queue in found.queues),
    }
    untold = [name for name, told in is_told.items() if not told]
    render.write_table(*render.drop_columns(columns, rows, untold), empty="no queues")
    if found.queue_service == "unreachable":
        render.say("the queue service cannot be reached: ready jobs wait until it returns")
