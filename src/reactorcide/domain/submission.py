"""From what a client asked for to a frozen `JobSpec`: every default, and every rule on a value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from reactorcide.domain.errors import InputFault, InvalidInput
from reactorcide.domain.jobs import JobResources, JobSpec, NetworkMode, SourceType
from runnerlib.spec import rules

MAX_COMMAND_BYTES = 64 * 1024
MAX_ENVIRONMENT_ENTRIES = 1_000
MAX_ENVIRONMENT_BYTES = 256 * 1024
MAX_LABELS = 64
MAX_ARTIFACT_GLOBS = 100
DEFAULT_QUEUE_TIMEOUT_SECONDS = 86_400
_QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")


@dataclass(frozen=True)
class JobRequest:
    """A submission as it came, its types checked by the adapter; None is an unset field."""

    name: str
    source_type: SourceType
    job_command: str
    description: str = ""
    git_url: str | None = None
    git_ref: str | None = None
    source_path: str | None = None
    code_dir: str | None = None
    job_dir: str | None = None
    runner_image: str | None = None
    job_env_vars: dict[str, str] = field(default_factory=dict)
    job_secrets: dict[str, str] = field(default_factory=dict)
    job_env_file: str | None = None
    timeout_seconds: int | None = None
    queue_timeout_seconds: int | None = None
    silence_timeout_seconds: int | None = None
    priority: int = 0
    queue_name: str | None = None
    retry_on_lost: int = 0
    artifacts: tuple[str, ...] = ("**",)
    resources: JobResources = field(default_factory=JobResources)
    network: NetworkMode = "default"
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmissionPolicy:
    """The operator's defaults and allowances."""

    default_queue_name: str
    default_timeout_seconds: int
    default_runner_image: str
    git_allowed_protocols: tuple[str, ...]
    git_allowed_hosts: tuple[str, ...]
    copy_source_roots: tuple[str, ...]


def freeze_request(request: JobRequest, policy: SubmissionPolicy) -> JobSpec:
    """Return the frozen job of ``request``.

    Variables whose name looks like a credential's become secrets wherever they were written.

    Raises:
        InvalidInput: with every fault of the request, not the first.
    """
    faults = [*_text_faults(request), *_source_faults(request, policy), *_environment_faults(request)]
    faults += [*_number_faults(request), *_collection_faults(request)]
    if faults:
        raise InvalidInput(faults)
    credentials = {k: v for k, v in request.job_env_vars.items() if rules.is_credential_name(k)}
    code_dir = request.code_dir or "/job/src"
    return JobSpec(
        name=request.name,
        description=request.description,
        source_type=request.source_type,
        git_url=request.git_url,
        git_ref=request.git_ref,
        source_path=request.source_path,
        job_command=request.job_command,
        code_dir=code_dir,
        job_dir=request.job_dir or code_dir,
        runner_image=request.runner_image or policy.default_runner_image,
        job_env_vars={k: v for k, v in request.job_env_vars.items() if k not in credentials},
        job_secrets=credentials | request.job_secrets,
        job_env_file=request.job_env_file,
        timeout_seconds=request.timeout_seconds or policy.default_timeout_seconds,
        queue_timeout_seconds=request.queue_timeout_seconds or DEFAULT_QUEUE_TIMEOUT_SECONDS,
        silence_timeout_seconds=request.silence_timeout_seconds,
        priority=request.priority,
        queue_name=request.queue_name or policy.default_queue_name,
        retry_on_lost=request.retry_on_lost,
        artifacts=request.artifacts,
        resources=request.resources,
        network=request.network,
        labels=request.labels,
    )


def check_queue_name(name: str) -> str | None:
    """Check the name of a queue."""
    if not _QUEUE_NAME.fullmatch(name):
        return "must match [a-z0-9][a-z0-9._-]{0,62}"
    return None


def check_label(key: str, value: str) -> str | None:
    """Check one label."""
    if not _LABEL_KEY.fullmatch(key):
        return f"label {key[:63]!r} must match {_LABEL_KEY.pattern}"
    if len(value) > 255 or rules.has_control_characters(value):
        return f"the value of label {key!r} must be at most 255 characters without control characters"
    return None


def _text_faults(request: JobRequest) -> Iterator[InputFault]:
    if not 1 <= len(request.name) <= 255 or not request.name.strip():
        yield InputFault("/name", "must be 1 to 255 characters and not blank")
    if rules.has_control_characters(request.name):
        yield InputFault("/name", "must not contain control characters")
    if len(request.description) > 4_096 or "\0" in request.description:
        yield InputFault("/description", "must be at most 4096 characters without NUL")
    if not request.job_command.strip() or "\0" in request.job_command:
        yield InputFault("/job_command", "must not be blank and must not contain NUL")
    if len(request.job_command.encode()) > MAX_COMMAND_BYTES:
        yield InputFault("/job_command", f"must be at most {MAX_COMMAND_BYTES} bytes")
    if request.runner_image is not None and not _IMAGE.fullmatch(request.runner_image):
        yield InputFault("/runner_image", "must be the reference of a container image")
    if request.queue_name is not None and (fault := check_queue_name(request.queue_name)):
        yield InputFault("/queue_name", fault)


