"""`logs`: the log of a job, whole or live, and how log bytes reach stdout."""

import sys
from typing import TYPE_CHECKING

import click

from reactorcide.cli import render
from reactorcide.cli.answers import JobAnswer, exit_code_of
from reactorcide.cli.options import ID, ClientOptions, json_option
from reactorcide.cli.terminal import TerminalFilter

if TYPE_CHECKING:
    from reactorcide.cli.client import ApiClient, Query


class LogOutput:
    """Where log bytes go: as they are into a pipe, made harmless onto a terminal, or as JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._stdout = sys.stdout.buffer
        self._filter = TerminalFilter(colour=render.wants_colour()) if render.is_terminal() else None
        self._ends_line = True

    def write(self, data: bytes, end: int | None = None) -> None:
        """Show the next bytes; ``end`` is the offset behind them."""
        if self._as_json:
            told = {"type": "log", "offset": (end or len(data)) - len(data)}
            render.write_json_line(told | {"data": data.decode(errors="replace")})
        else:
            self._put(self._filter.feed(data) if self._filter else data)

    def begin_attempt(self, attempt: int) -> None:
        """Say that from here on it is the log of another attempt."""
        if self._as_json:
            render.write_json_line({"type": "attempt", "attempt": attempt})
            return
        self.close()
        render.say(f"the log of attempt {attempt} begins here")

    def close(self) -> None:
        """Show what was held back, and leave the cursor at the start of a line."""
        if self._filter:
            self._put(self._filter.close())
            if not self._ends_line:
                self._put(b"\n")

    def _put(self, data: bytes) -> None:
        if data:
            self._stdout.write(data)
            self._stdout.flush()
            self._ends_line = data.endswith(b"\n")


@click.command()
@click.argument("job_id", type=ID)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends; exit with its exit code.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--timestamps", is_flag=True, help="Put the time before each line.")
@click.option("--stream", type=click.Choice(["stdout", "stderr", "combined"]), help="Only this stream.")
@json_option
@click.pass_context
def logs(
    ctx: click.Context,
    *,
    job_id: str,
    follow: bool,
    tail: int | None,
    timestamps: bool,
    stream: str | None,
    as_json: bool,
) -> None:
    """Show the log of a job."""
    if follow and (timestamps or stream):
        raise click.UsageError("--timestamps and --stream do not go with --follow")
    query = [("tail", str(tail))] if tail is not None else []
    query += [("timestamps", "true")] if timestamps else []
    query += [("stream", stream)] if stream else []
    options: ClientOptions = ctx.obj
    with options.connect() as client:
        if not follow:
            show_log(client, job_id, query, as_json=as_json)
            return
        job = follow_to_end(client, job_id, query, as_json=as_json)
    tell_end(job, as_json=as_json)
    ctx.exit(exit_code_of(job))


def show_log(client: "ApiClient", job_id: str, query: "Query", *, as_json: bool) -> None:
    """Write the log as it is now."""
    from reactorcide.cli.follow import read_log

    if as_json:
        # The coordinator's JSON is one document already.
        with client.open_log(job_id, query=query, accept="application/json") as response:
            for data in response.iter_bytes():
                sys.stdout.buffer.write(data)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    output = LogOutput(as_json=False)
    for data in read_log(client, job_id, query):
        output.write(data)
    output.close()


def follow_to_end(client: "ApiClient", job_id: str, query: "Query" = (), *, as_json: bool) -> JobAnswer:
    """Write the log as it grows, and return the job once it has ended."""
    from reactorcide.cli.follow import NewAttempt, follow_log
    from reactorcide.cli.watch import watch_until_ended

    output = LogOutput(as_json=as_json)
    try:
        for part in follow_log(client, job_id, query=query):
            if isinstance(part, NewAttempt):
                output.begin_attempt(part.attempt)
            else:
                output.write(part.data, part.end)
    finally:
        output.close()
    return watch_until_ended(client, job_id)


def tell_end(job: JobAnswer, *, as_json: bool) -> None:
    """Say how a followed job ended: the last line of JSON lines, and a line for the person."""
    if as_json:
        render.write_json_line({"type": "end", "job": job.raw})
    render.say(render.sum_up(job))
