"""The fixtures of tests of what is kept; a module asks for them by `pytest_plugins`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kept_things import Shelf, make_shelf, make_store

from fixture_types import MakeUser
from reactorcide.store.database import Database


@pytest.fixture(params=["memory", "filesystem"])
async def shelf(
    request: pytest.FixtureRequest, database: Database, make_user: MakeUser, tmp_path: Path
) -> AsyncIterator[Shelf]:
    """A shelf on each store that keeps objects by itself."""
    made = await make_shelf(database, make_user, make_store(request.param, tmp_path / "objects"))
    yield made
    await made.close()
