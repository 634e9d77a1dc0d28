"""Every write that may fail, one after the other, for want of space and of a sound disk (C14).

    python tests/robustness/write_failures.py                a seeded sample
    python tests/robustness/write_failures.py --all          every point that the counting run found
    python tests/robustness/write_failures.py --point NAME   one of them, as the table names it

As `crash_points`, but the call at the point fails instead of the process dying: with ENOSPC, and so does
every write of that process to files for a second after it; and with EIO, once. A commit fails as that
of a database server whose disk is full.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash_points_series import Program

FAULTS = (("ENOSPC", 1.0), ("EIO", 0.0))
SAMPLE = 8

if __name__ == "__main__":
    sys.exit(Program("Fail every write of the product.", FAULTS, SAMPLE).run())
