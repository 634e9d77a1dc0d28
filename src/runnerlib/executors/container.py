"""Containers: one for each attempt, run by docker, podman or nerdctl through their common command line."""

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runnerlib.executors.container_argv import (
    ContainerPlan,
    JobUser,
    PlanRefused,
    choose_user,
    compose_argv,
    container_name,
    parse_user,
)
from runnerlib.executors.container_cleanup import keep_record
from runnerlib.executors.container_entry import NameRefused, compose_entry
from runnerlib.executors.container_job import Container, ContainerJob, start_container
from runnerlib.executors.engine import Engine, find_engine
from runnerlib.executors.images import Image, take_image
from runnerlib.executors.measures import container_measures
from runnerlib.executors.port import CHANNEL, JobCommand, SandboxUnavailable
from runnerlib.limits import find_limits, limits_for_executor
from runnerlib.spec import HostPolicy, Measure, RunSpec

_TEMP_BYTES = 1024**3
_PROCESS_IDS = Path("/proc/sys/kernel/pid_max")
_LABELLED_HOST = Path("/sys/fs/selinux/enforce")


class ContainerExecutor:
    """Runs jobs in containers.

    Args:
        policy: what the operator says about engine, user, images, network.
        name: of the attempt, also in the name and on the label of its container.

    Raises:
        SandboxUnavailable: there is no engine, or the policy does not go together with it.
    """

    provides_path = True

    def __init__(self, policy: HostPolicy, name: str) -> None:
        self.engine: Engine = find_engine(policy.container_engine, needs_version=False)
        self.isolation: str = self.engine.name
        self._policy = policy
        self._name = name
        self._user = _user_of(policy, self.engine)
        self.owner = self._user.owner
        self._image: Image | None = None
        self._channel: Path | None = None

    def measures(self) -> tuple[Measure, ...]:
        """Return what keeps jobs apart here."""
        return container_measures(
            self.engine,
            has_own_user=self.owner is not None,
            counts_users=self._user.user_namespace is not None,
            network=self._policy.container_network,
        )

    def take_image(
        self, image: str | None, tell: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> str | None:
        """Have the image here, pulled as the policy says; return its digest."""
        self._image = take_image(
            self.engine,
            image,
            policy=self._policy.container_pull,
            limit_seconds=self._policy.container_pull_seconds,
            tell=tell,
            should_stop=should_stop,
        )
        return self._image.digest

    def open_workspace(self, path: Path) -> Path:
        """Return the workspace as it is: the engine mounts it, whoever may reach it here."""
        return path

    def open_channel(self, path: Path) -> str:
        """Let the job reach a folder of ours."""
        self._channel = path
        return CHANNEL

    def job_root(self, workspace: Path) -> str:
        """Return where the job sees the workspace: always the same."""
        del workspace
        return "/job"

    def start(self, command: JobCommand, workspace: Path) -> ContainerJob:
        """Start a container and the command in it.

        Raises:
            SandboxUnavailable: it cannot be had; the text has the engine's own words.
        """
        plan = self._plan(command, workspace)
        try:
            argv = compose_argv(plan)
            entry = compose_entry(command.text, command.environment)
        except (PlanRefused, NameRefused) as error:
            raise SandboxUnavailable(str(error)) from error
        # Written before there is a container: who finds a dead attempt's workspace knows what to ask.
        keep_record(workspace.parent, self.engine.path)
        return start_container(Container(self.engine, plan.name, argv, entry, command.limits, self._channel))

    def preview(self, command: JobCommand, workspace: Path, image: str) -> list[str]:
        """Return the command that `start` would run. Raises SandboxUnavailable."""
        self._image = Image(image, "")
        try:
            return [self.engine.path, *compose_argv(self._plan(command, workspace))]
        except PlanRefused as error:
            raise SandboxUnavailable(str(error)) from error

    def _plan(self, command: JobCommand, workspace: Path) -> ContainerPlan:
        if self._image is None:
            raise SandboxUnavailable("no image was taken for the container")
        engine = self.engine
        files, processes = _own_limits() if engine.name == "podman" else (None, None)
        asked = command.limits
        limits = replace(asked, open_files=min(asked.open_files, files or asked.open_files))
        return ContainerPlan(
            engine=engine.name,
            name=container_name(self._name, os.urandom(4).hex()),
            attempt=self._name,
            owner=f"uid-{os.geteuid()}.pid-{os.getpid()}",
            image_id=self._image.id,
            user=self._user,
            workspace=str(workspace.absolute()),
            directory=command.directory,
            channel=None if self._channel is None else str(self._channel.absolute()),
            read_only_paths=self._policy.read_only_paths,
            limits=limits,
            enforces_memory=engine.enforces_memory,
            enforces_pids=engine.enforces_pids,
            enforces_cpu=engine.enforces_cpu,
            most_processes=processes,
            network="none" if command.network == "none" else self._policy.container_network,
            is_read_only=self._policy.container_read_only,
            # Half of the memory, as it is memory too: it shall be full before the job has none left.
            temp_bytes=min(_TEMP_BYTES, (limits.memory_bytes or 2 * _TEMP_BYTES) // 2),
            relabels=_LABELLED_HOST.exists(),
        )


def compose_preview(spec: RunSpec) -> list[str]:
    """Return the command that would run the job's container, its image by its name; nothing is run.

    Raises:
        SandboxUnavailable: it would not come to that.
    """
    name = f"{spec.job_id}.{spec.attempt}"
    executor = ContainerExecutor(spec.host, name)
    command = JobCommand(
        text=spec.command,
        directory=spec.job_dir,
        environment={},
        limits=limits_for_executor(spec, find_limits(spec)),
        network=spec.network,
    )
    return executor.preview(command, Path(spec.workspace_root) / name / "job", spec.image or "")


def _own_limits() -> tuple[int | None, int | None]:
    """Return how many files and processes a podman can allow: it is our child, and cannot pass our limits.

    It would still try to, where it is not told.
    """
    found = [resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
    files, processes = (None if most == resource.RLIM_INFINITY else most for most in found)
    # Podman first lowers its own limit to as many as there are process ids.
    return files, None if processes is None else min(processes, int(_PROCESS_IDS.read_text()))


def _user_of(policy: HostPolicy, engine: Engine) -> JobUser:
    try:
        return choose_user(
            parse_user(policy.container_user, allows_root=policy.container_allow_root),
            engine=engine.name,
            is_rootless=engine.is_rootless,
            ours=(os.geteuid(), os.getegid()),
            is_usual=policy.container_user == "runner",
        )
    except PlanRefused as error:
        raise SandboxUnavailable(str(error)) from error