def _source_faults(request: JobRequest, policy: SubmissionPolicy) -> Iterator[InputFault]:
    kind = request.source_type
    if kind == "git" and request.git_url is None:
        yield InputFault("/git_url", "is required when source_type is git")
    if kind == "copy" and request.source_path is None:
        yield InputFault("/source_path", "is required when source_type is copy")
    for name, value, owner in (
        ("git_url", request.git_url, "git"),
        ("git_ref", request.git_ref, "git"),
        ("source_path", request.source_path, "copy"),
    ):
        if value is not None and kind != owner:
            yield InputFault(f"/{name}", f"goes with source_type {owner} only, not {kind}")
    if request.git_url is not None and (
        fault := rules.check_git_url(request.git_url, policy.git_allowed_protocols, policy.git_allowed_hosts)
    ):
        yield InputFault("/git_url", fault)
    if request.git_ref is not None and (fault := rules.check_git_ref(request.git_ref)):
        yield InputFault("/git_ref", fault)
    if request.source_path is not None and (
        fault := rules.check_copy_path(request.source_path, policy.copy_source_roots)
    ):
        yield InputFault("/source_path", fault)
    for name, path in (("code_dir", request.code_dir), ("job_dir", request.job_dir)):
        if path is not None and (fault := rules.check_job_path(path)):
            yield InputFault(f"/{name}", fault)
    if request.job_env_file is not None and (fault := rules.check_env_file_path(request.job_env_file)):
        yield InputFault("/job_env_file", fault)


def _environment_faults(request: JobRequest) -> Iterator[InputFault]:
    size = entries = 0
    for field_name, variables in (
        ("job_env_vars", request.job_env_vars),
        ("job_secrets", request.job_secrets),
    ):
        for name, value in variables.items():
            entries += 1
            size += len(name.encode()) + len(value.encode())
            pointer = f"/{field_name}/{name[:64]}"
            if fault := rules.check_env_name(name):
                yield InputFault(pointer, fault)
            if "\0" in value:
                yield InputFault(pointer, "a value must not contain NUL")
    if entries > MAX_ENVIRONMENT_ENTRIES:
        yield InputFault("/job_env_vars", f"at most {MAX_ENVIRONMENT_ENTRIES} variables, secrets included")
    if size > MAX_ENVIRONMENT_BYTES:
        yield InputFault("/job_env_vars", f"at most {MAX_ENVIRONMENT_BYTES} bytes in all, secrets included")
    for name in sorted(request.job_env_vars.keys() & request.job_secrets.keys()):
        yield InputFault(f"/job_secrets/{name[:64]}", "is also in job_env_vars")


def _number_faults(request: JobRequest) -> Iterator[InputFault]:
    for name, value, low, high in (
        ("timeout_seconds", request.timeout_seconds, 1, 604_800),
        ("queue_timeout_seconds", request.queue_timeout_seconds, 1, 2_592_000),
        ("silence_timeout_seconds", request.silence_timeout_seconds, 1, 604_800),
        ("priority", request.priority, -1_000, 1_000),
        ("retry_on_lost", request.retry_on_lost, 0, 10),
        ("resources/cpu", request.resources.cpu, 0.01, 1_024),
        ("resources/memory_mb", request.resources.memory_mb, 16, 16_777_216),
        ("resources/pids", request.resources.pids, 4, 1_048_576),
    ):
        if value is not None and not low <= value <= high:
            yield InputFault(f"/{name}", f"must be from {low} to {high}")


def _collection_faults(request: JobRequest) -> Iterator[InputFault]:
    if len(request.labels) > MAX_LABELS:
        yield InputFault("/labels", f"at most {MAX_LABELS} labels")
    for key, value in request.labels.items():
        if fault := check_label(key, value):
            yield InputFault("/labels", fault)
    if len(request.artifacts) > MAX_ARTIFACT_GLOBS:
        yield InputFault("/artifacts", f"at most {MAX_ARTIFACT_GLOBS} globs")
    for index, glob in enumerate(request.artifacts):
        if not 1 <= len(glob) <= 1_024 or rules.has_control_characters(glob) or glob.startswith("/"):
            yield InputFault(f"/artifacts/{index}", "must be a relative glob of 1 to 1024 characters")
        elif ".." in glob.split("/"):
            yield InputFault(f"/artifacts/{index}", "must not contain '..'")
