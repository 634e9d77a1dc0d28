"""What is never sent to a Corndogs, since some server would take it for something else or break by it.

All raise ValueError: the caller has a bug.
"""

from collections.abc import Sequence

from reactorcide.queue.corndogs.messages import NewTask, Override, TaskUpdate

MAX_TIMEOUT_SECONDS = 7 * 10**9
"""Servers count in nanoseconds and 64 bits."""
_MAX_PRIORITY = 2**31 - 1


def check_uuid(uuid: str) -> None:
    """Refuse an empty uuid, by which a server on PostgreSQL takes any task there is."""
    if not uuid:
        raise ValueError("a task's uuid must not be empty")
    check_text("uuid", uuid)


def check_text(name: str, text: str) -> None:
    """Refuse a NUL, which ends a name on one server and is an error on another."""
    if "\0" in text:
        raise ValueError(f"{name} must not hold a NUL")


def check_queues(queues: Sequence[str]) -> None:
    """Refuse no queue, and an empty name, which both mean the server's default queue."""
    if not queues or not all(queues):
        raise ValueError("a queue must be named")
    for name in queues:
        check_text("queue", name)


def check_timeout(seconds: int) -> None:
    """Refuse what a server could not add to a time."""
    if abs(seconds) > MAX_TIMEOUT_SECONDS:
        raise ValueError(f"a timeout must be at most {MAX_TIMEOUT_SECONDS} s")


def check_priority(priority: int) -> None:
    """Refuse what a server on PostgreSQL cannot store."""
    if abs(priority) > _MAX_PRIORITY:
        raise ValueError("a priority must fit into 32 bits")


def check_new_task(task: NewTask) -> None:
    """Refuse a task that some server could not keep as it is."""
    check_queues([task.queue])
    check_text("current_state", task.current_state)
    check_text("auto_target_state", task.auto_target_state)
    check_timeout(task.timeout)
    check_priority(task.priority)


def check_claim(queues: Sequence[str], state: str, override: Override) -> None:
    """Refuse a claim that some server would understand otherwise."""
    check_queues(queues)
    for name, text in (
        ("state", state),
        ("state", override.current_state),
        ("state", override.auto_target_state),
    ):
        check_text(name, text)
    check_timeout(override.timeout)


def check_update(update: TaskUpdate) -> None:
    """Refuse an update that some server would understand otherwise."""
    check_uuid(update.uuid)
    for text in (update.queue, update.new_state, update.auto_target_state):
        check_text("state", text)
    check_timeout(update.timeout)
    check_priority(update.priority)
    if update.payload == b"":
        raise ValueError("an empty payload keeps the payload on one server and erases it on another")
