"""C14: a disk that is full or broken for a moment costs no acknowledgement, and no process.

Every point is tried with REACTORCIDE_LONG_TESTS=1 or by `write_failures.py --all`.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_points_series import SEED, combine, is_long, open_series, print_summary, print_verdict, sample
from write_failures import FAULTS

QUICK = 7


@pytest.mark.timeout(7200 if is_long() else 300)
async def test_c14_whatever_write_fails_nothing_acknowledged_is_lost_and_work_goes_on_after(
    make_database: Callable[[], str], tmp_path: Path
) -> None:
    seed = int(os.environ.get(SEED, random.randrange(2**32)))
    async with open_series(tmp_path, make_database, is_remote=False) as series:
        points = await series.count_points(fault="ENOSPC")
        chosen = points if is_long() else sample(points, QUICK, seed)
        print(f"seed {seed}, {len(chosen)} of {len(points)} points")  # noqa: T201 - to try it again

        verdicts = await series.try_points(combine(chosen, FAULTS), print_verdict)

    print_summary(verdicts)
    assert not [verdict for verdict in verdicts if verdict.trouble]
    assert sum(verdict.was_reached for verdict in verdicts) >= 0.9 * len(verdicts)
