"""What every Corndogs does with times: who sweeps names the time, so nothing here waits for a clock."""

import pytest

from contracts.corndogs_steps import SECOND, claim, states_of, submit
from reactorcide.queue.corndogs.messages import CorndogsClient, TaskUpdate


class CorndogsTimeoutsContract:
    """The rules of timeouts and sweeps, and what can be built from them."""

    async def test_a_sweep_swaps_back_what_is_late_by_a_nanosecond(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await submit(service, queue)
        claimed = (await claim(service, queue, timeout=10)).task
        deadline = claimed.update_time + 10 * SECOND

        swept = [await service.sweep(queue, deadline + late) for late in (-1, 0, 1, 2)]

        assert swept == [0, 0, 1, 0]
        found = await service.find_task(claimed.uuid, queue)
        assert found is not None
        assert states_of(found) == ("ready", "busy")
        assert found.timeout == 0
        assert found.update_time > claimed.update_time

    async def test_a_sweep_tells_how_many_were_late(self, service: CorndogsClient, queue: str) -> None:
        for seconds in (10, 20, 30):
            task = await submit(service, queue, timeout=seconds)

        assert await service.sweep(queue, task.update_time + 25 * SECOND) == 2
        assert (await service.count_states(queue)).states == {"ready": 1, "busy": 2}

    async def test_a_sweep_swaps_unclaimed_tasks_too(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, timeout=10)

        swept = await service.sweep(queue, task.update_time + 11 * SECOND)

        assert swept == 1
        assert states_of(await service.find_task(task.uuid, queue)) == ("busy", "ready")

    async def test_a_sweep_keeps_to_its_queue_and_to_what_has_a_timeout(
        self, service: CorndogsClient, queue: str
    ) -> None:
        other = f"{queue}-other"
        task = await submit(service, queue)
        await submit(service, other, timeout=10)

        swept = await service.sweep(queue, task.update_time + 1_000 * SECOND)

        assert swept == 0
        assert (await service.count_states(other)).states == {"ready": 1}

    async def test_a_time_in_seconds_sweeps_nothing(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, timeout=1)

        assert await service.sweep(queue, task.update_time // SECOND + 3_600) == 0

    async def test_an_ended_task_is_not_swept(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, timeout=10)
        await service.complete_task(task.uuid, queue, "ready")

        assert await service.sweep(queue, task.update_time + 1_000 * SECOND) == 0

    async def test_a_swept_task_goes_to_the_back(self, service: CorndogsClient, queue: str) -> None:
        first = await submit(service, queue)
        claimed = (await claim(service, queue, timeout=10)).task
        second = await submit(service, queue)
        await service.sweep(queue, claimed.update_time + 11 * SECOND)

        order = [(await claim(service, queue)).task.uuid for _ in range(2)]

        assert order == [second.uuid, first.uuid]

    async def test_a_swept_task_has_no_timeout_until_a_claim_gives_it_one(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await submit(service, queue, timeout=10)
        first = (await claim(service, queue)).task
        await service.sweep(queue, first.update_time + 11 * SECOND)

        second = (await claim(service, queue)).task
        assert (first.timeout, second.timeout) == (10, 0)
        assert await service.sweep(queue, second.update_time + 1_000 * SECOND) == 0

    async def test_a_claim_begins_the_time_anew(self, service: CorndogsClient, queue: str) -> None:
        task = await submit(service, queue, timeout=10)

        claimed = (await claim(service, queue)).task

        assert await service.sweep(queue, task.update_time + 10 * SECOND + 1) == 0
        assert await service.sweep(queue, claimed.update_time + 10 * SECOND + 1) == 1

    async def test_an_update_begins_the_time_anew(self, service: CorndogsClient, queue: str) -> None:
        await submit(service, queue)
        claimed = (await claim(service, queue, timeout=10)).task

        beat = await service.update_task(TaskUpdate(claimed.uuid, queue, "busy", "ready", 10, 0))

        assert beat is not None
        assert await service.sweep(queue, claimed.update_time + 10 * SECOND + 1) == 0
        assert await service.sweep(queue, beat.update_time + 10 * SECOND + 1) == 1

    @pytest.mark.parametrize("seconds", [0, -1, -7])
    async def test_an_update_writes_a_timeout_as_it_is_and_without_one_nothing_is_late(
        self, service: CorndogsClient, queue: str, seconds: int
    ) -> None:
        task = await submit(service, queue, timeout=10)

        changed = await service.update_task(TaskUpdate(task.uuid, queue, "ready", "busy", seconds, 0))

        assert changed is not None
        assert changed.timeout == seconds
        assert await service.sweep(queue, changed.update_time + 1_000 * SECOND) == 0

    async def test_a_late_one_may_still_change_and_end_the_task_of_another(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await submit(service, queue)
        first = (await claim(service, queue, timeout=10)).task
        await service.sweep(queue, first.update_time + 11 * SECOND)
        second = (await claim(service, queue)).task

        beat = await service.update_task(TaskUpdate(first.uuid, queue, "late", "ready", 10, 0))
        ended = await service.complete_task(first.uuid, queue, "busy")

        assert second.uuid == first.uuid
        assert states_of(beat) == ("late", "ready")
        assert states_of(ended) == ("completed", "completed")
        assert await service.complete_task(second.uuid, queue, "busy") is None

    async def test_a_claim_may_let_a_lost_task_end_in_a_state_of_its_own(
        self, service: CorndogsClient, queue: str
    ) -> None:
        await submit(service, queue)
        claimed = (await claim(service, queue, timeout=10, auto_target_state="dead")).task
        await service.sweep(queue, claimed.update_time + 11 * SECOND)

        assert await service.claim_task([queue], "ready") is None
        assert (await claim(service, queue, "dead")).task.uuid == claimed.uuid

    async def test_a_timeout_of_an_unclaimed_task_may_delay_it(
        self, service: CorndogsClient, queue: str
    ) -> None:
        task = await submit(service, queue, state="delayed", target="ready", timeout=10)
        too_early = await service.claim_task([queue], "ready")
        await service.sweep(queue, task.update_time + 11 * SECOND)

        claimed = (await claim(service, queue, current_state="busy")).task

        assert too_early is None
        assert states_of(claimed) == ("busy", "ready")
