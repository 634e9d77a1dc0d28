"""The first moments of a job's main process, the same in every executor on this host.

The main process begins as a shell that tells on its standard input, a socket of ours, that it is
there, and becomes the job's shell when it is told so. Meanwhile we take hold of it. Nothing about
safety depends on its good behaviour: a job's variables may change what it does.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from runnerlib.executors.port import JobCommand, Limits
from runnerlib.executors.processes import wait_readable

_SCRIPT = 'echo ready >&0; read -r REACTORCIDE_GO; exec /bin/sh -c -- "$0" </dev/null'
_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
_PR_SET_DUMPABLE = 4


def shell_argv(command: JobCommand) -> list[str]:
    """Return what the main process is started as."""
    return ["/bin/sh", "-c", _SCRIPT, command.text]


class Doorway:
    """Our end of a starting job's standard input."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()

    def close_theirs(self) -> None:
        """The process has its own copy by now."""
        self.theirs.close()

    def wait_ready(self, timeout_seconds: float) -> bool:
        """Wait until the main process is there. False: it is not, or it has ended."""
        if not wait_readable([self._ours.fileno()], timeout_seconds):
            return False
        try:
            return self._ours.recv(64) != b""
        except OSError:
            return False

    def let_in(self) -> None:
        """Let the main process become the job."""
        try:
            self._ours.sendall(b"\n")
        except OSError:
            return  # it has ended; how, its exit tells

    def close(self) -> None:
        """Let go of both ends."""
        self._ours.close()
        self.theirs.close()


@contextmanager
def output_pipes() -> Iterator[tuple[int, int, int, int]]:
    """Yield two pipes as read and write ends, stdout's first; the write ends are closed afterwards,
    the read ends too if starting failed."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        for descriptor in (out_read, err_read):
            widen_pipe(descriptor)
        yield out_read, out_write, err_read, err_write
    except BaseException:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)


def widen_pipe(descriptor: int) -> None:
    """Give a pipe a large buffer, if the user's share of those is not used up."""
    import fcntl
    from contextlib import suppress

    with suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)


def keep_memory_private() -> None:
    """Close this process's memory to other programs of its user, and to core files.

    It holds the secrets of the job. What it starts is not concerned.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def apply_limits(pid: int, limits: Limits, *, owner: tuple[int, int] | None, counts_own: bool) -> None:
    """Set the resource limits of a process that has not run anything of the job yet.

    Args:
        owner: the job's own user and group id, None if they are ours.
        counts_own: the job's processes are counted apart from ours, so their number can be limited.

    Raises:
        OSError: a limit is refused.
    """
    import resource

    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_bytes,
    }
    if counts_own and limits.pids is not None:
        wanted[resource.RLIMIT_NPROC] = limits.pids
    with _as_peer_of(owner):
        for kind, value in wanted.items():
            _, hard = resource.prlimit(pid, kind)
            allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, kind, (allowed, allowed))


@contextmanager
def _as_peer_of(owner: tuple[int, int] | None) -> Iterator[None]:
    """Have the same real ids as the job, as its limits may be set by its own user only.

    Root of a host without CAP_SYS_RESOURCE is no exception. The effective ids stay ours.
    """
    if owner is None:
        yield
        return
    user, group = owner
    os.setresgid(group, -1, -1)
    os.setresuid(user, -1, -1)
    try:
        yield
    finally:
        os.setresuid(0, -1, -1)
        os.setresgid(0, -1, -1)
