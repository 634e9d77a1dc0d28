"""What a run would be, without anything of the job being run: for people, as text."""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from runnerlib.configuration import LoadedConfig, RunConfig
from runnerlib.environment import EnvironmentTooLarge, compose_environment
from runnerlib.executors.port import CHANNEL
from runnerlib.masking import Masker
from runnerlib.run_settings import SETTINGS
from runnerlib.spec import RunSpec
from runnerlib.spec.rules import redact_url
from runnerlib.validation import Outlook

HIDDEN = "[REDACTED]"
_MOST_ENTRIES = 40
_LONGEST_VALUE = 100
_BY_FIELD = {setting.field: setting for setting in SETTINGS}

Redactor = Callable[[str], str]


@dataclass(frozen=True)
class ShownValue:
    """One value of a configuration, nothing secret in it. ``value`` is plain, as for JSON; None is unset."""

    name: str
    value: object
    source: str
    flag: str | None
    """None: only a file says it, as with ``variable``."""
    variable: str | None

    @property
    def text(self) -> str:
        """The value in one line."""
        if self.value is None:
            return "(unset)"
        if isinstance(self.value, dict):
            return " ".join(f"{name}={_shortened(value)}" for name, value in self.value.items()) or "(none)"
        if isinstance(self.value, list):
            return ", ".join(self.value) or "(none)"
        return str(self.value).lower() if isinstance(self.value, bool) else _shortened(str(self.value))


def redactor_of(config: RunConfig) -> Redactor:
    """Return what takes the secrets of a configuration out of a text."""
    masker = Masker(config.secret_values())
    return lambda text: masker.mask(os.fsencode(text)).decode(errors="backslashreplace")


def describe_config(loaded: LoadedConfig) -> Iterator[ShownValue]:
    """Yield every value of a configuration and where it came from, secrets hidden."""
    redact = redactor_of(loaded.config)
    for entry in fields(RunConfig):
        setting = _BY_FIELD.get(entry.name)
        yield ShownValue(
            entry.name,
            _shown(loaded.config, entry.name, redact),
            redact(loaded.sources[entry.name]),
            None if setting is None else setting.flag,
            None if setting is None else setting.variable,
        )


def _shown(config: RunConfig, name: str, redact: Redactor) -> object:
    value = getattr(config, name)
    if name == "secrets_list":
        return [HIDDEN] * len(value)
    if name == "git_url":
        return None if value is None else redact(redact_url(value))
    if isinstance(value, Mapping):
        return {key: HIDDEN if config.is_secret(key) else redact(text) for key, text in value.items()}
    if isinstance(value, tuple):
        return [redact(text) for text in value]
    return redact(str(value)) if isinstance(value, str | Path) else value


def describe_run(loaded: LoadedConfig, spec: RunSpec, outlook: Outlook) -> Iterator[str]:
    """Yield the lines of a dry run, secrets hidden."""
    redact = redactor_of(loaded.config)
    yield from map(redact, _lines(loaded, spec, outlook, _environment(loaded.config, spec, outlook, redact)))


def _lines(
    loaded: LoadedConfig, spec: RunSpec, outlook: Outlook, environment: Mapping[str, str] | str
) -> Iterator[str]:
    config = loaded.config
    yield "configuration"
    for row in describe_config(loaded):
        yield f"  {row.name:24} {row.text}  [{row.source}]"
    yield "environment"
    if isinstance(environment, str):
        yield f"  cannot be composed: {environment}"
    else:
        yield from (f"  {name}={_shortened(value)}" for name, value in sorted(environment.items()))
    yield "directories"
    yield from (f"  {line}" for line in _directories(config, spec, outlook))
    yield "runtime"
    yield f"  {outlook.runtime.isolation}: {outlook.runtime.detail}"
    yield from (f"  {line}" for line in _image(config, outlook))
    yield "plan"
    yield from (f"  {number}. {step}" for number, step in enumerate(_plan(config, outlook), 1))
    yield from _equivalent(spec, outlook, {} if isinstance(environment, str) else environment)
    yield "findings" if outlook.findings else "no findings"
    yield from (f"  {finding}" for finding in outlook.findings)
    yield "verdict: it would start" if outlook.is_fit else "verdict: it would not start"


