"""What each executor's parts see to on this host, as measures: pure, from what was found out before."""

from typing import TYPE_CHECKING

from runnerlib.executors.cgroups import Controllers
from runnerlib.spec import MEASURES, Measure

if TYPE_CHECKING:
    from runnerlib.executors.engine import Engine

_NOTHING = "nothing"
_WATCH = "looked at ten times a second"
_DISK = "rlimit for each file, the whole looked at every second"
_ROOT = "run the worker as root: its jobs then have another user than it"
_GROUPS = "let the worker make control groups: run it as root, or delegate memory and pids to it"
_FILE_SYSTEM = "require it no more; a file system of its own for WORK_DIR spares the rest of the host"
_SANDBOX = "remove UNSANDBOXED"


def sandbox_measures(
    controllers: Controllers, *, has_own_user: bool, has_filter: bool, has_scopes: bool
) -> tuple[Measure, ...]:
    """Return what a bubblewrap sandbox is made of."""
    kind = f"cgroup v{controllers.version}"
    memory, cpu = controllers.memory is not None, controllers.cpu is not None
    pids = f"{kind} and rlimit" if controllers.pids is not None else "rlimit"
    loopback = "have jobs say network: none, or take EXECUTOR=container"
    calls = "boot a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"
    scopes = "boot Linux 6.12 or newer with Landlock, or have jobs say network: none"
    return (
        _user(has_own_user, "a host user of its own"),
        Measure("files", "mount namespace", True),
        Measure("processes", pids, True),
        Measure("memory", kind, True) if memory else Measure("memory", _WATCH, False, _GROUPS),
        Measure("cpu", kind, True) if cpu else Measure("cpu", _NOTHING, False, _GROUPS),
        Measure("disk", _DISK, False, _FILE_SYSTEM),
        Measure("network", "network namespace", True),
        Measure("loopback", _NOTHING, False, loopback),
        _when(has_scopes, "abstract sockets", "landlock", scopes),
        _when(has_filter, "system calls", "seccomp filter", calls),
        _secrets(has_own_user),
    )


def container_measures(
    engine: "Engine", *, has_own_user: bool, counts_users: bool, network: str | None
) -> tuple[Measure, ...]:
    """Return what a container of this engine is made of.

    Args:
        counts_users: the job has a user namespace, in which the kernel counts its processes.
        network: the engine's network of jobs that may use one.
    """
    groups = f"control group of {engine.name}"
    own_network = network not in ("host", "none") and not (network or "").startswith(("ns:", "container:"))
    pids = groups if engine.enforces_pids else "rlimit"
    delegate = f"have systemd hand the controllers down to the user of {engine.name}"
    shared = "unset CONTAINER_NETWORK, or name a network of the engine's"
    return (
        _user(has_own_user, "another host user than the worker's"),
        Measure("files", engine.name, True),
        _when(engine.enforces_pids or counts_users, "processes", pids, delegate),
        Measure("memory", groups, True)
        if engine.enforces_memory
        else Measure("memory", _WATCH, False, delegate),
        _when(engine.enforces_cpu, "cpu", groups, delegate),
        Measure("disk", _DISK, False, _FILE_SYSTEM),
        Measure("network", "network namespace", True),
        _when(own_network, "loopback", "network namespace", shared),
        _when(own_network, "abstract sockets", "network namespace", shared),
        Measure("system calls", f"the filter that {engine.name} is configured with", True),
        _secrets(has_own_user),
    )


def no_measures() -> tuple[Measure, ...]:
    """Return what there is without a sandbox: memory and workspace are still looked at."""
    watched = {"memory": _WATCH, "disk": _DISK}
    return tuple(Measure(name, watched.get(name, _NOTHING), False, _SANDBOX) for name in MEASURES)


def _user(is_another: bool, by: str) -> Measure:
    return _when(is_another, "user", by, _ROOT)


def _secrets(has_own_user: bool) -> Measure:
    """What runners know is closed to all but root; what a job was told, to all but its own user."""
    by = "a user of its own, no core files, a runner that cannot be traced"
    return _when(has_own_user, "secrets in memory", by, _ROOT)


def _when(is_enforced: bool, name: str, by: str, remedy: str) -> Measure:
    return Measure(name, by, True) if is_enforced else Measure(name, _NOTHING, False, remedy)
