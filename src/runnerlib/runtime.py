"""What would run a job on this machine, found out before there is one: sandbox or engine, and image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runnerlib.configuration import RunConfig
from runnerlib.spec import HostPolicy, Resources

if TYPE_CHECKING:
    from runnerlib.executors.engine import Engine

NOTHING = "none"
_PROBE_NAME = "probe.1"


@dataclass(frozen=True)
class Runtime:
    """What would run the job here. ``isolation`` is ``none`` where nothing can, as ``detail`` says."""

    isolation: str
    detail: str
    engine: "Engine | None" = None

    @property
    def uses_images(self) -> bool:
        """Whether the image of a job means something."""
        return self.isolation in ("docker", "podman", "nerdctl")


@dataclass(frozen=True)
class ImageState:
    """What is known of an image. ``digest`` is None if it is not here; ``trouble``: nor can it come."""

    digest: str | None
    trouble: str | None = None


def host_policy(config: RunConfig) -> HostPolicy:
    """Return what this machine allows: all that the one at the keyboard asked for."""
    return HostPolicy(
        executor=config.executor,
        unsandboxed=config.unsandboxed,
        read_only_paths=config.read_only_path,
        container_engine=config.container_engine,
        container_user=config.container_user,
        container_allow_root=True,
        container_pull=config.container_pull,
        plugin_dir=None if config.plugin_dir is None else str(config.plugin_dir),
        default_resources=Resources(),
        copy_source_roots=() if config.source_path is None else (str(config.source_path),),
        git_allowed_protocols=("https", "ssh", *config.allow_protocol),
        git_allowed_hosts=config.allow_host,
        cancel_grace_seconds=config.grace_seconds,
    )


def probe_runtime(config: RunConfig) -> Runtime:
    """Find out what would run the job: a sandbox by building one, an engine by asking it.

    Called once in a process, and not before a run in the same one.
    """
    if config.unsandboxed or config.executor != "container":
        from runnerlib.isolation import probe_isolation

        found = probe_isolation(host_policy(config))
        if found.name != NOTHING or config.executor == "process":
            return Runtime(found.name, found.detail)
        other = _probe_engine(config)
        return other if other.engine is not None else Runtime(NOTHING, f"{found.detail}; {other.detail}")
    return _probe_engine(config)


def _probe_engine(config: RunConfig) -> Runtime:
    from runnerlib.executors.container import ContainerExecutor
    from runnerlib.executors.engine import find_engine
    from runnerlib.executors.port import SandboxUnavailable

    try:
        engine = find_engine(config.container_engine)
        # It also judges whether policy and engine go together.
        ContainerExecutor(host_policy(config), _PROBE_NAME)
    except SandboxUnavailable as error:
        return Runtime(NOTHING, str(error))
    kind = "rootless" if engine.is_rootless else "of root"
    limits = [
        name
        for name, holds in (
            ("memory", engine.enforces_memory),
            ("processes", engine.enforces_pids),
            ("cores", engine.enforces_cpu),
        )
        if holds
    ]
    held = f"it limits {', '.join(limits)}" if limits else "it limits nothing"
    return Runtime(engine.name, f"{engine.name} {engine.version} ({engine.path}), {kind}, {held}", engine)


def look_for_image(runtime: Runtime, config: RunConfig) -> ImageState | None:
    """Look whether the job's image is here, pulling nothing. None: there is none to look for."""
    if runtime.engine is None or config.runner_image is None:
        return None
    from runnerlib.executors.images import check_reference, take_image
    from runnerlib.executors.port import ImageUnavailable, SandboxUnavailable

    try:
        check_reference(config.runner_image)
    except ImageUnavailable as error:
        return ImageState(None, str(error))
    try:
        image = take_image(
            runtime.engine,
            config.runner_image,
            policy="never",
            limit_seconds=0,
            tell=lambda _: None,
            should_stop=lambda: False,
        )
    except ImageUnavailable as error:
        return ImageState(None, str(error) if config.container_pull == "never" else None)
    except SandboxUnavailable as error:
        return ImageState(None, str(error))
    return ImageState(image.digest)
