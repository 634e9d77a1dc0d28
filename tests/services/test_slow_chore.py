"""A chore that takes long: one at a time, waited for a moment only, its end told by a later call."""

import asyncio

import pytest

from reactorcide.domain.errors import Unavailable
from reactorcide.services.slow_chore import SlowChore


class Work:
    """Work that waits to be let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.begun += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error


async def test_what_takes_long_is_begun_once_and_not_waited_for() -> None:
    work = Work()
    chore = SlowChore(work)

    await chore()
    await chore()
    begun = work.begun
    work.go_on.set()
    await chore()
    await chore()

    assert begun == 1
    assert work.begun == 2
    await chore.close()


async def test_what_went_wrong_is_told_once_by_a_later_call() -> None:
    work = Work()
    work.error = Unavailable("database")
    chore = SlowChore(work)
    await chore()
    work.go_on.set()

    with pytest.raises(Unavailable):
        await chore()
    work.error = None
    await chore()

    assert work.begun == 2


async def test_closing_breaks_it_off() -> None:
    work = Work()
    chore = SlowChore(work)
    await chore()

    await asyncio.wait_for(chore.close(), 10)

    assert work.begun == 1


async def test_its_name_is_that_of_its_work() -> None:
    assert SlowChore(Work().go_on.wait).__qualname__ == "Event.wait"
