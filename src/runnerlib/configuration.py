"""What a run on this machine is to be: from defaults, the environment, a job file and flags, in this order.

Each value is kept with where it came from, and all faults are told at once. `run_settings` says for
every value its flag, its variable and its rule.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Literal, cast

from runnerlib.run_settings import SETTINGS
from runnerlib.spec import rules
from runnerlib.spec.job_file import JobFile

DEFAULT = "default"


@dataclass(frozen=True)
class ConfigFault:
    """One value that is refused: which, where it came from, and why. Never the value of a secret."""

    field: str
    message: str
    source: str = DEFAULT

    def __str__(self) -> str:
        return f"{self.field} ({self.source}): {self.message}"


class ConfigInvalid(Exception):
    """The configuration cannot be used; ``faults`` are all that is wrong with it."""

    def __init__(self, faults: tuple[ConfigFault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run on this machine. Paths of this machine are absolute; ``*_dir`` of the job are inside /job."""

    job_command: str | None = field(default=None, repr=False)
    name: str | None = None
    code_dir: str = "/job/src"
    job_dir: str = "/job/src"
    runner_image: str | None = None
    job_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_file: str | None = None
    """An env file inside the source, read when the source is there."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret variables: of the secrets file, and of the job file."""
    secrets_list: tuple[str, ...] = field(default=(), repr=False)
    """Values that the log must not show."""
    secrets_file: Path | None = None
    git_url: str | None = None
    git_ref: str | None = None
    source_path: Path | None = None
    allow_host: tuple[str, ...] = ()
    allow_protocol: tuple[str, ...] = ()
    timeout_seconds: float = 3600.0
    silence_timeout_seconds: float | None = None
    grace_seconds: float = 10.0
    executor: Literal["auto", "process", "container"] = "auto"
    unsandboxed: bool = False
    container_engine: str | None = None
    container_pull: Literal["missing", "always", "never"] = "missing"
    network: Literal["default", "none"] = "default"
    cpu: float | None = None
    memory_mb: int | None = None
    pids: int | None = None
    artifact_globs: tuple[str, ...] = ("**",)
    artifacts: Path | None = None
    """Folder of this machine where artifacts are put; None: they are dropped."""
    plugin_dir: Path | None = None
    plugins: tuple[str, ...] | None = None
    work_dir: Path = field(default_factory=lambda: default_work_dir(os.environ))

    @property
    def source_type(self) -> Literal["git", "copy", "none"]:
        """What kind of source the run has."""
        return "git" if self.git_url else "copy" if self.source_path else "none"


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and where each of its values came from, by the name of the field."""

    config: RunConfig
    sources: Mapping[str, str]


def default_work_dir(environ: Mapping[str, str]) -> Path:
    """Return where workspaces of runs are made: in the user's cache."""
    cache = environ.get("XDG_CACHE_HOME")
    home = Path(cache) if cache and cache.startswith("/") else Path.home() / ".cache"
    return home / "reactorcide" / "runs"


def load_config(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    job: JobFile | None = None,
    job_path: Path | None = None,
) -> LoadedConfig:
    """Return the configuration of one run.

    Args:
        flags: texts by name of the field, as far as they were given.
        job: of the file at ``job_path``, next to which its paths are looked for; None: standard input.

    Raises:
        ConfigInvalid: with every fault.
    """
    values: dict[str, object] = {}
    sources = {entry.name: DEFAULT for entry in fields(RunConfig)}
    faults: list[ConfigFault] = []

    def take(name: str, source: str, make: Callable[[], object]) -> None:
        sources[name] = source
        try:
            values[name] = make()
        except ValueError as error:
            faults.append(ConfigFault(name, str(error), source))

    for setting in SETTINGS:
        told = environ.get(setting.variable)
        if told:
            take(setting.field, setting.variable, partial(setting.parse, told))
    if job is not None:
        named = str(job_path) if job_path is not None else "the job file"
        for name, value in _values_of(job, job_path, environ, faults).items():
            take(name, named, partial(_itself, value))
    for setting in SETTINGS:
        if setting.field in flags:
            take(setting.field, setting.flag, partial(setting.parse, flags[setting.field]))
    _join_variables(values, sources, faults, job)
    _join_secrets(values, sources, faults)
    if "job_dir" not in values and isinstance(values.get("code_dir"), str):
        values["job_dir"], sources["job_dir"] = values["code_dir"], sources["code_dir"]
    if values.get("git_url") and values.get("source_path"):
        faults.append(
            ConfigFault(
                "source_path",
                f"goes not together with git_url ({sources['git_url']})",
                sources["source_path"],
            )
        )
    if values.get("git_ref") and not values.get("git_url"):
        faults.append(ConfigFault("git_ref", "goes with a git_url only", sources["git_ref"]))
    if isinstance(url := values.get("git_url"), str):
        faults += _judge_url(url, values, sources["git_url"])
    if faults:
        raise ConfigInvalid(tuple(faults))
    return LoadedConfig(RunConfig(**values), sources)  # type: ignore[arg-type]


