"""C15: the state machine under any order of calls, against a model of it; see `state_machine_rules`.

`JOB_MODEL_EXAMPLES` sets the number of examples; `REACTORCIDE_LONG_TESTS=1` makes it 2,000 of 50 steps.
A failing example is printed with its calls and replays with `--hypothesis-seed`.
"""

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from reactorcide.store.database import Database
from robustness.simulation_clock import SimulatedClock
from robustness.state_machine_rules import JobMachine

IS_LONG = os.environ.get("REACTORCIDE_LONG_TESTS") == "1"
EXAMPLES = int(os.environ.get("JOB_MODEL_EXAMPLES", "2000" if IS_LONG else "25"))
STEPS = 50
SECONDS = 14_400 if IS_LONG or "JOB_MODEL_EXAMPLES" in os.environ else 300


@pytest.fixture
def clock(dsn: str) -> Iterator[SimulatedClock]:
    clock = SimulatedClock(dsn)
    yield clock
    clock.close()


@pytest.mark.timeout(SECONDS)
def test_no_order_of_calls_breaks_a_law_or_surprises_the_model(dsn: str, clock: SimulatedClock) -> None:
    with asyncio.Runner(loop_factory=clock.make_loop) as runner:
        database = runner.run(Database.open(dsn, size=2))
        try:
            run_state_machine_as_test(
                lambda: JobMachine(runner, database, clock),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
