"""Settings: the one place that reads the environment.

Each setting may be written bare or with `REACTORCIDE_` before it, which wins; an empty value counts
as unset; a secret may also come from a file named by `<NAME>_FILE`. Every fault is reported at once.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from reactorcide.domain.errors import InputFault, InvalidInput
from reactorcide.domain.ids import is_id
from reactorcide.domain.submission import check_queue_name
from runnerlib.spec import parse_measures

PREFIX = "REACTORCIDE_"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TRUTHS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
CLIENT_NAMES = frozenset({"API_URL", "API_TOKEN"})
"""Names that the command-line client reads beside the settings of the program."""


def _text(raw: str) -> str:
    return raw


def _path(raw: str) -> Path:
    return Path(raw).expanduser().absolute()


def _flag(raw: str) -> bool:
    if raw.lower() not in _TRUTHS:
        raise ValueError("must be true or false")
    return _TRUTHS[raw.lower()]


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ValueError(f"must be a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return parse


def _seconds(low: float, high: float) -> Callable[[str], timedelta]:
    def parse(raw: str) -> timedelta:
        try:
            value = float(raw)
        except ValueError:
            raise ValueError(f"must be seconds from {low:g} to {high:g}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return timedelta(seconds=value)

    return parse


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.lower() not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return raw.lower()

    return parse


def _list(separator: str) -> Callable[[str], tuple[str, ...]]:
    def parse(raw: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in raw.split(separator) if part.strip())

    return parse


def _path_list(raw: str) -> tuple[str, ...]:
    paths = _list(":")(raw)
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} must be absolute")
    return paths


def _queue_name(raw: str) -> str:
    if fault := check_queue_name(raw):
        raise ValueError(fault)
    return raw


def _queue_names(raw: str) -> tuple[str, ...]:
    return tuple(_queue_name(name) for name in _list(",")(raw))


def _matching(pattern: str, rule: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if not re.fullmatch(pattern, raw, re.ASCII):
            raise ValueError(rule)
        return raw

    return parse


def _user_id(raw: str) -> str:
    if not is_id(raw):
        raise ValueError("must be a lower-case UUID")
    return raw


def _coordinator_url(raw: str) -> str:
    try:
        parts = urlsplit(raw)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.query or parts.fragment or parts.username is not None or not raw.isprintable():
        raise ValueError("must be a URL such as https://ci.example.org, with nothing behind its path")
    return raw.rstrip("/")


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "reactorcide"


def _setting(default: Any, parse: Callable[[str], Any], meaning: str, *, secret: bool = False) -> Any:
    metadata = {"parse": parse, "meaning": meaning, "secret": secret}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Every setting of the program, with its effective value. A field's upper-case name is its variable."""

    data_dir: Path = _setting(_default_data_dir, _path, "where the program keeps its own files")
    db_uri: str | None = _setting(None, _text, "PostgreSQL; unset: our own, embedded", secret=True)
    db_pool_size: int = _setting(10, _integer(2, 200), "connections of one process, at most")
    pg_bin: Path | None = _setting(None, _path, "folder of PostgreSQL's programs for the embedded server")
    host: str | None = _setting(None, _text, "API address; unset: 127.0.0.1 for up, 0.0.0.0 for serve")
    port: int = _setting(6080, _integer(0, 65_535), "API port; 0: any free one")
    public_url: str | None = _setting(
        None, _text, "URL under which clients reach the API; unset: from host and port"
    )
    tls_cert_file: Path | None = _setting(
        None, _path, "certificate chain (PEM) of the API; with TLS_KEY_FILE"
    )
    tls_key_file: Path | None = _setting(None, _path, "private key (PEM) of the API's certificate")
    cors_origins: tuple[str, ...] = _setting((), _list(","), "origins of web pages that may call the API")
    metrics_public: bool = _setting(False, _flag, "serve /metrics without an admin token")
    default_queue_name: str = _setting("reactorcide-jobs", _queue_name, "queue of a job that names none")
    default_timeout: int = _setting(3600, _integer(1, 604_800), "seconds a job may run if it does not say")
    default_runner_image: str = _setting(
        "quay.io/catalystcommunity/reactorcide_runner", _text, "image of a job that names none"
    )
    default_user_id: str | None = _setting(
        None, _user_id, "bootstrap admin, made with a first token if absent"
    )
    object_store_type: str = _setting(
        "filesystem", _one_of("filesystem", "memory"), "where logs and artifacts go"
    )
    object_store_base_path: Path | None = _setting(
        None, _path, "unset: DATA_DIR/objects for up, ./objects for serve"
    )
    object_store_prefix: str = _setting("reactorcide/", _text, "put before every key")
    encryption_key: str | None = _setting(
        None,
        _text,
        "64 hexadecimal digits; encrypts job secrets at rest; unset: made once in DATA_DIR",
        secret=True,
    )
    copy_source_roots: tuple[str, ...] = _setting((), _path_list, "directories a copy source may lie in")
    git_allowed_protocols: tuple[str, ...] = _setting(
        ("https", "ssh"), _list(","), "protocols of git sources"
    )
    git_allowed_hosts: tuple[str, ...] = _setting((), _list(","), "hosts allowed although not public")
    coordinator_url: str | None = _setting(
        None, _coordinator_url, "URL of the coordinator of a worker without DB_URI"
    )
    worker_token: str | None = _setting(None, _text, "the token of such a worker", secret=True)
    coordinator_ca_file: Path | None = _setting(
        None, _path, "certificates (PEM) to trust instead of the system's"
    )
    insecure_coordinator: bool = _setting(
        False, _flag, "send token and secrets over plain HTTP to another host"
    )
    worker_name: str | None = _setting(None, _text, "stays over restarts; unset: the host's name")
    worker_queue: tuple[str, ...] = _setting(
        ("reactorcide-jobs",), _queue_names, "queues a worker takes from"
    )
    worker_concurrency: int | None = _setting(None, _integer(1, 1_000), "slots; unset: the number of cores")
    worker_poll_interval: timedelta = _setting(
        timedelta(seconds=5), _seconds(0.1, 300), "fall-back of the long wait"
    )
    work_dir: Path | None = _setting(None, _path, "workspaces of jobs; unset: DATA_DIR/work")
    spool_dir: Path | None = _setting(
        None, _path, "logs and results not yet delivered; unset: DATA_DIR/spool"
    )
    executor: str = _setting("auto", _one_of("auto", "process", "container"), "what runs a job")
    container_engine: str | None = _setting(
        None, _text, "docker, podman, nerdctl or a path; unset: the first that is there and answers"
    )
    container_user: str = _setting(
        "runner",
        _matching(r"runner|root|\d{1,10}(:\d{1,10})?", "must be runner, root or uid[:gid]"),
        "who jobs are in containers",
    )
    container_allow_root: bool = _setting(False, _flag, "CONTAINER_USER may be root")
    container_pull: str = _setting("missing", _one_of("missing", "always", "never"), "when to pull images")
    container_pull_seconds: timedelta = _setting(timedelta(seconds=600), _seconds(1, 86_400), "for a pull")
    container_network: str | None = _setting(
        None, _matching(r"[A-Za-z0-9][\w.-]{0,127}", "must be a network's name"), "of jobs that may use one"
    )
    container_read_only: bool = _setting(False, _flag, "jobs cannot change the files of their image")
    unsandboxed: bool = _setting(
        False, _flag, "run jobs without a sandbox; they can do all that the worker can"
    )
    require_isolation: tuple[str, ...] = _setting((), parse_measures, "measures without which no job is run")
    sandbox_paths: tuple[str, ...] = _setting((), _path_list, "host paths that sandboxed jobs may read")
    plugin_dir: Path | None = _setting(None, _path, "the operator's plugins, run outside of any sandbox")
    sandbox_uid_base: int = _setting(
        2_000_000_000, _integer(1_000, 4_000_000_000), "first host uid of sandboxes where the worker is root"
    )
    job_memory_mb: int = _setting(4096, _integer(16, 16_777_216), "memory of a job that does not say")
    job_pids: int = _setting(1024, _integer(4, 1_048_576), "processes of a job that does not say")
    job_disk_bytes: int = _setting(
        20 * 1024**3, _integer(1024**2, 2**50), "workspace and largest file of a job"
    )
    log_limit_bytes: int = _setting(1024**3, _integer(1024, 2**40), "log kept of one attempt")
    artifact_limit_bytes: int = _setting(
        10 * 1024**3, _integer(0, 2**50), "artifacts kept of one attempt, together"
    )
    tree_limit_bytes: int = _setting(
        2 * 1024**3, _integer(0, 2**50), "largest working tree that a job may be sent with (--dirty)"
    )
    tree_user_limit_bytes: int = _setting(
        20 * 1024**3, _integer(0, 2**50), "all contents of such trees of one user, together"
    )
    tree_retention: timedelta = _setting(timedelta(days=7), _seconds(3_600, 31_536_000), "of unused trees")
    tree_cache_bytes: int = _setting(
        5 * 1024**3, _integer(0, 2**50), "contents of such trees that a worker keeps for the next job"
    )
    lease: timedelta = _setting(
        timedelta(seconds=60), _seconds(1, 3_600), "a silent worker's lease ends after this"
    )
    heartbeat: timedelta = _setting(timedelta(seconds=10), _seconds(0.2, 600), "between heartbeats")
    start_deadline: timedelta = _setting(
        timedelta(seconds=30), _seconds(1, 600), "a claim not started goes back"
    )
    lost_after: timedelta = _setting(timedelta(seconds=300), _seconds(1, 86_400), "a silent worker is lost")
    reap_interval: timedelta = _setting(
        timedelta(seconds=2), _seconds(0.1, 300), "between maintenance rounds"
    )
    cancel_grace: timedelta = _setting(timedelta(seconds=10), _seconds(0, 600), "between TERM and KILL")
    drain_limit: timedelta = _setting(
        timedelta(hours=1), _seconds(0, 604_800), "a draining worker waits for its jobs"
    )
    shutdown_grace: timedelta = _setting(
        timedelta(seconds=5), _seconds(0, 600), "requests in flight at shutdown"
    )
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "of the program's own log"
    )
    log_format: str = _setting("auto", _one_of("auto", "json", "text"), "auto: text on a terminal, else JSON")


