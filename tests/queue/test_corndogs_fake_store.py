"""The store of the tests' Corndogs against a plain list of tasks that is searched from end to end."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.corndogs_store import CorndogsStore, StoredTask

QUEUES, STATES = ("a", "b"), ("ready", "busy", "later")
TURN = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(QUEUES),
        st.sampled_from(STATES),
        st.sampled_from(STATES),
        st.integers(-2, 2),
    ),
    st.tuples(
        st.just("claim"),
        st.lists(st.sampled_from(QUEUES), max_size=3),
        st.sampled_from(STATES),
        st.integers(-1, 2),
    ),
    st.tuples(
        st.just("update"), st.integers(0), st.sampled_from(STATES), st.integers(-1, 2), st.integers(-2, 2)
    ),
    st.tuples(st.sampled_from(["complete", "cancel"]), st.integers(0)),
    st.tuples(st.just("sweep"), st.sampled_from(["", *QUEUES]), st.integers(0, 4)),
)


def play(store: CorndogsStore, turn: tuple[Any, ...]) -> StoredTask | None:
    """Take a turn; a task is named by a number, counted round among those there are."""
    live = list(store.live)
    match turn:
        case ("submit", queue, state, target, priority):
            return store.submit(queue, state, target, 1, b"", priority)
        case ("claim", queues, state, timeout):
            return store.claim(queues, state, timeout, "", "")
        case ("update", number, state, timeout, priority) if live:
            return store.update(live[number % len(live)], state, "ready", timeout, priority, None)
        case ("complete" | "cancel" as end, number) if live:
            return (
                store.complete(live[number % len(live)])
                if end == "complete"
                else store.cancel(live[number % len(live)])
            )
        case ("sweep", queue, seconds):
            store.sweep(seconds * 10**9, queue)
    return None


@settings(max_examples=200, deadline=None)
@given(st.lists(TURN, max_size=60))
def test_claims_are_those_of_a_search_through_all_tasks(turns: list[tuple[Any, ...]]) -> None:
    store = CorndogsStore(clock=lambda: 0)
    for turn in turns:
        before = dict(store.live)

        played = play(store, turn)

        if turn[0] == "claim":
            wanted = [
                task
                for task in before.values()
                if task.queue in (turn[1] or ["default"]) and task.current_state == turn[2]
            ]
            best = min(wanted, key=lambda task: (-task.priority, task.update_time), default=None)
            assert (played and played.uuid) == (best and best.uuid)
        counted = Counter((task.queue, task.current_state) for task in store.live.values())
        assert counted == {
            (queue, state): count
            for queue, states in store.count_all_states().items()
            for state, count in states.items()
        }


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_stamps_rise_though_the_clock_stands_still_or_goes_back(times: list[int]) -> None:
    clock = iter(times)
    store = CorndogsStore(clock=lambda: next(clock))

    stamps = [store.submit("a", "ready", "busy", -1, b"", 0).update_time for _ in times]

    assert stamps == sorted(set(stamps))
    assert all(stamp >= time for stamp, time in zip(stamps, times, strict=True))


def test_a_task_that_passes_thousands_of_times_leaves_little_behind() -> None:
    store = CorndogsStore()
    for state, priority in (("ready", -1), ("busy", 0), ("ready", 0)):
        store.submit("a", state, "busy", -1, b"", priority)
    for _ in range(20_000):
        task = store.claim(["a"], "ready", 0, "", "")
        assert task is not None
        store.update(task.uuid, "ready", "busy", 0, 0, None)

    assert sum(map(len, store._ready.values())) < 500
