"""Attempts of a test, ended with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from attempt_runs import Attempts


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    """Starts attempts; what still runs at the end is killed."""
    made = Attempts(tmp_path)
    yield made
    made.close()
