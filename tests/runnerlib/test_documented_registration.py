"""The lines in ``docs/secrets.md`` that register a secret do so, in a real sandbox."""

import re
from pathlib import Path

import pytest

from attempt_runs import Attempts

DOCUMENT = Path(__file__).parents[2] / "docs" / "secrets.md"
RECIPES = re.findall(r"<!-- ([a-z0-9 ]+) -->\n```[a-z]+\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
VALUE = 'l4te "quoted" \\ and/ünd\nsecond line\tof it'


def in_a_job(title: str, code: str) -> str:
    """Return the command of a job that runs it."""
    *_, program = title.split()
    if not Path("/usr/bin", program).exists():
        pytest.skip(f"the sandbox sees only the system's {program}")
    run = "/bin/sh -e ./script" if title.startswith("sh ") else f"/usr/bin/{program} script"
    return f"cat > script <<'END_OF_SCRIPT'\n{code}\nEND_OF_SCRIPT\n{run}"


@pytest.mark.parametrize(("title", "code"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_documented_way_registers_any_value(attempts: Attempts, title: str, code: str) -> None:
    command = f'{in_a_job(title, code)} && echo "$?: <$VALUE>"'

    done = attempts.run(command, environment={"VALUE": VALUE})

    assert "0: <[REDACTED]>\n" in done.output, done.output
    assert "second line" not in done.output


@pytest.mark.parametrize(("title", "code"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_documented_way_fails_if_it_is_refused(attempts: Attempts, title: str, code: str) -> None:
    # Six of them are too much for one job.
    long = "for n in 1 2 3 4 5 6; do VALUE=$VALUE$n; export VALUE;"

    done = attempts.run(
        f"{in_a_job(title, code)}; echo first $?; {long} {in_a_job(title, code).splitlines()[-1]}; done;"
        " echo last $?",
        environment={"VALUE": "x" * 120_000},
    )

    assert "first 0\n" in done.output
    assert "last 0\n" not in done.output
    assert "ERROR: all secrets of a job together" in done.output


def test_every_way_is_tried() -> None:
    assert [title for title, _ in RECIPES] == ["sh python3", "sh perl", "python3", "node"]
