"""Every point at which a process may die, one after the other (C13).

    python tests/robustness/crash_points.py                a seeded sample
    python tests/robustness/crash_points.py --all          every point that the counting run found
    python tests/robustness/crash_points.py --remote --all the same with a worker that works over HTTP
    python tests/robustness/crash_points.py --point NAME   one of them, as the table names it

The counting run plays the history without a fault and lists the points it passed; then the history is
played once for each, with `kill -9` at just that point. See `crash_points_case` for the history and for
what must hold, `crash_points_hooks` for what is a point.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash_points_series import Program

FAULTS = (("kill", 0.0),)
SAMPLE = 14

if __name__ == "__main__":
    sys.exit(Program("Crash the product at every point.", FAULTS, SAMPLE).run())
