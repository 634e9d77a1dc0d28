"""What is said to a Corndogs service and what it answers, in no wire's shape.

Times are nanoseconds since 1970 by the server's clock, timeouts whole seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

NOBODY = "00000000-0000-4000-8000-000000000000"
"""The uuid of no task: servers draw theirs at random."""
NO_TIMEOUT = -1
"""Of a new task: it never goes to its other state by itself; 0 would be the server's default."""


@dataclass(frozen=True)
class NewTask:
    """A task to submit. An empty state is the server's default for it."""

    queue: str
    payload: bytes
    current_state: str = ""
    auto_target_state: str = ""
    timeout: int = NO_TIMEOUT
    priority: int = 0


@dataclass(frozen=True)
class Task:
    """A task, live or archived."""

    uuid: str
    queue: str
    current_state: str
    auto_target_state: str
    submit_time: int
    update_time: int
    timeout: int
    priority: int


@dataclass(frozen=True)
class Delivery:
    """A claimed task and its payload."""

    task: Task
    payload: bytes


@dataclass(frozen=True)
class Override:
    """What a claim sets otherwise than the task says; 0 and empty keep it, a negative timeout removes it."""

    timeout: int = 0
    current_state: str = ""
    auto_target_state: str = ""


KEEP = Override()
"""What a claim does of itself: the two states are swapped, and the timeout stays."""


@dataclass(frozen=True)
class TaskUpdate:
    """New values of a live task. All are written: a timeout or priority of 0 clears what there was.

    ``payload`` None keeps the payload; an empty one is refused before it is sent, since servers differ in
    what they do with it.
    """

    uuid: str
    queue: str
    new_state: str
    auto_target_state: str
    timeout: int
    priority: int
    payload: bytes | None = None


@dataclass(frozen=True)
class StateCounts:
    """Live tasks of a queue, by their current state."""

    queue: str
    count: int
    states: Mapping[str, int]


class CorndogsClient(Protocol):
    """A connection to one Corndogs service, however many members it has; for many tasks of one event loop.

    Every call is bounded by its deadline. Every method raises

    - `Unreachable`: nothing has happened;
    - `OutcomeUnknown`: it was sent, and whether it has happened is not known;
    - `CallRefused`: the service does not do it;
    - `UnknownOperation`: the service does not know the call;
    - `WrongService`: what listens there is not a Corndogs that can be talked to;

    and ValueError, before anything is sent, for what would do harm: an empty uuid, a NUL, a priority beyond
    32 bits, a timeout above 7 * 10**9 seconds.
    """

    async def submit_task(self, task: NewTask) -> Task:
        """Make a task. Never repeated by itself: the same call twice makes two tasks."""

    async def find_task(self, uuid: str, queue: str) -> Task | None:
        """Return a task, live or archived, None if there is none."""

    async def claim_task(
        self, queues: Sequence[str], state: str, override: Override = KEEP
    ) -> Delivery | None:
        """Claim the best task of these queues that is in ``state``, None if there is none. Does not wait.

        Several queues need a service that `has_groups`; UnknownOperation otherwise.
        """

    async def has_groups(self) -> bool:
        """Tell whether the service chooses the best task of several queues; asks it once a connection."""

    async def update_task(self, update: TaskUpdate) -> Task | None:
        """Change a live task, None if there is none. Nothing but the uuid is compared."""

    async def complete_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """Archive a task as completed, None if it is not live. Nothing but the uuid is compared."""

    async def cancel_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """Archive a task as canceled, None if it is not live. Nothing but the uuid is compared."""

    async def sweep(self, queue: str, at_time: int) -> int:
        """Swap the states of the queue's tasks whose timeout lies before ``at_time``; return how many.

        The queue must be named: on a shared service, the others' tasks are not ours to sweep.
        """

    async def list_queues(self) -> list[str]:
        """Return the names of the queues that have live tasks, in any order."""

    async def count_by_queue(self) -> Mapping[str, int]:
        """Return the number of live tasks by queue."""

    async def count_states(self, queue: str) -> StateCounts:
        """Return the live tasks of a queue by state."""

    async def count_all_states(self) -> Mapping[str, StateCounts]:
        """Return the live tasks of all queues by state."""

    async def ping(self) -> None:
        """Ask whether the service answers at all."""

    async def close(self) -> None:
        """Hang up. Calls under way end as `OutcomeUnknown`, later ones as `Unreachable`."""