def _itself(value: object) -> object:
    return value


def _judge_url(url: str, values: Mapping[str, object], source: str) -> list[ConfigFault]:
    protocols = ("https", "ssh", *cast("tuple[str, ...]", values.get("allow_protocol", ())))
    fault = rules.check_git_url(url, protocols, cast("tuple[str, ...]", values.get("allow_host", ())))
    return [ConfigFault("git_url", fault, source)] if fault else []


def _values_of(
    job: JobFile, path: Path | None, environ: Mapping[str, str], faults: list[ConfigFault]
) -> dict[str, object]:
    """Return what a job file says, by the names of fields here."""
    same = ("job_command", "name", "code_dir", "job_dir", "runner_image", "git_url", "git_ref", "network")
    told: dict[str, object] = {name: getattr(job, name) for name in (*same, "plugins")}
    told |= {
        "env_file": job.job_env_file,
        "timeout_seconds": job.timeout_seconds,
        "silence_timeout_seconds": job.silence_timeout_seconds,
        "artifact_globs": job.artifacts,
    }
    if job.resources is not None:
        told |= {name: getattr(job.resources, name) for name in ("cpu", "memory_mb", "pids")}
    if job.job_secrets is not None:
        told["secrets"] = _secrets_of(job, environ, faults)
    if job.source_path is not None:
        folder = (path.parent if path is not None else Path()) / Path(job.source_path).expanduser()
        if not folder.is_dir():
            faults.append(ConfigFault("source_path", f"there is no directory {folder}", str(path)))
        told["source_path"] = folder.absolute()
    return {name: value for name, value in told.items() if value is not None}


def _secrets_of(job: JobFile, environ: Mapping[str, str], faults: list[ConfigFault]) -> dict[str, str]:
    secrets = {}
    for name, value in (job.job_secrets or {}).items():
        found = environ.get(name) if value is None else value
        if found is None:
            text = "has no value in the file, and there is no such variable in your environment"
            faults.append(ConfigFault(f"secrets.{name}", text, "the job file"))
        else:
            secrets[name] = found
    return secrets


def _join_variables(
    values: dict[str, object], sources: dict[str, str], faults: list[ConfigFault], job: JobFile | None
) -> None:
    """Put the job file's variables and those of ``--job-env`` together; the latter win."""
    variables = dict((job.job_env_vars if job is not None else None) or {})
    told = values.pop("job_env", None)
    if isinstance(told, str):
        from runnerlib.env_file import EnvFileInvalid, parse_env_file

        try:
            variables |= parse_env_file(_env_lines(told))
        except EnvFileInvalid as error:
            faults.append(ConfigFault("job_env", str(error), sources["job_env"]))
        except OSError as error:
            text = f"{told} cannot be read: {error.strerror}"
            faults.append(ConfigFault("job_env", text, sources["job_env"]))
    elif variables:
        sources["job_env"] = "the job file"
    values["job_env"] = variables


def _env_lines(told: str) -> bytes:
    if "=" in told.partition("\n")[0] or not told.startswith(("./job/", "job/")):
        return told.encode(errors="surrogateescape")
    with Path(told).open("rb") as file:
        from runnerlib.env_file import MOST_BYTES

        return file.read(MOST_BYTES + 1)


def _join_secrets(values: dict[str, object], sources: dict[str, str], faults: list[ConfigFault]) -> None:
    """Read the secrets file; the job file's secrets win over it."""
    path = values.get("secrets_file")
    if not isinstance(path, Path):
        return
    from runnerlib.secret_sources import SecretsFileRefused, read_secrets_file

    try:
        found = read_secrets_file(path)
    except SecretsFileRefused as error:
        faults.append(ConfigFault("secrets_file", str(error), sources["secrets_file"]))
        return
    written = cast("dict[str, str]", values.get("secrets", {}))
    values["secrets"] = found | written
    if not written:
        sources["secrets"] = str(path)
