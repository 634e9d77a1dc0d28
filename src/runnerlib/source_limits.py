"""The bounds within which a source is brought: time, size, number of files, and being told to stop."""

import time
from collections.abc import Callable
from pathlib import Path

from runnerlib.source_errors import SourceFailed, SourceStopped
from runnerlib.spec import HostPolicy
from runnerlib.trees import measure_tree

_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0


class SourceLimits:
    """Watches one source being brought into ``target``; the time runs from when it is made."""

    def __init__(self, target: Path, policy: HostPolicy, should_stop: Callable[[], bool]) -> None:
        self._target = target
        self._policy = policy
        self._should_stop = should_stop
        self._deadline = time.monotonic() + policy.source_timeout_seconds
        self._next_measure = 0.0

    def check(self) -> None:
        """Raise if a bound is passed. Cheap enough to be called many times a second.

        Raises:
            SourceStopped: the runner was told to stop.
            SourceFailed: too slow, too large or too many files.
        """
        self.check_time()
        if time.monotonic() >= self._next_measure:
            began = time.monotonic()
            self.check_size()
            spent = time.monotonic() - began
            # A tree of many files takes long to measure, but is also slow to grow.
            pause = min(max(2 * spent, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._next_measure = time.monotonic() + pause

    def check_time(self) -> None:
        """Raise SourceStopped or, after the time allowed, SourceFailed."""
        if self._should_stop():
            raise SourceStopped("stopped while the source was being prepared")
        if time.monotonic() >= self._deadline:
            seconds = self._policy.source_timeout_seconds
            raise SourceFailed(f"the source took longer than the {seconds:g} seconds this worker allows")

    def check_size(self) -> None:
        """Raise SourceFailed if the target holds more than is allowed."""
        size = measure_tree(self._target)
        self.check_count(size.size_bytes, size.entries)

    def check_count(self, size_bytes: int, entries: int) -> None:
        """Raise SourceFailed if so much is more than is allowed."""
        if size_bytes > self._policy.source_limit_bytes:
            limit = self._policy.source_limit_bytes
            raise SourceFailed(
                f"the source is larger than the {limit} bytes this worker allows", is_users_fault=True
            )
        if entries > self._policy.source_limit_files:
            limit = self._policy.source_limit_files
            raise SourceFailed(
                f"the source has more than the {limit} files this worker allows", is_users_fault=True
            )
