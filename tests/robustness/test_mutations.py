"""C19: the seeded bugs still fit the code, and the tests that are to catch them are there.

All of them are tried with REACTORCIDE_LONG_TESTS=1 or by `mutations.py`; here only a few are.
"""

import os
from pathlib import Path

import pytest
from mutations_borders import BORDERS
from mutations_state import STATE
from mutations_trial import Mutation, Workshop, check_all, is_test
from mutations_workers import WORKERS

EVERY = {mutation.name: mutation for mutation in (*STATE, *WORKERS, *BORDERS)}
IS_LONG = os.environ.get("REACTORCIDE_LONG_TESTS") == "1"
CHEAP = ("masking_holds_nothing_back", "runner_result_is_not_synced", "store_follows_links_to_files")
TRIED = list(EVERY) if IS_LONG else CHEAP
LIMIT_SECONDS = 400.0


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("mutations"))
    made.furnish()
    return made


def test_c19_every_mutation_still_fits_the_code_and_its_tests_are_there() -> None:
    assert check_all((*STATE, *WORKERS, *BORDERS)) == []
    assert len(EVERY) >= 15


@pytest.mark.timeout(20 * LIMIT_SECONDS if IS_LONG else LIMIT_SECONDS)
def test_c19_without_a_mutation_the_tests_are_green(workshop: Workshop) -> None:
    tests = sorted({test for name in TRIED for test in EVERY[name].tests})

    trial = workshop.try_out(tests, limit_seconds=20 * LIMIT_SECONDS, stops=False)

    assert trial.exit_code == 0, trial.output[-6000:]


@pytest.mark.timeout(LIMIT_SECONDS + 60)
@pytest.mark.parametrize("name", TRIED)
def test_c19_a_mutation_is_caught(workshop: Workshop, name: str) -> None:
    mutation = EVERY[name]

    trial = workshop.try_out(mutation.tests, mutation, limit_seconds=LIMIT_SECONDS, stops=True)

    assert trial.is_red, f"{mutation.breaks}: nobody noticed\n{trial.output[-3000:]}"


@pytest.mark.parametrize(
    ("text", "bug", "told"),
    [
        ("other = 1\n", "answer = 41", "stands 0 times"),
        ("answer = 42\nanswer = 42\n", "answer = 41", "stands 2 times"),
        ("answer = 42\n", "answer = (", "cannot be read"),
        ("answer = 42\n", "answer = 41", "no such test"),
    ],
)
def test_a_mutation_that_does_not_fit_any_more_is_told(
    tmp_path: Path, text: str, bug: str, told: str
) -> None:
    mutation = Mutation("wrong_answer", "", "module.py", "answer = 42", bug, ("test_x.py",))
    (tmp_path / "src").mkdir()
    (tmp_path / "src/module.py").write_text(text)

    assert told in (mutation.find_fault(tmp_path) or "")


@pytest.mark.parametrize(
    ("node", "is_there"),
    [
        ("test_x.py", True),
        ("test_x.py::test_one", True),
        ("test_x.py::test_one[case]", True),
        ("test_x.py::test_inner", False),
        ("test_x.py::TestIt::test_inner", True),
        ("test_x.py::TestThat::test_inner", False),
        ("test_y.py", False),
    ],
)
def test_a_test_is_known_by_its_node_id(tmp_path: Path, node: str, is_there: bool) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_x.py").write_text(
        "async def test_one() -> None: ...\nclass TestIt:\n    def test_inner(self) -> None: ...\n"
    )

    assert is_test(node, tmp_path) is is_there
