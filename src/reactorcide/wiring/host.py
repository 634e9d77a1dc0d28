"""What the settings let jobs be and do: the same for a coordinator, a worker and a laptop."""

import os
from typing import Literal, cast

from reactorcide.config import Settings
from reactorcide.domain.submission import SubmissionPolicy
from reactorcide.worker.run_spec import HostTerms
from runnerlib.spec import HostPolicy, Resources


def submission_policy(settings: Settings) -> SubmissionPolicy:
    """Return the defaults and allowances for jobs that are submitted."""
    return SubmissionPolicy(
        default_queue_name=settings.default_queue_name,
        default_timeout_seconds=settings.default_timeout,
        default_runner_image=settings.default_runner_image,
        git_allowed_protocols=settings.git_allowed_protocols,
        git_allowed_hosts=settings.git_allowed_hosts,
        copy_source_roots=settings.copy_source_roots,
    )


def host_terms(settings: Settings, url: str | None = None) -> HostTerms:
    """Return what this host adds to every attempt; ``url`` is where the API is found."""
    policy = HostPolicy(
        executor=cast(Literal["auto", "process", "container"], settings.executor),
        unsandboxed=settings.unsandboxed,
        require_isolation=settings.require_isolation,
        container_engine=settings.container_engine,
        container_user=settings.container_user,
        container_allow_root=settings.container_allow_root,
        container_pull=cast(Literal["missing", "always", "never"], settings.container_pull),
        container_pull_seconds=settings.container_pull_seconds.total_seconds(),
        container_network=settings.container_network,
        container_read_only=settings.container_read_only,
        read_only_paths=settings.sandbox_paths,
        plugin_dir=None if settings.plugin_dir is None else str(settings.plugin_dir),
        default_resources=Resources(memory_mb=settings.job_memory_mb, pids=settings.job_pids),
        workspace_limit_bytes=settings.job_disk_bytes,
        log_limit_bytes=settings.log_limit_bytes,
        artifact_limit_bytes=settings.artifact_limit_bytes,
        copy_source_roots=settings.copy_source_roots,
        git_allowed_protocols=settings.git_allowed_protocols,
        git_allowed_hosts=settings.git_allowed_hosts,
        cancel_grace_seconds=settings.cancel_grace.total_seconds(),
    )
    return HostTerms(
        policy=policy,
        work_dir=settings.work_dir or settings.data_dir / "work",
        lost_after=settings.lost_after,
        uid_base=settings.sandbox_uid_base if os.geteuid() == 0 else None,
        public_url=url,
    )
