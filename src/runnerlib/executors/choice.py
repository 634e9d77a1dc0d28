"""Which executor runs an attempt on this host."""

import ctypes
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runnerlib.executors.launch import keep_memory_private
from runnerlib.executors.port import Executor, SandboxUnavailable
from runnerlib.spec import HostPolicy, unmet

FIRST_UID = 2_000_000_000
_UID_RANGE = 100_000_000


def choose_executor(policy: HostPolicy, name: str) -> Executor:
    """Return the executor for the attempt of this name.

    Raises:
        SandboxUnavailable: the one that is asked for cannot be had here, or does not enforce what the
            operator requires; nothing else is taken for it.
    """
    executor = find_executor(policy, name)
    if missing := unmet(policy.require_isolation, executor.measures()):
        names = ", ".join(missing)
        raise SandboxUnavailable(f"{executor.isolation} does not enforce here what is required: {names}")
    return executor


def find_executor(policy: HostPolicy, name: str) -> Executor:
    """As `choose_executor`, whatever it enforces."""
    if policy.unsandboxed:
        from runnerlib.executors.unsandboxed import UnsandboxedExecutor

        return UnsandboxedExecutor()
    keep_memory_private()
    if policy.executor == "container":
        return _container_executor(policy, name)
    if policy.executor == "process":
        return _bubblewrap_executor(policy, name)
    if policy.executor != "auto":
        raise SandboxUnavailable(f"the {policy.executor} executor is not part of this version")
    try:
        with _way_back():
            return _bubblewrap_executor(policy, name)
    except SandboxUnavailable as no_bubblewrap:
        try:
            return _container_executor(policy, name)
        except SandboxUnavailable as no_container:
            raise SandboxUnavailable(f"{no_bubblewrap}; {no_container}") from no_container


def _bubblewrap_executor(policy: HostPolicy, name: str) -> Executor:
    from runnerlib.executors.process import BubblewrapExecutor

    return BubblewrapExecutor(name, run_as=sandbox_ids(policy, name), read_only_paths=policy.read_only_paths)


def _container_executor(policy: HostPolicy, name: str) -> Executor:
    from runnerlib.executors.container import ContainerExecutor

    return ContainerExecutor(policy, name)


@contextmanager
def _way_back() -> Iterator[None]:
    """Return to the mounts of before if an executor left them on its way and then could not be had.

    An engine that ran among mounts of this process alone would lose sight of its own.
    """
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    except SandboxUnavailable:
        if os.fstat(before).st_ino != Path("/proc/self/ns/mnt").stat().st_ino:
            ctypes.CDLL(None).setns(before, 0)
        raise
    finally:
        os.close(before)


def sandbox_ids(policy: HostPolicy, name: str) -> tuple[int, int] | None:
    """Return host user and group id of the sandbox; None: our own, as only root can choose.

    Raises:
        SandboxUnavailable: the operator chose root.
    """
    if os.geteuid() != 0:
        return None
    uid = policy.run_as_uid
    if uid is None:
        uid = FIRST_UID + zlib.crc32(name.encode()) % _UID_RANGE
    if uid == 0:
        raise SandboxUnavailable("a sandbox must not run as root: choose another user id")
    return uid, uid
