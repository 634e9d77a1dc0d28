"""The spec that a runner is given: a frozen job, and what the host that runs it adds.

A worker and a laptop compose it here alike, so that a job is the same on both.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import msgspec

from reactorcide.domain.jobs import JobSpec
from reactorcide.domain.workers import Registration
from runnerlib.spec import HostPolicy, JobSource, Resources, RunSpec


@dataclass(frozen=True)
class HostTerms:
    """What this host adds to every attempt."""

    policy: HostPolicy
    work_dir: Path
    lost_after: timedelta
    uid_base: int | None = None
    """Host uid of the first slot's sandbox where the worker is root; None: the worker's own."""
    public_url: str | None = None

    def as_registered(self, registration: Registration) -> "HostTerms":
        """Return these terms with the times of the coordinator, and its address unless one is known."""
        grace = registration.cancel_grace_seconds
        return replace(
            self,
            policy=msgspec.structs.replace(self.policy, cancel_grace_seconds=grace),
            lost_after=timedelta(seconds=registration.lost_after_seconds),
            public_url=registration.public_url or self.public_url,
        )

    def policy_of_slot(self, slot: int) -> HostPolicy:
        """Return the policy for the job in a slot, whose sandbox has a host user of its own."""
        if self.uid_base is None:
            return self.policy
        return msgspec.structs.replace(self.policy, run_as_uid=self.uid_base + slot)


@dataclass(frozen=True)
class AttemptPlace:
    """Which attempt it is, and where on this host it happens."""

    job_id: str
    attempt: int
    spool_dir: Path
    work_dir: Path
    policy: HostPolicy
    job_url: str | None = None
    tree_dir: Path | None = None
    """Where the contents of the job's tree lie, if its source is one."""


def compose_run_spec(
    job: JobSpec,
    place: AttemptPlace,
    *,
    timeout_seconds: float,
    fence_seconds: float | None = None,
    fence_used_seconds: float = 0.0,
) -> RunSpec:
    """Return what a runner is given to run ``job``, secrets in the clear.

    Args:
        timeout_seconds: what is left of the job's time.
        fence_seconds: the sandbox is killed when nobody renewed for so long; None: nobody renews.
    """
    return RunSpec(
        job_id=place.job_id,
        job_name=job.name,
        attempt=place.attempt,
        command=job.job_command,
        source=JobSource(
            type=job.source_type,
            url=job.git_url,
            ref=job.git_ref,
            path=job.source_path if place.tree_dir is None else str(place.tree_dir),
            tree=job.source_tree,
            commit=job.source_commit,
            changes=job.source_changes,
        ),
        code_dir=job.code_dir,
        job_dir=job.job_dir,
        environment=job.job_env_vars,
        secrets=job.job_secrets,
        env_file=job.job_env_file,
        image=job.runner_image,
        job_url=place.job_url,
        timeout_seconds=timeout_seconds,
        silence_timeout_seconds=job.silence_timeout_seconds,
        fence_seconds=fence_seconds,
        fence_used_seconds=fence_used_seconds,
        network=job.network,
        resources=Resources(
            cpu=job.resources.cpu, memory_mb=job.resources.memory_mb, pids=job.resources.pids
        ),
        artifacts=job.artifacts,
        spool_dir=str(place.spool_dir),
        workspace_root=str(place.work_dir),
        host=place.policy,
    )
