"""C8, C9 and C10 as a command: how long until a loss is noticed, a cancel obeyed, a timeout kept.

python tests/robustness/timings.py --kills 100 --cancels 300 --timeouts 100

The exit code is 1 if a limit was broken. The limits are those of the profile (test: L 15, H 5, R 2, S 10,
G 5, LOST 30), and want a machine that does nothing else.
"""

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Measure what the command line asks for."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from robustness.cluster import remove_tree
    from robustness.cluster_profile import PROFILES
    from robustness.nemesis_run import describe_machine
    from robustness.timings_run import HEADING, Size, measure

    asked = _read_arguments(sorted(PROFILES))
    root = Path(tempfile.mkdtemp(prefix="timings-"))
    # Each host of the cluster has an account of its own.
    root.chmod(0o711)
    size = Size(asked.kills, asked.cancels, asked.timeouts, workers=asked.workers, slots=asked.slots)
    say(f"seed {asked.seed}  {size}  profile {PROFILES[asked.profile]}")
    say(f"machine {describe_machine()}")
    say(HEADING)
    # Who asks us to end shall not be left with a cluster.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures = asyncio.run(
            measure(root / "cluster", size, asked.seed, profile=PROFILES[asked.profile], tell=say)
        )
    finally:
        remove_tree(root)
    say(f"machine {describe_machine()}")
    return 0 if all(figure.holds() for figure in figures) else 1


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _read_arguments(profiles: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How long losses, cancels and timeouts take.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(100_000))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cancels", type=int, default=300)
    parser.add_argument("--timeouts", type=int, default=100)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--slots", type=int, default=3, help="of each worker")
    parser.add_argument("--profile", choices=profiles, default="test")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
