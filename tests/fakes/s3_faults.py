"""What a store for objects is told to do wrong, while it runs."""

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase


class Operation(StrEnum):
    """The calls of S3 that are known here."""

    PUT = "put"
    GET = "get"
    HEAD = "head"
    DELETE = "delete"
    LIST = "list"
    DELETE_MANY = "delete_many"
    CREATE_UPLOAD = "create_upload"
    PUT_PART = "put_part"
    COMPLETE_UPLOAD = "complete_upload"
    ABORT_UPLOAD = "abort_upload"


UPLOADS = frozenset({Operation.PUT, Operation.PUT_PART})
DELETES = frozenset({Operation.DELETE, Operation.DELETE_MANY})


class Effect(StrEnum):
    """What becomes of a call."""

    SLOW_DOWN = "slow_down"
    """503, as S3 asks for fewer calls."""
    BREAK = "break"
    """500."""
    DENY = "deny"
    """403."""
    DELAY = "delay"
    """Nothing is answered for ``amount`` seconds."""
    PACE_UPLOAD = "pace_upload"
    """A body is taken at ``amount`` bytes per second and connection."""
    PACE_DOWNLOAD = "pace_download"
    """A body is given at ``amount`` bytes per second and connection."""
    RESET_UPLOAD = "reset_upload"
    """The connection is reset once ``amount`` bytes of the body have come, and nothing is kept."""
    RESET_DOWNLOAD = "reset_download"
    """The connection is reset once ``amount`` bytes of the answer's body have gone."""
    LOSE_ANSWER = "lose_answer"
    """All is done, but the connection is reset instead of an answer."""
    CORRUPT = "corrupt"
    """Other bytes than came are kept, and answered with their own ETag."""
    CORRUPT_AS_SENT = "corrupt_as_sent"
    """Other bytes than came are kept, and answered with the ETag of those that came."""


@dataclass(frozen=True)
class Fault:
    """An effect, for the calls it is meant for."""

    effect: Effect
    operations: Collection[Operation] = frozenset(Operation)
    keys: str = "*"
    """A pattern of the keys, as of a shell. A list has its prefix; a call that deletes many has none, and
    then each of its keys."""
    times: int | None = None
    """For so many calls; None: until it is healed."""
    amount: float = 0


@dataclass
class _Entry:
    fault: Fault
    left: int | None
    lifted: threading.Event = field(default_factory=threading.Event)


class ActiveFault:
    """A fault as it hits one call."""

    def __init__(self, entry: _Entry) -> None:
        self._entry = entry

    @property
    def effect(self) -> Effect:
        """What it does."""
        return self._entry.fault.effect

    @property
    def amount(self) -> float:
        """How much of it."""
        return self._entry.fault.amount

    def wait(self, seconds: float) -> bool:
        """Wait, and tell whether it was healed meanwhile."""
        return self._entry.lifted.wait(seconds)


class Faults:
    """Every fault there is. Safe to use from many threads."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        """Let these hold from now on, for calls that are under way only where something is still to come."""
        with self._lock:
            self._entries += [_Entry(fault, fault.times) for fault in faults]

    def heal(self) -> None:
        """Take back every fault; who waits because of one goes on."""
        with self._lock:
            for entry in self._entries:
                entry.lifted.set()
            self._entries.clear()

    def take(self, operation: Operation, key: str, *effects: Effect) -> ActiveFault | None:
        """Return the first fault of these effects that hits a call, which counts as one of its times."""
        with self._lock:
            for entry in self._entries:
                fault = entry.fault
                if fault.effect not in effects or operation not in fault.operations or entry.left == 0:
                    continue
                if fnmatchcase(key, fault.keys):
                    if entry.left is not None:
                        entry.left -= 1
                    return ActiveFault(entry)
        return None
