"""What tests of any Corndogs begin with: a task is there, a task is claimed."""

from reactorcide.queue.corndogs.messages import CorndogsClient, Delivery, NewTask, Override, Task

SECOND = 10**9
UNKNOWN = "0b5e7a6e-38ad-4f8e-8f0c-1d2f7b9a4c55"


async def submit(
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


async def claim(
    service: CorndogsClient,
    queue: str,
    state: str = "ready",
    *,
    timeout: int = 0,
    current_state: str = "",
    auto_target_state: str = "",
) -> Delivery:
    """Claim a task that must be there."""
    delivery = await service.claim_task([queue], state, Override(timeout, current_state, auto_target_state))
    assert delivery is not None
    return delivery


def states_of(task: Task | None) -> tuple[str, str]:
    """Return the state of a task that must be there, and the one it leads to."""
    assert task is not None
    return task.current_state, task.auto_target_state


async def end_all(service: CorndogsClient, queue: str) -> None:
    """Archive whatever is live in the queues whose names begin so."""
    ending = Override(current_state="over", auto_target_state="over")
    for name, counted in (await service.count_all_states()).items():
        for state in counted.states if name.startswith(queue) else ():
            while (delivery := await service.claim_task([name], state, ending)) is not None:
                await service.complete_task(delivery.task.uuid, name, "over")
