"""Whether a configured run could start: every error and warning, with what to do about it."""

import os
import posixpath
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runnerlib.configuration import ConfigInvalid, LoadedConfig, RunConfig, load_config
from runnerlib.runtime import NOTHING, ImageState, Runtime, look_for_image, probe_runtime
from runnerlib.spec.rules import is_inside

if TYPE_CHECKING:
    from runnerlib.plugins import PluginHost
    from runnerlib.spec.job_file import JobFault

LONG_VALUE = 1_000
_USUAL_VARIABLES = ("HOME", "PATH", "USER")
_SHORTEST_SECRET_BYTES = 6
_MADE_FOLDERS = ("/job/artifacts", "/job/home")


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


class RunRefused(Exception):
    """What was written down cannot be used; ``findings`` are all that is wrong with it."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before it starts."""

    runtime: Runtime
    image: ImageState | None
    plugins: "PluginHost | None"
    findings: list[Finding]

    @property
    def is_fit(self) -> bool:
        """Whether the run could start."""
        return not has_errors(self.findings)


def has_errors(findings: list[Finding]) -> bool:
    """Tell whether one of these keeps a run from starting."""
    return any(finding.level == "error" for finding in findings)


def read_run(flags: Mapping[str, str], environ: Mapping[str, str], file: str | None = None) -> LoadedConfig:
    """Return the configuration of a run of flags, environment and, if named, a job file; ``-`` is stdin.

    Raises:
        RunRefused: with every fault of the file, or else of the configuration.
    """
    try:
        if file is None:
            return load_config(flags, environ)
        return _read_with_file(flags, environ, file)
    except ConfigInvalid as error:
        found = [Finding("error", f.field, f.text, f"it is said by {f.source}") for f in error.faults]
        raise RunRefused(found) from error


def _read_with_file(flags: Mapping[str, str], environ: Mapping[str, str], file: str) -> LoadedConfig:
    from runnerlib.spec.job_file import JobFileRefused, parse_job_file
    from runnerlib.spec.job_file_schema import FIELDS

    places: dict[str, int] = {}
    try:
        job = parse_job_file(_read(file), places)
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror}"
        raise RunRefused([Finding("error", "file", text)]) from error
    except JobFileRefused as error:
        raise RunRefused([_of_file(file, fault) for fault in error.faults]) from error
    lines = {FIELDS.get(place, place): line for place, line in places.items()}
    path = None if file == "-" else Path(file)
    return load_config(flags, environ, job=job, job_path=path, job_lines=lines)


def _read(file: str) -> bytes:
    from runnerlib.spec.job_file import MAX_BYTES

    if file == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(file).open("rb") as opened:
        return opened.read(MAX_BYTES + 1)


def _of_file(file: str, fault: "JobFault") -> Finding:
    name = "standard input" if file == "-" else file
    place = f" in line {fault.line} of {name}" if fault.line is not None else f" in {name}"
    hint = f"did you mean {fault.suggestion}?" if fault.suggestion else None
    return Finding("error", fault.field or "file", fault.message + place, hint)


def look_ahead(loaded: LoadedConfig) -> Outlook:
    """Find out all that can be known of a run without anything of the job being run.

    The operator's plugins are loaded, not called.
    """
    runtime = probe_runtime(loaded.config)
    image = look_for_image(runtime, loaded.config)
    plugins, trouble = _load_plugins(loaded.config)
    found = [*check_config(loaded), *check_runtime(loaded.config, runtime, image)]
    return Outlook(runtime, image, plugins, _errors_first(found + ([] if trouble is None else [trouble])))


def check_config(loaded: LoadedConfig) -> list[Finding]:
    """Return what is wrong or odd about a run by itself, whatever would run it; errors first."""
    config = loaded.config
    findings = [*_command(config), *_variables(config), *_secrets(loaded), *_source(config)]
    findings += [*_folders(config), *_plugins_named(config)]
    if config.unsandboxed:
        text = "the job can do all that you may do"
        findings.append(Finding("warning", "unsandboxed", text, "leave it out where a sandbox can be had"))
    return _errors_first(findings)


def check_runtime(config: RunConfig, runtime: Runtime, image: ImageState | None = None) -> list[Finding]:
    """Return what is wrong or odd about a run with what would run it."""
    findings = list(_image(config, runtime, image))
    if runtime.isolation == NOTHING:
        text = f"nothing can run the job here: {runtime.detail}"
        findings.append(
            Finding("error", "executor", text, "install bubblewrap or podman; or say --unsandboxed")
        )
    return findings


def _errors_first(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: finding.level != "error")


def _command(config: RunConfig) -> Iterator[Finding]:
    if config.job_command is None:
        yield Finding("error", "job_command", "is missing", "give a command after --, or --job-command")