@dataclass(frozen=True)
class LoadedSettings:
    """Settings, where each value came from (`default` or the variable's name), and what looked odd."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def load_settings(environ: Mapping[str, str]) -> LoadedSettings:
    """Read the settings from ``environ``.

    Raises:
        InvalidInput: with every fault; the pointer of each is the variable's name.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    faults: list[InputFault] = []
    for entry in fields(Settings):
        try:
            found = _find(environ, entry.name.upper(), secret=entry.metadata["secret"])
            if found is None:
                sources[entry.name] = "default"
                continue
            sources[entry.name], raw = found
            values[entry.name] = entry.metadata["parse"](raw)
        except ValueError as error:
            name = sources.get(entry.name, entry.name.upper())
            faults.append(InputFault(name, str(error)))
    settings = Settings(**values)
    faults += _contradictions(settings, environ)
    if faults:
        raise InvalidInput(faults)
    return LoadedSettings(settings, sources, tuple(_unknown_names(environ)))


def read_secret(environ: Mapping[str, str], name: str) -> str | None:
    """Return a secret setting as it is now; a file that holds it is read again.

    Raises:
        ValueError: the file cannot be read.
    """
    found = _find(environ, name.upper(), secret=True)
    return found[1] if found is not None else None


def describe_settings(loaded: LoadedSettings) -> list[tuple[str, str, str, str]]:
    """Return name, effective value (secrets hidden), source and meaning of every setting."""
    rows = []
    for entry in fields(Settings):
        value = getattr(loaded.settings, entry.name)
        shown = "[REDACTED]" if entry.metadata["secret"] and value is not None else _show(value)
        rows.append(
            (entry.name.upper(), shown, loaded.sources[entry.name], cast(str, entry.metadata["meaning"]))
        )
    return rows


