"""Where the coordinator is, and which token opens it.

In this order: the flags, the environment, and what a coordinator started by this user left in its
data directory (`server.json`, `admin-token`).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from reactorcide.cli.errors import CommandFailed
from reactorcide.config import PREFIX, load_settings

SERVER_FILE = "server.json"
TOKEN_FILE = "admin-token"  # noqa: S105 - the name of a file
# With the prefix only: a bare API_TOKEN is some other service's, and not to be sent to this one.
_URL_NAME = PREFIX + "API_URL"
_TOKEN_NAME = PREFIX + "API_TOKEN"
_MAX_FILE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Target:
    """A coordinator's URL (no slash at its end) and the token to show it, with where each was found."""

    url: str
    url_source: str
    token: str | None
    token_source: str
    """Where ``token`` came from; without one, every place that was looked at."""


def find_target(
    environ: Mapping[str, str], *, url: str | None = None, token_file: Path | None = None
) -> Target:
    """Find the coordinator and the token.

    The token a local coordinator left behind is used for that coordinator alone: it is never sent
    to another URL.

    Raises:
        CommandFailed: no URL is known, or a file that was named cannot be read.
    """
    data_dir = find_data_dir(environ)
    local_url = read_local_url(data_dir)
    found_url, url_source = _find_url(environ, url, local_url, data_dir)
    token, token_source = _find_token(environ, token_file, data_dir, is_local=found_url == local_url)
    return Target(found_url, url_source, token, token_source)


def find_data_dir(environ: Mapping[str, str]) -> Path:
    """Return the data directory, by the rule of the settings and untouched by faults in others."""
    names = ("DATA_DIR", PREFIX + "DATA_DIR")
    return load_settings({name: environ[name] for name in names if name in environ}).settings.data_dir


def read_local_url(data_dir: Path) -> str | None:
    """Return the URL of the coordinator that runs on ``data_dir``; None if none does."""
    try:
        told = json.loads(_read_bounded(data_dir / SERVER_FILE))
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict):
        return None
    url, pid = told.get("url"), told.get("pid")
    if not isinstance(url, str) or not isinstance(pid, int) or not _is_alive(pid):
        return None
    return url.rstrip("/")


def _find_url(
    environ: Mapping[str, str], flag: str | None, local_url: str | None, data_dir: Path
) -> tuple[str, str]:
    if flag:
        return _checked_url(flag, "--url"), "--url"
    if environ.get(_URL_NAME):
        return _checked_url(environ[_URL_NAME], _URL_NAME), _URL_NAME
    if local_url:
        return local_url, str(data_dir / SERVER_FILE)
    raise CommandFailed(
        f"no coordinator runs on {data_dir}, and no other is named",
        "start one with 'reactorcide up', or name one with --url or REACTORCIDE_API_URL",
    )


def _find_token(
    environ: Mapping[str, str], flag: Path | None, data_dir: Path, *, is_local: bool
) -> tuple[str | None, str]:
    if flag is not None:
        return _read_token(flag), f"--token-file {flag}"
    if environ.get(_TOKEN_NAME):
        return _checked_token(environ[_TOKEN_NAME], _TOKEN_NAME), _TOKEN_NAME
    if environ.get(f"{_TOKEN_NAME}_FILE"):
        return _read_token(Path(environ[f"{_TOKEN_NAME}_FILE"])), f"{_TOKEN_NAME}_FILE"
    searched = f"--token-file, {_TOKEN_NAME}, {_TOKEN_NAME}_FILE"
    path = data_dir / TOKEN_FILE
    if not is_local:
        return None, f"{searched} ({path} is for the coordinator on this machine only)"
    if not path.exists():
        return None, f"{searched}, {path}"
    return _read_token(path), str(path)


def _checked_url(url: str, source: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.username or parts.query or parts.fragment:
        raise CommandFailed(
            f"{source} is not the URL of a coordinator", "write http://HOST:PORT or https://HOST"
        )
    return url.rstrip("/")


def _read_token(path: Path) -> str:
    try:
        text = _read_bounded(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a token"
        raise CommandFailed(f"the token in {path} cannot be read: {reason}") from error
    return _checked_token(text, str(path))


def _checked_token(text: str, source: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CommandFailed(f"{source} does not hold a token")
    return token


def _read_bounded(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
    return data.decode()


def _is_alive(pid: int) -> bool:
    if not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives, and belongs to someone else
    return True
