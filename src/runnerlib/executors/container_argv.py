"""What an engine is told for one container: pure, from a plan to argv.

Nothing of the job's own text is in it besides names and paths: see `container_entry` for the rest.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from runnerlib.executors.container_entry import OWN_PROCESSES
from runnerlib.executors.port import CHANNEL, Limits

ATTEMPT_LABEL = "reactorcide.attempt"
OWNER_LABEL = "reactorcide.owner"
USUAL_ID = 1001
"""User and group id of ``runner``."""
_SHARED_MEMORY = "64m"
_LARGEST_ID = 2**31 - 1
_PLAIN_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"


class PlanRefused(ValueError):
    """The host's policy, or a path, does not go together with this engine; the text says why."""


@dataclass(frozen=True)
class JobUser:
    """Who a job is: inside, on the host, and by which mapping between the two."""

    inside: tuple[int, int]
    owner: tuple[int, int] | None
    """To whom the workspace has to be given; None: it is ours, and so is the job's."""
    user_namespace: str | None = None


@dataclass(frozen=True)
class ContainerPlan:
    """What one container is made of."""

    engine: Literal["docker", "podman", "nerdctl"]
    name: str
    attempt: str
    owner: str
    """Who runs it, for people who look at the host's containers."""
    image_id: str
    user: JobUser
    workspace: str
    directory: str
    channel: str | None
    read_only_paths: tuple[str, ...]
    limits: Limits
    enforces_memory: bool
    enforces_pids: bool
    enforces_cpu: bool
    most_processes: int | None
    """How many processes the engine may allow a user at most; None: it finds out by itself."""
    network: str | None
    """``none``, the name of a network, or the engine's default."""
    is_read_only: bool
    temp_bytes: int
    relabels: bool
    """The host labels its files, and a job may touch only what is labelled as a container's."""


def attempt_label(attempt: str) -> str:
    """Return what stands for an attempt in names and labels: its name, unless that is an odd one."""
    if re.fullmatch(_PLAIN_NAME, attempt):
        return attempt
    import hashlib

    return hashlib.sha256(attempt.encode(errors="surrogateescape")).hexdigest()[:40]


def container_name(attempt: str, suffix: str) -> str:
    """Return the name of a container; ``suffix`` keeps it apart from one that a former self left."""
    return f"reactorcide-{attempt_label(attempt)}-{suffix}"


def parse_user(text: str, *, allows_root: bool) -> tuple[int, int]:
    """Return user and group id for ``runner``, ``root`` or ``uid[:gid]``.

    Raises:
        PlanRefused: it is none of these, or root where that is not allowed.
    """
    if text == "runner":
        return USUAL_ID, USUAL_ID
    match = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", "0:0" if text == "root" else text, re.ASCII)
    ids = (int(match[1]), int(match[2] or match[1])) if match else None
    if ids is None or max(ids) > _LARGEST_ID:
        raise PlanRefused(f"container_user is {text[:100]!r}: it must be runner, root or uid[:gid]")
    if 0 in ids and not allows_root:
        raise PlanRefused(f"container_user is {text!r}: root is not allowed in containers on this host")
    return ids


def choose_user(
    wanted: tuple[int, int], *, engine: str, is_rootless: bool, ours: tuple[int, int], is_usual: bool
) -> JobUser:
    """Return who the job is, so that its files belong to it inside and can be removed by us outside.

    Args:
        ours: our own user and group id.
        is_usual: ``wanted`` is only the usual choice, so another may be taken where it cannot be had.

    Raises:
        PlanRefused: files of such a user could not be shared with us.
    """
    if is_rootless and engine == "podman" and ours[0] != 0:
        if wanted[0] == 0:
            return JobUser(wanted, None)
        return JobUser(wanted, None, f"keep-id:uid={wanted[0]},gid={wanted[1]}")
    if is_rootless and (wanted[0] != 0 or ours[0] == 0):
        raise PlanRefused(
            f"a rootless {engine} gives files of a job to a user that the worker is not: run the worker as"
            " the engine's own user with CONTAINER_USER=root and CONTAINER_ALLOW_ROOT=true (root in the"
            " container is that user outside), or take podman"
        )
    if is_rootless or ours[0] == 0:
        return JobUser(wanted, None if is_rootless else wanted)
    # An engine of root's, used by an ordinary user: only under our own ids do we share files.
    if wanted != ours and not is_usual:
        raise PlanRefused(
            f"only root can share files with user {wanted[0]}:{wanted[1]} of a container: leave"
            f" CONTAINER_USER unset, which runs jobs as {ours[0]}:{ours[1]} here"
        )
    return JobUser(ours, None)


