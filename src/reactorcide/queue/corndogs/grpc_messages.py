"""The messages of Corndogs' gRPC wire (proto package `corndogs.v1alpha1`), made when they are first needed.

Their descriptors are built here, so that no generated code ties the program to one version of protobuf.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "corndogs.v1alpha1"
SERVICE = f"{PACKAGE}.CorndogsService"

_Field = descriptor_pb2.FieldDescriptorProto
_TEXT, _NUMBER, _BYTES = _Field.TYPE_STRING, _Field.TYPE_INT64, _Field.TYPE_BYTES
_TASK = "Task"
_ANSWER = {"task": (1, _TASK)}
_NAMED = {"uuid": (1, _TEXT), "queue": (2, _TEXT), "current_state": (3, _TEXT)}

# By message: its fields by name, each with number and kind. A kind that is a name is a message, and one in
# a list is repeated; a pair is a map from text to its second.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, Any]]] = {
    _TASK: {
        "uuid": (1, _TEXT),
        "queue": (2, _TEXT),
        "current_state": (3, _TEXT),
        "auto_target_state": (4, _TEXT),
        "submit_time": (5, _NUMBER),
        "update_time": (6, _NUMBER),
        "timeout": (7, _NUMBER),
        "payload": (8, _BYTES),
        "priority": (9, _NUMBER),
    },
    "SubmitTaskRequest": {
        "queue": (1, _TEXT),
        "current_state": (2, _TEXT),
        "auto_target_state": (3, _TEXT),
        "timeout": (4, _NUMBER),
        "payload": (5, _BYTES),
        "priority": (6, _NUMBER),
    },
    "SubmitTaskResponse": _ANSWER,
    "GetTaskStateByIDRequest": {"uuid": (1, _TEXT), "queue": (2, _TEXT)},
    "GetTaskStateByIDResponse": _ANSWER,
    "GetNextTaskRequest": {
        "queue": (1, _TEXT),
        "current_state": (2, _TEXT),
        "override_timeout": (3, _NUMBER),
        "override_current_state": (4, _TEXT),
        "override_auto_target_state": (5, _TEXT),
    },
    "GetNextTaskResponse": _ANSWER,
    "UpdateTaskRequest": {
        **_NAMED,
        "auto_target_state": (4, _TEXT),
        "timeout": (5, _NUMBER),
        "new_state": (6, _TEXT),
        "payload": (7, _BYTES),
        "priority": (8, _NUMBER),
    },
    "UpdateTaskResponse": _ANSWER,
    "CompleteTaskRequest": _NAMED,
    "CompleteTaskResponse": _ANSWER,
    "CancelTaskRequest": _NAMED,
    "CancelTaskResponse": _ANSWER,
    "CleanUpTimedOutRequest": {"at_time": (1, _NUMBER), "queue": (2, _TEXT)},
    "CleanUpTimedOutResponse": {"timed_out": (1, _NUMBER)},
    "GetQueuesRequest": {},
    "GetQueuesResponse": {"queues": (1, [_TEXT]), "total_task_count": (2, _NUMBER)},
    "GetQueueTaskCountsRequest": {},
    "GetQueueTaskCountsResponse": {
        "queue_counts": (1, ("text", _NUMBER)),
        "total_task_count": (2, _NUMBER),
    },
    "GetTaskStateCountsRequest": {"queue": (1, _TEXT)},
    "GetTaskStateCountsResponse": {
        "queue": (1, _TEXT),
        "count": (2, _NUMBER),
        "state_counts": (3, ("text", _NUMBER)),
    },
    "QueueAndStateCounts": {
        "queue": (1, _TEXT),
        "count": (2, _NUMBER),
        "state_counts": (3, ("text", _NUMBER)),
    },
    "GetQueueAndStateCountsRequest": {},
    "GetQueueAndStateCountsResponse": {"queue_and_state_counts": (1, ("text", "QueueAndStateCounts"))},
}
METHODS = tuple(name.removesuffix("Request") for name in _MESSAGES if name.endswith("Request"))


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="corndogs.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            _add_field(message, field_name, number, kind)
    return file


def _add_field(message: Any, name: str, number: int, kind: Any) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if isinstance(kind, list):
        field.label, (kind,) = _Field.LABEL_REPEATED, kind
    if isinstance(kind, tuple):
        # A map is a repeated message of two fields, by the wire and by its descriptor.
        entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add_field(entry, "key", 1, _TEXT)
        _add_field(entry, "value", 2, kind[1])
        field.label, kind = _Field.LABEL_REPEATED, f"{message.name}.{entry_name}"
    if isinstance(kind, str):
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = kind


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_describe().SerializeToString())


def message_class(name: str) -> Any:
    """Return the class of a message, such as ``SubmitTaskRequest``."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
