"""Users, roles and tokens, and who may do what."""

import hashlib
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

TOKEN_PREFIX = "rct_"  # noqa: S105 - the public mark by which scanners know our tokens
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN_RANDOM_CHARACTERS = 30
"""Of 62 each: 178 random bits."""
MAX_TOKEN_LENGTH = 4096


class Role(StrEnum):
    """What a user is. Only `admin` and `system_admin` carry rights beyond one's own objects."""

    USER = "user"
    TASK_ADMIN = "task_admin"
    SYSTEM_ADMIN = "system_admin"
    SUPPORT = "support"
    ADMIN = "admin"


ADMIN_ROLES = frozenset({Role.ADMIN, Role.SYSTEM_ADMIN})


class TokenKind(StrEnum):
    """Which routes a token opens; never both."""

    USER = "user"
    WORKER = "worker"


@dataclass(frozen=True)
class User:
    """A person or a program with an account."""

    user_id: str
    username: str
    email: str | None
    roles: frozenset[Role]
    enabled: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class ApiToken:
    """A token without its text, which nobody keeps."""

    token_id: str
    user_id: str
    name: str
    kind: TokenKind
    is_active: bool
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class Principal:
    """Who calls: the user and the token by which they are known."""

    user_id: str
    token_id: str
    kind: TokenKind
    roles: frozenset[Role]

    @property
    def is_admin(self) -> bool:
        """Whether the caller may act on everybody's objects."""
        return bool(self.roles & ADMIN_ROLES)

    def may_access(self, owner_id: str) -> bool:
        """Tell whether the caller may read and change an object of ``owner_id``."""
        return self.is_admin or self.user_id == owner_id


def compose_token(entropy: bytes) -> str:
    """Return the text of a token from at least 30 random bytes, each below 248.

    Bytes of 248 and above would make some characters likelier than others; the caller drops them.
    """
    if len(entropy) < TOKEN_RANDOM_CHARACTERS or any(byte >= 248 for byte in entropy):
        raise ValueError("a token needs 30 random bytes, each below 248")
    body = TOKEN_PREFIX + "".join(_BASE62[byte % 62] for byte in entropy[:TOKEN_RANDOM_CHARACTERS])
    return body + _checksum(body)


def is_token_mistyped(text: str) -> bool:
    """Tell whether ``text`` is of our form with a wrong checksum, so that it need not be looked up."""
    length = len(TOKEN_PREFIX) + TOKEN_RANDOM_CHARACTERS + 6
    return text.startswith(TOKEN_PREFIX) and len(text) == length and _checksum(text[:-6]) != text[-6:]


def hash_token(text: str) -> bytes:
    """Return the 32 bytes under which a token is stored and looked up (SHA-256)."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = _BASE62[digit] + digits
    return digits
