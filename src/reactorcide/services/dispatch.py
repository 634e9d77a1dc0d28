"""Dispatch: ready jobs on their way to workers that wait for them."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from reactorcide.domain.jobs import Claim
from reactorcide.queue.port import ReadyQueue

MAX_BATCH = 100
MAX_WAIT = timedelta(seconds=60)


async def claim_ready(
    queue: ReadyQueue,
    worker_id: str,
    queue_names: Sequence[str],
    free_slots: int,
    *,
    wait: timedelta,
    start_within: timedelta,
) -> list[Claim]:
    """Claim jobs for a worker's free slots, waiting for the first of them up to ``wait``.

    Never more than `MAX_BATCH` at once and never longer than `MAX_WAIT`.
    """
    limit = min(free_slots, MAX_BATCH)
    if limit < 1 or not queue_names:
        return []
    clock = asyncio.get_running_loop()
    deadline = clock.time() + min(wait, MAX_WAIT).total_seconds()
    while True:
        claims = await queue.claim(worker_id, queue_names, limit, start_within=start_within)
        left = timedelta(seconds=deadline - clock.time())
        if claims or left <= timedelta() or not await queue.wait(queue_names, left):
            return claims
