"""Processes of a job seen from outside: who descends from whom, what they use, how one ended."""

import fcntl
import math
import os
import select
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PIDFD_GET_INFO = 0xC040FF0B
"""``_IOWR(0xFF, 11, struct pidfd_info)`` with the 64 bytes of its first version, Linux 6.13."""
_PIDFD_INFO_EXIT = 1 << 3
_EXIT_CODE_OFFSET = 60


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of ``pid``; none if it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - called for every process, often
            with suppress(OSError), Path(f"/proc/{pid}/task/{thread}/children").open("rb") as file:
                found += map(int, file.read().split())
    return found


def descendants_of(pid: int) -> Iterator[int]:
    """Yield every descendant of ``pid``, parents first, as far as they hold still."""
    waiting = children_of(pid)
    seen: set[int] = set()
    while waiting:
        child = waiting.pop()
        if child not in seen:
            seen.add(child)
            yield child
            waiting += children_of(child)


def memory_of(pid: int) -> int:
    """Return the bytes of memory of one process that no file backs; 0 if it is gone."""
    try:
        with Path(f"/proc/{pid}/statm").open("rb") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def kill_quietly(pid: int, number: signal.Signals) -> None:
    """Send a signal; one who is gone does not mind."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_group_quietly(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group; one that is gone does not mind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class ProcessWatch:
    """Holds on to one process, whoever its parent is; its id cannot be taken by another meanwhile."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.descriptor = os.pidfd_open(pid)

    def has_ended(self) -> bool:
        """Tell whether the process has ended; the init of a PID namespace ends last of all in it."""
        return bool(wait_readable([self.descriptor], 0))

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one who is gone does not mind."""
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.descriptor, number)

    def wait_status(self) -> int | None:
        """Return the wait status of the ended and reaped process; None: the kernel does not tell."""
        info = bytearray(64)
        struct.pack_into("Q", info, 0, _PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(self.descriptor, _PIDFD_GET_INFO, info)
        except OSError:
            return None
        (mask,) = struct.unpack_from("Q", info, 0)
        if not mask & _PIDFD_INFO_EXIT:
            return None
        (status,) = struct.unpack_from("i", info, _EXIT_CODE_OFFSET)
        return int(status)

    def close(self) -> None:
        """Let go."""
        os.close(self.descriptor)


def wait_readable(descriptors: list[int], timeout_seconds: float) -> set[int]:
    """Return which descriptors can be read, or have ended, within the time."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up, as a wait of half a millisecond must not become a busy loop.
    milliseconds = math.ceil(timeout_seconds * 1000) if timeout_seconds > 0 else 0
    return {descriptor for descriptor, _ in poll.poll(milliseconds)}
