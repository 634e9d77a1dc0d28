"""`config`: every setting, its effective value and where it came from."""

import json
import os

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(as_json: bool) -> None:
    """Show every setting with its value and source; secrets stay hidden."""
    from reactorcide.cli.service import read_settings
    from reactorcide.config import describe_settings

    rows = describe_settings(read_settings(os.environ, {}))
    if as_json:
        names = ("name", "value", "source", "meaning")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    width = max(len(row[0]) for row in rows)
    for name, value, source, meaning in rows:
        origin = "" if source == "default" else f"  (from {source})"
        click.echo(f"{name:{width}}  {value}{click.style(origin, fg='green')}")
        click.echo(click.style(f"{'':{width}}  {meaning}", dim=True))
