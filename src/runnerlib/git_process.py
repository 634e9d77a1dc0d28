"""Running git within bounds: no shell, no settings but ours, its whole process group ends with it."""

import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runnerlib.source_errors import SourceFailed
from runnerlib.source_limits import SourceLimits

SAFE_SETTINGS = {
    "protocol.version": "2",
    "protocol.allow": "never",
    "credential.helper": "",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.logAllRefUpdates": "false",
    "safe.bareRepository": "explicit",
    "transfer.fsckObjects": "true",
    "transfer.unpackLimit": "1",
    # Faults of old tools in much-used histories, harmless.
    "fetch.fsck.badTimezone": "ignore",
    "fetch.fsck.zeroPaddedFilemode": "ignore",
    "fetch.fsck.missingSpaceBeforeDate": "ignore",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "100",
    "http.lowSpeedTime": "60",
    "advice.detachedHead": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
"""What git is told wherever we call it: it runs nothing that a repository names, and follows nothing."""
SAFE_VARIABLES = {
    "LC_ALL": "C",
    "GIT_ASKPASS": "false",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "SSH_ASKPASS": "false",
}
_POLL_SECONDS = 0.05
_KEPT_BYTES = 64 * 1024
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class GitAnswer:
    """How one git command ended; only the last 64 KiB of either stream are kept."""

    exit_code: int
    stdout: str
    stderr: str


def find_git() -> str:
    """Return the path of git. Raises SourceFailed if there is none."""
    found = shutil.which("git")
    if found is None:
        raise SourceFailed("git is not installed on this worker: install it (e.g. apt-get install git)")
    return found


def as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hand ``settings`` to git."""
    # Not as ``-c``: a credential must stand in no argument list, which everybody on the host can read.
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def run_git(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    limits: SourceLimits,
    take: Callable[[bytes], None] = lambda _: None,
) -> GitAnswer:
    """Run one command to its end and leave none of its processes behind.

    Args:
        take: gets all of the standard output, piece by piece. What it raises ends the command.

    Raises:
        SourceStopped, SourceFailed: a limit was reached; everything it started was killed.
    """
    with subprocess.Popen(
        [*_die_with_us(), *argv],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = _read_both(process, limits, take)
            process.wait()
        finally:
            _kill_group(process.pid)
            process.wait()
    limits.check_size()
    return GitAnswer(process.returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))


def _die_with_us() -> list[str]:
    """Return what to put before git, so that no process of it outlives a runner that is killed.

    Nobody would hold it to its limits any more. The kernel tells the first process only, and
    ``timeout`` is one that hands on what it is told to its whole group.
    """
    setpriv, timeout = shutil.which("setpriv"), shutil.which("timeout")
    if setpriv is None or timeout is None:
        return []
    return [setpriv, "--pdeathsig", "TERM", "--", timeout, "--kill-after=5", "1d"]


def _read_both(
    process: subprocess.Popen[bytes], limits: SourceLimits, take: Callable[[bytes], None]
) -> list[bytes]:
    kept: dict[IO[bytes], bytes] = {
        pipe: b"" for pipe in (process.stdout, process.stderr) if pipe is not None
    }
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            selector.register(pipe, selectors.EVENT_READ, pipe)
        # A pipe may stay open after the end: something git left behind holds it.
        while selector.get_map() and (process.poll() is None or selector.select(0)):
            for key, _ in selector.select(_POLL_SECONDS):
                data = os.read(key.fd, _BLOCK_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.data is process.stdout:
                    take(data)
                kept[key.data] = (kept[key.data] + data)[-_KEPT_BYTES:]
            limits.check()
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
        limits.check()
    return list(kept.values())


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