def compose_argv(plan: ContainerPlan) -> list[str]:
    """Return the arguments of the engine that run one container, its first process a shell.

    Raises:
        PlanRefused: a host path cannot be said to an engine.
    """
    uid, gid = plan.user.inside
    argv = [
        *("run", "--interactive", "--pull=never", f"--name={plan.name}"),
        *(f"--label={ATTEMPT_LABEL}={attempt_label(plan.attempt)}", f"--label={OWNER_LABEL}={plan.owner}"),
        *("--log-driver=none", "--hostname=job", f"--user={uid}:{gid}"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--stop-timeout=0"),
        *("--ulimit=core=0:0", f"--ulimit=nofile={plan.limits.open_files}:{plan.limits.open_files}"),
        *(f"--ulimit=fsize={plan.limits.file_bytes}:{plan.limits.file_bytes}", *_limits(plan)),
        *(f"--shm-size={_SHARED_MEMORY}", *_mounts(plan), *_habits(plan)),
    ]
    if plan.user.user_namespace is not None:
        argv.append(f"--userns={plan.user.user_namespace}")
    if plan.network is not None:
        argv.append(f"--network={plan.network}")
    if plan.is_read_only:
        argv.append("--read-only")
    return [*argv, f"--workdir={plan.directory}", "--entrypoint=/bin/sh", plan.image_id, "-s"]


def _limits(plan: ContainerPlan) -> list[str]:
    limits, most, options = plan.limits, plan.most_processes, []
    if limits.memory_bytes is not None and plan.enforces_memory:
        options += [f"--memory={limits.memory_bytes}b", f"--memory-swap={limits.memory_bytes}b"]
    if limits.cpu is not None and plan.enforces_cpu:
        options.append(f"--cpus={limits.cpu:g}")
    if limits.pids is not None:
        pids = limits.pids + OWN_PROCESSES
        if plan.enforces_pids:
            options.append(f"--pids-limit={pids}")
        elif plan.user.user_namespace is not None:
            # The kernel counts by user and user namespace, and this one is the container's own.
            most = pids if most is None else min(pids, most)
    if most is not None:
        options.append(f"--ulimit=nproc={most}:{most}")
    return options


def _mounts(plan: ContainerPlan) -> list[str]:
    ours = ":Z" if plan.relabels else ""
    options = [f"--volume={_said(plan.workspace)}:/job{ours}"]
    if plan.channel is not None:
        options.append(f"--volume={_said(plan.channel)}:{CHANNEL}{ours}")
    options += [f"--volume={_said(path)}:{_said(path)}:ro" for path in plan.read_only_paths]
    # Podman would first copy what the image has there, by way of the host's /tmp.
    alone = ",notmpcopyup" if plan.engine == "podman" else ""
    return [*options, f"--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777,size={plan.temp_bytes}{alone}"]


def _habits(plan: ContainerPlan) -> list[str]:
    """Return what keeps an engine from adding things of its own."""
    if plan.engine == "podman":
        # Else it gives the proxies of our environment to the job, takes two bytes for an order to leave, and
        # may have been told to put a process of its own before ours, or ours among the host's.
        return [
            *("--http-proxy=false", "--detach-keys=", "--read-only-tmpfs=false", "--no-healthcheck"),
            *("--init=false", "--pid=private"),
        ]
    return ["--no-healthcheck"] if plan.engine == "docker" else []


def _said(path: str) -> str:
    if ":" in path or not PurePosixPath(path).is_absolute():
        raise PlanRefused(f"the path {path!r} cannot be mounted: it must be absolute and without a colon")
    return path
