"""The fixtures of the commands' tests; a module asks for them by `pytest_plugins`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli_shell import Keyboard, Person, keyboard_of

pytest_plugins = ["api_fixtures"]


@pytest.fixture
async def keys(person: Person, tmp_path: Path) -> AsyncIterator[Keyboard]:
    """An ordinary user's shell."""
    made = keyboard_of(person, tmp_path)
    yield made
    await made.leave()


@pytest.fixture
async def admin_keys(admin: Person, tmp_path: Path) -> AsyncIterator[Keyboard]:
    """An admin's shell."""
    made = keyboard_of(admin, tmp_path)
    yield made
    await made.leave()
