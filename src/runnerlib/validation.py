"""Whether a configured run could start: every error and warning, with what to do about it."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from runnerlib.configuration import ConfigInvalid, LoadedConfig, RunConfig, load_config
from runnerlib.spec import HostPolicy, Resources
from runnerlib.spec.job_file import MAX_BYTES, JobFault, JobFileRefused, parse_job_file

LONG_VALUE = 1_000
_USUAL_VARIABLES = ("HOME", "PATH", "USER")


@dataclass(frozen=True)
class Finding:
    """One thing to know before a run. An ``error`` keeps it from starting."""

    level: Literal["error", "warning"]
    field: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{self.level}: {self.field}: {self.message}{hint}"

    def as_json(self) -> dict[str, str | None]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Runtime:
    """What would run the job here."""

    isolation: str
    """``none`` where nothing can be had."""
    detail: str

    @property
    def uses_images(self) -> bool:
        """Whether the image of a job means something."""
        return self.isolation in ("docker", "podman", "nerdctl")


def host_policy(config: RunConfig) -> HostPolicy:
    """Return what this machine allows: all that the one at the keyboard asked for."""
    return HostPolicy(
        executor=config.executor,
        unsandboxed=config.unsandboxed,
        container_engine=config.container_engine,
        container_pull=config.container_pull,
        plugin_dir=None if config.plugin_dir is None else str(config.plugin_dir),
        default_resources=Resources(memory_mb=4096, pids=1024),
        copy_source_roots=() if config.source_path is None else (str(config.source_path),),
        git_allowed_protocols=("https", "ssh", *config.allow_protocol),
        git_allowed_hosts=config.allow_host,
        cancel_grace_seconds=config.grace_seconds,
    )


def probe_runtime(config: RunConfig) -> Runtime:
    """Find out what would run the job, by building it. Called once in a process."""
    from runnerlib.isolation import probe_isolation

    found = probe_isolation(host_policy(config))
    return Runtime(found.name, found.detail)


class RunRefused(Exception):
    """What was written down cannot be used; ``findings`` are all that is wrong with it."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings


def read_run(flags: Mapping[str, str], environ: Mapping[str, str], file: str | None = None) -> LoadedConfig:
    """Return the configuration of a run of flags, environment and, if named, a job file; ``-`` is stdin.

    Raises:
        RunRefused: with every fault of the file, or else of the configuration.
    """
    try:
        job = None if file is None else parse_job_file(_read(file))
        path = None if file in (None, "-") else Path(str(file))
        return load_config(flags, environ, job=job, job_path=path)
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror}"
        raise RunRefused([Finding("error", "file", text)]) from error
    except JobFileRefused as error:
        raise RunRefused([_of_file(file, fault) for fault in error.faults]) from error
    except ConfigInvalid as error:
        raise RunRefused(
            [
                Finding("error", fault.field, fault.message, f"it is said by {fault.source}")
                for fault in error.faults
            ]
        ) from error


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(file).open("rb") as opened:
        return opened.read(MAX_BYTES + 1)


def _of_file(file: str | None, fault: JobFault) -> Finding:
    place = f" in line {fault.line} of {file}" if fault.line is not None else f" in {file}"
    hint = f"did you mean {fault.suggestion}?" if fault.suggestion else None
    return Finding("error", fault.field or "file", fault.message + place, hint)


def validate(loaded: LoadedConfig, runtime: Runtime) -> list[Finding]:
    """Return everything that is wrong or odd about a run, errors first."""
    config = loaded.config
    findings = [*_command(config), *_image(config, runtime), *_runtime(runtime), *_plugins(config)]
    findings += [*_variables(config), *_directories(config)]
    return sorted(findings, key=lambda finding: finding.level != "error")


def _command(config: RunConfig) -> Iterator[Finding]:
    if config.job_command is None:
        yield Finding("error", "job_command", "is missing", "give a command after --, or --job-command")


def _image(config: RunConfig, runtime: Runtime) -> Iterator[Finding]:
    image = config.runner_image
    if image is None:
        if runtime.uses_images:
            yield Finding(
                "error", "runner_image", "is missing, and jobs run in containers here", "--runner-image"
            )
        return
    if not runtime.uses_images and runtime.isolation != "none":
        text = f"is not used: jobs run in {runtime.isolation} here, with this machine's programs"
        yield Finding("warning", "runner_image", text, "--executor container")
    if "@" in image:
        return
    tag = image.rpartition("/")[2].partition(":")[2]
    if tag in ("", "latest"):
        text = "names no version, so that it may be another image tomorrow"
        yield Finding("warning", "runner_image", text, f"{image.removesuffix(':latest')}:VERSION")


def _runtime(runtime: Runtime) -> Iterator[Finding]:
    if runtime.isolation == "none":
        yield Finding(
            "error",
            "executor",
            f"nothing can run the job here: {runtime.detail}",
            "install bubblewrap or podman; or say --unsandboxed",
        )
    elif runtime.isolation == "unsandboxed":
        yield Finding("warning", "unsandboxed", "the job can do all that you may do")


def _plugins(config: RunConfig) -> Iterator[Finding]:
    if config.plugin_dir is None:
        if config.plugins:
            yield Finding("error", "plugins", "are named, and there is no folder of them", "--plugin-dir")
        return
    from runnerlib.plugins import PluginsUnusable, PluginUnknown, load_plugins

    try:
        load_plugins(config.plugin_dir, config.plugins)
    except (PluginsUnusable, PluginUnknown) as error:
        yield Finding("error", "plugins", str(error))


def _variables(config: RunConfig) -> Iterator[Finding]:
    for name, value in (*config.job_env.items(), *config.secrets.items()):
        if name in _USUAL_VARIABLES:
            yield Finding("warning", f"job_env.{name}", "overrides what the job would have by itself")
        if len(value) > LONG_VALUE:
            yield Finding(
                "warning",
                f"job_env.{name}",
                f"is longer than {LONG_VALUE} characters",
                "put it into a file of the source",
            )


def _directories(config: RunConfig) -> Iterator[Finding]:
    if config.source_type == "none" and config.env_file is not None:
        yield Finding("error", "env_file", "lies in the source, and there is none", "--source-path")
    if config.source_path is None:
        return
    relative = config.job_dir.removeprefix(config.code_dir).lstrip("/")
    if config.job_dir.startswith(config.code_dir) and not (config.source_path / relative).is_dir():
        text = f"there is no directory {relative} in {config.source_path}"
        yield Finding("error", "job_dir", text)
