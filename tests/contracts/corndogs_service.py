"""What every Corndogs does, as its clients see it; a service's test supplies the fixture ``service``.

Each test has queues of its own and leaves none behind, so that this may be run on a service of others.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from contracts.corndogs_steps import UNKNOWN, claim, end_all, states_of, submit
from contracts.corndogs_timeouts import CorndogsTimeoutsContract
from reactorcide.queue.corndogs.errors import UnknownOperation
from reactorcide.queue.corndogs.messages import CorndogsClient, NewTask, Override, Task, TaskUpdate


class CorndogsServiceContract(CorndogsTimeoutsContract):
    """The rules of tasks and states, and those of times with them."""

    @pytest.fixture
    async def queue(self, service: CorndogsClient) -> AsyncIterator[str]:
        name = f"contract-{uuid.uuid4()}"
        yield name
        await end_all(service, name)

    async def test_a_submitted_task_is_as_it_was_asked_for(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, priority=5, timeout=30)

        assert (task.queue, task.current_state, task.auto_target_state) == (queue, "ready", "busy")
        assert (task.timeout, task.priority) == (30, 5)
        assert task.submit_time == task.update_time
        assert await service.find_task(task.uuid, queue) == task

    @pytest.mark.parametrize(("seconds", "kept"), [(-1, 0), (-30, 0), (1, 1), (7 * 10**9, 7 * 10**9)])
    async def test_a_negative_timeout_is_kept_as_none(
        self, service: CorndogsClient, queue: str, seconds: int, kept: int
    ) -> None:
        assert (await submit(service, queue, timeout=seconds)).timeout == kept

    @pytest.mark.parametrize("priority", [2**31 - 1, -(2**31) + 1])
    async def test_priorities_of_32_bits_are_kept(
        self, service: CorndogsClient, queue: str, priority: int
    ) -> None:
        assert (await submit(service, queue, priority=priority)).priority == priority

    async def test_states_not_named_are_the_servers(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, state="", target="")

        assert task.auto_target_state == f"{task.current_state}-working"
        assert task.current_state
        claimed = (await claim(service, queue, state="")).task
        assert states_of(claimed) == (task.auto_target_state, task.current_state)

    async def test_the_same_task_twice_is_two_tasks(self, service: CorndogsClient, queue: str) -> None:
        first, second = await submit(service, queue), await submit(service, queue)

        assert first.uuid != second.uuid
        assert first.submit_time < second.submit_time
        assert (await service.count_states(queue)).states == {"ready": 2}

    async def test_a_claim_swaps_the_states_and_brings_the_payload(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await submit(service, queue, timeout=30)

        delivery = await claim(service, queue)

        claimed = delivery.task
        assert (claimed.uuid, delivery.payload) == (task.uuid, b"payload")
        assert (claimed.current_state, claimed.auto_target_state) == ("busy", "ready")
        assert claimed.timeout == 30
        assert claimed.update_time > task.update_time

    async def test_a_claim_of_the_other_state_swaps_them_back(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await submit(service, queue)
        await claim(service, queue)

        assert states_of((await claim(service, queue, "busy")).task) == ("ready", "busy")

    async def test_every_change_has_a_later_stamp_and_the_submission_keeps_its_own(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await submit(service, queue)

        changes = [
            (await claim(service, queue)).task,
            await service.update_task(TaskUpdate(task.uuid, queue, "busy", "ready", 0, 0)),
            await service.complete_task(task.uuid, queue, "busy"),
        ]

        stamps = [change.update_time for change in (task, *changes) if change]
        assert len(stamps) == 4
        assert stamps == sorted(set(stamps))
        assert {change.submit_time for change in changes if change} == {task.submit_time}

    @pytest.mark.parametrize(
        ("override", "states"),
        [
            (Override(current_state="mine"), ("mine", "ready")),
            (Override(auto_target_state="dead"), ("busy", "dead")),
        ],
    )
    async def test_a_claim_may_set_one_state_alone(
        self, service: CorndogsClient, queue: str, override: Override, states: tuple[str, str]
    ) -> None:
        await submit(service, queue)

        delivery = await service.claim_task([queue], "ready", override)

        assert delivery is not None
        assert states_of(delivery.task) == states

    async def test_a_claim_may_set_states_and_timeout(self, service: CorndogsClient, queue: str) -> None:
        await submit(service, queue)

        claimed = (
            await claim(service, queue, timeout=7, current_state="mine", auto_target_state="dead")
        ).task

        assert (claimed.current_state, claimed.auto_target_state, claimed.timeout) == ("mine", "dead", 7)

    @pytest.mark.parametrize(
        ("stored", "override", "kept"),
        [(30, 0, 30), (30, 7, 7), (30, -1, 0), (-1, 0, 0), (-1, 7, 7), (-1, -1, 0)],
    )
    async def test_a_claim_keeps_sets_or_removes_the_timeout(
        self, service: CorndogsClient, queue: str, stored: int, override: int, kept: int
    ) -> None:
        await submit(service, queue, timeout=stored)

        assert (await claim(service, queue, timeout=override)).task.timeout == kept

    async def test_nothing_is_claimed_where_nothing_lies(self, service: CorndogsClient, queue: str) -> None:
        await submit(service, queue)

        assert await service.claim_task([queue], "another-state") is None
        assert await service.claim_task([f"{queue}-other"], "ready") is None

    async def test_tasks_come_by_priority_then_by_age(self, service: CorndogsClient, queue: str) -> None:
        for priority in (0, 0, -1, 9):
            await submit(service, queue, payload=str(priority).encode(), priority=priority)

        order = [await claim(service, queue) for _ in range(4)]

        assert [delivery.payload for delivery in order] == [b"9", b"0", b"0", b"-1"]
        assert order[1].task.submit_time < order[2].task.submit_time

    async def test_a_changed_task_goes_to_the_back(self, service: CorndogsClient, queue: str) -> None:
        first, second = await submit(service, queue), await submit(service, queue)
        await service.update_task(TaskUpdate(first.uuid, queue, "ready", "busy", 0, 0))

        order = [(await claim(service, queue)).task.uuid for _ in range(2)]

        assert order == [second.uuid, first.uuid]

    async def test_a_task_that_leads_to_its_own_state_is_handed_out_again(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await submit(service, queue, target="ready")

        claimed = [(await claim(service, queue)).task for _ in range(3)]
        assert {again.uuid for again in claimed} == {task.uuid}
        assert {states_of(again) for again in claimed} == {("ready", "ready")}

    async def test_16_claimers_never_get_one_task_twice(self, service: CorndogsClient, queue: str) -> None:
        tasks = {(await submit(service, queue)).uuid for _ in range(100)}
        claimed: list[str] = []

        async def claim_all() -> None:
            while (delivery := await service.claim_task([queue], "ready")) is not None:
                claimed.append(delivery.task.uuid)

        await asyncio.gather(*(claim_all() for _ in range(16)))

        assert sorted(claimed) == sorted(tasks)

    async def test_of_several_queues_the_best_task_comes(self, service: CorndogsClient, queue: str) -> None:
        other = f"{queue}-other"
        if not await service.has_groups():
            with pytest.raises(UnknownOperation):
                await service.claim_task([queue, other], "ready")
            return
        await submit(service, queue, payload=b"normal")
        await submit(service, other, payload=b"urgent", priority=9)
        await submit(service, queue, payload=b"late")

        order = [await service.claim_task([queue, other, queue, f"{queue}-none"], "ready") for _ in range(4)]

        assert [delivery and delivery.payload for delivery in order] == [b"urgent", b"normal", b"late", None]

    async def test_an_update_writes_everything_anew(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, priority=5, timeout=30)

        changed = await service.update_task(TaskUpdate(task.uuid, queue, "later", "ready", 0, 0, b"new"))

        assert changed is not None
        assert (changed.current_state, changed.auto_target_state) == ("later", "ready")
        assert (changed.timeout, changed.priority) == (0, 0)
        assert (await claim(service, queue, "later")).payload == b"new"

    async def test_an_update_may_change_what_was_not_claimed_and_moves_no_task_to_another_queue(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await submit(service, queue)

        changed = await service.update_task(TaskUpdate(task.uuid, f"{queue}-other", "later", "ready", 0, 0))

        assert changed is not None
        assert changed.queue == queue
        assert await service.claim_task([queue], "ready") is None
        assert states_of((await claim(service, queue, "later")).task) == ("ready", "later")

    async def test_an_update_without_payload_keeps_it(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue)

        for _ in range(2):
            await service.update_task(TaskUpdate(task.uuid, queue, "ready", "busy", 0, 0))

        assert (await claim(service, queue)).payload == b"payload"

    async def test_states_an_update_does_not_name_are_the_servers(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await submit(service, queue)

        changed = await service.update_task(TaskUpdate(task.uuid, queue, "", "", 0, 0))

        assert changed is not None
        assert (changed.current_state, changed.auto_target_state) == ("updated", "updated-working")

    async def test_only_the_uuid_is_compared(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue)

        ended = await service.complete_task(task.uuid, f"{queue}-other", "no such state")

        assert ended is not None
        assert ended.queue == queue

    @pytest.mark.parametrize(("end", "state"), [("complete_task", "completed"), ("cancel_task", "canceled")])
    async def test_an_end_archives_a_task_and_is_told_once(
        self, service: CorndogsClient, queue: str, end: str, state: str
    ) -> None:
        task = await submit(service, queue, priority=5, timeout=30)

        ended = await getattr(service, end)(task.uuid, queue, "ready")

        assert (ended.current_state, ended.auto_target_state) == (state, state)
        assert (ended.timeout, ended.priority) == (0, 0)
        assert ended.update_time > task.update_time
        assert ended.queue == queue
        assert await service.find_task(task.uuid, queue) == ended
        assert await service.find_task(task.uuid, f"{queue}-other") == ended
        assert await service.complete_task(task.uuid, queue, "ready") is None
        assert await service.cancel_task(task.uuid, queue, "ready") is None
        assert await service.update_task(TaskUpdate(task.uuid, queue, "ready", "busy", 0, 0)) is None
        assert await service.claim_task([queue], "ready") is None
        assert (await service.count_states(queue)).count == 0

    async def test_of_concurrent_ends_one_gets_the_task(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue)

        ends = await asyncio.gather(
            *(service.complete_task(task.uuid, queue, "ready") for _ in range(8)), return_exceptions=True
        )

        assert sum(isinstance(end, Task) for end in ends) == 1

    async def test_an_unknown_task_is_none(self, service: CorndogsClient, queue: str) -> None:
        assert await service.find_task(UNKNOWN, queue) is None
        assert await service.complete_task(UNKNOWN, queue, "ready") is None
        assert await service.cancel_task(UNKNOWN, queue, "ready") is None
        assert await service.update_task(TaskUpdate(UNKNOWN, queue, "a", "b", 0, 0)) is None

    async def test_live_tasks_are_counted(self, service: CorndogsClient, queue: str) -> None:
        other = f"{queue}-other"
        for name in (queue, queue, other):
            await submit(service, name)
        await claim(service, queue)

        counted = await service.count_states(queue)
        by_queue, all_states = await service.count_by_queue(), await service.count_all_states()

        assert (counted.queue, counted.count, counted.states) == (queue, 2, {"ready": 1, "busy": 1})
        assert (by_queue[queue], by_queue[other]) == (2, 1)
        assert all_states[queue] == counted
        assert {queue, other} <= set(await service.list_queues())
        nothing = await service.count_states(f"{queue}-none")
        assert (nothing.count, nothing.states) == (0, {})

    async def test_ended_tasks_are_not_counted(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue)
        await service.cancel_task(task.uuid, queue, "ready")

        assert queue not in await service.list_queues()
        assert queue not in await service.count_by_queue()
        assert queue not in await service.count_all_states()

    async def test_bytes_of_any_kind_are_a_payload(self, service: CorndogsClient, queue: str) -> None:
        payload = bytes(range(256)) * 400

        await submit(service, queue, payload=payload)

        assert (await claim(service, queue)).payload == payload

    async def test_names_of_any_letters_are_kept(self, service: CorndogsClient, queue: str) -> None:
        name = f"{queue}-ü/☃ a"

        task = await submit(service, name, state="größe", target="zurück")

        assert (await service.find_task(task.uuid, name)) == task
        assert (await claim(service, name, "größe")).task.current_state == "zurück"

    @pytest.mark.parametrize(
        "task",
        [
            NewTask("", b""),
            NewTask("q\0z", b""),
            NewTask("q", b"", "a\0b"),
            NewTask("q", b"", "a", "b\0c"),
            NewTask("q", b"", priority=2**31),
            NewTask("q", b"", timeout=7 * 10**9 + 1),
        ],
    )
    async def test_what_some_server_would_take_otherwise_is_never_submitted(
        self, service: CorndogsClient, task: NewTask
    ) -> None:
        with pytest.raises(ValueError, match="must"):
            await service.submit_task(task)

    async def test_what_would_hit_the_tasks_of_others_is_never_sent(
        self, service: CorndogsClient, queue: str
    ) -> None:
        for refused in (
            service.find_task("", queue),
            service.complete_task("", queue, "ready"),
            service.cancel_task("", queue, "ready"),
            service.update_task(TaskUpdate("", queue, "ready", "busy", 0, 0)),
            service.update_task(TaskUpdate(UNKNOWN, queue, "ready", "busy", 0, 0, b"")),
            service.sweep("", 0),
            service.claim_task([], "ready"),
            service.claim_task([queue, ""], "ready"),
        ):
            with pytest.raises(ValueError, match=r"must|empty"):
                await refused
