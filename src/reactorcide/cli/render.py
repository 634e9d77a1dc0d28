"""How answers look: tables and one-line sums for people, JSON for programs.

Data goes to stdout, talk to stderr. On a terminal foreign text is shown inert and times are relative;
into a pipe go plain aligned text and whole timestamps.
"""

import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

import click

from reactorcide.cli.answers import JobAnswer
from reactorcide.cli.terminal import show_inert

_GAP = "  "
_LONG_TEXT = 24
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STATUS_COLOURS = {
    "completed": "green",
    "failed": "red",
    "timeout": "red",
    "cancelled": "yellow",
    "running": "cyan",
}


def is_terminal() -> bool:
    """Tell whether a person reads stdout."""
    return sys.stdout.isatty()


def show_size(size: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"


def wants_colour() -> bool:
    """Tell whether colour is welcome (see no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Tell the person at the keyboard something that is not the data asked for."""
    click.echo(show_inert(text), err=True)


def write_json(value: object) -> None:
    """Write one JSON document for a program."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=is_terminal()))


def write_json_line(value: object) -> None:
    """Write one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=is_terminal(), separators=(",", ":")))


def write_text(text: str) -> None:
    """Write one line of data."""
    click.echo(show_inert(text))


def write_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, optional: Sequence[str] = ()
) -> None:
    """Write rows under their columns; ``empty`` is told instead when there are none.

    Args:
        optional: columns that a narrow terminal goes without, the first first.
    """
    if not rows:
        say(empty)
    elif is_terminal():
        width = shutil.get_terminal_size().columns
        _write_rich_table(*fit_columns(columns, rows, optional, width), width)
    else:
        _write_plain_table(columns, rows)


def write_fields(fields: Iterable[tuple[str, str | None]]) -> None:
    """Write names and values, one a line; those without a value are left out."""
    shown = [(name, show_inert(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        label = f"{name:<{width}}"
        styled = click.style(label, bold=True) if is_terminal() and wants_colour() else label
        click.echo(f"{styled}  {value}")


def show_time(at: datetime | None, *, now: datetime | None = None) -> str:
    """Return when something was or will be: relative on a terminal, else as the coordinator wrote it."""
    if at is None:
        return "-"
    if is_terminal():
        return relative_time(at, now=now or datetime.now(UTC))
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def relative_time(at: datetime, *, now: datetime) -> str:
    """Return ``at`` as people say it, such as `3 min ago` or `in 2 d`."""
    seconds = (now - at).total_seconds()
    size = abs(seconds)
    if size < 2:
        return "now"
    units = ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h"), (float("inf"), 86_400, "d"))
    unit, name = next((unit, name) for limit, unit, name in units if size < limit)
    amount = f"{int(size // unit)} {name}"
    return f"{amount} ago" if seconds > 0 else f"in {amount}"


def show_seconds(seconds: float | None) -> str:
    """Return a duration as people say it."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def sum_up(job: JobAnswer) -> str:
    """Return the one line that says how ``job`` ended."""
    cut_short = {"cancelled": "was cancelled", "timeout": "timed out"}.get(job.status)
    took = "" if job.seconds is None else f" {'after' if cut_short else 'in'} {show_seconds(job.seconds)}"
    head = f"job {job.name} {cut_short or job.status}{took}"
    if job.status == "completed":
        return head
    facts = []
    if job.exit_code is not None:
        facts.append(f"exit code {job.exit_code}")
    if job.signal is not None:
        facts.append(f"signal {job.signal}")
    reason = f" ({job.reason})" if job.reason else ""
    detail = f": {', '.join(facts)}{reason}" if facts else reason
    # An exit code says it all; other ends have a story.
    message = f": {job.message}" if job.message and job.reason != "exit_nonzero" else ""
    return f"{head}{detail}{message}"


def _write_plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [list(columns), *([show_inert(cell) for cell in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        padded = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        click.echo(_GAP.join(padded).rstrip())


def fit_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str], width: int
) -> tuple[list[str], list[list[str]]]:
    """Return the table without those ``optional`` columns for which ``width`` is too small."""
    natural = [max(len(name), *(len(row[place]) for row in rows)) for place, name in enumerate(columns)]
    # A long text is cut before a column is left out for it.
    widths = {
        name: (size if name == "ID" else min(size, _LONG_TEXT)) + len(_GAP)
        for name, size in zip(columns, natural, strict=True)
    }
    for name in optional:
        if sum(widths.values()) > width:
            del widths[name]
    return drop_columns(columns, rows, set(columns) - set(widths))


def drop_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], dropped: Collection[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the table without the columns that have nothing to tell."""
    kept = [place for place, name in enumerate(columns) if name not in dropped]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _write_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        place = columns.index(column)
        # Ids and statuses are for copying and comparing: they are never cut.
        whole = max(len(row[place]) for row in rows) if column in ("ID", "STATUS") else None
        table.add_column(column, overflow="ellipsis", no_wrap=True, min_width=whole)
    for row in rows:
        table.add_row(*(Text(show_inert(cell), style=_STATUS_COLOURS.get(cell, "")) for cell in row))
    Console(no_color=not wants_colour(), highlight=False, width=width).print(table)
