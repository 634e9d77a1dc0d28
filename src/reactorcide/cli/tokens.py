"""`tokens`: create, list and revoke API tokens."""

from datetime import UTC, datetime, timedelta

import click

from reactorcide.cli import render
from reactorcide.cli.options import DURATION, ID, ClientOptions, json_option


@click.group()
def tokens() -> None:
    """Create, list and revoke tokens."""


@tokens.command("create")
@click.argument("name")
@click.option("--kind", type=click.Choice(["user", "worker"]), help="What the token opens.")
@click.option("--user", "user_id", type=ID, help="Whose it is; without it, yours.")
@click.option("--expires-in", type=DURATION, help="Valid for so long, such as 30d.")
@click.option("--expires-at", metavar="TIME", help="Valid until, such as 2030-01-31T12:00:00Z.")
@json_option
@click.pass_obj
def create_token(
    options: ClientOptions,
    /,
    *,
    name: str,
    kind: str | None,
    user_id: str | None,
    expires_in: int | None,
    expires_at: str | None,
    as_json: bool,
) -> None:
    """Create a token (admins) and print it: this once."""
    if expires_in is not None and expires_at is not None:
        raise click.UsageError("--expires-in and --expires-at say the same thing: give one")
    if expires_in is not None:
        expires_at = (datetime.now(UTC) + timedelta(seconds=expires_in)).isoformat().replace("+00:00", "Z")
    optional = {"kind": kind, "user_id": user_id, "expires_at": expires_at}
    body = {"name": name} | {key: value for key, value in optional.items() if value is not None}
    with options.connect() as client:
        made = client.create_token(body)
    if as_json:
        render.write_json(made.raw)
        return
    render.say(f"token {made.token_id} ({made.name}); its text is shown only now:")
    render.write_text(made.token or "")


@tokens.command("list")
@click.option("--user", "user_id", type=ID, help="Of this user (admins).")
@json_option
@click.pass_obj
def list_tokens(options: ClientOptions, user_id: str | None, as_json: bool) -> None:
    """List tokens, without their texts."""
    with options.connect() as client:
        found = client.list_tokens(user_id)
    if as_json:
        render.write_json(found.raw)
        return
    rows = [
        (
            token.token_id,
            token.name,
            token.kind,
            "yes" if token.is_active else "no",
            render.show_time(token.created_at),
            render.show_time(token.expires_at),
            render.show_time(token.last_used_at),
        )
        for token in found.tokens
    ]
    columns = ("ID", "NAME", "KIND", "ACTIVE", "CREATED", "EXPIRES", "LAST USED")
    render.write_table(columns, rows, empty="no tokens", optional=("LAST USED", "CREATED", "ACTIVE", "KIND"))


@tokens.command("revoke")
@click.argument("token_ids", type=ID, nargs=-1, required=True)
@click.pass_obj
def revoke_tokens(options: ClientOptions, token_ids: tuple[str, ...]) -> None:
    """Make tokens invalid for good."""
    with options.connect() as client:
        for token_id in token_ids:
            client.revoke_token(token_id)
            render.say(f"revoked {token_id}")
