"""Calls of an object store in threads of their own."""

import asyncio
import contextvars
import threading

import pytest

from reactorcide.objects.port import ObjectNotFound, StoreUnavailable
from reactorcide.objects.threads import StoreThreads

SHOWN = contextvars.ContextVar("shown", default="nothing")


async def test_a_call_gives_what_it_returns_raises_and_sees() -> None:
    threads = StoreThreads()

    def missing() -> None:
        raise ObjectNotFound("a")

    SHOWN.set("the caller's")

    assert await threads.run(divmod, 7, 2) == (3, 1)
    assert await threads.run(SHOWN.get) == "the caller's"
    with pytest.raises(ObjectNotFound):
        await threads.run(missing)
    await threads.close()


async def test_a_call_that_no_thread_begins_in_time_is_refused_and_never_made() -> None:
    threads, go_on, made = StoreThreads(at_once=1, longest_wait_seconds=0.2), threading.Event(), []
    stuck = asyncio.create_task(threads.run(go_on.wait, 30))
    await asyncio.sleep(0)

    with pytest.raises(StoreUnavailable):
        await threads.run(made.append, "late")
    go_on.set()
    await stuck

    await threads.run(made.append, "in time")
    assert made == ["in time"]
    await threads.close()


async def test_too_many_calls_are_refused_at_once_and_others_go_on_when_there_is_room() -> None:
    threads = StoreThreads(at_once=2, most_waiting=3, longest_wait_seconds=30)
    go_on = threading.Event()
    held = [asyncio.create_task(threads.run(go_on.wait, 30)) for _ in range(5)]
    await asyncio.sleep(0)

    with pytest.raises(StoreUnavailable):
        await threads.run(go_on.wait, 30)
    go_on.set()

    assert await asyncio.gather(*held) == [True] * 5
    assert await threads.run(go_on.wait, 30)
    await threads.close()


async def test_a_caller_who_gives_up_does_not_free_a_thread_that_is_still_held() -> None:
    threads, begun, go_on = StoreThreads(at_once=1, most_waiting=0), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(30)

    caller = asyncio.create_task(threads.run(hang))
    assert await asyncio.to_thread(begun.wait, 30)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    with pytest.raises(StoreUnavailable):
        await threads.run(len, "")
    go_on.set()
    await threads.close()


async def test_a_hanging_store_leaves_the_other_threads_of_the_program_alone() -> None:
    threads, go_on = StoreThreads(longest_wait_seconds=30), threading.Event()
    held = [asyncio.create_task(threads.run(go_on.wait, 30)) for _ in range(60)]
    await asyncio.sleep(0)

    assert await asyncio.wait_for(asyncio.to_thread(len, "abc"), 10) == 3

    go_on.set()
    await asyncio.gather(*held)
    await threads.close()


async def test_after_closing_nothing_is_begun() -> None:
    threads = StoreThreads()
    await threads.close()

    with pytest.raises(StoreUnavailable):
        await threads.run(len, "")
