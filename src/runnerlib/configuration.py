"""What a run on this machine is to be: from defaults, the environment, a job file and flags, in this order.

Each value is kept with where it came from, and all faults are told at once. `run_settings` says for
every value its flag, its variable and its rule.
"""

import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from runnerlib.run_settings import SETTINGS, existing_folder
from runnerlib.spec import rules

if TYPE_CHECKING:
    from runnerlib.spec.job_file import JobFile

DEFAULT = "default"
_SOURCE_FIELDS = ("git_url", "git_ref", "source_path")
_LONGEST_SHOWN = 100


@dataclass(frozen=True)
class ConfigFault:
    """One value that is refused: which, where it came from, and why. A secret ``value`` is None."""

    field: str
    message: str
    source: str = DEFAULT
    value: str | None = None

    def __str__(self) -> str:
        return f"{self.field} ({self.source}): {self.text}"

    @property
    def text(self) -> str:
        """What is wrong, with the value as far as it may be shown."""
        if self.value is None:
            return self.message
        shown = self.value if len(self.value) <= _LONGEST_SHOWN else f"{self.value[:_LONGEST_SHOWN]}…"
        return f"is {shown!r}: {self.message}"


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
    git_url: str | None = field(default=None, repr=False)
    git_ref: str | None = None
    source_path: Path | None = None
    allow_host: tuple[str, ...] = ()
    allow_protocol: tuple[str, ...] = ()
    timeout_seconds: float = 3600
    silence_timeout_seconds: float | None = None
    grace_seconds: float = 10
    executor: Literal["auto", "process", "container"] = "auto"
    unsandboxed: bool = False
    read_only_path: tuple[str, ...] = ()
    container_engine: str | None = None
    container_user: str = "runner"
    container_pull: Literal["missing", "always", "never"] = "missing"
    network: Literal["default", "none"] = "default"
    cpu: float | None = None
    memory_mb: int = 4096
    pids: int = 1024
    artifact_globs: tuple[str, ...] = ("**",)
    artifacts: Path | None = None
    """Folder of this machine where artifacts are put; None: they are dropped."""
    plugin_dir: Path | None = None
    plugins: tuple[str, ...] | None = None
    work_dir: Path

    @property
    def source_type(self) -> Literal["git", "copy", "none"]:
        """What kind of source the run has."""
        return "git" if self.git_url else "copy" if self.source_path else "none"

    def is_secret(self, name: str) -> bool:
        """Tell whether the value of a variable of the job is kept out of sight."""
        return name in self.secrets or rules.is_credential_name(name)

    def secret_values(self) -> tuple[str, ...]:
        """Return every value that nothing may show."""
        named = (value for name, value in self.job_env.items() if self.is_secret(name))
        written = rules.url_credential(self.git_url or "")
        return (*self.secrets.values(), *self.secrets_list, *named, *([written] if written else []))


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and where each of its values came from, by the name of the field."""

    config: RunConfig
    sources: Mapping[str, str]


def default_work_dir(environ: Mapping[str, str]) -> Path:
    """Return where workspaces of runs are made: in the user's cache, if there is a home for it."""
    cache = environ.get("XDG_CACHE_HOME", "")
    if not cache.startswith("/"):
        home = environ.get("HOME") or _home_of_account()
        if not home.startswith("/"):
            return Path(tempfile.gettempdir()) / f"reactorcide-runs-{os.geteuid()}"
        cache = posixpath.join(home, ".cache")
    return Path(cache) / "reactorcide" / "runs"


def _home_of_account() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""


def load_config(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    job: "JobFile | None" = None,
    job_path: Path | None = None,
    job_lines: Mapping[str, int] | None = None,
) -> LoadedConfig:
    """Return the configuration of one run.

    Args:
        flags: texts by name of the field, as far as they were given; an empty one goes back to the default.
        environ: the variables; an empty one counts as unset.
        job: of the file at ``job_path``, next to which its paths are looked for; None: standard input.
        job_lines: the line of each field in it.

    Raises:
        ConfigInvalid: with every fault.
    """
    layers = _Layers()
    layers.add({s.field: environ[s.variable] for s in SETTINGS if environ.get(s.variable)}, "variable")
    if job is not None:
        _JobLayer(layers, job, job_path, job_lines or {}).add(environ)
    layers.add(flags, "flag")
    layers.values.setdefault("work_dir", default_work_dir(environ))
    layers.join()
    if layers.faults:
        order = [entry.name for entry in fields(RunConfig)]
        found = [fault for name in sorted(layers.faults, key=order.index) for fault in layers.faults[name]]
        raise ConfigInvalid(tuple(found))
    return LoadedConfig(RunConfig(**layers.values), layers.sources)  # type: ignore[arg-type]


