"""Who calls, and the care of users and tokens."""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from reactorcide.domain.account_rules import check_email, check_expiry, check_name, check_roles
from reactorcide.domain.accounts import (
    ADMIN_ROLES,
    MAX_TOKEN_LENGTH,
    ApiToken,
    Principal,
    Role,
    TokenKind,
    User,
    compose_token,
    hash_token,
    is_token_mistyped,
)
from reactorcide.domain.errors import (
    Conflict,
    Forbidden,
    InputFault,
    InvalidInput,
    Misconfigured,
    NotFound,
    Unauthorized,
)
from reactorcide.domain.ids import is_id, make_id
from reactorcide.services.private_files import write_private_file
from reactorcide.store import accounts
from reactorcide.store.database import Database, Transaction

USE_WRITTEN_EVERY = timedelta(minutes=1)
"""So exact is a token's `last_used_at`."""

log = structlog.get_logger()


@dataclass(frozen=True)
class MintedToken:
    """A new token with its text, which is shown this once."""

    token: ApiToken
    text: str

    def __repr__(self) -> str:
        return f"MintedToken({self.token.token_id})"


@dataclass(frozen=True)
class UserChanges:
    """What shall change of a user; None leaves a thing as it is, an empty email takes it away."""

    username: str | None = None
    email: str | None = None
    roles: Collection[str] | None = None
    enabled: bool | None = None


