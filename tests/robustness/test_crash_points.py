"""C13: a process that dies at any commit, sync, rename or send costs no job its truth.

Every point is tried with REACTORCIDE_LONG_TESTS=1 or by `crash_points.py --all`.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_points_series import SEED, is_long, open_series, print_summary, print_verdict, sample

QUICK = 7


@pytest.mark.parametrize("is_remote", [False, True], ids=["direct", "http"])
@pytest.mark.timeout(7200 if is_long() else 300)
async def test_c13_wherever_a_process_dies_every_job_is_told_once_truly_and_to_its_end(
    make_database: Callable[[], str], tmp_path: Path, is_remote: bool
) -> None:
    seed = int(os.environ.get(SEED, random.randrange(2**32)))
    async with open_series(tmp_path, make_database, is_remote=is_remote) as series:
        points = await series.count_points()
        chosen = points if is_long() else sample(points, QUICK, seed)
        print(f"seed {seed}, {len(chosen)} of {len(points)} points")  # noqa: T201 - to try it again

        verdicts = await series.try_points([(point, "kill", 0.0) for point in chosen], print_verdict)

    print_summary(verdicts)
    paths = {point.split("[")[1].split("]")[0] for point in points}
    assert {"submit", "cancel", "claim", "start", "append", "finish", "seal", "reap", "answer"} <= paths
    assert not [verdict for verdict in verdicts if verdict.trouble]
    # Which passings there are is a matter of timing; most must be there again.
    assert sum(verdict.was_reached for verdict in verdicts) >= 0.9 * len(verdicts)
