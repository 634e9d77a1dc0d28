"""Users and their tokens in the database."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from psycopg import errors

from reactorcide.domain.accounts import ADMIN_ROLES, ApiToken, Principal, Role, TokenKind, User
from reactorcide.domain.errors import Conflict
from reactorcide.store.database import Database, Row, Transaction

AUTHENTICATE = """
    SELECT user_id, token_id, kind, roles
      FROM api_tokens
      JOIN users USING (user_id)
     WHERE token_hash = %(token_hash)s
       AND is_active AND enabled
       AND (expires_at IS NULL OR expires_at > now())
"""
RECORD_USE = """
    UPDATE api_tokens
       SET last_used_at = greatest(last_used_at, now() - make_interval(secs => used.seconds_ago))
      FROM unnest(%(token_ids)s::uuid[], %(seconds_ago)s::float8[]) AS used (token_id, seconds_ago)
     WHERE api_tokens.token_id = used.token_id
"""
_TOKEN = """
    token_id, user_id, name, kind, is_active, created_at, updated_at, expires_at, last_used_at
"""  # noqa: S105
INSERT_TOKEN = f"""
    INSERT INTO api_tokens (token_id, user_id, token_hash, name, kind, expires_at)
    SELECT %(token_id)s, user_id, %(token_hash)s, %(name)s, %(kind)s, %(expires_at)s
      FROM users
     WHERE user_id = %(user_id)s
    RETURNING {_TOKEN}
"""  # noqa: S608 - columns of ours
LIST_TOKENS = f"""
    SELECT {_TOKEN}
      FROM api_tokens
     WHERE user_id = %(user_id)s
     ORDER BY created_at, token_id
"""  # noqa: S608
DELETE_TOKEN = """
    DELETE FROM api_tokens
     WHERE token_id = %(token_id)s AND (%(owner_id)s::uuid IS NULL OR user_id = %(owner_id)s)
"""  # noqa: S105
_USER = "user_id, username, email, roles, enabled, created_at, updated_at"
INSERT_USER = f"""
    INSERT INTO users (user_id, username, email, roles, enabled)
    VALUES (%(user_id)s, %(username)s, %(email)s, %(roles)s, %(enabled)s)
    RETURNING {_USER}
"""  # noqa: S608
INSERT_USER_IF_ABSENT = """
    INSERT INTO users (user_id, username, roles)
    VALUES (%(user_id)s, %(username)s, %(roles)s)
    ON CONFLICT DO NOTHING
"""
FIND_USER = f"SELECT {_USER} FROM users WHERE user_id = %(user_id)s"  # noqa: S608
LIST_USERS = f"SELECT {_USER} FROM users ORDER BY created_at, user_id"  # noqa: S608
UPDATE_USER = f"""
    UPDATE users
       SET username = coalesce(%(username)s, username),
           email = CASE WHEN %(clears_email)s THEN NULL ELSE coalesce(%(email)s, email) END,
           roles = coalesce(%(roles)s, roles),
           enabled = coalesce(%(enabled)s, enabled),
           updated_at = now()
     WHERE user_id = %(user_id)s
    RETURNING {_USER}
"""  # noqa: S608
LOCK_ADMINS = """
    SELECT user_id FROM users WHERE enabled AND roles && %(roles)s ORDER BY user_id FOR UPDATE
"""


async def find_principal(database: Database, token_hash: bytes, *, urgent: bool) -> Principal | None:
    """Return who may act by the token of this hash now, by the database's clock."""
    rows = await database.read(AUTHENTICATE, {"token_hash": token_hash}, urgent=urgent)
    for row in rows:
        return Principal(row["user_id"], row["token_id"], TokenKind(row["kind"]), _roles(row))
    return None


async def record_use(tx: Transaction, used: Mapping[str, timedelta]) -> None:
    """Note how long ago each token was last used; a token that is gone is passed over."""
    seconds = [age.total_seconds() for age in used.values()]
    await tx.execute(RECORD_USE, {"token_ids": list(used), "seconds_ago": seconds})


