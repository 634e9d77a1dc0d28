"""The guardian of one attempt: it decides when the job has to end, and sees to it that it does.

Whoever orders, whatever hangs: a dead worker, a worker that fell silent, a limit of time, output,
memory or disk, or the word of a user each end in the same way, TERM first where the job is owed a
grace time. All times are of the monotonic clock, but those of the lease, which go on while the machine
sleeps. Used by one thread.
"""

import math
import os
import select
import time
from collections.abc import Callable
from enum import Enum

from runnerlib.executors.port import RunningJob
from runnerlib.spec import Renewed, Stop, decode_control

TICK_SECONDS = 0.1
"""How often limits are looked at that no event tells of, such as memory where no control group counts it."""
_END_SECONDS = 5.0
_LONGEST_LINE = 64 * 1024


class Verdict(Enum):
    """Why the job was ended by us."""

    CANCELLED = "cancelled"
    KILLED = "killed"
    TIMED_OUT = "timed_out"
    SILENT = "silent"
    OUT_OF_MEMORY = "out_of_memory"
    WORKSPACE_FULL = "workspace_full"
    LOG_BROKEN = "log_broken"
    WORKER_DIED = "worker_died"
    WORKER_SILENT = "worker_silent"
    ABANDONED = "abandoned"

    @property
    def is_graceful(self) -> bool:
        """Whether the job gets TERM and some time."""
        return self in (Verdict.CANCELLED, Verdict.TIMED_OUT, Verdict.SILENT)


class Guardian:
    """Watches one attempt from its first moment.

    Args:
        control: descriptor of the worker's control lines; None: nobody orders, nobody renews.
        timeout_seconds: from now.
        silence_seconds: without output; None: never.
        fence_seconds: without a `Renewed`; None: never.
        fence_used_seconds: so much of the first of these has passed by now.
        grace_seconds: between TERM and KILL.
        said_already: what was read of the control lines before.
    """

    def __init__(
        self,
        control: int | None,
        *,
        timeout_seconds: float,
        silence_seconds: float | None,
        fence_seconds: float | None,
        grace_seconds: float,
        fence_used_seconds: float = 0.0,
        said_already: bytes = b"",
    ) -> None:
        now = self._began = time.monotonic()
        self.verdict: Verdict | None = None
        self._control = control
        self._unread = b""
        self._deadline = now + timeout_seconds
        self._silence = silence_seconds
        self._fence = fence_seconds
        self._renewed_at = _lease_clock() - fence_used_seconds
        self._grace = grace_seconds
        self._is_kill_ordered = False
        self._take_in(said_already)

    def tighten(self, timeout_seconds: float, silence_seconds: float | None) -> None:
        """Hold the attempt to shorter limits; ``timeout_seconds`` counts from its first moment, too."""
        self._deadline = min(self._deadline, self._began + timeout_seconds)
        self._silence = silence_seconds

    def should_stop(self) -> bool:
        """Look at the clock and at what the worker says; True: end whatever is going on."""
        self._listen(0)
        self._look_at_clock(last_output=None)
        return self.verdict is not None

    def watch(
        self,
        job: RunningJob,
        *,
        last_output: Callable[[], float],
        find_breach: Callable[[], Verdict | None],
    ) -> bool:
        """Watch a job until its main process has ended, which is bounded.

        Args:
            last_output: monotonic time of the job's last output.
            find_breach: looks for limits that were passed, besides those of time and memory.

        Returns:
            whether the job was signalled by us before it ended.
        """
        while not self._has_ended(job):
            self._look_at_clock(last_output())
            if self.verdict is None:
                self.verdict = Verdict.OUT_OF_MEMORY if job.is_over_memory() else find_breach()
            if self.verdict is not None:
                self._end(job)
                return True
        return False

    def _has_ended(self, job: RunningJob) -> bool:
        tick = min(TICK_SECONDS, max(0.0, self._deadline - time.monotonic()), max(0.0, self._fence_left()))
        if self._control is None:
            return job.wait(tick)
        if job.wait(tick, self._control):
            return True
        self._listen(0)
        return False

    def _end(self, job: RunningJob) -> None:
        if self.verdict is not None and self.verdict.is_graceful and self._grace > 0:
            job.ask_to_end()
            end = time.monotonic() + self._grace
            while not self._is_kill_ordered and (left := end - time.monotonic()) > 0:
                if job.wait(min(left, TICK_SECONDS), self._control):
                    return
                self._listen(0)
                self._look_at_fence()
        job.kill()
        job.wait(_END_SECONDS)

    def _fence_left(self) -> float:
        return math.inf if self._fence is None else self._renewed_at + self._fence - _lease_clock()

    def _look_at_clock(self, last_output: float | None) -> None:
        self._look_at_fence()
        if self.verdict is not None:
            return
        now = time.monotonic()
        if now >= self._deadline:
            self.verdict = Verdict.TIMED_OUT
        elif self._silence is not None and last_output is not None and now >= last_output + self._silence:
            self.verdict = Verdict.SILENT

    def _look_at_fence(self) -> None:
        if self._fence_left() <= 0:
            self._stop_at_once(Verdict.WORKER_SILENT)

    def _listen(self, timeout_seconds: float) -> None:
        """Take in what the worker has said; never waits for longer than the time given."""
        while self._control is not None:
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            if not poll.poll(int(timeout_seconds * 1000)):
                return
            said = os.read(self._control, 65536)
            if not said:
                # The worker's end of the pipe is closed: it is dead.
                self._control = None
                self._stop_at_once(Verdict.WORKER_DIED)
                return
            self._take_in(said)

    def _take_in(self, said: bytes) -> None:
        *lines, self._unread = (self._unread + said).split(b"\n")
        self._unread = self._unread[:_LONGEST_LINE]
        for line in lines:
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        try:
            message = decode_control(line)
        except ValueError:
            return  # a newer worker may say more than we know
        if isinstance(message, Renewed):
            self._renewed_at = max(self._renewed_at, _lease_clock() - message.age_seconds)
        elif isinstance(message, Stop):
            if message.how == "cancel":
                self.verdict = self.verdict or Verdict.CANCELLED
            else:
                self._stop_at_once(Verdict.KILLED if message.how == "kill" else Verdict.ABANDONED)

    def _stop_at_once(self, verdict: Verdict) -> None:
        """A stronger order overrides the grace time of a weaker one, not why the job was ended."""
        self.verdict = self.verdict or verdict
        self._is_kill_ordered = True


def _lease_clock() -> float:
    """Return seconds that go on while the machine sleeps, as the coordinator's do meanwhile."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)
