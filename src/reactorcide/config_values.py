"""What the text of a setting may be: one parser a kind, each telling in words what it refuses."""

import re
from collections.abc import Callable
from dataclasses import field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reactorcide.domain.ids import is_id
from reactorcide.domain.submission import check_queue_name

CORNDOGS_SCHEMES = ("", "tcp", "tls", "grpc", "grpcs", "http")
"""Of an address of Corndogs; without one, and with http, what speaks there is found out."""
_TRUTHS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def text(raw: str) -> str:
    return raw


def path(raw: str) -> Path:
    return Path(raw).expanduser().absolute()


def flag(raw: str) -> bool:
    if raw.lower() not in _TRUTHS:
        raise ValueError("must be true or false")
    return _TRUTHS[raw.lower()]


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ValueError(f"must be a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return parse


def seconds(low: float, high: float) -> Callable[[str], timedelta]:
    def parse(raw: str) -> timedelta:
        try:
            value = float(raw)
        except ValueError:
            raise ValueError(f"must be seconds from {low:g} to {high:g}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return timedelta(seconds=value)

    return parse


def one_of(*values: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.lower() not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return raw.lower()

    return parse


def list_of(separator: str) -> Callable[[str], tuple[str, ...]]:
    def parse(raw: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in raw.split(separator) if part.strip())

    return parse


def path_list(raw: str) -> tuple[str, ...]:
    paths = list_of(":")(raw)
    for each in paths:
        if not each.startswith("/"):
            raise ValueError(f"{each!r} must be absolute")
    return paths


def queue_name(raw: str) -> str:
    if fault := check_queue_name(raw):
        raise ValueError(fault)
    return raw


def queue_names(raw: str) -> tuple[str, ...]:
    return tuple(queue_name(name) for name in list_of(",")(raw))


def matching(pattern: str, rule: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if not re.fullmatch(pattern, raw, re.ASCII):
            raise ValueError(rule)
        return raw

    return parse


def user_id(raw: str) -> str:
    if not is_id(raw):
        raise ValueError("must be a lower-case UUID")
    return raw


def web_url(raw: str) -> str:
    try:
        parts = urlsplit(raw)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.query or parts.fragment or parts.username is not None or not raw.isprintable():
        raise ValueError("must be a URL such as https://ci.example.org, with nothing behind its path")
    return raw.rstrip("/")


def service_url(raw: str) -> str:
    """Return a URL; one without a scheme is plain HTTP, as emulators of clouds are named."""
    return web_url(raw if "://" in raw else f"http://{raw}")


def corndogs_seeds(raw: str) -> tuple[str, ...]:
    """Return addresses of the members of one Corndogs service, all of one scheme."""
    seeds = list_of(",")(raw)
    for seed in seeds:
        scheme, _, rest = seed.rpartition("://")
        if scheme not in CORNDOGS_SCHEMES:
            raise ValueError(
                f"{seed!r}: the scheme must be one of {', '.join(filter(None, CORNDOGS_SCHEMES))}"
            )
        try:
            parts = urlsplit(f"//{rest}")
            is_address = bool(parts.hostname) and parts.port != 0 and parts.netloc == rest.rstrip("/")
        except ValueError:
            is_address = False
        if not is_address or "@" in rest:
            raise ValueError(f"{seed!r} must be host:port, with a scheme before it or without")
    if len({seed.rpartition("://")[0] for seed in seeds}) > 1:
        raise ValueError("all addresses must have the same scheme: they are members of one service")
    return seeds


def setting(default: Any, parse: Callable[[str], Any], meaning: str, *, secret: bool = False) -> Any:
    """Return the field of a setting; a ``secret`` one is never shown, and may come from a file."""
    metadata = {"parse": parse, "meaning": meaning, "secret": secret}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)
