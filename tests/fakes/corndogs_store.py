"""What a Corndogs does with tasks, apart from any wire: the rules that its clients see.

Uuids are drawn here, stamps are nanoseconds and strictly rise, timeouts are whole seconds. Of what its two
backends do differently this does as the one in files.
"""

import heapq
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

DEFAULT_QUEUE = "default"
DEFAULT_STATE = "submitted"
SECOND = 10**9
_HALF = 2**63
_MANY_ENTRIES = 64


@dataclass(frozen=True)
class StoredTask:
    """A task as it is now; an archived one has no payload, timeout and priority any more."""

    uuid: str
    queue: str
    current_state: str
    auto_target_state: str
    submit_time: int
    update_time: int
    timeout: int
    priority: int
    payload: bytes


class CorndogsStore:
    """Live tasks, and the archive, which keeps its tasks for ever.

    Args:
        clock: nanoseconds since 1970.
        make_uuid: draws the uuid of a new task.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = time.time_ns,
        make_uuid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._clock = clock
        self._make_uuid = make_uuid
        self._last_stamp = 0
        self.live: dict[str, StoredTask] = {}
        self.archive: dict[str, StoredTask] = {}
        # What lies in a queue and state, best first. Entries of tasks that have changed since are skipped.
        self._ready: defaultdict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
        self._lying: Counter[tuple[str, str]] = Counter()

    def wipe(self) -> None:
        """Lose everything, as a service that restarts without its files."""
        self.live.clear()
        self.archive.clear()
        self._ready.clear()
        self._lying.clear()

    def submit(
        self,
        queue: str,
        current_state: str,
        auto_target_state: str,
        timeout: int,
        payload: bytes,
        priority: int,
    ) -> StoredTask:
        """Make a task. Empty names stand for defaults; a timeout of 0 or below is none."""
        state = current_state or DEFAULT_STATE
        now = self._stamp()
        task = StoredTask(
            uuid=self._make_uuid(),
            queue=queue or DEFAULT_QUEUE,
            current_state=state,
            auto_target_state=auto_target_state or f"{state}-working",
            submit_time=now,
            update_time=now,
            timeout=max(timeout, 0),
            priority=priority,
            payload=payload,
        )
        return self._keep(task)

    def find(self, task_id: str) -> StoredTask | None:
        """Return a task, live or archived."""
        return self.live.get(task_id) or self.archive.get(task_id)

    def claim(
        self,
        queues: Sequence[str],
        state: str,
        override_timeout: int,
        override_state: str,
        override_target: str,
    ) -> StoredTask | None:
        """Hand out the best task over all of the queues: by priority, then by the oldest update."""
        wanted = state or DEFAULT_STATE
        places = {(queue or DEFAULT_QUEUE, wanted) for queue in queues or (DEFAULT_QUEUE,)}
        heads = [(head, place) for place in places if (head := self._head(place)) is not None]
        if not heads:
            return None
        _, place = min(heads)
        task = self.live[heapq.heappop(self._ready[place])[2]]
        timeout = task.timeout if override_timeout == 0 else max(override_timeout, 0)
        return self._keep(
            replace(
                task,
                current_state=override_state or task.auto_target_state,
                auto_target_state=override_target or wanted,
                timeout=timeout,
                update_time=self._stamp(),
            )
        )

    def update(
        self,
        task_id: str,
        new_state: str,
        auto_target_state: str,
        timeout: int,
        priority: int,
        payload: bytes | None,
    ) -> StoredTask | None:
        """Write a live task anew; None keeps its payload. Nothing but the uuid is compared."""
        task = self.live.get(task_id)
        if task is None:
            return None
        state = new_state or "updated"
        return self._keep(
            replace(
                task,
                current_state=state,
                auto_target_state=auto_target_state or f"{state}-working",
                timeout=timeout,
                priority=priority,
                payload=task.payload if payload is None else payload,
                update_time=self._stamp(),
            )
        )

    def complete(self, task_id: str) -> StoredTask | None:
        """Archive a live task as completed."""
        return self._end(task_id, "completed")

    def cancel(self, task_id: str) -> StoredTask | None:
        """Archive a live task as canceled."""
        return self._end(task_id, "canceled")

    def sweep(self, at_time: int, queue: str) -> int:
        """Swap the states of live tasks, claimed or not, whose time is over strictly before ``at_time``."""
        late = [
            task
            for task in self.live.values()
            if (not queue or task.queue == queue) and task.timeout > 0 and _deadline(task) < at_time
        ]
        for task in late:
            self._keep(
                replace(
                    task,
                    current_state=task.auto_target_state,
                    auto_target_state=task.current_state,
                    timeout=0,
                    update_time=self._stamp(),
                )
            )
        return len(late)

    def count_states(self, queue: str) -> dict[str, int]:
        """Return the live tasks of a queue by state."""
        return self.count_all_states().get(queue, {})

    def count_all_states(self) -> dict[str, dict[str, int]]:
        """Return the live tasks by queue and state."""
        counts: dict[str, dict[str, int]] = {}
        for place, count in self._lying.items():
            # A NUL parts the keys of the files, so that one within a name moves the border.
            queue, state = "\0".join(place).split("\0")[:2]
            states = counts.setdefault(queue, {})
            states[state] = states.get(state, 0) + count
        return counts

    def _keep(self, task: StoredTask) -> StoredTask:
        self._forget(task.uuid)
        self.live[task.uuid] = task
        place = (task.queue, task.current_state)
        self._lying[place] += 1
        entries = self._ready[place]
        heapq.heappush(entries, (-task.priority, task.update_time, task.uuid))
        # Where tasks only pass through nobody takes the old entries away.
        if len(entries) > 2 * self._lying[place] + _MANY_ENTRIES:
            entries[:] = sorted(filter(self._is_current, entries))
        return task

    def _forget(self, task_id: str) -> StoredTask | None:
        task = self.live.pop(task_id, None)
        if task is not None:
            place = (task.queue, task.current_state)
            self._lying[place] -= 1
            if not self._lying[place]:
                del self._lying[place]
                self._ready.pop(place, None)
        return task

    def _head(self, place: tuple[str, str]) -> tuple[int, int, str] | None:
        entries = self._ready.get(place, [])
        while entries and not self._is_current(entries[0]):
            heapq.heappop(entries)
        return entries[0] if entries else None

    def _is_current(self, entry: tuple[int, int, str]) -> bool:
        _, update_time, task_id = entry
        task = self.live.get(task_id)
        return task is not None and task.update_time == update_time

    def _end(self, task_id: str, state: str) -> StoredTask | None:
        task = self._forget(task_id)
        if task is None:
            return None
        ended = replace(
            task,
            current_state=state,
            auto_target_state=state,
            update_time=self._stamp(),
            payload=b"",
            timeout=0,
            priority=0,
        )
        self.archive[task_id] = ended
        return ended

    def _stamp(self) -> int:
        self._last_stamp = max(self._last_stamp + 1, self._clock())
        return self._last_stamp


def _deadline(task: StoredTask) -> int:
    """Return when a task's time is over, in 64 bits: too long a timeout is over at once."""
    return (task.update_time + task.timeout * SECOND + _HALF) % (2 * _HALF) - _HALF
