"""Secrets that somebody gives to a run on this host: in a file of their own, or as a list of values.

Nothing here is read unless it is bounded, and no error's text holds a value.
"""

import os
import re
import stat
from pathlib import Path

from runnerlib.env_file import MOST_BYTES, EnvFileInvalid, parse_env_file

MOST_VALUES = 1_000


class SecretsFileRefused(Exception):
    """A secrets file cannot be read, is not safe from others, or is malformed; the text says what to do."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class SecretsListTooLong(ValueError):
    """A list of secrets has more values, or more bytes, than are taken."""


def read_secrets_file(path: Path) -> dict[str, str]:
    """Return the secrets in an env file (`runnerlib.env_file`), whatever their names look like.

    What is opened must be a regular file of our own that nobody else may read or change; a link to
    one is followed.

    Raises:
        SecretsFileRefused: it is not, or does not follow the grammar.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise SecretsFileRefused(path, f"cannot be opened: {error.strerror}") from error
    try:
        # Judged by what is open, so that nobody can exchange it between the look and the reading.
        fault = _fault_of(os.fstat(descriptor), path)
        if fault is not None:
            raise SecretsFileRefused(path, fault)
        with open(descriptor, "rb", closefd=False) as file:
            # One byte more than may be, for the parser to refuse.
            return parse_env_file(file.read(MOST_BYTES + 1))
    except EnvFileInvalid as error:
        raise SecretsFileRefused(path, str(error)) from None
    except OSError as error:
        raise SecretsFileRefused(path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _fault_of(found: os.stat_result, path: Path) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to the one who reads it ({os.geteuid()}): chown it"
    if found.st_mode & 0o077:
        return f"others may reach it (mode {stat.S_IMODE(found.st_mode):04o}): run chmod 600 {path}"
    return None


def split_secrets_list(text: str) -> tuple[str, ...]:
    """Return the values of a list, each once, in its order.

    Values to mask, not names of variables, are parted by commas or line breaks; blanks around a value
    are not part of it. One that holds a comma itself belongs into a secrets file.

    Raises:
        SecretsListTooLong: more than 1,000 values or 256 KiB.
    """
    if len(text.encode(errors="surrogateescape")) > MOST_BYTES:
        raise SecretsListTooLong(f"a list of secrets has at most {MOST_BYTES} bytes")
    values = tuple(dict.fromkeys(value for part in re.split(r"[,\r\n]", text) if (value := part.strip())))
    if len(values) > MOST_VALUES:
        raise SecretsListTooLong(
            f"a list of secrets has at most {MOST_VALUES} values, this one {len(values)}"
        )
    return values