async def insert_token(
    tx: Transaction,
    *,
    token_id: str,
    user_id: str,
    token_hash: bytes,
    name: str,
    kind: TokenKind,
    expires_at: datetime | None,
) -> ApiToken | None:
    """Add a token to a user. None: there is no such user."""
    values: dict[str, object] = {
        "token_id": token_id,
        "user_id": user_id,
        "token_hash": token_hash,
        "name": name,
    }
    values |= {"kind": kind, "expires_at": expires_at}
    row = await (await tx.execute(INSERT_TOKEN, values)).fetchone()
    return _token(row) if row else None


async def list_tokens(database: Database, user_id: str) -> list[ApiToken]:
    """Return the tokens of a user, oldest first."""
    return [_token(row) for row in await database.read(LIST_TOKENS, {"user_id": user_id})]


async def delete_token(tx: Transaction, token_id: str, *, owner_id: str | None) -> bool:
    """Remove a token, if it is ``owner_id``'s where one is named. False: there is none."""
    deleted = await tx.execute(DELETE_TOKEN, {"token_id": token_id, "owner_id": owner_id})
    return deleted.rowcount == 1


async def insert_user(
    tx: Transaction, *, user_id: str, username: str, email: str | None, roles: Iterable[Role], enabled: bool
) -> User:
    """Add a user.

    Raises:
        Conflict: the username is another's.
    """
    values = {"user_id": user_id, "username": username, "email": email, "roles": sorted(roles)}
    try:
        row = await (await tx.execute(INSERT_USER, values | {"enabled": enabled})).fetchone()
    except errors.UniqueViolation as error:
        raise _username_taken(username) from error
    assert row is not None  # noqa: S101 - an INSERT returns its row or raises
    return _user(row)


async def insert_user_if_absent(
    tx: Transaction, *, user_id: str, username: str, roles: Iterable[Role]
) -> bool:
    """Add a user unless the id or the username is taken; waits for another who is just adding it."""
    values = {"user_id": user_id, "username": username, "roles": sorted(roles)}
    return (await tx.execute(INSERT_USER_IF_ABSENT, values)).rowcount == 1


async def find_user(database: Database, user_id: str) -> User | None:
    """Return a user, enabled or not."""
    rows = await database.read(FIND_USER, {"user_id": user_id})
    return _user(rows[0]) if rows else None


async def list_users(database: Database) -> list[User]:
    """Return every user, oldest first."""
    return [_user(row) for row in await database.read(LIST_USERS)]


async def update_user(
    tx: Transaction,
    user_id: str,
    *,
    username: str | None,
    email: str | None,
    roles: Iterable[Role] | None,
    enabled: bool | None,
) -> User | None:
    """Change what is not None of a user; an empty email takes it away. None: there is no such user.

    Raises:
        Conflict: the username is another's.
    """
    values: dict[str, object] = {"user_id": user_id, "username": username, "email": email}
    values |= {"clears_email": email == ""}
    values |= {"roles": sorted(roles) if roles is not None else None, "enabled": enabled}
    try:
        row = await (await tx.execute(UPDATE_USER, values)).fetchone()
    except errors.UniqueViolation as error:
        raise _username_taken(username) from error
    return _user(row) if row else None


async def lock_admins(tx: Transaction) -> set[str]:
    """Return the ids of the enabled admins, who stay so until the transaction ends."""
    rows = await (await tx.execute(LOCK_ADMINS, {"roles": sorted(ADMIN_ROLES)})).fetchall()
    return {row["user_id"] for row in rows}


def _username_taken(username: str | None) -> Conflict:
    return Conflict(f"there is a user named {username!r} already")


def _roles(row: Row) -> frozenset[Role]:
    return frozenset(Role(name) for name in row["roles"])


def _token(row: Row) -> ApiToken:
    return ApiToken(**row | {"kind": TokenKind(row["kind"])})


def _user(row: Row) -> User:
    return User(**row | {"roles": _roles(row)})
