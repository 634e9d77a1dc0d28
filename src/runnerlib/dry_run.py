"""What a run would be, without anything of the job being run: for people, as text."""

import shlex
from collections.abc import Iterator
from dataclasses import fields

from runnerlib.configuration import LoadedConfig, RunConfig
from runnerlib.environment import EnvironmentTooLarge, compose_environment
from runnerlib.spec import RunSpec
from runnerlib.spec.rules import is_credential_name, redact_url
from runnerlib.validation import Finding, Runtime

HIDDEN = "[REDACTED]"
_MOST_ENTRIES = 40
_SECRET_FIELDS = ("secrets", "secrets_list")


def describe_config(loaded: LoadedConfig) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and source of each part of a configuration; secrets hidden, unset ones left out."""
    for entry in fields(RunConfig):
        value = getattr(loaded.config, entry.name)
        if value is None or value in ({}, ()):
            continue
        if entry.name in _SECRET_FIELDS:
            shown = ", ".join(sorted(value)) if isinstance(value, dict) else f"{len(value)} values, {HIDDEN}"
        elif isinstance(value, dict):
            shown = ", ".join(sorted(value))
        elif isinstance(value, tuple):
            shown = ", ".join(map(str, value))
        else:
            shown = redact_url(str(value)) if entry.name == "git_url" else str(value)
        yield entry.name, shown, loaded.sources[entry.name]


def describe_run(
    loaded: LoadedConfig, spec: RunSpec, runtime: Runtime, findings: list[Finding]
) -> Iterator[str]:
    """Yield the lines of a dry run."""
    config = loaded.config
    yield "configuration"
    for name, value, source in describe_config(loaded):
        yield f"  {name:24} {value}  [{source}]"
    yield "environment"
    yield from (f"  {line}" for line in _environment(spec))
    yield "source"
    yield from (f"  {line}" for line in _source(config))
    yield "runtime"
    yield f"  {runtime.isolation}: {runtime.detail}"
    if runtime.uses_images:
        yield f"  image {config.runner_image or 'missing'}, pulled when {config.container_pull}"
    yield "plan"
    yield from (f"  {number}. {step}" for number, step in enumerate(_plan(config, runtime), 1))
    command = _equivalent(spec, runtime)
    if command is not None:
        yield "the same by a container engine"
        yield f"  {command}"
    yield "findings" if findings else "no findings"
    yield from (f"  {finding}" for finding in findings)
    is_fit = not any(finding.level == "error" for finding in findings)
    yield "verdict: it would start" if is_fit else "verdict: it would not start"


def _environment(spec: RunSpec) -> Iterator[str]:
    try:
        variables = compose_environment(spec, root="/job", file_variables={}, resolved_sha=None)
    except EnvironmentTooLarge as error:
        yield f"cannot be composed: {error}"
        return
    for name, value in sorted(variables.items()):
        is_hidden = name in spec.secrets or is_credential_name(name) or value in spec.masked
        yield f"{name}={HIDDEN if is_hidden else _shortened(value)}"


def _shortened(value: str) -> str:
    text = value if value.isprintable() else repr(value)[1:-1]
    return text if len(text) <= 100 else f"{text[:99]}…"


def _source(config: RunConfig) -> Iterator[str]:
    if config.source_path is None:
        if config.git_url is not None:
            yield f"{config.git_ref or 'the default branch'} of {redact_url(config.git_url)}"
        else:
            yield "none: the workspace is empty"
        return
    yield f"a copy of {config.source_path}"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in config.source_path.iterdir())
    for name in names[:_MOST_ENTRIES]:
        yield f"  {_shortened(name)}"
    if len(names) > _MOST_ENTRIES:
        yield f"  … and {len(names) - _MOST_ENTRIES} more"


def _plan(config: RunConfig, runtime: Runtime) -> Iterator[str]:
    plugins = _plugin_names(config)
    if plugins:
        yield f"load the plugins {', '.join(plugins)}"
    yield f"make a workspace in {config.work_dir}"
    if runtime.uses_images:
        yield f"take the image {config.runner_image}"
    sources = {"git": "check out the source", "copy": "copy the source", "none": "make an empty source"}
    yield f"{sources[config.source_type]} to {config.code_dir}"
    yield f"run the command in {config.job_dir}, for {config.timeout_seconds:g} seconds at most"
    kept = f"to {config.artifacts}" if config.artifacts is not None else "nowhere: --artifacts is not given"
    yield f"collect artifacts ({', '.join(config.artifact_globs)}) {kept}"
    yield "remove the workspace"


def _plugin_names(config: RunConfig) -> tuple[str, ...]:
    if config.plugin_dir is None:
        return ()
    from runnerlib.plugins import PluginsUnusable, PluginUnknown, load_plugins

    try:
        return load_plugins(config.plugin_dir, config.plugins).names
    except (PluginsUnusable, PluginUnknown):
        return ()


def _equivalent(spec: RunSpec, runtime: Runtime) -> str | None:
    """Return the engine's command for the job's container, but for what it is told on its input."""
    if spec.image is None or runtime.isolation == "none":
        return None
    from runnerlib.executors.container import compose_preview
    from runnerlib.executors.port import SandboxUnavailable

    try:
        argv = compose_preview(spec)
    except SandboxUnavailable:
        return None
    return shlex.join(argv)
