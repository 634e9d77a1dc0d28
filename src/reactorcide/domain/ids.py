"""Ids of everything: UUIDs of version 7, whose order is the order of creation."""

import re

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def make_id(now_milliseconds: int, entropy: int) -> str:
    """Return a UUIDv7 (RFC 9562) of ``now_milliseconds`` since the epoch and 74 bits of ``entropy``."""
    high = (now_milliseconds & (1 << 48) - 1) << 16 | 0x7000 | entropy >> 62 & 0xFFF
    low = 0b10 << 62 | entropy & (1 << 62) - 1
    digits = f"{high << 64 | low:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def is_id(text: str) -> bool:
    """Tell whether ``text`` is written as an id: a lower-case UUID."""
    return _UUID.fullmatch(text) is not None