def _find(environ: Mapping[str, str], name: str, *, secret: bool) -> tuple[str, str] | None:
    for candidate in (PREFIX + name, name):
        if environ.get(candidate):
            return candidate, environ[candidate]
        if secret and environ.get(f"{candidate}_FILE"):
            path = Path(environ[f"{candidate}_FILE"])
            try:
                return f"{candidate}_FILE", path.read_text().strip()
            except OSError as error:
                raise ValueError(f"{candidate}_FILE: {path} cannot be read: {error.strerror}") from error
    return None


def _contradictions(settings: Settings, environ: Mapping[str, str]) -> list[InputFault]:
    faults = []
    if _is_root(settings.container_user) and not settings.container_allow_root:
        faults.append(
            InputFault("CONTAINER_USER", "is root, which jobs are only where CONTAINER_ALLOW_ROOT=true")
        )
    if settings.heartbeat * 3 > settings.lease:
        faults.append(InputFault("HEARTBEAT", "three heartbeats must fit into LEASE"))
    if settings.lost_after < settings.lease:
        faults.append(InputFault("LOST_AFTER", "must be at least LEASE"))
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        missing = "TLS_CERT_FILE" if settings.tls_cert_file is None else "TLS_KEY_FILE"
        faults.append(InputFault(missing, "is missing: TLS_CERT_FILE and TLS_KEY_FILE go together"))
    if not _is_private(settings.coordinator_url) and not settings.insecure_coordinator:
        faults.append(
            InputFault(
                "COORDINATOR_URL",
                "is plain HTTP to another host, which would show token and secrets on the way:"
                " use https, or say INSECURE_COORDINATOR=true",
            )
        )
    key = settings.encryption_key
    if key is not None and (len(key) != 64 or any(digit not in "0123456789abcdefABCDEF" for digit in key)):
        faults.append(InputFault("ENCRYPTION_KEY", "must be 64 hexadecimal digits"))
    if found := _find(environ, "CORNDOGS_BASE_URL", secret=False):
        faults.append(InputFault(found[0], "the Corndogs queue is not part of this version: leave it unset"))
    return faults


def _is_root(user: str) -> bool:
    return user == "root" or any(int(part) == 0 for part in user.split(":") if part.isdecimal())


def _is_private(url: str | None) -> bool:
    """Tell whether nobody on the way can read what is sent to ``url``."""
    return url is None or url.startswith("https:") or urlsplit(url).hostname in _LOOPBACK


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    known = {entry.name.upper() for entry in fields(Settings)} | CLIENT_NAMES
    known |= {f"{entry.name.upper()}_FILE" for entry in fields(Settings) if entry.metadata["secret"]}
    return [
        f"{name} is not a setting of this program"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known
    ]


def _show(value: object) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
