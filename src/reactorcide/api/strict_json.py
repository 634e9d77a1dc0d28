"""Reading a request's body: JSON without anything that two parsers could read differently (rule S1)."""

import asyncio
import json
import math
import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from reactorcide.domain.errors import InputFault, InvalidInput, TooLarge

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 32
BODY_SECONDS = 30.0
"""A body that takes longer to arrive is given up."""

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


async def read_json(request: Request) -> Any:
    """Return the parsed body of ``request``.

    Raises:
        HTTPException: 415 for another content type or an encoding, 408 for a body that does not arrive.
        TooLarge: more than 1 MiB, told before more than that is read.
        InvalidInput: not JSON, or JSON that is refused.
    """
    return parse_json(await read_body(request, "application/json", MAX_BODY_BYTES))


def parse_json(body: bytes) -> Any:
    """Return the value of ``body``.

    Raises:
        InvalidInput: not UTF-8, not JSON, nested more than 32 deep, a name twice in one object, NaN or
            a number out of range, a NUL or half a surrogate pair in a string.
    """
    if not body:
        raise _refused("the body is empty: it must be JSON")
    try:
        text = body.decode()
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite_float
        )
    except UnicodeDecodeError:
        raise _refused("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise _refused(f"the body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise _refused(f"the body is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        # From our own hooks, and from numbers of thousands of digits.
        raise _refused(f"the body is not acceptable JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth_passes(value, MAX_DEPTH):
        raise _refused(f"the body is nested more than {MAX_DEPTH} deep")
    if b"\\u" in body:
        _check_strings(value)
    return value


def canonical_json(value: object) -> bytes:
    """Return the one spelling of a parsed body: sorted names, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


async def read_body(request: Request, content_type: str, limit: int) -> bytes:
    """Return the body of ``request``, which must be of this type and at most ``limit`` bytes.

    Raises:
        HTTPException, TooLarge: as `read_json`.
    """
    check_content_type(request, content_type)
    return await _read_bytes(request, limit)


def check_content_type(request: Request, wanted: str) -> None:
    """Raise HTTPException (415) unless the body comes as ``wanted``, not encoded."""
    content_type = request.headers.get("content-type", "")
    kind, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if kind.strip().lower() != wanted or charset not in ("", "charset=utf-8"):
        raise HTTPException(415, f"the body must be sent as Content-Type: {wanted}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body must be sent without a Content-Encoding")


async def _read_bytes(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge(f"the body must be at most {limit} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise TooLarge(f"the body must be at most {limit} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        # Nobody reads the answer.
        raise HTTPException(400, "the body was cut off") from None
    return bytes(body)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice[:64]!r} comes twice in one object")
    return made


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _depth_passes(value: object, limit: int) -> bool:
    """Tell whether ``value`` is nested more than ``limit`` deep."""
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _check_strings(value: object) -> None:
    try:
        text = canonical_json(value)
    except UnicodeEncodeError:
        raise _refused("a string holds half a surrogate pair") from None
    if b"\\u0000" in text and _ESCAPED_NUL.search(text.decode()):
        raise InvalidInput([InputFault(_find_nul(value, "") or "", "must not contain NUL")])


def _find_nul(value: object, pointer: str) -> str | None:
    """Return the JSON pointer of the first string with a NUL."""
    if isinstance(value, str):
        return pointer if "\0" in value else None
    entries: list[tuple[str, object]] = []
    if isinstance(value, dict):
        if any("\0" in name for name in value):
            return pointer
        entries = list(value.items())
    elif isinstance(value, list):
        entries = [(str(index), entry) for index, entry in enumerate(value)]
    for name, entry in entries:
        if (found := _find_nul(entry, f"{pointer}/{escape_pointer(name)}")) is not None:
            return found
    return None


def escape_pointer(name: str) -> str:
    """Return ``name`` as one step of a JSON pointer (RFC 6901), cut to a readable length."""
    return name[:64].replace("~", "~0").replace("/", "~1")


def _refused(detail: str) -> InvalidInput:
    return InvalidInput([InputFault("", detail)])
