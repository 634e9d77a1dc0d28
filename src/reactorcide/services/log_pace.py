"""How soon log bytes come: each append is a put, and on some stores puts are dear."""

from dataclasses import dataclass
from datetime import timedelta

from reactorcide.domain.jobs import SHORTEST_PAUSE_SECONDS

WATCHED_FOR = timedelta(seconds=30)
"""A follower counts for so long after it last said so."""
WATCH_AGAIN = timedelta(seconds=10)
"""A follower says so again after this."""


@dataclass(frozen=True)
class LogPace:
    """How long a worker gathers bytes between two appends, by whether somebody follows the log."""

    unwatched: timedelta
    watched: timedelta

    @property
    def is_even(self) -> bool:
        """Whether it makes no difference if somebody follows."""
        return self.unwatched <= self.watched


SWIFT = LogPace(*[timedelta(seconds=SHORTEST_PAUSE_SECONDS)] * 2)
"""For stores on which a put costs nothing."""
WATCHED_ON_CLOUDS = timedelta(seconds=0.3)
UNWATCHED_ON_CLOUDS = timedelta(seconds=5)
