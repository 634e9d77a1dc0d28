"""The calls of a Corndogs, and the fields that each of their messages must have."""

from collections.abc import Mapping

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
READS = frozenset(
    {"GetTaskStateByID", "GetQueues", "GetQueueTaskCounts", "GetTaskStateCounts", "GetQueueAndStateCounts"}
)
"""What a member that does not lead answers too."""
