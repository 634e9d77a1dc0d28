"""C8, C9 and C10 in a quick size, with short times; in full by `timings.py` or REACTORCIDE_LONG_TESTS=1."""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustness.cluster import remove_tree
from robustness.cluster_profile import FAST, TEST
from robustness.timings_run import HEADING, Figure, Size, measure

IS_LONG = os.environ.get("REACTORCIDE_LONG_TESTS") == "1"
BUSY_SECONDS = 0.0 if IS_LONG else 10.0
"""What a machine that does other things beside may add; the true limits are for the long size."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that accounts of other names can reach, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="timings-"))
    made.chmod(0o711)
    yield made
    remove_tree(made)


@pytest.mark.timeout(3600 if IS_LONG else 300)
async def test_losses_are_noticed_cancels_obeyed_and_timeouts_kept_in_time(folder: Path) -> None:
    quick = Size(kills=2, cancels=12, timeouts=6, workers=2, slots=3, timeout_seconds=(1, 3))
    size = Size(kills=100, cancels=300, timeouts=100) if IS_LONG else quick
    seed = int(os.environ.get("REACTORCIDE_TIMINGS_SEED", random.randrange(100_000)))

    figures = await measure(folder / "cluster", size, seed, profile=TEST if IS_LONG else FAST)

    table = "\n".join([f"seed {seed}", HEADING, *map(str, figures)])
    print(table)  # noqa: T201 - the figures of this run
    assert {figure.goal for figure in figures} == {"C8", "C9", "C10"}
    assert all(figure.holds(BUSY_SECONDS) for figure in figures), table


def test_a_limit_for_all_and_one_for_99_of_100_are_told_apart() -> None:
    seconds = [1.0] * 199 + [9.0]

    assert Figure("C8", "p99", 2, seconds, is_p99=True).holds()
    assert not Figure("C8", "all", 2, seconds).holds()
    assert not Figure("C10", "too early", 20, seconds, least=1.5).holds()
