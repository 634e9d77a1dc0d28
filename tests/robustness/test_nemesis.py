"""The workload under the nemesis in a quick size; a long one with REACTORCIDE_LONG_TESTS=1."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustness.cluster import ClusterPlan, can_speak_http, remove_tree
from robustness.cluster_profile import FAST, TEST
from robustness.nemesis_run import RunPlan, RunReport, run_nemesis, tell

IS_LONG = os.environ.get("REACTORCIDE_LONG_TESTS") == "1"
SEED = int(os.environ.get("REACTORCIDE_NEMESIS_SEED", "1"))
BY_THE_CLOCK = ("C9", "C11")
"""Goals that are numbers of seconds: for the long size, on a machine that does nothing else."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that accounts of other names can reach, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="nemesis-"))
    made.chmod(0o711)
    yield made
    remove_tree(made)


def a_run(folder: Path, *, has_corndogs: bool) -> RunPlan:
    kind = "http" if can_speak_http() else "direct"
    if IS_LONG:
        cluster = ClusterPlan(folder / "cluster", TEST, worker_kind=kind, has_corndogs=has_corndogs)
        return RunPlan(SEED, jobs=400, faults=50, seconds=180, cluster=cluster)
    cluster = ClusterPlan(
        folder / "cluster", FAST, coordinators=1, slots=4, worker_kind=kind, has_corndogs=has_corndogs
    )
    # On a machine with much else to do, claims that come to nothing cost more time.
    return RunPlan(
        SEED, jobs=60, faults=8, seconds=14, cluster=cluster, longest_fault=4, patience_seconds=150
    )


def broken(report: RunReport) -> list[str]:
    return [v.goal for v in report.verdicts if not v.holds and (IS_LONG or v.goal not in BY_THE_CLOCK)]


@pytest.mark.timeout(900 if IS_LONG else 400)
@pytest.mark.parametrize("queue", ["database", "corndogs"])
async def test_every_goal_is_kept_under_the_nemesis(folder: Path, queue: str) -> None:
    report = await run_nemesis(a_run(folder, has_corndogs=queue == "corndogs"))

    assert broken(report) == [], tell(report)
    assert sum(report.faults.values()) > 0
