"""The restricted CBOR of CSIL-RPC, written and read strictly, apart from the product's own codec.

Integers, byte and text strings, arrays, maps and tags, all of definite length; maps are written with
shorter keys first, then by their bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_MAX_DEPTH = 16


class BadBytes(Exception):
    """These bytes are no message of this wire."""


@dataclass(frozen=True)
class Tagged:
    """A value under a tag."""

    tag: int
    value: object


def dump(value: object) -> bytes:
    """Return the bytes of a value."""
    match value:
        case int():
            return _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case list():
            return _head(_ARRAY, len(value)) + b"".join(map(dump, value))
        case Tagged():
            return _head(_TAG, value.tag) + dump(value.value)
        case Mapping():
            entries = sorted(((dump(key), dump(item)) for key, item in value.items()), key=_canonical)
            return _head(_MAP, len(entries)) + b"".join(key + item for key, item in entries)
    raise TypeError(f"{type(value)} has no place in this wire")


def load(data: bytes) -> object:
    """Return the one value that ``data`` is. Raises BadBytes."""
    value, end = _load(data, 0, _MAX_DEPTH)
    if end != len(data):
        raise BadBytes("bytes behind the value")
    return value


def _canonical(entry: tuple[bytes, bytes]) -> tuple[int, bytes]:
    return len(entry[0]), entry[0]


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise ValueError(f"{number} does not fit into 64 bits")


def _load(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if depth == 0:
        raise BadBytes("nested too deep")
    if at >= len(data):
        raise BadBytes("cut short")
    major, number = data[at] >> 5, data[at] & 31
    at += 1
    if number >= 24:
        if number > 27:
            raise BadBytes("an indefinite length")
        size = 1 << number - 24
        if at + size > len(data):
            raise BadBytes("cut short")
        number = int.from_bytes(data[at : at + size], "big")
        at += size
    match major:
        case 0:
            return number, at
        case 1:
            return -1 - number, at
        case 2 | 3:
            end = at + number
            if end > len(data):
                raise BadBytes("cut short")
            return (data[at:end] if major == _BYTES else _text(data[at:end])), end
        case 4 | 5:
            return _load_many(data, at, number, depth, is_map=major == _MAP)
        case 6:
            value, at = _load(data, at, depth - 1)
            return Tagged(number, value), at
    raise BadBytes("a float, a boolean or a null")


def _load_many(data: bytes, at: int, count: int, depth: int, *, is_map: bool) -> tuple[object, int]:
    # Nothing is made room for by what a length says: each item takes a byte at least.
    if count > len(data) - at:
        raise BadBytes("cut short")
    items: list[object] = []
    for _ in range(2 * count if is_map else count):
        value, at = _load(data, at, depth - 1)
        items.append(value)
    if not is_map:
        return items, at
    keys = items[::2]
    if not all(isinstance(key, str) for key in keys):
        raise BadBytes("a key that is no text")
    return dict(zip(keys, items[1::2], strict=True)), at


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadBytes("a text that is no UTF-8") from error
