"""The workload under the nemesis, as a command; see the README beside it.

python tests/robustness/nemesis.py --seed 1 --jobs 2000 --faults 200 --minutes 12
"""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Do the runs that the command line asks for; 0: every goal was kept in each."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from robustness.cluster import can_speak_http, remove_tree
    from robustness.cluster_profile import PROFILES
    from robustness.nemesis_run import make_run_plan, run_nemesis, tell

    asked = _read_arguments("http" if can_speak_http() else "direct", sorted(PROFILES))
    root = Path(asked.directory or tempfile.mkdtemp(prefix="nemesis-"))
    cluster = {
        "profile": PROFILES[asked.profile],
        "coordinators": asked.coordinators,
        "workers": asked.workers,
        "slots": asked.slots,
        "worker_kind": asked.worker_kind,
    }
    failed = 0
    for seed in range(asked.seed, asked.seed + asked.seeds):
        seconds = asked.minutes * 60
        plan = make_run_plan(
            root, seed, jobs=asked.jobs, faults=asked.faults, seconds=seconds, cluster=cluster
        )
        say(f"seed {seed} in {plan.cluster.root}")
        remove_tree(plan.cluster.root)
        report = asyncio.run(run_nemesis(plan))
        say(tell(report))
        path = Path(asked.report.format(seed=seed)) if asked.report else root / f"seed-{seed}.json"
        path.write_text(json.dumps(report.as_json(), indent=1, default=str))
        say(f"report {path}")
        failed += not report.holds
        if report.holds and not asked.keep:
            remove_tree(plan.cluster.root)
    return 1 if failed else 0


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _read_arguments(worker_kind: str, profiles: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The workload under the nemesis.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(100_000), help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="so many runs, each with the next seed")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=12, help="over which jobs and faults are spread")
    parser.add_argument("--profile", choices=profiles, default="test")
    parser.add_argument("--worker-kind", choices=("http", "direct"), default=worker_kind)
    parser.add_argument("--coordinators", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--slots", type=int, default=6, help="of each worker")
    parser.add_argument("--directory", help="where clusters live (default: a new temporary one)")
    parser.add_argument("--report", help="file of the report; {seed} stands for the seed")
    parser.add_argument("--keep", action="store_true", help="keep the cluster's files after a good run too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
