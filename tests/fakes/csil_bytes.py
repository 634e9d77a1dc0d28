"""The restricted CBOR of CSIL-RPC, written and read strictly, apart from the product's own codec.

Integers, byte and text strings, arrays, maps and tags, all of definite length; maps are written with
shorter keys first, then by their bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_MAX_DEPTH = 16


class BadBytes(Exception):
    """These bytes are no message of this wire."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a tag."""

    tag: int
    value: object


def dump(value: object) -> bytes:
    """Return the bytes of a value."""
    parts: list[bytes] = []
    _dump(value, parts.append)
    return b"".join(parts)


def load(data: bytes) -> object:
    """Return the one value that ``data`` is. Raises BadBytes."""
    try:
        value, end = _load(data, 0, _MAX_DEPTH)
    except IndexError:
        raise BadBytes("cut short") from None
    if end != len(data):
        raise BadBytes("bytes behind the value")
    return value


def _dump(value: object, put: Callable[[bytes], None]) -> None:
    if isinstance(value, str):
        put(_dump_text(value) if len(value) < 32 else _text_bytes(value))
    elif isinstance(value, int):
        put(_head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value))
    elif isinstance(value, dict):
        put(_head(_MAP, len(value)))
        for key, name in _in_order(tuple(value)):
            put(name)
            _dump(value[key], put)
    elif isinstance(value, bytes):
        put(_head(_BYTES, len(value)))
        put(value)
    elif isinstance(value, list):
        put(_head(_ARRAY, len(value)))
        for item in value:
            _dump(item, put)
    elif isinstance(value, Tagged):
        put(_head(_TAG, value.tag))
        _dump(value.value, put)
    else:
        raise TypeError(f"{type(value)} has no place in this wire")


# Few maps and few names are written over and over.
@lru_cache(maxsize=1024)
def _in_order(keys: tuple[str, ...]) -> list[tuple[str, bytes]]:
    return sorted(((key, _text_bytes(key)) for key in keys), key=lambda pair: (len(pair[1]), pair[1]))


def _text_bytes(value: str) -> bytes:
    text = value.encode()
    return _head(_TEXT, len(text)) + text


_dump_text = lru_cache(maxsize=1024)(_text_bytes)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return _SHORT_HEADS[major << 5 | number]
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise ValueError(f"{number} does not fit into 64 bits")


_SHORT_HEADS = [bytes([byte]) for byte in range(256)]


def _load(data: bytes, at: int, depth: int) -> tuple[object, int]:
    first = data[at]
    major, number = first >> 5, first & 31
    at += 1
    if number >= 24:
        if number > 27:
            raise BadBytes("an indefinite length")
        size = 1 << number - 24
        if at + size > len(data):
            raise BadBytes("cut short")
        number = int.from_bytes(data[at : at + size], "big")
        at += size
    if major <= _NINT:
        return (number if major == _UINT else -1 - number), at
    if major <= _TEXT:
        end = at + number
        if end > len(data):
            raise BadBytes("cut short")
        return (data[at:end] if major == _BYTES else _text(data[at:end])), end
    if major > _TAG:
        raise BadBytes("a float, a boolean or a null")
    if depth == 1:
        raise BadBytes("nested too deep")
    if major == _TAG:
        value, at = _load(data, at, depth - 1)
        return Tagged(number, value), at
    # Nothing is made room for by what a length says: each item takes a byte at least.
    if number > len(data) - at:
        raise BadBytes("cut short")
    return (_load_map if major == _MAP else _load_list)(data, at, number, depth - 1)


def _load_list(data: bytes, at: int, count: int, depth: int) -> tuple[list[object], int]:
    items: list[object] = []
    for _ in range(count):
        value, at = _load(data, at, depth)
        items.append(value)
    return items, at


def _load_map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[str, object], int]:
    items: dict[str, object] = {}
    for _ in range(count):
        key, at = _load(data, at, depth)
        if not isinstance(key, str):
            raise BadBytes("a key that is no text")
        items[key], at = _load(data, at, depth)
    return items, at


@lru_cache(maxsize=1024)
def _short_text(data: bytes) -> str:
    return data.decode()


def _text(data: bytes) -> str:
    try:
        return _short_text(data) if len(data) < 32 else data.decode()
    except UnicodeDecodeError as error:
        raise BadBytes("a text that is no UTF-8") from error
