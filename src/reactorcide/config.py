"""Settings: the one place that reads the environment.

Each setting may be written bare or with `REACTORCIDE_` before it, which wins; an empty value counts
as unset; a secret may also come from a file named by `<NAME>_FILE`. Every fault is reported at once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from reactorcide.config_backends import BackendSettings
from reactorcide.config_values import (
    flag,
    integer,
    list_of,
    matching,
    one_of,
    path,
    path_list,
    queue_name,
    queue_names,
    seconds,
    setting,
    text,
    user_id,
    web_url,
)
from reactorcide.domain.errors import InputFault, InvalidInput
from runnerlib.spec import parse_measures

PREFIX = "REACTORCIDE_"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
CLIENT_NAMES = frozenset({"API_URL", "API_TOKEN"})
"""Names that the command-line client reads beside the settings of the program."""


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "reactorcide"


@dataclass(frozen=True)
class Settings(BackendSettings):
    """Every setting of the program, with its effective value. A field's upper-case name is its variable."""

    data_dir: Path = setting(_default_data_dir, path, "where the program keeps its own files")
    db_uri: str | None = setting(None, text, "PostgreSQL; unset: our own, embedded", secret=True)
    db_pool_size: int = setting(10, integer(2, 200), "connections of one process, at most")
    pg_bin: Path | None = setting(None, path, "folder of PostgreSQL's programs for the embedded server")
    host: str | None = setting(None, text, "API address; unset: 127.0.0.1 for up, 0.0.0.0 for serve")
    port: int = setting(6080, integer(0, 65_535), "API port; 0: any free one")
    public_url: str | None = setting(
        None, text, "URL under which clients reach the API; unset: from host and port"
    )
    tls_cert_file: Path | None = setting(None, path, "certificate chain (PEM) of the API; with TLS_KEY_FILE")
    tls_key_file: Path | None = setting(None, path, "private key (PEM) of the API's certificate")
    cors_origins: tuple[str, ...] = setting((), list_of(","), "origins of web pages that may call the API")
    metrics_public: bool = setting(False, flag, "serve /metrics without an admin token")
    default_queue_name: str = setting("reactorcide-jobs", queue_name, "queue of a job that names none")
    default_timeout: int = setting(3600, integer(1, 604_800), "seconds a job may run if it does not say")
    default_runner_image: str = setting(
        "quay.io/catalystcommunity/reactorcide_runner", text, "image of a job that names none"
    )
    default_user_id: str | None = setting(None, user_id, "bootstrap admin, made with a first token if absent")
    encryption_key: str | None = setting(
        None,
        text,
        "64 hexadecimal digits; encrypts job secrets at rest; unset: made once in DATA_DIR",
        secret=True,
    )
    copy_source_roots: tuple[str, ...] = setting((), path_list, "directories a copy source may lie in")
    git_allowed_protocols: tuple[str, ...] = setting(
        ("https", "ssh"), list_of(","), "protocols of git sources"
    )
    git_allowed_hosts: tuple[str, ...] = setting((), list_of(","), "hosts allowed although not public")
    coordinator_url: str | None = setting(None, web_url, "URL of the coordinator of a worker without DB_URI")
    worker_token: str | None = setting(None, text, "the token of such a worker", secret=True)
    coordinator_ca_file: Path | None = setting(
        None, path, "certificates (PEM) to trust instead of the system's"
    )
    insecure_coordinator: bool = setting(
        False, flag, "send token and secrets over plain HTTP to another host"
    )
    worker_name: str | None = setting(None, text, "stays over restarts; unset: the host's name")
    worker_queue: tuple[str, ...] = setting(("reactorcide-jobs",), queue_names, "queues a worker takes from")
    worker_concurrency: int | None = setting(None, integer(1, 1_000), "slots; unset: the number of cores")
    worker_poll_interval: timedelta = setting(
        timedelta(seconds=5), seconds(0.1, 300), "fall-back of the long wait"
    )
    work_dir: Path | None = setting(None, path, "workspaces of jobs; unset: DATA_DIR/work")
    spool_dir: Path | None = setting(None, path, "logs and results not yet delivered; unset: DATA_DIR/spool")
    executor: str = setting("auto", one_of("auto", "process", "container"), "what runs a job")
    container_engine: str | None = setting(
        None, text, "docker, podman, nerdctl or a path; unset: the first that is there and answers"
    )
    container_user: str = setting(
        "runner",
        matching(r"runner|root|\d{1,10}(:\d{1,10})?", "must be runner, root or uid[:gid]"),
        "who jobs are in containers",
    )
    container_allow_root: bool = setting(False, flag, "CONTAINER_USER may be root")
    container_pull: str = setting("missing", one_of("missing", "always", "never"), "when to pull images")
    container_pull_seconds: timedelta = setting(timedelta(seconds=600), seconds(1, 86_400), "for a pull")
    container_network: str | None = setting(
        None, matching(r"[A-Za-z0-9][\w.-]{0,127}", "must be a network's name"), "of jobs that may use one"
    )
    container_read_only: bool = setting(False, flag, "jobs cannot change the files of their image")
    unsandboxed: bool = setting(
        False, flag, "run jobs without a sandbox; they can do all that the worker can"
    )
    require_isolation: tuple[str, ...] = setting((), parse_measures, "measures without which no job is run")
    sandbox_paths: tuple[str, ...] = setting((), path_list, "host paths that sandboxed jobs may read")
    plugin_dir: Path | None = setting(None, path, "the operator's plugins, run outside of any sandbox")
    sandbox_uid_base: int = setting(
        2_000_000_000, integer(1_000, 4_000_000_000), "first host uid of sandboxes where the worker is root"
    )
    job_memory_mb: int = setting(4096, integer(16, 16_777_216), "memory of a job that does not say")
    job_pids: int = setting(1024, integer(4, 1_048_576), "processes of a job that does not say")
    job_disk_bytes: int = setting(
        20 * 1024**3, integer(1024**2, 2**50), "workspace and largest file of a job"
    )
    log_limit_bytes: int = setting(1024**3, integer(1024, 2**40), "log kept of one attempt")
    artifact_limit_bytes: int = setting(
        10 * 1024**3, integer(0, 2**50), "artifacts kept of one attempt, together"
    )
    tree_limit_bytes: int = setting(
        2 * 1024**3, integer(0, 2**50), "largest working tree that a job may be sent with (--dirty)"
    )
    tree_user_limit_bytes: int = setting(
        20 * 1024**3, integer(0, 2**50), "all contents of such trees of one user, together"
    )
    tree_retention: timedelta = setting(timedelta(days=7), seconds(3_600, 31_536_000), "of unused trees")
    tree_cache_bytes: int = setting(
        5 * 1024**3, integer(0, 2**50), "contents of such trees that a worker keeps for the next job"
    )
    lease: timedelta = setting(
        timedelta(seconds=60), seconds(1, 3_600), "a silent worker's lease ends after this"
    )
    heartbeat: timedelta = setting(timedelta(seconds=10), seconds(0.2, 600), "between heartbeats")
    start_deadline: timedelta = setting(
        timedelta(seconds=30), seconds(1, 600), "a claim not started goes back"
    )
    lost_after: timedelta = setting(timedelta(seconds=300), seconds(1, 86_400), "a silent worker is lost")
    reap_interval: timedelta = setting(timedelta(seconds=2), seconds(0.1, 300), "between maintenance rounds")
    cancel_grace: timedelta = setting(timedelta(seconds=10), seconds(0, 600), "between TERM and KILL")
    drain_limit: timedelta = setting(
        timedelta(hours=1), seconds(0, 604_800), "a draining worker waits for its jobs"
    )
    shutdown_grace: timedelta = setting(
        timedelta(seconds=5), seconds(0, 600), "requests in flight at shutdown"
    )
    log_level: str = setting("info", one_of("debug", "info", "warning", "error"), "of the program's own log")
    log_format: str = setting("auto", one_of("auto", "json", "text"), "auto: text on a terminal, else JSON")


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
    faults += _contradictions(settings)
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


def _contradictions(settings: Settings) -> list[InputFault]:
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
