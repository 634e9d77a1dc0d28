"""Ids made now: time-ordered, and rising also within one millisecond of one process."""

import secrets
import threading
import time

from reactorcide.domain.ids import make_id

_ENTROPY_BITS = 74


class IdSource:
    """Makes ids that rise strictly, so that rows of one process sort in the order they were made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._entropy = 0

    def new_id(self) -> str:
        """Return an id greater than every one returned before."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._milliseconds:
                # The top bit stays free for the ids that follow within this millisecond.
                self._milliseconds, self._entropy = now, secrets.randbits(_ENTROPY_BITS - 1)
            else:
                self._entropy += 1 + secrets.randbits(32)
            return make_id(self._milliseconds, self._entropy)
