"""What time it is at the service: its stamps are by its own clock, and deadlines are compared with them."""

import time


class ServiceClock:
    """Our clock, corrected by the last stamp that came from the service."""

    def __init__(self) -> None:
        self._ahead = 0

    def note(self, stamp: int) -> None:
        """Take note of a stamp that the service has just made, in nanoseconds since 1970."""
        self._ahead = stamp - time.time_ns()

    def now(self) -> int:
        """Return the service's time in nanoseconds since 1970: not later than it is there."""
        return time.time_ns() + self._ahead
