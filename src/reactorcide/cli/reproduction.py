"""From the record of a job to the very job again: what it was and ran in, and what is not the same here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from reactorcide.cli.answers import JsonObject, LimitsAnswer, describe_limits
from reactorcide.cli.options import HereOptions
from reactorcide.domain.jobs import REDACTED, JobResources, JobSpec, NetworkMode, SourceType
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import FINAL, JobStatus

CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
"""The isolations that ran a job in its image."""
GIT_CREDENTIAL = "GIT_CREDENTIAL"
"""Under this name the password in a git URL is asked for."""
_EXIT_CODE_SAYS_ALL = frozenset({Reason.OK, Reason.EXIT_NONZERO, Reason.SIGNALLED})


@dataclass(frozen=True)
class JobRecord:
    """A job as the coordinator kept it; secrets are `[REDACTED]`."""

    job_id: str
    name: str
    status: str
    source_type: SourceType
    job_command: str
    code_dir: str
    job_dir: str
    runner_image: str
    timeout_seconds: int
    user_id: str = ""
    git_url: str | None = None
    git_ref: str | None = None
    source_path: str | None = None
    source_tree: str | None = None
    source_commit: str | None = None
    source_changes: int | None = None
    job_env_vars: dict[str, str] = field(default_factory=dict, repr=False)
    job_secrets: dict[str, str] = field(default_factory=dict, repr=False)
    job_env_file: str | None = None
    silence_timeout_seconds: int | None = None
    artifacts: tuple[str, ...] = ("**",)
    resources: JobResources = field(default_factory=JobResources)
    network: NetworkMode = "default"
    attempt: int = 0
    started_at: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    fault: str | None = None
    resolved_sha: str | None = None
    isolation: str | None = None
    image_digest: str | None = None
    limits: LimitsAnswer | None = None
    raw: JsonObject = field(default_factory=dict, repr=False)

    @property
    def secret_names(self) -> list[str]:
        """What has to be known anew, as nobody reads a secret back."""
        has_credential = self.git_url is not None and REDACTED in self.git_url
        return [*sorted(self.job_secrets), *([GIT_CREDENTIAL] if has_credential else [])]

    @property
    def ran_in_container(self) -> bool:
        """Whether it ran in its image."""
        return self.isolation in CONTAINERS

    @property
    def image(self) -> str:
        """Its image, by the digest that it had where that was recorded."""
        if self.image_digest is None:
            return self.runner_image
        repository = re.sub(r":[^/:]*$", "", self.runner_image.partition("@")[0])
        return f"{repository}@{self.image_digest}"


@dataclass(frozen=True)
class End:
    """How a job ended, as far as two ends can be compared."""

    label: str
    """Its exit code, or the reason where there is more to say."""
    is_exit_code: bool


def as_of_attempt(record: JobRecord, attempt: int) -> JobRecord:
    """Return the record of an earlier attempt, of which nobody could tell what it ran in."""
    return replace(
        record,
        attempt=attempt,
        status=JobStatus.FAILED,
        reason=Reason.WORKER_LOST,
        fault=Fault.INFRA,
        exit_code=None,
        isolation=None,
        image_digest=None,
        limits=None,
        resolved_sha=None,
    )


def end_of(status: str, reason: str | None, exit_code: int | None) -> End:
    """Return an end in the words that are compared."""
    if exit_code is not None and reason in _EXIT_CODE_SAYS_ALL:
        return End(str(exit_code), is_exit_code=True)
    return End(reason or status, is_exit_code=False)


def why_incomparable(record: JobRecord) -> str | None:
    """Return why there is no end to compare with; None: there is one."""
    if record.status not in FINAL:
        return f"it has not ended there: it is {record.status}"
    if record.reason == Reason.CANCELLED_USER:
        return "it was cancelled there"
    if record.started_at is None or record.attempt == 0:
        return "it never ran there"
    if record.fault == Fault.INFRA:
        return f"it did not end by itself there: {record.reason}"
    return None


def follow_isolation(record: JobRecord, here: HereOptions) -> HereOptions:
    """Return ``here`` with the executor that the job ran in, unless the person has chosen one."""
    if here.executor is not None or here.unsandboxed:
        return here
    if record.ran_in_container:
        return replace(here, executor="container")
    return replace(here, executor="process") if record.isolation == "bubblewrap" else here


def rebuild(
    record: JobRecord,
    secrets: Mapping[str, str],
    *,
    source_path: str | None = None,
    command: str | None = None,
) -> JobSpec:
    """Return the frozen job again, with the commit, image and limits that it had.

    Args:
        secrets: the values of all `secret_names`; an empty git credential is left out.
        source_path: where the copy source is here.
        command: run instead of the job's own.
    """
    values = dict(secrets)
    git_url = record.git_url
    if git_url is not None and REDACTED in git_url:
        git_url = _with_credential(git_url, values.pop(GIT_CREDENTIAL, ""))
    limits = record.limits
    resources = record.resources
    if limits is not None:
        resources = JobResources(cpu=limits.cpu, memory_mb=limits.memory_mb, pids=limits.pids)
    return JobSpec(
        name=record.name,
        source_type=record.source_type,
        job_command=record.job_command if command is None else command,
        code_dir=record.code_dir,
        job_dir=record.job_dir,
        runner_image=record.image,
        queue_name="",
        timeout_seconds=record.timeout_seconds if limits is None else limits.timeout_seconds,
        queue_timeout_seconds=0,
        git_url=git_url,
        git_ref=record.resolved_sha or record.git_ref if record.source_type == "git" else None,
        source_path=source_path,
        source_tree=record.source_tree,
        source_commit=record.source_commit,
        source_changes=record.source_changes,
        job_env_vars={
            name: value for name, value in record.job_env_vars.items() if name not in record.job_secrets
        },
        job_secrets=values,
        job_env_file=record.job_env_file,
        silence_timeout_seconds=record.silence_timeout_seconds,
        artifacts=record.artifacts,
        resources=resources,
        network="none" if "none" in (record.network, limits and limits.network) else "default",
    )


def describe_source(record: JobRecord, source_path: str | None) -> str:
    """Say what the job's files are."""
    match record.source_type:
        case "git":
            ref = record.resolved_sha or record.git_ref or "its default branch"
            return f"git {record.git_url} at {ref}"
        case "copy":
            return f"a copy of {source_path}"
        case "tree":
            commit = f" of commit {record.source_commit[:12]}" if record.source_commit else ""
            return f"the sent tree {(record.source_tree or '')[:12]}{commit}"
    return "none"