class AccountService:
    """Authenticates callers and keeps users and tokens.

    Only an admin's `user` token may act on other users; the errors are those of `domain.errors`, and
    `Unavailable` can come from all.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lookups: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._used_at: dict[str, float] = {}
        self._written_at: dict[str, float] = {}

    async def authenticate(self, text: str, *, urgent: bool = False) -> Principal:
        """Return whose token ``text`` is.

        ``urgent`` is that of `Database.transaction`.

        Raises:
            Unauthorized: unknown, expired or revoked, or of a user who is gone or disabled.
            Unavailable: the database cannot tell.
        """
        if not text or len(text) > MAX_TOKEN_LENGTH or not text.isascii() or is_token_mistyped(text):
            raise Unauthorized("Invalid or expired token")
        principal = await self._find_principal(hash_token(text), urgent=urgent)
        if principal is None:
            raise Unauthorized("Invalid or expired token")
        self._used_at[principal.token_id] = time.monotonic()
        return principal

    async def flush_last_used(self) -> None:
        """Write down when tokens were last used, each at most once a minute."""
        now = time.monotonic()
        pause = USE_WRITTEN_EVERY.total_seconds()
        self._written_at = {token: at for token, at in self._written_at.items() if now - at < pause}
        due = {token: at for token, at in self._used_at.items() if token not in self._written_at}
        if not due:
            return
        ages = {token: timedelta(seconds=now - at) for token, at in due.items()}
        await self._database.run(lambda tx: accounts.record_use(tx, ages))
        for token, at in due.items():
            self._written_at[token] = now
            if self._used_at[token] == at:
                del self._used_at[token]

    async def mint_token(
        self,
        caller: Principal,
        *,
        name: str,
        expires_at: datetime | None,
        user_id: str | None,
        kind: TokenKind,
    ) -> MintedToken:
        """Make a token for the caller, or for ``user_id``. Admins only.

        Raises:
            InvalidInput: a bad name, an expiry without a time zone or in the past, a malformed user id.
            NotFound: there is no such user.
        """
        _require_admin(caller)
        owner_id = user_id if user_id is not None else caller.user_id
        faults = [*check_name("/name", name), *check_expiry(expires_at, datetime.now(UTC))]
        if not is_id(owner_id):
            faults.append(InputFault("/user_id", "must be a lower-case UUID"))
        _refuse(faults)

        async def mint(tx: Transaction) -> MintedToken | None:
            return await _mint(tx, owner_id, name=name, kind=kind, expires_at=expires_at)

        minted = await self._database.run(mint)
        if minted is None:
            raise NotFound("user", owner_id)
        log.info("token.minted", token_id=minted.token.token_id, user_id=owner_id, kind=kind)
        return minted

    async def list_tokens(self, caller: Principal, user_id: str | None = None) -> list[ApiToken]:
        """Return the caller's tokens, or those of ``user_id``, oldest first.

        Raises:
            Forbidden: another's, and the caller is no admin.
            NotFound: there is no such user.
        """
        owner_id = user_id if user_id is not None else caller.user_id
        if owner_id != caller.user_id:
            _require_admin(caller)
            await self.get_user(owner_id)
        return await accounts.list_tokens(self._database, owner_id)

    async def revoke_token(self, caller: Principal, token_id: str) -> None:
        """Delete a token of the caller's, or for an admin anyone's. It opens nothing from then on.

        Raises:
            NotFound: there is none, or it is another's.
        """
        owner_id = None if caller.is_admin else caller.user_id

        async def revoke(tx: Transaction) -> bool:
            return await accounts.delete_token(tx, token_id, owner_id=owner_id)

        if not is_id(token_id) or not await self._database.run(revoke):
            raise NotFound("token", token_id)
        log.info("token.revoked", token_id=token_id, by=caller.user_id)

    async def create_user(
        self, caller: Principal, *, username: str, email: str | None, roles: Collection[str], enabled: bool
    ) -> User:
        """Add a user. Admins only.

        Raises:
            InvalidInput: a bad username or email, unknown or no roles.
            Conflict: the username is taken.
        """
        _require_admin(caller)
        _refuse([*check_name("/username", username), *check_email(email), *check_roles(roles)])
        user_id, granted = _new_id(), {Role(name) for name in roles}

        async def insert(tx: Transaction) -> User:
            return await accounts.insert_user(
                tx, user_id=user_id, username=username, email=email or None, roles=granted, enabled=enabled
            )

        user = await self._database.run(insert)
        log.info("user.created", user_id=user_id, by=caller.user_id)
        return user

    async def list_users(self, caller: Principal) -> list[User]:
        """Return every user, oldest first. Admins only."""
        _require_admin(caller)
        return await accounts.list_users(self._database)

    async def get_user(self, user_id: str) -> User:
        """Return a user, enabled or not, without asking who wants to know.

        Raises:
            NotFound: there is none.
        """
        user = await accounts.find_user(self._database, user_id) if is_id(user_id) else None
        if user is None:
            raise NotFound("user", user_id)
        return user

    async def update_user(self, caller: Principal, user_id: str, changes: UserChanges) -> User:
        """Change a user. Admins only; a disabled user's tokens open nothing from then on.

        Raises:
            InvalidInput: as for `create_user`.
            NotFound: there is no such user.
            Conflict: the username is taken, or an admin would lock himself out, so that an enabled
                admin always remains.
        """
        _require_admin(caller)
        faults = list(check_email(changes.email))
        if changes.username is not None:
            faults += check_name("/username", changes.username)
        if changes.roles is not None:
            faults += check_roles(changes.roles)
        _refuse(faults)
        granted = None if changes.roles is None else {Role(name) for name in changes.roles}
        if not is_id(user_id):
            raise NotFound("user", user_id)
        demotes = changes.enabled is False or (granted is not None and not granted & ADMIN_ROLES)

        async def update(tx: Transaction) -> User | None:
            if demotes:
                await _keep_one_admin(tx, caller, user_id)
            return await accounts.update_user(
                tx,
                user_id,
                username=changes.username,
                email=changes.email,
                roles=granted,
                enabled=changes.enabled,
            )

        user = await self._database.run(update)
        if user is None:
            raise NotFound("user", user_id)
        log.info("user.updated", user_id=user_id, by=caller.user_id)
        return user

    async def bootstrap_admin(self, user_id: str, token_file: Path) -> str | None:
        """Make the first admin with a token, its text only in ``token_file``, unless the user exists.

        The file is in place before the commit: a crash leaves a file that opens nothing, which the next
        start replaces, and never an admin whose token nobody can read. Of several processes one makes
        the user and writes; the others wait for it and return None, as does every later start.

        Returns:
            The id of the token, if one was made.

        Raises:
            Misconfigured: the file cannot be written; no user was made.
        """

        async def make(tx: Transaction) -> str | None:
            if not await _insert_admin(tx, user_id):
                return None
            minted = await _mint(tx, user_id, name="bootstrap", kind=TokenKind.USER, expires_at=None)
            assert minted is not None  # noqa: S101 - the user was added in this transaction
            await _keep_token(token_file, minted.text)
            return minted.token.token_id

        token_id = await self._database.run(make)
        if token_id is not None:
            log.info("admin.bootstrapped", user_id=user_id, token_id=token_id, token_file=str(token_file))
        return token_id

    async def _find_principal(self, token_hash: bytes, *, urgent: bool) -> Principal | None:
        """Look a token up; callers who bring the same one meanwhile share the answer."""
        lookup = self._lookups.get(token_hash)
        if lookup is None:
            lookup = asyncio.create_task(accounts.find_principal(self._database, token_hash, urgent=urgent))
            self._lookups[token_hash] = lookup
            lookup.add_done_callback(self._forget_lookup(token_hash))
        return await asyncio.shield(lookup)

    def _forget_lookup(self, token_hash: bytes) -> Callable[[asyncio.Task[Principal | None]], None]:
        def forget(lookup: asyncio.Task[Principal | None]) -> None:
            del self._lookups[token_hash]
            if not lookup.cancelled():
                # Seen, even if all who waited for it have left.
                lookup.exception()

        return forget


async def _keep_one_admin(tx: Transaction, caller: Principal, user_id: str) -> None:
    """Refuse to demote oneself, or anybody once one is no admin oneself; so the last cannot go."""
    if user_id == caller.user_id:
        raise Conflict("an admin cannot disable or demote himself; let another admin do it")
    if caller.user_id not in await accounts.lock_admins(tx):
        raise Forbidden("the caller is no admin any more")


async def _insert_admin(tx: Transaction, user_id: str) -> bool:
    for username in ("admin", f"admin-{user_id}"):
        if await accounts.insert_user_if_absent(tx, user_id=user_id, username=username, roles={Role.ADMIN}):
            return True
    return False


async def _mint(
    tx: Transaction, user_id: str, *, name: str, kind: TokenKind, expires_at: datetime | None
) -> MintedToken | None:
    text = _new_token()
    token = await accounts.insert_token(
        tx,
        token_id=_new_id(),
        user_id=user_id,
        token_hash=hash_token(text),
        name=name,
        kind=kind,
        expires_at=expires_at,
    )
    return MintedToken(token, text) if token else None


def _new_token() -> str:
    entropy = b""
    while len(entropy) < 30:
        entropy += bytes(byte for byte in secrets.token_bytes(64) if byte < 248)
    return compose_token(entropy)


def _new_id() -> str:
    return make_id(time.time_ns() // 1_000_000, secrets.randbits(74))


def _require_admin(caller: Principal) -> None:
    if not caller.is_admin or caller.kind is not TokenKind.USER:
        raise Forbidden("admins only")


def _refuse(faults: list[InputFault]) -> None:
    if faults:
        raise InvalidInput(faults)


async def _keep_token(path: Path, text: str) -> None:
    try:
        await asyncio.to_thread(write_private_file, path, text + "\n")
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}") from error
