"""Every rule on a value that describes a user or a token."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from reactorcide.domain.accounts import Role
from reactorcide.domain.errors import InputFault
from runnerlib.spec.rules import has_control_characters

MAX_NAME_LENGTH = 255
MAX_EMAIL_LENGTH = 320


def check_name(pointer: str, name: str) -> Iterator[InputFault]:
    """Yield what is wrong with the name of a user or of a token."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        yield InputFault(pointer, f"must have 1 to {MAX_NAME_LENGTH} characters")
    if not _is_text(name):
        yield InputFault(pointer, "must not contain control characters")


def check_email(email: str | None) -> Iterator[InputFault]:
    """Yield what is wrong with an email address; none and an empty one are right."""
    if not email:
        return
    before, _, after = email.rpartition("@")
    if not before or not after or not _is_text(email) or any(letter.isspace() for letter in email):
        yield InputFault("/email", "must be an email address")
    if len(email) > MAX_EMAIL_LENGTH:
        yield InputFault("/email", f"must have at most {MAX_EMAIL_LENGTH} characters")


def check_roles(roles: Collection[str]) -> Iterator[InputFault]:
    """Yield a fault for each unknown role, or for there being none."""
    known = {role.value for role in Role}
    for place, name in enumerate(roles):
        if name not in known:
            yield InputFault(f"/roles/{place}", f"must be one of {', '.join(Role)}")
    if not roles:
        yield InputFault("/roles", "must name at least one role")


def check_expiry(expires_at: datetime | None, now: datetime) -> Iterator[InputFault]:
    """Yield what is wrong with the end of a token's life; None, for a token without one, is right."""
    if expires_at is None:
        return
    if expires_at.utcoffset() is None:
        yield InputFault("/expires_at", "must name its time zone")
        return
    try:
        is_past = expires_at.astimezone(UTC) <= now
    except OverflowError:
        yield InputFault("/expires_at", "must lie between the years 1 and 9999 in UTC")
        return
    if is_past:
        yield InputFault("/expires_at", "must be in the future")


def _is_text(value: str) -> bool:
    """Tell whether ``value`` holds neither control characters nor halves of surrogate pairs."""
    return not has_control_characters(value) and not any(0xD800 <= ord(c) <= 0xDFFF for c in value)
