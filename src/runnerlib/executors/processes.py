"""Processes of a job seen from outside: who descends from whom, what they use, how one ended."""

import fcntl
import math
import os
import select
import signal
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_INODE_BYTES = 1024
"""Of kernel memory, roughly, for a file in memory and its name."""
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


def use_more_than(limit_bytes: int, pids: Iterable[int], *, besides_bytes: int = 0) -> bool:
    """Tell whether processes use more memory together than the limit; what they share counts once.

    Files that are mapped do not count, as the kernel can take back what it keeps of them.

    Args:
        besides_bytes: what they use in other ways, such as files in memory.
    """
    found = list(pids)
    limit_bytes -= besides_bytes
    # Who shares what is told by page tables: only read where all there is could be too much.
    could_be = sum(resident for resident, _ in map(_memory_of, found)) > limit_bytes
    return could_be and sum(map(_share_of, found)) > limit_bytes


def _memory_of(pid: int) -> tuple[int, int]:
    """Return the bytes of memory of a process, and those that are its own; none if it is gone."""
    try:
        with Path(f"/proc/{pid}/statm").open("rb") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0, 0
    return int(resident) * _PAGE_BYTES, (int(resident) - int(shared)) * _PAGE_BYTES


def _share_of(pid: int) -> int:
    """Return the bytes of a process that no file backs, as its part of those that it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        # Gone, or a program that may not be looked into.
        return _memory_of(pid)[1]
    counted = (line.split() for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return sum(int(fields[1]) for fields in counted) * 1024


def temporary_files_of(pid: int, folders: Iterable[str]) -> int:
    """Return about how much memory the files take in those file systems in memory that a process sees.

    Empty files take some too, which no size of a file system counts.
    """
    found = 0
    for folder in folders:
        with suppress(OSError):
            status = os.statvfs(f"/proc/{pid}/root{folder}")
            found += (status.f_blocks - status.f_bfree) * status.f_frsize
            found += (status.f_files - status.f_ffree) * _INODE_BYTES
    return found


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
