"""Which executor runs an attempt on this host."""

import os
import zlib

from runnerlib.executors.port import Executor, SandboxUnavailable
from runnerlib.spec import HostPolicy

FIRST_UID = 2_000_000_000
_UID_RANGE = 100_000_000


def choose_executor(policy: HostPolicy, name: str) -> Executor:
    """Return the executor for the attempt of this name.

    Raises:
        SandboxUnavailable: the one that is asked for cannot be had here; nothing else is taken for it.
    """
    if policy.unsandboxed:
        from runnerlib.executors.unsandboxed import UnsandboxedExecutor

        return UnsandboxedExecutor()
    if policy.executor not in ("auto", "process"):
        raise SandboxUnavailable(f"the {policy.executor} executor is not part of this version")
    from runnerlib.executors.process import BubblewrapExecutor

    return BubblewrapExecutor(name, run_as=sandbox_ids(policy, name), read_only_paths=policy.read_only_paths)


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