class _Layers:
    """Values as far as they are known, the stronger over the weaker, with their sources and faults."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.sources = {entry.name: DEFAULT for entry in fields(RunConfig)}
        self.faults: dict[str, list[ConfigFault]] = {}
        self.variables: dict[str, str] = {}
        """Those of the job file, which others are put over."""
        self.variables_source = DEFAULT

    def add(self, texts: Mapping[str, str], by: Literal["flag", "variable"]) -> None:
        """Read the texts of a layer."""
        if texts.get("git_url") or texts.get("source_path"):
            # A source is told as a whole: what a weaker layer says of another one is not meant with it.
            self.drop(*_SOURCE_FIELDS)
        for setting in SETTINGS:
            text = texts.get(setting.field)
            if text == "":
                self.drop(setting.field)
            elif text is not None:
                shown = None if setting.is_hidden else text
                self.take(setting.field, getattr(setting, by), partial(setting.parse, text), shown)

    def take(self, name: str, source: str, make: Callable[[], object], shown: str | None = None) -> None:
        """Take a value in the place of a weaker one."""
        self.drop(name)
        self.sources[name] = source
        try:
            self.values[name] = make()
        except ValueError as error:
            self.refuse(name, str(error), shown)

    def drop(self, *names: str) -> None:
        """Go back to the defaults of these."""
        for name in names:
            self.values.pop(name, None)
            self.faults.pop(name, None)
            self.sources[name] = DEFAULT

    def refuse(self, name: str, message: str, shown: str | None = None) -> None:
        """Keep what is wrong with a value."""
        fault = ConfigFault(name, message, self.sources[name], shown)
        self.faults.setdefault(name, []).append(fault)

    def join(self) -> None:
        """Look at what several values are together."""
        self._join_variables()
        self._join_secrets()
        self._join_source()
        if "job_dir" not in self.values and "code_dir" in self.values:
            self.values["job_dir"], self.sources["job_dir"] = (
                self.values["code_dir"],
                self.sources["code_dir"],
            )

    def _join_variables(self) -> None:
        """Put the variables of ``job_env`` over the job file's."""
        told, variables = self.values.pop("job_env", None), dict(self.variables)
        if isinstance(told, str):
            from runnerlib.env_file import EnvFileInvalid, parse_env_file

            if variables:
                self.sources["job_env"] = f"{self.variables_source}, {self.sources['job_env']}"
            try:
                variables |= parse_env_file(_env_lines(told))
            except (EnvFileInvalid, _PathRefused) as error:
                self.refuse("job_env", str(error))
            except OSError as error:
                self.refuse("job_env", f"cannot be read: {error.strerror}", told)
        self.values["job_env"] = variables

    def _join_secrets(self) -> None:
        """Read the secrets file; the job file's secrets win over it."""
        path = self.values.get("secrets_file")
        if not isinstance(path, Path):
            return
        from runnerlib.secret_sources import SecretsFileRefused, read_secrets_file

        try:
            found = read_secrets_file(path)
        except SecretsFileRefused as error:
            self.refuse("secrets_file", error.detail, str(path))
            return
        written = cast("dict[str, str]", self.values.get("secrets", {}))
        self.values["secrets"] = found | written
        self.sources["secrets"] = f"{path}, {self.sources['secrets']}" if written else str(path)

    def _join_source(self) -> None:
        url = self.values.get("git_url")
        if url is not None and self.values.get("source_path") is not None:
            self.refuse("source_path", f"goes not together with git_url ({self.sources['git_url']})")
        if url is None and "git_ref" in self.values:
            self.refuse("git_ref", "goes with a git_url only", str(self.values["git_ref"]))
        if isinstance(url, str):
            protocols = ("https", "ssh", *cast("tuple[str, ...]", self.values.get("allow_protocol", ())))
            hosts = cast("tuple[str, ...]", self.values.get("allow_host", ()))
            fault = rules.check_git_url(url, protocols, hosts)
            if fault:
                self.refuse("git_url", fault, rules.redact_url(url))


