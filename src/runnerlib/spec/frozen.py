"""The frozen spec of one attempt, as JSON on the runner's standard input.

A spec has two halves: what the job asked for, frozen when it was submitted, and what the host
that runs it allows (`HostPolicy`). The runner checks the first against the second once more,
because a worker may have been handed it by somebody who is not our coordinator.
"""

from typing import Literal

import msgspec

PROTOCOL = 1
"""Version of this wire; a runner refuses a spec of another one."""


class JobSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a job's files come from. ``url`` and ``ref`` go with git, ``path`` with copy and tree."""

    type: Literal["git", "copy", "none", "tree"]
    url: str | None = None
    ref: str | None = None
    path: str | None = None
    """What to copy; of a tree the worker's folder that holds its contents by their digests."""
    tree: str | None = None
    """The SHA-256 of a tree's manifest (`runnerlib.spec.trees`); with tree only, as are the next two."""
    commit: str | None = None
    """The commit that the tree was made from, as its sender says."""
    changes: int | None = None
    """How many of the tree's files differ from that commit."""

    def __repr__(self) -> str:
        """Without the URL, which may have a password in it."""
        return f"JobSource(type={self.type!r}, ref={self.ref!r}, path={self.path!r}, tree={self.tree!r})"


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of a job; None takes the host's default."""

    cpu: float | None = None
    memory_mb: int | None = None
    pids: int | None = None


class HostPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the operator of the host allows, whatever a job asks for."""

    executor: Literal["auto", "process", "container", "kubernetes"] = "auto"
    unsandboxed: bool = False
    """Run without a sandbox: the operator's explicit choice, never a fall-back."""
    require_isolation: tuple[str, ...] = ()
    """Names of `measures.MEASURES` without which no job is run."""
    run_as_uid: int | None = None
    """Host uid of the sandbox when the worker is root; None: the worker's own uid."""
    container_engine: str | None = None
    """``docker``, ``podman``, ``nerdctl`` or the path of one; None: the first of these that is found."""
    container_user: str = "runner"
    """Who a container runs as: ``runner`` (1001), ``root``, or ``uid[:gid]``."""
    container_allow_root: bool = False
    """``container_user`` may be root."""
    container_pull: Literal["missing", "always", "never"] = "missing"
    container_pull_seconds: float = 600.0
    container_network: str | None = None
    """Name of the engine's network of jobs that may use one; None: the engine's default."""
    container_read_only: bool = False
    """The image's own files cannot be changed by the job."""
    plugin_dir: str | None = None
    """The operator's plugins, run by the runner outside of any sandbox; never a folder of the job's."""
    read_only_paths: tuple[str, ...] = ()
    """Host paths a sandboxed job sees read-only besides the system's, e.g. a toolchain in /opt."""
    default_resources: Resources = Resources(memory_mb=4096, pids=1024)
    open_files: int = 8192
    workspace_limit_bytes: int = 20 * 1024**3
    """Largest single file, and largest workspace where the file system can hold it to that."""
    log_limit_bytes: int = 1024**3
    artifact_limit_bytes: int = 10 * 1024**3
    """Of all artifacts of an attempt together."""
    copy_source_roots: tuple[str, ...] = ()
    git_allowed_protocols: tuple[str, ...] = ("https", "ssh")
    git_allowed_hosts: tuple[str, ...] = ()
    """``host`` or ``host:port`` that may be reached although their address is not public."""
    source_limit_bytes: int = 4 * 1024**3
    source_limit_files: int = 500_000
    source_timeout_seconds: float = 600.0
    cancel_grace_seconds: float = 10.0
    """Time between TERM and KILL."""


class RunSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One attempt of one job, whole."""

    protocol: int = PROTOCOL
    job_id: str
    job_name: str
    attempt: int
    command: str
    """Run byte for byte by ``/bin/sh -c``."""
    source: JobSource
    code_dir: str = "/job/src"
    job_dir: str = "/job/src"
    """Where the command starts."""
    environment: dict[str, str] = {}
    secrets: dict[str, str] = {}
    """Also environment variables of the job; their values never reach a log, argv or disk."""
    masked: tuple[str, ...] = ()
    """Further values that no log may show."""
    env_file: str | None = None
    """An env file inside the prepared source, relative to ``code_dir`` or absolute under /job."""
    image: str | None = None
    job_url: str | None = None
    traceparent: str | None = None
    timeout_seconds: float = 3600.0
    """From now, for source and command together."""
    silence_timeout_seconds: float | None = None
    fence_seconds: float | None = None
    """Kill the sandbox when no `Renewed` came for so long. None: nobody renews, as on a laptop."""
    fence_used_seconds: float = 0.0
    """So much of the first of these has passed when the spec is given."""
    network: Literal["default", "none"] = "default"
    resources: Resources = Resources()
    artifacts: tuple[str, ...] = ("**",)
    plugins: tuple[str, ...] | None = None
    """Names of the plugins in the operator's folder to use; None: all that are enabled."""
    spool_dir: str
    """Owner-only directory of this attempt; log, index and result are written here."""
    workspace_root: str
    """Directory in which the runner makes, and afterwards removes, this attempt's workspace."""
    host: HostPolicy = HostPolicy()

    def __repr__(self) -> str:
        """Only which attempt it is: whatever shows a spec, an error for one, must not show its secrets."""
        return f"RunSpec(job_id={self.job_id!r}, attempt={self.attempt!r})"


def encode_spec(spec: RunSpec) -> bytes:
    """Return ``spec`` as one line of JSON, newline included."""
    return msgspec.json.encode(spec) + b"\n"


def decode_spec(line: bytes) -> RunSpec:
    """Read a spec.

    Raises:
        ValueError: not JSON, an unknown field, a wrong type, or another protocol; the text says which.
    """
    spec = msgspec.json.decode(line, type=RunSpec)
    if spec.protocol != PROTOCOL:
        raise ValueError(f"protocol {spec.protocol} is not spoken here: this runner speaks {PROTOCOL}")
    return spec
