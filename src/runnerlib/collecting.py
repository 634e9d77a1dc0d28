"""When a run collects the artifacts of its job, and for how long."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from runnerlib.executors.port import Executor
from runnerlib.guardian import Guardian, Verdict
from runnerlib.spec import RunSpec
from runnerlib.workspace import ARTIFACTS, Workspace

COLLECT_SECONDS = 5.0
"""Collecting artifacts may go on for so long once the attempt has to end: less than a worker waits then."""


def collect_from(
    workspace: Workspace,
    spec: RunSpec,
    executor: Executor,
    guardian: Guardian,
    tell: Callable[[str], None],
    *,
    is_quiet: bool,
) -> int:
    """Bring what a job left as artifacts into the spool; return how many. The job has ended.

    Args:
        is_quiet: nothing of the job still holds its output open.
    """
    if not workspace.has_entries(ARTIFACTS):
        return 0
    from runnerlib.artifacts import CollectionTerms, collect_artifacts

    terms = CollectionTerms(
        globs=spec.artifacts,
        limit_bytes=spec.host.artifact_limit_bytes,
        owner=os.geteuid() if executor.owner is None else executor.owner[0],
        # What was never shut in may have left somebody behind who writes on.
        may_move=is_quiet and executor.isolation != "unsandboxed",
    )
    return collect_artifacts(
        # By its first path: from where a sandbox under another user reaches it, nothing can be moved.
        workspace.outer / "job",
        Path(spec.spool_dir),
        terms,
        tell=tell,
        should_stop=_Patience(guardian).is_over,
    )


class _Patience:
    """How long artifacts are collected: without haste, until the attempt has to end."""

    def __init__(self, guardian: Guardian) -> None:
        self._guardian = guardian
        self._end: float | None = None

    def is_over(self) -> bool:
        """Tell whether collecting has to stop now."""
        if not self._guardian.should_stop():
            return False
        if self._guardian.verdict in (Verdict.WORKER_DIED, Verdict.WORKER_SILENT, Verdict.ABANDONED):
            return True
        now = time.monotonic()
        if self._end is None:
            self._end = now + COLLECT_SECONDS
        return now >= self._end