class _JobLayer:
    """The layer of a job file."""

    def __init__(self, layers: _Layers, job: "JobFile", path: Path | None, lines: Mapping[str, int]) -> None:
        self._layers = layers
        self._job = job
        self._folder = Path() if path is None else path.parent
        self._name = "standard input" if path is None else str(path)
        self._lines = lines

    def add(self, environ: Mapping[str, str]) -> None:
        """Take what the file says."""
        job, layers = self._job, self._layers
        if job.source_type is not None or job.git_url is not None or job.source_path is not None:
            layers.drop(*_SOURCE_FIELDS)
        for name, told, value in self._plain_values():
            if value is not None:
                layers.take(name, self._source(told), partial(_itself, value))
        if job.source_path is not None:
            folder = self._folder / job.source_path
            make = partial(_existing, folder)
            layers.take("source_path", self._source("source_path"), make, job.source_path)
        if job.job_env_vars is not None:
            layers.drop("job_env")
            layers.variables = dict(job.job_env_vars)
            layers.variables_source = layers.sources["job_env"] = self._source("job_env_vars")
        if job.job_secrets is not None:
            layers.sources["secrets"] = self._source("job_secrets")
            layers.values["secrets"] = dict(self._secrets(environ))
        self._judge_type()

    def _plain_values(self) -> Iterator[tuple[str, str, object]]:
        job = self._job
        same = ("job_command", "name", "code_dir", "job_dir", "runner_image", "git_url", "git_ref", "network")
        for name in (*same, "plugins", "timeout_seconds", "silence_timeout_seconds"):
            yield name, name, getattr(job, name)
        yield "env_file", "job_env_file", job.job_env_file
        yield "artifact_globs", "artifacts", job.artifacts
        for name in ("cpu", "memory_mb", "pids") if job.resources is not None else ():
            yield name, f"resources.{name}", getattr(job.resources, name)

    def _secrets(self, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, value in (self._job.job_secrets or {}).items():
            found = environ.get(name) if value is None else value
            if found is None:
                text = f"{name} has no value in the file, and your environment has no such variable"
                self._layers.refuse("secrets", text)
            else:
                yield name, found

    def _judge_type(self) -> None:
        """A file that names its kind of source means that one: nothing else is taken for it."""
        job = self._job
        needs = {"git": ("url", job.git_url), "copy": ("path", job.source_path)}
        for kind, (key, value) in needs.items():
            field_name = "git_url" if kind == "git" else "source_path"
            if job.source_type == kind and value is None:
                self._layers.sources[field_name] = self._source("source_type")
                self._layers.refuse(field_name, f"is missing: source.type {kind} needs source.{key}")
            elif job.source_type not in (kind, None) and value is not None:
                text = f"goes not together with source.type {job.source_type}"
                self._layers.refuse(field_name, text)

    def _source(self, told: str) -> str:
        line = self._lines.get(told) or self._lines.get(told.partition(".")[0])
        return self._name if line is None else f"{self._name}:{line}"


class _PathRefused(ValueError):
    """A path is not below ./job/."""


def _itself(value: object) -> object:
    return value


def _existing(folder: Path) -> Path:
    try:
        return existing_folder(folder.expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _env_lines(told: str) -> bytes:
    """Return lines as they are, or those of a file of the job's; one line without ``=`` is its path."""
    if "=" in told or "\n" in told or told.lstrip().startswith("#"):
        return told.encode(errors="surrogateescape")
    from runnerlib.env_file import MOST_BYTES

    if not rules.is_inside(posixpath.normpath(told), "job") or "\0" in told:
        raise _PathRefused("must be lines K=V, or the path of a file below ./job/")
    with Path(told).open("rb") as file:
        return file.read(MOST_BYTES + 1)
