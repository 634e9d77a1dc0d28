"""Reading one document a person wrote, JSON or YAML 1.2, within bounds (S1).

The reader of YAML is loaded only for what is not JSON: it takes longer to load than a small job to start.
"""

import contextlib
import json
import math
import re

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
_MOST_DIGITS = 20
_UNFIT = re.compile("[\0\ud800-\udfff]")


class DocumentRefused(Exception):
    """A document is not one plain YAML 1.2 or JSON document within the bounds; says where."""


def load_document(data: bytes, lines: dict[str, int] | None = None) -> object:
    """Return the one document in ``data`` as plain values: mappings with text keys, lists, scalars.

    Args:
        lines: takes the line, from 1, of every key, named by its path such as ``source.url``; a document
            of JSON has none.

    Raises:
        DocumentRefused: it is malformed, too large, too deep, or uses what is refused.
    """
    if len(data) > MAX_BYTES:
        raise DocumentRefused(f"more than {MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DocumentRefused(f"byte {error.start} is not UTF-8") from error
    value = _load(text.removeprefix("\ufeff"), {} if lines is None else lines)
    _check_texts(value, "")
    return value


def _load(text: str, lines: dict[str, int]) -> object:
    if text.lstrip().startswith("{"):
        # Braces begin YAML's mappings too, whose reader says better what is wrong.
        with contextlib.suppress(json.JSONDecodeError):
            return _load_json(text)
    from runnerlib.spec.yaml12 import load_yaml

    return load_yaml(text, lines)


def _check_texts(value: object, place: str) -> None:
    """Refuse texts that no other program could take as they are: with NUL or half a surrogate pair."""
    if isinstance(value, str):
        if _UNFIT.search(value):
            raise DocumentRefused(f"{place or 'a key'}: a text holds NUL or half a surrogate pair")
    elif isinstance(value, dict):
        for key, entry in value.items():
            _check_texts(key, "")
            _check_texts(entry, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _check_texts(entry, f"{place}.{index}")


def _load_json(text: str) -> object:
    """Read JSON as itself: YAML's reader stumbles over tabs between its tokens."""
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_constant,
            parse_int=_read_int,
            parse_float=_read_float,
        )
    except RecursionError:
        raise DocumentRefused(f"nested deeper than {MAX_DEPTH}") from None
    _check_depth(value, MAX_DEPTH)
    return value


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        raise DocumentRefused(f"key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return whole


def _read_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise DocumentRefused("a number is too large")
    return int(digits)


def _read_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise DocumentRefused("a number is too large")
    return value


def _refuse_constant(name: str) -> object:
    raise DocumentRefused(f"{name} is not a number of JSON")


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise DocumentRefused(f"nested deeper than {MAX_DEPTH}")
        for entry in value.values() if isinstance(value, dict) else value:
            _check_depth(entry, left - 1)
