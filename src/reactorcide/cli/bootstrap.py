"""`bootstrap`: make the first admin and a token."""

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reactorcide.config import Settings


@click.command()
@click.option("--user-id", help="Id of the admin, a UUID (default: DEFAULT_USER_ID, else made once).")
def bootstrap(user_id: str | None) -> None:
    """Make the admin user and its first token, unless the user is there already.

    The token goes to the file admin-token in the data directory, readable by you alone.
    """
    from reactorcide.cli.service import make_data_dir, read_settings, run_service

    settings = read_settings(os.environ, {"default_user_id": user_id}).settings
    make_data_dir(settings)
    run_service(settings, _bootstrap(settings), is_quiet=True)


async def _bootstrap(settings: "Settings") -> None:
    from reactorcide.wiring.core import TOKEN_FILE, ensure_admin, open_core
    from reactorcide.wiring.database import open_database

    async with (
        open_database(settings) as dsn,
        open_core(settings, dsn, objects_dir=settings.data_dir / "objects") as core,
    ):
        token_id = await ensure_admin(core, make_one=True)
    if token_id is None:
        click.echo("The admin is there already: nothing was made", err=True)
    else:
        click.echo(f"Token {token_id} was written to {settings.data_dir / TOKEN_FILE}", err=True)