def _image(config: RunConfig, runtime: Runtime, state: ImageState | None) -> Iterator[Finding]:
    image = config.runner_image
    if image is None:
        if runtime.uses_images:
            text = "is missing, and jobs run in containers here"
            yield Finding("error", "runner_image", text, "--runner-image NAME:TAG")
        return
    if state is not None and state.trouble is not None:
        yield Finding("error", "runner_image", state.trouble)
    if not runtime.uses_images and runtime.isolation != NOTHING:
        text = f"is not used: jobs run in {runtime.isolation} here, with this machine's programs"
        yield Finding("warning", "runner_image", text, "--executor container")
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@" not in image and tag in ("", "latest"):
        text = "names no version, so that it may be another image tomorrow"
        yield Finding("warning", "runner_image", text, f"{image.removesuffix(':latest').rstrip(':')}:VERSION")


def _variables(config: RunConfig) -> Iterator[Finding]:
    from runnerlib.environment import EnvironmentTooLarge, check_size

    for field, variables in (("job_env", config.job_env), ("secrets", config.secrets)):
        for name, value in variables.items():
            if name in _USUAL_VARIABLES:
                text = "overrides what the job would have by itself"
                yield Finding("warning", f"{field}.{name}", text)
            if len(value) > LONG_VALUE:
                text = f"is longer than {LONG_VALUE} characters"
                yield Finding("warning", f"{field}.{name}", text, "put it into a file of the source")
    try:
        check_size({**config.job_env, **config.secrets})
    except EnvironmentTooLarge as error:
        yield Finding("error", "job_env", str(error))


def _secrets(loaded: LoadedConfig) -> Iterator[Finding]:
    config = loaded.config
    if loaded.sources["secrets_list"].startswith("--"):
        text = "other users of this machine can read a command line"
        yield Finding("warning", "secrets_list", text, "REACTORCIDE_SECRETS_LIST or --secrets-file")
    named = [("job_env", name, value) for name, value in config.job_env.items() if config.is_secret(name)]
    named += [("secrets", name, value) for name, value in config.secrets.items()]
    named += [("secrets_list", str(place), value) for place, value in enumerate(config.secrets_list, 1)]
    for field, name, value in named:
        if value and len(value.encode(errors="surrogateescape")) < _SHORTEST_SECRET_BYTES:
            text = f"is shorter than {_SHORTEST_SECRET_BYTES} bytes, and is not masked in the log"
            yield Finding("warning", f"{field}.{name}", text)


def _source(config: RunConfig) -> Iterator[Finding]:
    code_dir, job_dir = posixpath.normpath(config.code_dir), posixpath.normpath(config.job_dir)
    if config.source_type == "none":
        if config.env_file is not None:
            yield Finding("error", "env_file", "lies in the source, and there is none", "--source-path DIR")
        return
    is_made = is_inside(code_dir, job_dir) or job_dir in _MADE_FOLDERS
    if not is_inside(job_dir, code_dir):
        if not is_made:
            text = f"is {job_dir}, where nothing is: the source goes to {code_dir}"
            yield Finding("error", "job_dir", text, f"a directory in {code_dir}")
    elif config.source_path is not None:
        inner = config.source_path
        for part in posixpath.relpath(job_dir, code_dir).split("/"):
            inner = inner / part
            if inner.is_symlink() or not inner.is_dir():
                yield Finding("error", "job_dir", f"there is no directory {inner}, or it is a link")
                break


def _folders(config: RunConfig) -> Iterator[Finding]:
    for field, path in (("work_dir", config.work_dir), ("artifacts", config.artifacts)):
        fault = None if path is None else _fault_of_folder(path)
        if fault is not None:
            yield Finding("error", field, fault)
    if config.work_dir.is_dir() and config.work_dir.stat().st_uid != os.geteuid():
        text = f"{config.work_dir} belongs to somebody else, who could change what runs there"
        yield Finding("error", "work_dir", text, "--work-dir DIR of your own")
    if config.source_path is not None and config.work_dir.resolve().is_relative_to(config.source_path):
        text = f"{config.work_dir} lies in the source {config.source_path}, which would be copied into itself"
        yield Finding("error", "work_dir", text, "--work-dir DIR elsewhere")


def _fault_of_folder(path: Path) -> str | None:
    """Say why a folder could not be made or written to. None: it could."""
    for place in (path, *path.parents):
        try:
            place.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place} cannot be used: {error.strerror}"
        if not place.is_dir():
            return f"{place} is no directory"
        return None if os.access(place, os.W_OK | os.X_OK) else f"{place} is not yours to write in"
    return None


def _plugins_named(config: RunConfig) -> Iterator[Finding]:
    if config.plugins and config.plugin_dir is None:
        text = f"{', '.join(config.plugins)}: named, and there is no folder of plugins"
        yield Finding("error", "plugins", text, "--plugin-dir DIR")


def _load_plugins(config: RunConfig) -> "tuple[PluginHost | None, Finding | None]":
    if config.plugin_dir is None:
        return None, None
    from runnerlib.plugins import PluginsUnusable, PluginUnknown, load_plugins

    try:
        return load_plugins(config.plugin_dir, config.plugins, job_folders=(config.work_dir,)), None
    except PluginsUnusable as error:
        return None, Finding("error", "plugin_dir", str(error))
    except PluginUnknown as error:
        return None, Finding("error", "plugins", str(error))
