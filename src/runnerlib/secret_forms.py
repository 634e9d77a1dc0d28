"""The spellings in which a secret is looked for in a job's output.

Pure. Which ones, exactly:

- the secret itself, if it has at least 6 bytes; also without the line breaks around it, and with
  its line breaks as LF and as CRLF;
- each line of at least 8 bytes of a secret of several lines, also without the blanks around it;
- URL-encoded (with ``/``, ``!'()*`` or nothing kept, blanks as ``%20`` or ``+``, ``%xx`` in both cases)
  and JSON-escaped (ASCII or not, ``/`` escaped or not, ``<>&`` escaped or not, ``\\uxxxx`` in both cases);
- of a secret of at least 8 bytes: hexadecimal in both cases, and base64 in both alphabets, padded or
  not, in one line or wrapped at 64 or 76 columns. Inside a longer text that was encoded as a whole,
  all characters that depend on the secret alone are found, wherever the secret begins in it.

A form longer than `PIECE_BYTES` is looked for in pieces of that size.
"""

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

SHORTEST_SECRET_BYTES = 6
SHORTEST_LINE_BYTES = 8
SHORTEST_ENCODED_BYTES = 8
PIECE_BYTES = 4096

_WRAPPED_COLUMNS = (64, 76)
_URL_SAFE_SETS = ("", "/", "!'()*")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_ESCAPE = re.compile(r"\\u[0-9a-f]{4}")
_HTML_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def is_maskable(secret: bytes) -> bool:
    """Tell whether ``secret`` has patterns at all: it is long enough, and not blank."""
    return len(secret) >= SHORTEST_SECRET_BYTES and secret.strip() != b""


def patterns_of(secret: bytes) -> set[bytes]:
    """Return every byte string that gives ``secret`` away; none for one too short to mask, or blank."""
    forms: set[bytes] = set()
    for whole in {secret, secret.strip(b"\r\n")}:
        if len(whole) < SHORTEST_SECRET_BYTES or not whole.strip():
            continue
        forms.update(_line_break_forms(whole), _url_forms(whole), _json_forms(whole))
        if len(whole) >= SHORTEST_ENCODED_BYTES:
            forms.update((whole.hex().encode(), whole.hex().upper().encode()))
            forms.update(_base64_forms(whole))
    forms.update(_lines(secret))
    return {piece for form in forms if len(form) >= SHORTEST_SECRET_BYTES for piece in _pieces(form)}


def _line_break_forms(text: bytes) -> set[bytes]:
    unix = text.replace(b"\r\n", b"\n")
    return {text, unix, unix.replace(b"\n", b"\r\n")}


def _lines(secret: bytes) -> Iterator[bytes]:
    lines = secret.replace(b"\r", b"\n").split(b"\n")
    if len(lines) == 1:
        return
    for line in lines:
        for form in (line, line.strip()):
            # Blanks alone are in any output.
            if len(form) >= SHORTEST_LINE_BYTES and line.strip():
                yield form


def _url_forms(text: bytes) -> Iterator[bytes]:
    for safe in _URL_SAFE_SETS:
        for upper in (quote(text, safe=safe), quote(text, safe=safe + " ").replace(" ", "+")):
            yield upper.encode()
            yield _PERCENT.sub(lambda found: found[0].lower(), upper).encode()


def _json_forms(text: bytes) -> Iterator[bytes]:
    try:
        value = text.decode()
    except UnicodeDecodeError:
        return
    for only_ascii in (True, False):
        plain = json.dumps(value, ensure_ascii=only_ascii)[1:-1]
        for html in (plain, plain.translate(_HTML_ESCAPES)):
            for form in (html, html.replace("/", "\\/")):
                yield form.encode()
                yield _ESCAPE.sub(lambda found: "\\u" + found[0][2:].upper(), form).encode()


def _base64_forms(text: bytes) -> Iterator[bytes]:
    for before in range(3):
        padded = base64.b64encode(bytes(before) + text)
        # Characters that share bits with what stands before or after the secret are not known,
        # unless the text ends with the secret: then the last one is, and the padding too.
        first = (before * 8 + 5) // 6
        known = padded[first : (before + len(text)) * 8 // 6]
        for form in (known, padded[first:].rstrip(b"="), padded[first:]):
            yield form
            yield form.translate(_URL_ALPHABET)
        if before == 0:
            yield from _wrapped(padded)
            yield from _wrapped(known)


def _wrapped(encoded: bytes) -> Iterator[bytes]:
    for columns in _WRAPPED_COLUMNS:
        lines = [encoded[start : start + columns] for start in range(0, len(encoded), columns)]
        if len(lines) > 1 and len(lines[-1]) < SHORTEST_LINE_BYTES:
            # Too short to be told from chance, but not right after the line before it.
            rest = lines.pop()
            yield lines[-1] + b"\n" + rest
            yield lines[-1] + b"\r\n" + rest
        yield from lines


_URL_ALPHABET = bytes.maketrans(b"+/", b"-_")


def _pieces(form: bytes) -> Iterator[bytes]:
    for start in range(0, len(form), PIECE_BYTES):
        # The last piece reaches back, so that none is too short to be told from chance.
        yield form[max(0, min(start, len(form) - PIECE_BYTES)) : start + PIECE_BYTES]
