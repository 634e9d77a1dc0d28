"""What every Corndogs does, as its clients see it; a service's test supplies the fixture ``service``.

Each test has queues of its own, so that this may be run on a service that others use.
"""

import asyncio
import uuid

import pytest

from reactorcide.queue.corndogs.errors import UnknownOperation
from reactorcide.queue.corndogs.messages import (
    CorndogsClient,
    Delivery,
    NewTask,
    Override,
    Task,
    TaskUpdate,
)

SECOND = 10**9
UNKNOWN = "0b5e7a6e-38ad-4f8e-8f0c-1d2f7b9a4c55"


@pytest.fixture
def queue() -> str:
    return f"contract-{uuid.uuid4()}"


async def claim(service: CorndogsClient, queue: str, state: str = "ready", **override: object) -> Delivery:
    delivery = await service.claim_task([queue], state, Override(**override))  # type: ignore[arg-type]
    assert delivery is not None
    return delivery


class CorndogsServiceContract:
    """The rules of tasks, states and times."""

    async def submit(
        self,
        service: CorndogsClient,
        queue: str,
        *,
        payload: bytes = b"payload",
        state: str = "ready",
        target: str = "busy",
        timeout: int = -1,
        priority: int = 0,
    ) -> Task:
        return await service.submit_task(NewTask(queue, payload, state, target, timeout, priority))

    async def test_a_submitted_task_is_as_it_was_asked_for(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue, priority=5, timeout=30)

        assert (task.queue, task.current_state, task.auto_target_state) == (queue, "ready", "busy")
        assert (task.timeout, task.priority) == (30, 5)
        assert task.submit_time == task.update_time
        assert await service.find_task(task.uuid, queue) == task

    async def test_no_timeout_is_kept_as_0(self, service: CorndogsClient, queue: str) -> None:
        assert (await self.submit(service, queue, timeout=-1)).timeout == 0

    async def test_states_not_named_are_the_servers(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue, state="", target="")

        assert task.auto_target_state == f"{task.current_state}-working"
        assert task.current_state

    async def test_the_same_task_twice_is_two_tasks(self, service: CorndogsClient, queue: str) -> None:
        first, second = await self.submit(service, queue), await self.submit(service, queue)

        assert first.uuid != second.uuid
        assert first.submit_time < second.submit_time
        assert (await service.count_states(queue)).states == {"ready": 2}

    async def test_a_claim_swaps_the_states_and_brings_the_payload(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await self.submit(service, queue, timeout=30)

        delivery = await claim(service, queue)

        claimed = delivery.task
        assert (claimed.uuid, delivery.payload) == (task.uuid, b"payload")
        assert (claimed.current_state, claimed.auto_target_state) == ("busy", "ready")
        assert claimed.timeout == 30
        assert claimed.update_time > task.update_time

    async def test_a_claim_may_set_states_and_timeout(self, service: CorndogsClient, queue: str) -> None:
        await self.submit(service, queue)

        claimed = (
            await claim(service, queue, timeout=7, current_state="mine", auto_target_state="dead")
        ).task

        assert (claimed.current_state, claimed.auto_target_state, claimed.timeout) == ("mine", "dead", 7)

    async def test_a_negative_override_removes_the_timeout(self, service: CorndogsClient, queue: str) -> None:
        await self.submit(service, queue, timeout=30)

        assert (await claim(service, queue, timeout=-1)).task.timeout == 0

    async def test_nothing_is_claimed_where_nothing_lies(self, service: CorndogsClient, queue: str) -> None:
        await self.submit(service, queue)

        assert await service.claim_task([queue], "another-state") is None
        assert await service.claim_task([f"{queue}-other"], "ready") is None

    async def test_tasks_come_by_priority_then_by_age(self, service: CorndogsClient, queue: str) -> None:
        for priority in (0, 0, -1, 9):
            await self.submit(service, queue, payload=str(priority).encode(), priority=priority)

        order = [await claim(service, queue) for _ in range(4)]

        assert [delivery.payload for delivery in order] == [b"9", b"0", b"0", b"-1"]
        assert order[1].task.submit_time < order[2].task.submit_time

    async def test_a_changed_task_goes_to_the_back(self, service: CorndogsClient, queue: str) -> None:
        first, second = await self.submit(service, queue), await self.submit(service, queue)
        await service.update_task(TaskUpdate(first.uuid, queue, "ready", "busy", 0, 0))

        order = [(await claim(service, queue)).task.uuid for _ in range(2)]

        assert order == [second.uuid, first.uuid]

    async def test_a_task_that_leads_to_its_own_state_is_handed_out_again(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await self.submit(service, queue, target="ready")

        assert {(await claim(service, queue)).task.uuid for _ in range(3)} == {task.uuid}

    async def test_16_claimers_never_get_one_task_twice(self, service: CorndogsClient, queue: str) -> None:
        tasks = {(await self.submit(service, queue)).uuid for _ in range(100)}
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
        await self.submit(service, queue, payload=b"normal")
        await self.submit(service, other, payload=b"urgent", priority=9)
        await self.submit(service, queue, payload=b"late")

        order = [await service.claim_task([queue, other, queue], "ready") for _ in range(4)]

        assert [delivery and delivery.payload for delivery in order] == [b"urgent", b"normal", b"late", None]

    async def test_an_update_writes_everything_anew(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue, priority=5, timeout=30)

        changed = await service.update_task(TaskUpdate(task.uuid, queue, "later", "ready", 0, 0, b"new"))

        assert changed is not None
        assert (changed.current_state, changed.auto_target_state) == ("later", "ready")
        assert (changed.timeout, changed.priority) == (0, 0)
        assert (await claim(service, queue, "later")).payload == b"new"

    async def test_an_update_without_payload_keeps_it(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue)

        await service.update_task(TaskUpdate(task.uuid, queue, "ready", "busy", 0, 0))

        assert (await claim(service, queue)).payload == b"payload"

    async def test_states_an_update_does_not_name_are_the_servers(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await self.submit(service, queue)

        changed = await service.update_task(TaskUpdate(task.uuid, queue, "", "", 0, 0))

        assert changed is not None
        assert (changed.current_state, changed.auto_target_state) == ("updated", "updated-working")

    async def test_only_the_uuid_is_compared(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue)

        ended = await service.complete_task(task.uuid, f"{queue}-other", "no such state")

        assert ended is not None
        assert ended.queue == queue

    @pytest.mark.parametrize(("end", "state"), [("complete_task", "completed"), ("cancel_task", "canceled")])
    async def test_an_end_archives_a_task_and_is_told_once(
        self, service: CorndogsClient, queue: str, end: str, state: str
    ) -> None:
        task = await self.submit(service, queue, priority=5, timeout=30)

        ended = await getattr(service, end)(task.uuid, queue, "ready")

        assert (ended.current_state, ended.auto_target_state) == (state, state)
        assert (ended.timeout, ended.priority) == (0, 0)
        assert ended.update_time > task.update_time
        assert await service.find_task(task.uuid, queue) == ended
        assert await service.complete_task(task.uuid, queue, "ready") is None
        assert await service.cancel_task(task.uuid, queue, "ready") is None
        assert await service.update_task(TaskUpdate(task.uuid, queue, "ready", "busy", 0, 0)) is None
        assert await service.claim_task([queue], "ready") is None
        assert (await service.count_states(queue)).count == 0

    async def test_of_concurrent_ends_one_gets_the_task(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue)

        ends = await asyncio.gather(
            *(service.complete_task(task.uuid, queue, "ready") for _ in range(8)), return_exceptions=True
        )

        assert sum(isinstance(end, Task) for end in ends) == 1

    async def test_an_unknown_task_is_none(self, service: CorndogsClient, queue: str) -> None:
        assert await service.find_task(UNKNOWN, queue) is None
        assert await service.complete_task(UNKNOWN, queue, "ready") is None
        assert await service.cancel_task(UNKNOWN, queue, "ready") is None
        assert await service.update_task(TaskUpdate(UNKNOWN, queue, "a", "b", 0, 0)) is None

    async def test_a_sweep_swaps_back_what_is_late_by_a_nanosecond(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await self.submit(service, queue)
        claimed = (await claim(service, queue, timeout=10)).task
        deadline = claimed.update_time + 10 * SECOND

        swept = [await service.sweep(queue, deadline + late) for late in (-1, 0, 1, 2)]

        assert swept == [0, 0, 1, 0]
        found = await service.find_task(claimed.uuid, queue)
        assert found is not None
        assert (found.current_state, found.auto_target_state, found.timeout) == ("ready", "busy", 0)
        assert found.update_time > claimed.update_time

    async def test_a_sweep_swaps_unclaimed_tasks_too(self, service: CorndogsClient, queue: str) -> None:
        task = await self.submit(service, queue, timeout=10)

        swept = await service.sweep(queue, task.update_time + 11 * SECOND)

        assert swept == 1
        assert (await service.count_states(queue)).states == {"busy": 1}

    async def test_a_sweep_keeps_to_its_queue_and_to_what_has_a_timeout(
        self, service: CorndogsClient, queue: str
    ) -> None:
        other = f"{queue}-other"
        task = await self.submit(service, queue)
        await self.submit(service, other, timeout=10)

        swept = await service.sweep(queue, task.update_time + 1_000 * SECOND)

        assert swept == 0
        assert (await service.count_states(other)).states == {"ready": 1}

    async def test_a_late_one_may_still_end_the_task_of_another(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await self.submit(service, queue)
        first = (await claim(service, queue, timeout=10)).task
        await service.sweep(queue, first.update_time + 11 * SECOND)
        second = (await claim(service, queue)).task

        assert second.uuid == first.uuid
        assert await service.complete_task(first.uuid, queue, "busy") is not None

    async def test_live_tasks_are_counted(self, service: CorndogsClient, queue: str) -> None:
        other = f"{queue}-other"
        for name in (queue, queue, other):
            await self.submit(service, name)
        await claim(service, queue)

        counted = await service.count_states(queue)
        by_queue, all_states = await service.count_by_queue(), await service.count_all_states()

        assert (counted.queue, counted.count, counted.states) == (queue, 2, {"ready": 1, "busy": 1})
        assert (by_queue[queue], by_queue[other]) == (2, 1)
        assert all_states[queue] == counted
        assert {queue, other} <= set(await service.list_queues())
        assert (await service.count_states(f"{queue}-none")).count == 0

    async def test_bytes_of_any_kind_are_a_payload(self, service: CorndogsClient, queue: str) -> None:
        payload = bytes(range(256)) * 400

        await self.submit(service, queue, payload=payload)

        assert (await claim(service, queue)).payload == payload

    async def test_names_of_any_letters_are_kept(self, service: CorndogsClient, queue: str) -> None:
        name = f"{queue}-ü/☃ a"

        task = await self.submit(service, name, state="größe", target="zurück")

        assert (await service.find_task(task.uuid, name)) == task
        assert (await claim(service, name, "größe")).task.current_state == "zurück"
