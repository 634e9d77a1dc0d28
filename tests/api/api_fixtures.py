"""The fixtures of the API's tests; a module asks for them by `pytest_plugins`."""

from collections.abc import AsyncIterator

import pytest
from api_people import Api, Person, running_api

from fixture_types import MakeUser
from reactorcide.domain.accounts import Role
from reactorcide.store.database import Database


@pytest.fixture
async def api(database: Database, make_user: MakeUser) -> AsyncIterator[Api]:
    """The API with its defaults."""
    async with running_api(database, make_user) as made:
        yield made


@pytest.fixture
async def person(api: Api) -> Person:
    """An ordinary user."""
    return await api.person()


@pytest.fixture
async def admin(api: Api) -> Person:
    """An admin."""
    return await api.person(Role.ADMIN)
