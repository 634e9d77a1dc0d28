"""`users` and `me`: accounts."""

import click

from reactorcide.cli import render
from reactorcide.cli.answers import UserAnswer
from reactorcide.cli.options import ID, ClientOptions, json_option
from reactorcide.domain.accounts import Role

_ROLE = click.Choice([role.value for role in Role])


@click.group()
def users() -> None:
    """Create, list and change users (admins)."""


@users.command("create")
@click.argument("username")
@click.option("--email")
@click.option("--role", "roles", multiple=True, type=_ROLE, help="Repeatable; without it, user.")
@click.option("--disabled", is_flag=True, help="No token of theirs is valid yet.")
@json_option
@click.pass_obj
def create_user(
    options: ClientOptions,
    /,
    *,
    username: str,
    email: str | None,
    roles: tuple[str, ...],
    disabled: bool,
    as_json: bool,
) -> None:
    """Create a user and print the id."""
    body: dict[str, object] = {"username": username}
    body |= {"email": email} if email is not None else {}
    body |= {"roles": list(roles)} if roles else {}
    body |= {"enabled": False} if disabled else {}
    with options.connect() as client:
        user = client.create_user(body)
    if as_json:
        render.write_json(user.raw)
    else:
        render.write_text(user.user_id)


@users.command("list")
@json_option
@click.pass_obj
def list_users(options: ClientOptions, as_json: bool) -> None:
    """List every user."""
    with options.connect() as client:
        found = client.list_users()
    if as_json:
        render.write_json(found.raw)
        return
    rows = [
        (
            user.user_id,
            user.username,
            user.email or "",
            ",".join(user.roles),
            "yes" if user.enabled else "no",
            render.show_time(user.created_at),
        )
        for user in found.users
    ]
    render.write_table(
        ("ID", "NAME", "EMAIL", "ROLES", "ENABLED", "CREATED"),
        rows,
        empty="no users",
        optional=("CREATED", "EMAIL"),
    )


@users.command("update")
@click.argument("user_id", type=ID)
@click.option("--username")
@click.option("--email", help="An empty one takes it away.")
@click.option(
    "--role", "roles", multiple=True, type=_ROLE, help="Repeatable; these replace the present ones."
)
@click.option("--enable/--disable", "enabled", default=None, help="Whether their tokens are valid.")
@json_option
@click.pass_obj
def update_user(
    options: ClientOptions,
    /,
    *,
    user_id: str,
    username: str | None,
    email: str | None,
    roles: tuple[str, ...],
    enabled: bool | None,
    as_json: bool,
) -> None:
    """Change a user."""
    given = {"username": username, "email": email, "roles": list(roles) or None, "enabled": enabled}
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("say what to change: --username, --email, --role, --enable or --disable")
    with options.connect() as client:
        user = client.update_user(user_id, body)
    if as_json:
        render.write_json(user.raw)
    else:
        _write_user(user)


@click.command()
@json_option
@click.pass_obj
def me(options: ClientOptions, as_json: bool) -> None:
    """Show who the token belongs to, and what it opens."""
    with options.connect() as client:
        answer = client.me()
    if as_json:
        render.write_json(answer.raw)
        return
    _write_user(answer.user)
    render.write_fields(
        [
            ("token id", answer.token_id),
            ("token kind", answer.kind),
            ("admin", "yes" if answer.is_admin else "no"),
        ]
    )


def _write_user(user: UserAnswer) -> None:
    render.write_fields(
        [
            ("id", user.user_id),
            ("name", user.username),
            ("email", user.email),
            ("roles", ", ".join(user.roles)),
            ("enabled", "yes" if user.enabled else "no"),
        ]
    )
