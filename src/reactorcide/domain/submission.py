"""From what a client asked for to a frozen `JobSpec`: every default, and every rule on a value."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from reactorcide.domain.errors import InputFault, InvalidInput
from reactorcide.domain.jobs import JobResources, JobSpec, NetworkMode, SourceType
from runnerlib.spec import rules
from runnerlib.spec.trees import is_sha256

DEFAULT_QUEUE_TIMEOUT_SECONDS = 86_400


@dataclass(frozen=True)
class JobRequest:
    """A submission as it came, its types checked by the adapter; None is an unset field."""

    name: str
    source_type: SourceType
    job_command: str
    description: str = ""
    git_url: str | None = field(default=None, repr=False)
    git_ref: str | None = None
    source_path: str | None = None
    source_tree: str | None = None
    source_commit: str | None = None
    source_changes: int | None = None
    code_dir: str | None = None
    job_dir: str | None = None
    runner_image: str | None = None
    job_env_vars: dict[str, str] = field(default_factory=dict, repr=False)
    job_secrets: dict[str, str] = field(default_factory=dict, repr=False)
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
        source_tree=request.source_tree,
        source_commit=request.source_commit,
        source_changes=request.source_changes,
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
    if not rules.QUEUE_NAME.fullmatch(name):
        return "must match [a-z0-9][a-z0-9._-]{0,62}"
    return None


def _text_faults(request: JobRequest) -> Iterator[InputFault]:
    if fault := rules.check_name(request.name):
        yield InputFault("/name", fault)
    if len(request.description) > 4_096 or "\0" in request.description:
        yield InputFault("/description", "must be at most 4096 characters without NUL")
    if fault := rules.check_command(request.job_command):
        yield InputFault("/job_command", fault)
    if request.runner_image is not None and (fault := rules.check_image(request.runner_image)):
        yield InputFault("/runner_image", fault)
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
        ("source_tree", request.source_tree, "tree"),
        ("source_commit", request.source_commit, "tree"),
        ("source_changes", request.source_changes, "tree"),
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
    yield from _tree_faults(request)
    for name, path in (("code_dir", request.code_dir), ("job_dir", request.job_dir)):
        if path is not None and (fault := rules.check_job_path(path)):
            yield InputFault(f"/{name}", fault)
    if request.job_env_file is not None and (fault := rules.check_env_file_path(request.job_env_file)):
        yield InputFault("/job_env_file", fault)


def _tree_faults(request: JobRequest) -> Iterator[InputFault]:
    if request.source_type == "tree" and request.source_tree is None:
        yield InputFault("/source_tree", "is required when source_type is tree")
    if request.source_tree is not None and not is_sha256(request.source_tree):
        yield InputFault("/source_tree", "must be 64 hexadecimal digits in lower case")
    if request.source_commit is not None and not rules.is_commit_sha(request.source_commit):
        yield InputFault("/source_commit", "must be a whole commit id, 40 or 64 hexadecimal digits")


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
    if entries > rules.MAX_ENVIRONMENT_ENTRIES:
        text = f"at most {rules.MAX_ENVIRONMENT_ENTRIES} variables, secrets included"
        yield InputFault("/job_env_vars", text)
    if size > rules.MAX_ENVIRONMENT_BYTES:
        text = f"at most {rules.MAX_ENVIRONMENT_BYTES} bytes in all, secrets included"
        yield InputFault("/job_env_vars", text)
    for name in sorted(request.job_env_vars.keys() & request.job_secrets.keys()):
        yield InputFault(f"/job_secrets/{name[:64]}", "is also in job_env_vars")


def _number_faults(request: JobRequest) -> Iterator[InputFault]:
    resources = request.resources
    for name, value in (
        ("timeout_seconds", request.timeout_seconds),
        ("queue_timeout_seconds", request.queue_timeout_seconds),
        ("silence_timeout_seconds", request.silence_timeout_seconds),
        ("priority", request.priority),
        ("retry_on_lost", request.retry_on_lost),
        ("source_changes", request.source_changes),
        ("resources/cpu", resources.cpu),
        ("resources/memory_mb", resources.memory_mb),
        ("resources/pids", resources.pids),
    ):
        if value is not None and (fault := rules.check_number(name.removeprefix("resources/"), value)):
            yield InputFault(f"/{name}", fault)


def _collection_faults(request: JobRequest) -> Iterator[InputFault]:
    if len(request.labels) > rules.MAX_LABELS:
        yield InputFault("/labels", f"at most {rules.MAX_LABELS} labels")
    for key, value in request.labels.items():
        if fault := rules.check_label(key, value):
            yield InputFault("/labels", fault)
    if len(request.artifacts) > rules.MAX_ARTIFACT_GLOBS:
        yield InputFault("/artifacts", f"at most {rules.MAX_ARTIFACT_GLOBS} globs")
    for index, glob in enumerate(request.artifacts):
        if fault := rules.check_artifact_glob(glob):
            yield InputFault(f"/artifacts/{index}", fault)
