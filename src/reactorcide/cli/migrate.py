"""`migrate`: bring the database to the schema of this program."""

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reactorcide.config import Settings


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if something is missing.")
def migrate(check: bool) -> None:
    """Apply the migrations that the database still lacks.

    `up`, `serve` and `worker` do this too when they start; racing processes wait for the first.
    """
    from reactorcide.cli.service import make_data_dir, read_settings, run_service

    settings = read_settings(os.environ, {}).settings
    if settings.db_uri is None:
        make_data_dir(settings)
    run_service(settings, _migrate(settings, check=check), is_quiet=True)


async def _migrate(settings: "Settings", *, check: bool) -> None:
    from reactorcide.store.migrate import migrate as apply
    from reactorcide.store.migrate import pending
    from reactorcide.wiring.database import open_database

    async with open_database(settings) as dsn:
        names = await (pending(dsn) if check else apply(dsn))
    for name in names:
        click.echo(name)
    if not names:
        click.echo("The database is up to date", err=True)
    elif check:
        raise SystemExit(1)
