"""Abstract Unix sockets of the host kept from jobs that share its network, by Landlock.

Such sockets have no file: they belong to a network namespace, and whoever shares it reaches them all,
among them those of desktops, session buses and older container engines. A Landlock domain that
restricts nothing else hinders bubblewrap in none of its mounts.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
"""The same numbers on every processor."""
_TELL_VERSION = 1
_FIRST_VERSION_WITH_SCOPES = 6
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_PR_SET_NO_NEW_PRIVS = 38


@cache
def has_scopes() -> bool:
    """Tell whether the kernel can do this: from Linux 6.12 on, where Landlock is switched on."""
    version = ctypes.CDLL(None).syscall(
        _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_TELL_VERSION)
    )
    return bool(version >= _FIRST_VERSION_WITH_SCOPES)


@contextmanager
def scope_of_a_child() -> Iterator[Callable[[], None] | None]:
    """Yield what a new process calls before anything else, so that it and its descendants reach the
    abstract sockets, and can signal the processes, of each other only. None: it cannot be had.

    It takes setuid programs' privileges away too, bubblewrap's own included.

    Raises:
        OSError: the kernel refuses after all; from the new process too.
    """
    if not has_scopes():
        yield None
        return
    # Looked up here: a process just forked from one with threads had better not.
    libc = ctypes.CDLL(None, use_errno=True)
    call, control = libc.syscall, libc.prctl
    rights = struct.pack("=QQQ", 0, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS)
    ruleset = call(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), ctypes.c_uint(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock")

    def enter() -> None:
        if control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or call(_RESTRICT_SELF, ruleset, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock")

    try:
        yield enter
    finally:
        os.close(ruleset)
