"""Container engines: which of docker, podman and nerdctl runs jobs here, and how they are called.

All three speak the same command line. An engine inherits this process's environment, which is where
its configuration is; jobs never do.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from runnerlib.executors.port import SandboxUnavailable

NAMES = ("docker", "podman", "nerdctl")
"""In the order in which they are looked for."""
ANSWER_SECONDS = 10.0
_OLDEST_ROOTLESS_PODMAN = (4, 3)
_LONGEST_WORDS = 2000
_DAEMON_FORMAT = (
    '{"version":{{json .ServerVersion}},"cgroup":{{json .CgroupVersion}},"memory":{{json .MemoryLimit}},'
    '"pids":{{json .PidsLimit}},"cpu":{{json .CPUCfsQuota}},"security":{{json .SecurityOptions}}}'
)
_SERVICE_FORMAT = (
    '{"version":{{json .Version.Version}},"cgroup":{{json .Host.CGroupsVersion}},'
    '"controllers":{{json .Host.CgroupControllers}},"rootless":{{json .Host.Security.Rootless}}}'
)


@dataclass(frozen=True)
class Engine:
    """An engine that answers."""

    name: Literal["docker", "podman", "nerdctl"]
    """Whose command line it speaks."""
    path: str
    version: str
    is_rootless: bool
    """It runs as an ordinary user: root in a container is nobody special outside."""
    enforces_memory: bool
    enforces_pids: bool
    enforces_cpu: bool


@dataclass(frozen=True)
class Answer:
    """What an engine said. ``code`` is None if it did not answer in time."""

    code: int | None
    output: str
    words: str
    """Its standard error, or what is wrong with it."""


class _Daemon(msgspec.Struct):
    """What ``info`` of docker and nerdctl tells."""

    version: str = ""
    cgroup: str = ""
    memory: bool = False
    pids: bool = False
    cpu: bool = False
    security: list[str] | None = None


class _Service(msgspec.Struct):
    """What ``info`` of a podman tells that runs elsewhere."""

    version: str = ""
    cgroup: str = ""
    controllers: list[str] | None = None
    rootless: bool = False


def find_engine(named: str | None, *, needs_version: bool = True) -> Engine:
    """Return the engine of this name or path; without one, the first that is here and answers.

    Args:
        needs_version: else it may be empty, where it takes a process to ask for it and for nothing else.

    Raises:
        SandboxUnavailable: there is none, or the named one is missing or does not answer; says why.
    """
    if named is not None:
        path = _which(named)
        if path is None:
            raise SandboxUnavailable(f"the container engine {named!r} is not installed")
        return _ask(_kind_of(path), path, needs_version=needs_version)
    reasons = []
    for name in NAMES:
        path = _which(name)
        if path is None:
            continue
        try:
            return _ask(name, path, needs_version=needs_version)
        except SandboxUnavailable as error:
            reasons.append(str(error))
    why = "; ".join(reasons) or f"none of {', '.join(NAMES)} is installed"
    raise SandboxUnavailable(f"no container engine can be used: {why}")


def call_engine(path: str, arguments: list[str], *, timeout_seconds: float = ANSWER_SECONDS) -> Answer:
    """Run one short command of an engine; never raises for what it does."""
    try:
        told = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"no answer within {timeout_seconds:g} seconds")
    except OSError as error:
        return Answer(None, "", error.strerror or str(error))
    return Answer(told.returncode, told.stdout.decode(errors="replace"), last_words(told.stderr))


def last_words(said: bytes) -> str:
    """Return the end of what an engine complained, as one line that can be printed."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    text = " / ".join(lines)[-_LONGEST_WORDS:]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _which(program: str) -> str | None:
    places = [program] if "/" in program else [f"{folder}/{program}" for folder in os.get_exec_path()]
    found = (place for place in places if os.access(place, os.X_OK) and Path(place).is_file())
    return next((os.path.abspath(place) for place in found), None)  # noqa: PTH100 - links stay


def _kind_of(path: str) -> str:
    """Tell whose command line a program speaks, whatever it is called."""
    if path.endswith(("/podman", "/nerdctl")):
        # What is called docker may be podman in disguise; nobody disguises as these.
        return path.rpartition("/")[2]
    told = call_engine(path, ["--version"]).output.lower()
    kind = next((name for name in ("podman", "nerdctl", "docker") if name in told), None)
    if kind is None:
        raise SandboxUnavailable(f"{path} is none of {', '.join(NAMES)}")
    return kind


def _ask(name: str, path: str, *, needs_version: bool) -> Engine:
    if name != "podman":
        return _ask_daemon("nerdctl" if name == "nerdctl" else "docker", path)
    if os.environ.get("CONTAINER_HOST"):
        return _ask_service(path)
    if os.geteuid() == 0 and not needs_version:
        return _podman(path, "", False, True, [])
    return _look_at_podman(path)


def _ask_daemon(name: Literal["docker", "nerdctl"], path: str) -> Engine:
    answer = call_engine(path, ["info", "--format", _DAEMON_FORMAT])
    try:
        told = msgspec.json.decode(answer.output, type=_Daemon)
    except msgspec.DecodeError:
        told = _Daemon()
    if answer.code != 0 or not told.version:
        raise SandboxUnavailable(f"{name} ({path}) does not answer: {answer.words or 'it told nothing'}")
    is_rootless = any("rootless" in option for option in told.security or ())
    return Engine(name, path, told.version, is_rootless, told.memory, told.pids, told.cpu)


def _ask_service(path: str) -> Engine:
    answer = call_engine(path, ["info", "--format", _SERVICE_FORMAT])
    try:
        told = msgspec.json.decode(answer.output, type=_Service)
    except msgspec.DecodeError:
        told = _Service()
    if answer.code != 0 or not told.version:
        raise SandboxUnavailable(f"podman ({path}) does not answer: {answer.words or 'it told nothing'}")
    return _podman(path, told.version, told.rootless, told.cgroup == "v2", told.controllers or [])


def _look_at_podman(path: str) -> Engine:
    """Podman runs in our own name on this very host: what it would say is quicker seen than asked."""
    answer = call_engine(path, ["--version"])
    match = re.search(r"podman version ([0-9][^\s]*)", answer.output)
    if match is None:
        raise SandboxUnavailable(f"podman ({path}) does not answer: {answer.words or 'it told nothing'}")
    is_unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return _podman(path, match[1], os.geteuid() != 0, is_unified, _delegated_controllers())


def _podman(path: str, version: str, is_rootless: bool, is_unified: bool, controllers: list[str]) -> Engine:
    if is_rootless and _as_numbers(version) < _OLDEST_ROOTLESS_PODMAN:
        raise SandboxUnavailable(
            f"podman {version} ({path}) is too old to run without root: take 4.3 or newer"
        )
    # Without root, version 1 of control groups limits nothing, and version 2 only what systemd hands down.
    enforced = [not is_rootless or (is_unified and name in controllers) for name in ("memory", "pids", "cpu")]
    return Engine("podman", path, version, is_rootless, *enforced)


def _delegated_controllers() -> list[str]:
    uid = os.geteuid()
    group = Path(f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers")
    try:
        return group.read_text().split()
    except OSError:
        return []


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", version)[:2]))
