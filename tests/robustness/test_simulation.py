"""C16: schedules of two coordinators and three workers in a bad world, by seed; see `simulation`.

`REACTORCIDE_LONG_TESTS=1` runs 10,000 seeds, `SIMULATION_SEEDS=FIRST-LAST` those that are asked for.
"""

import os
import re
from collections.abc import Iterator

import pytest

from robustness.simulation import Stage, tell_story

IS_LONG = os.environ.get("REACTORCIDE_LONG_TESTS") == "1"
SEEDS = os.environ.get("SIMULATION_SEEDS", "1-10000" if IS_LONG else "1-20")
TICKS = 120
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
BATCH = 10


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    stage = Stage(dsn)
    yield stage
    stage.close()


def _first_seeds() -> list[int]:
    first, _, last = SEEDS.partition("-")
    return list(range(int(first), int(last or first) + 1, BATCH))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", _first_seeds())
def test_every_schedule_keeps_what_was_promised_and_comes_to_an_end(stage: Stage, first: int) -> None:
    last = int(SEEDS.partition("-")[2] or first)

    for seed in range(first, min(first + BATCH, last + 1)):
        try:
            stage.run(seed, TICKS)
        except AssertionError as error:
            pytest.fail(tell_story(error), pytrace=False)


@pytest.mark.timeout(600)
def test_a_seed_is_a_schedule(stage: Stage) -> None:
    once = stage.run(7, TICKS)

    again = stage.run(7, TICKS)

    assert again.steps == once.steps
    assert _without_ids(again.trace) == _without_ids(once.trace)


def _without_ids(trace: dict[str, list[str]]) -> list[list[str]]:
    """Job ids are made by the wall clock; nothing else of a trace differs."""
    return sorted([_ID.sub("…", line) for line in lines] for lines in trace.values())
