"""The words and times by which tickets live in the queue."""

from datetime import timedelta
from typing import Protocol

READY = "submitted"
"""The state of a ticket that may be drawn."""
DRAWN = "submitted-working"
"""The state of a ticket that somebody has drawn and not yet completed."""
DRAW_SECONDS = 60
"""A ticket that was drawn and neither completed nor given back lies ready again after this."""
RETURN_SECONDS = 2
"""So soon comes a ticket again whose job could not be claimed yet."""
LOOK_AFTER = timedelta(minutes=5)
"""A ticket that still waits is asked after so often."""
BUSY_FOR = timedelta(seconds=30)
"""A relay that has taken what is due has so long to publish it."""


class QueueWatch(Protocol):
    """What is told of the queue's calls. Its methods are quick and never fail."""

    def task_submitted(self, queue: str, result: str) -> None:
        """A ticket was published: `ok`; or may have been: `unknown`; or was not: `error`."""

    def task_polled(self, queue: str, result: str) -> None:
        """A queue was asked for a ticket: `task`, `empty` or `error`."""
