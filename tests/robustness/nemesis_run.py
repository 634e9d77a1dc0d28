"""One run of the workload under the nemesis, from an empty cluster to the verdicts."""

import asyncio
import os
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from robustness.checkers import CHECKERS, Verdict
from robustness.cluster import Cluster, ClusterPlan
from robustness.history import History
from robustness.ledger import Ledger
from robustness.nemesis_faults import Nemesis, PlannedFault, make_schedule, shorten
from robustness.observer import Observer
from robustness.workload import Plan, make_plans
from robustness.workload_clients import Clients

LEFTOVER_SECONDS = 30.0
CALM_SECONDS = 1.0
"""Before the first fault."""


@dataclass(frozen=True)
class RunPlan:
    """What a run is to be; all of it follows from these."""

    seed: int
    jobs: int
    faults: int
    seconds: float
    """Over which jobs and faults are spread."""
    cluster: ClusterPlan
    longest_fault: float = float("inf")
    patience_seconds: float = 60.0
    """Beyond what a lost worker takes, and the backlog."""


@dataclass
class RunReport:
    """What came of a run."""

    seed: int
    machine: dict[str, object]
    size: dict[str, object]
    faults: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    unasked_ends: dict[str, list[int]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every goal was kept."""
        return all(verdict.holds for verdict in self.verdicts)

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "holds": self.holds}


async def run_nemesis(plan: RunPlan) -> RunReport:
    """Do a run. The cluster's directory is left for those who want to look at it."""
    report = RunReport(plan.seed, describe_machine(), _describe_size(plan))
    jobs = make_plans(plan.seed, plan.jobs, plan.seconds)
    history = History({job.key: job for job in jobs}, trace=None, profile=plan.cluster.profile)  # type: ignore[arg-type]
    history.coordinators = plan.cluster.coordinators
    began = time.monotonic()
    async with Ledger() as ledger:
        cluster = Cluster(plan.cluster)
        nemesis = Nemesis(cluster)
        try:
            await cluster.start()
            report.seconds["start"] = time.monotonic() - began
            await _disturb_and_heal(plan, jobs, cluster, nemesis, ledger, history, report)
        finally:
            codes = await cluster.stop()
        history.exit_codes = codes
    history.spans = nemesis.spans
    parts = (*cluster.coordinators, *cluster.workers)
    report.starts = {part.name: part.starts for part in parts}
    report.unasked_ends = {part.name: part.unasked_ends for part in parts if part.unasked_ends}
    report.faults = dict(sorted(Counter(_kind_of(span.fault) for span in nemesis.spans).items()))
    report.ends = dict(sorted(Counter(f"{job.status}/{job.reason}" for job in history.jobs).items()))
    report.verdicts = [check(history) for check in CHECKERS]
    report.verdicts.append(
        Verdict("N", "every fault done and undone", nemesis.failures, {"faults": len(nemesis.spans)})
    )
    report.seconds["all"] = time.monotonic() - began
    return report


async def _disturb_and_heal(
    plan: RunPlan,
    jobs: list[Plan],
    cluster: Cluster,
    nemesis: Nemesis,
    ledger: Ledger,
    history: History,
    report: RunReport,
) -> None:
    clients = Clients(cluster.urls, cluster.token, ledger.port)
    history.trace = clients.trace
    observer = Observer(cluster, ledger, jobs)
    watching = asyncio.create_task(observer.watch())
    try:
        began = time.monotonic()
        submitting = asyncio.create_task(clients.run(jobs))
        await asyncio.sleep(CALM_SECONDS)
        await nemesis.run(schedule_of(plan, cluster))
        report.seconds["faults"] = time.monotonic() - began
        await nemesis.heal()
        healed = time.monotonic()
        report.seconds["healing"] = healed - began - report.seconds["faults"]
        await submitting
        observer.is_healed = True
        history.unended = await _until_ended(plan, jobs, observer)
        report.seconds["until_ended"] = time.monotonic() - healed
        ended = time.monotonic()
        history.leftovers = await _until_clean(observer)
        report.seconds["until_clean"] = time.monotonic() - ended
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    if not watching.cancelled() and watching.exception() is not None:
        raise RuntimeError("the observer failed") from watching.exception()
    await observer.take_history(history)


def schedule_of(plan: RunPlan, cluster: Cluster) -> list[PlannedFault]:
    """Return the faults of a run; they depend on the seed and on what this host can do."""
    schedule = make_schedule(
        plan.seed,
        plan.faults,
        plan.seconds,
        profile=plan.cluster.profile,
        coordinators=plan.cluster.coordinators,
        workers=plan.cluster.workers,
        is_http=plan.cluster.is_http,
        has_disks=cluster.has_disks,
        has_corndogs=cluster.corndogs is not None,
        can_deny=cluster.coordinators[0].account.uid is not None or os.geteuid() != 0,
    )
    return shorten(schedule, plan.longest_fault)


async def _until_ended(plan: RunPlan, jobs: list[Plan], observer: Observer) -> list[str]:
    """Wait until every job has ended, for as long as that may take; return those that have not."""
    by_key = {job.key: job for job in jobs}
    left = await observer.unended()
    slots = plan.cluster.workers * plan.cluster.slots
    backlog = sum(1 + by_key[name].seconds for name in left) * 2 / slots
    end = time.monotonic() + plan.cluster.profile.stuck + plan.patience_seconds + backlog
    while left and time.monotonic() < end:
        await asyncio.sleep(0.5)
        left = await observer.unended()
    return left


async def _until_clean(observer: Observer) -> list[str]:
    end = time.monotonic() + LEFTOVER_SECONDS
    while (left := await observer.leftovers()) and time.monotonic() < end:
        await asyncio.sleep(0.5)
    return left


def describe_machine() -> dict[str, object]:
    """Return what a run was done on."""
    from reactorcide.store.postgres_programs import find_programs, find_runner

    return {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgresql": find_programs(None, find_runner()).major,
        "is_root": os.geteuid() == 0,
        "load": round(os.getloadavg()[0], 2),
    }


def _describe_size(plan: RunPlan) -> dict[str, object]:
    return {
        "jobs": plan.jobs,
        "faults": plan.faults,
        "seconds": plan.seconds,
        "profile": plan.cluster.profile.name,
        "workers": f"{plan.cluster.workers} {plan.cluster.worker_kind} x {plan.cluster.slots}",
        "coordinators": plan.cluster.coordinators,
    }


def _kind_of(fault: PlannedFault) -> str:
    part, _, link = fault.target.partition(":")
    return f"{part.rstrip('-0123456789')}{':' + link if link else ''} {fault.kind}"


def tell(report: RunReport) -> str:
    """Return a report as text."""
    lines = [f"seed {report.seed}  {report.size}", f"machine {report.machine}"]
    lines += [f"faults {report.faults}", f"ends {report.ends}"]
    lines += [f"seconds { {name: round(value, 1) for name, value in report.seconds.items()} }"]
    lines += [f"starts {report.starts}  ended by themselves {report.unasked_ends}"]
    for verdict in report.verdicts:
        lines.append(
            f"{'ok  ' if verdict.holds else 'FAIL'} {verdict.goal:3} {verdict.says}  {verdict.figures}"
        )
        lines += [f"       {violation}" for violation in verdict.violations[:20]]
        if len(verdict.violations) > 20:
            lines.append(f"       and {len(verdict.violations) - 20} more")
    return "\n".join(lines)


def make_run_plan(
    root: Path, seed: int, *, jobs: int, faults: int, seconds: float, cluster: dict[str, object]
) -> RunPlan:
    """Return the plan of a run whose cluster lives in a directory of the seed's own."""
    return RunPlan(seed, jobs, faults, seconds, ClusterPlan(root / f"seed-{seed}", **cluster))  # type: ignore[arg-type]
