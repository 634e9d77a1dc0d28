"""Env files: the grammar, byte for byte.

- A line is ``NAME=VALUE``, optionally with ``export `` before it; blank lines and lines that begin
  with ``#`` are skipped; blanks before the name and around an unquoted value are not part of it.
- An unquoted value ends at the line's end or before a `` #``; it is otherwise taken as it is.
- ``'…'`` is taken as it is, ``"…"`` knows the escapes ``\\n \\r \\t \\" \\\\ \\$ \\```; both may
  span lines. Only blanks and a comment may follow. Nothing is expanded: ``$`` is a dollar sign.
- UTF-8, with LF or CRLF; no NUL. At most 1,000 variables and 256 KiB. A name that comes twice takes its
  last value; names that start with ``REACTORCIDE_`` are refused.
"""

import re

from runnerlib.spec.rules import check_env_name

MOST_BYTES = 256 * 1024
MOST_VARIABLES = 1_000

_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=#'\"]+)[ \t]*=[ \t]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_COMMENT = re.compile(r"(?:^|[ \t]+)#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$", "`": "`"}


class EnvFileInvalid(ValueError):
    """An env file does not follow the grammar. ``line`` counts from 1; no value is in the text."""

    def __init__(self, line: int, detail: str) -> None:
        super().__init__(f"line {line}: {detail}")
        self.line = line
        self.detail = detail


def parse_env_file(data: bytes) -> dict[str, str]:
    """Return the variables in the order of the file.

    Raises:
        EnvFileInvalid: the first fault in it.
    """
    text = _decode(data)
    variables: dict[str, str] = {}
    place = 0
    while place < len(text):
        blank = _BLANK.match(text, place)
        if blank:
            place = blank.end()
            continue
        line = text.count("\n", 0, place) + 1
        name, value, place = _read_variable(text, place, line)
        variables[name] = value
        if len(variables) > MOST_VARIABLES:
            raise EnvFileInvalid(line, f"more than {MOST_VARIABLES} variables")
    return variables


def _decode(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise EnvFileInvalid(1, f"the file is larger than {MOST_BYTES} bytes")
    if b"\0" in data:
        raise EnvFileInvalid(data.count(b"\n", 0, data.index(b"\0")) + 1, "has a NUL character")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EnvFileInvalid(data.count(b"\n", 0, error.start) + 1, "is not UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _read_variable(text: str, place: int, line: int) -> tuple[str, str, int]:
    found = _NAME.match(text, place)
    if found is None:
        raise EnvFileInvalid(line, "must be NAME=VALUE, blank, or a comment that begins with #")
    name = found[1]
    fault = check_env_name(name)
    if fault:
        raise EnvFileInvalid(line, fault)
    value, end = _read_value(text, found.end(), line)
    return name, value, end


def _read_value(text: str, place: int, line: int) -> tuple[str, int]:
    quote = text[place : place + 1]
    if quote not in ("'", '"'):
        end = text.find("\n", place) % (len(text) + 1)  # -1, no more line breaks, is the text's end
        return _COMMENT.sub("", text[place:end]).strip(" \t"), end + 1
    quoted = (_SINGLE if quote == "'" else _DOUBLE).match(text, place)
    if quoted is None:
        raise EnvFileInvalid(line, f"the quote {quote} is not closed")
    rest = _BLANK.match(text, quoted.end())
    if rest is None:
        raise EnvFileInvalid(line, f"only a comment may follow the closing {quote}")
    return quoted[1] if quote == "'" else _unescape(quoted[1], line), rest.end()


def _unescape(text: str, line: int) -> str:
    unknown = next((found[1] for found in _ESCAPE.finditer(text) if found[1] not in _ESCAPES), None)
    if unknown is not None:
        raise EnvFileInvalid(line, 'has an escape in "…" other than \\n \\r \\t \\" \\\\ \\$ \\`')
    return _ESCAPE.sub(lambda found: _ESCAPES[found[1]], text)
