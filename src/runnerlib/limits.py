"""What a job may use: what it asked for, or else what is usual on this host."""

import math

from runnerlib.executors.port import Limits
from runnerlib.spec import EffectiveLimits, RunSpec


def find_limits(spec: RunSpec) -> EffectiveLimits:
    """Return the limits that the job runs under."""
    asked, usual = spec.resources, spec.host.default_resources
    return EffectiveLimits(
        memory_mb=usual.memory_mb if asked.memory_mb is None else asked.memory_mb,
        cpu=usual.cpu if asked.cpu is None else asked.cpu,
        pids=usual.pids if asked.pids is None else asked.pids,
        timeout_seconds=math.ceil(spec.timeout_seconds),
        network=spec.network,
    )


def limits_for_executor(spec: RunSpec, found: EffectiveLimits) -> Limits:
    """Return the limits of a command, with those of the host that no job can change."""
    return Limits(
        memory_bytes=None if found.memory_mb is None else found.memory_mb * 1024**2,
        pids=found.pids,
        cpu=found.cpu,
        open_files=spec.host.open_files,
        file_bytes=spec.host.workspace_limit_bytes,
    )
