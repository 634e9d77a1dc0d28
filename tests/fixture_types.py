"""Types of the fixtures that are functions."""

from collections.abc import Awaitable
from typing import Protocol

from reactorcide.domain.accounts import Principal, Role, TokenKind


class MakeUser(Protocol):
    """Makes an enabled user with a live token; without a name, under one nobody has."""

    def __call__(
        self, *roles: Role, username: str | None = None, kind: TokenKind = TokenKind.USER
    ) -> Awaitable[Principal]: ...