def foresee_differences(
    record: JobRecord, *, isolation_here: str, source_path: str | None, left_empty: list[str]
) -> list[str]:
    """Return what is known before the run to be otherwise than it was, a line each."""
    found = []
    if record.isolation not in (None, "none") and not _is_alike(record.isolation, isolation_here):
        found.append(f"isolation: it ran in {record.isolation}, here it runs in {isolation_here}")
    if record.isolation is None and record.started_at is not None:
        found.append("isolation: what it ran in was not recorded")
    if record.ran_in_container and record.image_digest is None:
        found.append(f"image: its digest was not recorded, and {record.runner_image} may be another one now")
    if record.source_type == "git" and record.resolved_sha is None:
        found.append("source: the commit was not recorded, and the ref may have moved on")
    if record.source_type == "copy":
        moved = f" is {source_path} here, and" if source_path != record.source_path else ""
        found.append(f"source: the directory{moved} may have changed since")
    if record.limits is None and record.started_at is not None:
        found.append("limits: what it really had was not recorded; this machine's defaults fill them up")
    if left_empty:
        found.append(f"secrets: left empty: {', '.join(left_empty)}")
    return found


def spell_limits(record: JobRecord) -> str:
    """Return the limits that it had, in words."""
    return "not recorded" if record.limits is None else describe_limits(record.limits)


def _is_alike(there: str | None, here: str) -> bool:
    return there == here or (there in CONTAINERS and here == "container")


def _with_credential(url: str, credential: str) -> str:
    """Put a credential back where it was redacted; without one, the URL names nobody."""
    from urllib.parse import quote

    if credential:
        return url.replace(REDACTED, quote(credential, safe=""), 1)
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest.partition("/")[0] else url