def _environment(
    config: RunConfig, spec: RunSpec, outlook: Outlook, redact: Redactor
) -> dict[str, str] | str:
    """Return the job's variables as far as they are known now, or why they cannot be composed."""
    is_plain = outlook.runtime.isolation == "unsandboxed"
    root = f"{spec.workspace_root}/{spec.job_id}.{spec.attempt}/job" if is_plain else "/job"
    try:
        variables = compose_environment(
            spec,
            root=root,
            file_variables={},
            resolved_sha="(known when it runs)" if spec.source.type == "git" else None,
            provides_path=outlook.runtime.uses_images,
            secrets_socket="(known when it runs)" if is_plain else f"{CHANNEL}/secrets.sock",
        )
    except EnvironmentTooLarge as error:
        return str(error)
    own = config.job_env.keys() | config.secrets.keys()
    return {
        name: HIDDEN if name in own and config.is_secret(name) else redact(value)
        for name, value in variables.items()
    }


def _shortened(value: object) -> str:
    told = str(value)
    text = told if told.isprintable() else repr(told)[1:-1]
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _directories(config: RunConfig, spec: RunSpec, outlook: Outlook) -> Iterator[str]:
    workspace = f"{spec.workspace_root}/{spec.job_id}.{spec.attempt}/job"
    if outlook.runtime.isolation != "unsandboxed":
        yield f"/job is {workspace}, made for this run"
    else:
        yield f"{workspace} takes the place of /job"
    yield f"{config.job_dir} is where the command starts"
    yield "/job/artifacts is where it leaves artifacts"
    if config.git_url is not None:
        yield f"{config.code_dir} is {config.git_ref or 'the default branch'} of {redact_url(config.git_url)}"
    elif config.source_path is None:
        yield f"{config.code_dir} is empty"
    else:
        yield f"{config.code_dir} is a copy of {config.source_path}, which has"
        yield from (f"  {line}" for line in _contents(config.source_path))


def _contents(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    except OSError as error:
        yield f"what cannot be read: {error.strerror}"
        return
    if not names:
        yield "nothing in it"
    for name in names[:_MOST_ENTRIES]:
        yield _shortened(name)
    if len(names) > _MOST_ENTRIES:
        yield f"… and {len(names) - _MOST_ENTRIES} more"


def _image(config: RunConfig, outlook: Outlook) -> Iterator[str]:
    if not outlook.runtime.uses_images:
        return
    state = outlook.image
    if state is None:
        yield "image missing"
    elif state.digest is not None:
        then = ", and would be pulled again" if config.container_pull == "always" else ""
        yield f"image {config.runner_image} is here: {state.digest}{then}"
    elif state.trouble is not None:
        yield f"image {config.runner_image} cannot be had: {state.trouble}"
    else:
        yield f"image {config.runner_image} is not here, and would be pulled"


def _plan(config: RunConfig, outlook: Outlook) -> Iterator[str]:
    def called(*phases: str) -> Iterator[str]:
        for phase in phases:
            for plugin in outlook.plugins.plugins if outlook.plugins is not None else ():
                if phase in plugin.phases:
                    yield f"plugin {plugin.name} at {phase}"

    yield from called("pre_validation", "post_validation")
    yield f"make a workspace in {config.work_dir}"
    if outlook.runtime.uses_images:
        yield f"take the image {config.runner_image}"
    yield from called("pre_source_prep")
    sources = {"git": "check out the source", "copy": "copy the source", "none": "make an empty directory"}
    yield f"{sources[config.source_type]} at {config.code_dir}"
    yield from called("post_source_prep")
    if config.env_file is not None:
        yield f"read the variables in {config.env_file}"
    yield from called("pre_container")
    yield f"run the command in {config.job_dir}, for {config.timeout_seconds:g} seconds at most"
    yield from called("post_container")
    kept = f"to {config.artifacts}" if config.artifacts is not None else "and drop them, without --artifacts"
    yield f"collect artifacts ({', '.join(config.artifact_globs)}) {kept}"
    yield from called("cleanup")
    yield "remove the workspace"


def _equivalent(spec: RunSpec, outlook: Outlook, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a command that does the same by hand, as far as one can."""
    if outlook.runtime.isolation == "bubblewrap":
        from runnerlib.executors.preview import bubblewrap_command

        argv = bubblewrap_command(spec, environment)
        if argv is not None:
            yield "the same by hand, but for limits and the filter of system calls"
            yield f"  {shlex.join(argv)}"
    elif outlook.runtime.uses_images and spec.image is not None:
        from runnerlib.executors.container import compose_preview
        from runnerlib.executors.port import SandboxUnavailable

        try:
            told = shlex.join(compose_preview(spec))
        except SandboxUnavailable as error:
            yield f"no container can be described: {error}"
            return
        yield "the container, which is told variables and command on its standard input"
        yield f"  {told}"
