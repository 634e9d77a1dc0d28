"""The calls of a Corndogs on a store: the fields that a request must have, and those of its answer."""

from collections.abc import Callable, Mapping
from typing import Any

from fakes.corndogs_store import DEFAULT_QUEUE, DEFAULT_STATE, CorndogsStore, StoredTask
from fakes.csil_bytes import BadBytes, load

SPLIT, WHOLE = "0.7.3", "0.7.0"
"""Shapes: with the payload beside the task, at a claim alone; and within the task, in every answer."""
MEBIBYTE = 2**20
MAX_PAYLOAD_BYTES = 16 * MEBIBYTE
READS = frozenset(
    {"GetTaskStateByID", "GetQueues", "GetQueueTaskCounts", "GetTaskStateCounts", "GetQueueAndStateCounts"}
)
"""What a member that does not lead answers too."""
_INTEGERS = range(-(2**63), 2**63)
_CLAIM = {
    "current_state": str,
    "override_timeout": int,
    "override_current_state": str,
    "override_auto_target_state": str,
}
_NAMED = {"uuid": str, "queue": str, "current_state": str}
REQUESTS: Mapping[str, Mapping[str, type]] = {
    "SubmitTask": {
        "queue": str,
        "current_state": str,
        "auto_target_state": str,
        "timeout": int,
        "payload": bytes,
        "priority": int,
    },
    "GetTaskStateByID": {"uuid": str, "queue": str},
    "GetNextTask": {"queue": str, **_CLAIM},
    "GetNextTaskGroup": {"queues": list, **_CLAIM},
    "UpdateTask": {
        **_NAMED,
        "auto_target_state": str,
        "timeout": int,
        "new_state": str,
        "payload": bytes,
        "priority": int,
    },
    "CompleteTask": _NAMED,
    "CancelTask": _NAMED,
    "CleanUpTimedOut": {"at_time": int, "queue": str},
    "GetQueues": {},
    "GetQueueTaskCounts": {},
    "GetTaskStateCounts": {"queue": str},
    "GetQueueAndStateCounts": {},
}
Fields = dict[str, Any]
Answer = Mapping[str, object]


class Refused(Exception):
    """A call that is answered by a status other than 0."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Calls:
    """The calls on one store, in the shape of one release.

    Args:
        max_payload_bytes: of the newer shape; the older one knows the limit of its frames alone.
    """

    def __init__(self, store: CorndogsStore, shape: str, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self.store = store
        self.shape = shape
        self.copies: list[tuple[StoredTask, str]] = []
        """Claimed tasks that are to be handed out again, and the state they were in."""
        self.max_payload_bytes = max_payload_bytes
        self._deeds: Mapping[str, Callable[[Fields], Answer]] = {
            "SubmitTask": lambda given: self._task(store.submit(**given)),
            "GetTaskStateByID": lambda given: self._task(store.find(given["uuid"])),
            "UpdateTask": self._update,
            "CompleteTask": lambda given: self._task(store.complete(given["uuid"])),
            "CancelTask": lambda given: self._task(store.cancel(given["uuid"])),
            "CleanUpTimedOut": lambda given: {"timed_out": store.sweep(given["at_time"], given["queue"])},
            "GetQueues": self._list_queues,
            "GetQueueTaskCounts": self._count_by_queue,
            "GetTaskStateCounts": lambda given: _counted(given["queue"], store.count_states(given["queue"])),
            "GetQueueAndStateCounts": self._count_all,
        }

    @property
    def max_frame_bytes(self) -> int:
        """What a message may have at most, in both directions."""
        return 16 * MEBIBYTE if self.shape == WHOLE else self.max_payload_bytes + MEBIBYTE

    def read(self, operation: str, message: bytes) -> Fields:
        """Return the fields of a request that the wire knows; raises Refused unless all are there."""
        try:
            fields = load(message)
        except BadBytes as error:
            raise Refused(6, f"csil cbor: {error}") from error
        if not isinstance(fields, dict):
            raise Refused(6, "csil cbor: expected a map")
        read: Fields = {}
        for name, kind in REQUESTS[operation].items():
            if name not in fields:
                if (operation, name, self.shape) == ("UpdateTask", "payload", SPLIT):
                    read[name] = None
                    continue
                raise Refused(6, f'csil cbor: missing field "{name}"')
            value = fields[name]
            if not isinstance(value, kind) or (isinstance(value, int) and value not in _INTEGERS):
                raise Refused(6, f'csil cbor: field "{name}"')
            read[name] = value
        if not all(isinstance(queue, str) for queue in read.get("queues", ())):
            raise Refused(6, 'csil cbor: field "queues"')
        size = len(read.get("payload") or b"")
        if self.shape == SPLIT and size > self.max_payload_bytes:
            raise Refused(6, f"payload is {size} bytes; maximum is {self.max_payload_bytes} bytes")
        return read

    def do(self, operation: str, given: Fields, *, copies: int = 1) -> Answer:
        """Do a call, and return the fields of its answer. So many claims get the same task."""
        if operation == "GetNextTask":
            return self._claim([given.pop("queue")], given, copies)
        if operation == "GetNextTaskGroup":
            return self._claim(given.pop("queues"), given, copies)
        return self._deeds[operation](given)

    def _claim(self, queues: list[str], given: Fields, copies: int) -> Answer:
        state = given["current_state"] or DEFAULT_STATE
        names = {queue or DEFAULT_QUEUE for queue in queues or [""]}
        for number, (task, taken_from) in enumerate(self.copies):
            if task.queue in names and taken_from == state:
                del self.copies[number]
                return self._deliver(task)
        claimed = self.store.claim(
            queues,
            state,
            given["override_timeout"],
            given["override_current_state"],
            given["override_auto_target_state"],
        )
        if claimed is None:
            return {}
        self.copies += [(claimed, state)] * (copies - 1)
        return self._deliver(claimed)

    def _deliver(self, task: StoredTask) -> Answer:
        if self.shape == WHOLE:
            return {"task": self._show(task)}
        return {"delivery": {"task": self._show(task), "payload": task.payload}}

    def _task(self, task: StoredTask | None) -> Answer:
        return {} if task is None else {"task": self._show(task)}

    def _show(self, task: StoredTask) -> Fields:
        shown = dict(vars(task))
        if self.shape == SPLIT:
            del shown["payload"]
        return shown

    def _update(self, given: Fields) -> Answer:
        payload = given["payload"]
        if self.shape == WHOLE and not payload:
            payload = None
        return self._task(
            self.store.update(
                given["uuid"],
                given["new_state"],
                given["auto_target_state"],
                given["timeout"],
                given["priority"],
                payload,
            )
        )

    def _list_queues(self, _: Fields) -> Answer:
        return {"queues": list(self.store.count_all_states()), "total_task_count": len(self.store.live)}

    def _count_by_queue(self, _: Fields) -> Answer:
        counts = self.store.count_all_states()
        by_queue = {queue: sum(states.values()) for queue, states in counts.items()}
        return {"queue_counts": by_queue, "total_task_count": len(self.store.live)}

    def _count_all(self, _: Fields) -> Answer:
        counts = self.store.count_all_states()
        return {
            "queue_and_state_counts": {queue: _counted(queue, states) for queue, states in counts.items()}
        }


def _counted(queue: str, states: Mapping[str, int]) -> Fields:
    return {"queue": queue, "count": sum(states.values()), "state_counts": dict(states)}
