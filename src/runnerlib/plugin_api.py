"""What a plugin is made of: what its author imports, and what it may see and change of a run.

Authors import all of this from `runnerlib.plugins`. One `PluginContext` serves a whole run; what it
shows follows the run from phase to phase.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import msgspec

from runnerlib.spec import Resources, RunSpec
from runnerlib.spec.rules import check_image, check_number, redact_url

DEFAULT_TIMEOUT_SECONDS = 60.0
LONGEST_TIMEOUT_SECONDS = 600.0
DEFAULT_READ_LIMIT_BYTES = 1024 * 1024
DEFAULT_COPY_LIMIT_BYTES = 1024**3


class PluginPhase(StrEnum):
    """When a plugin is called, in the order of a run; `ON_ERROR` only if something went wrong."""

    PRE_VALIDATION = "pre_validation"
    POST_VALIDATION = "post_validation"
    PRE_SOURCE_PREP = "pre_source_prep"
    POST_SOURCE_PREP = "post_source_prep"
    PRE_CONTAINER = "pre_container"
    POST_CONTAINER = "post_container"
    ON_ERROR = "on_error"
    CLEANUP = "cleanup"


_BEFORE_IMAGE = (PluginPhase.PRE_VALIDATION, PluginPhase.POST_VALIDATION)
BEFORE_JOB = (
    *_BEFORE_IMAGE,
    PluginPhase.PRE_SOURCE_PREP,
    PluginPhase.POST_SOURCE_PREP,
    PluginPhase.PRE_CONTAINER,
)
"""The phases in which a plugin can still change what the job gets."""


class JobRefused(Exception):
    """Raised by a plugin: this job shall not run. It fails as ``policy_denied``, with this text."""


class ChangeRefused(AttributeError):
    """A plugin wanted to change something that is not its to change, or not to that value."""


class Plugin(ABC):
    """A plugin. One object serves one run, and may keep what it likes in itself."""

    name: str = ""
    """Unique in the operator's folder; jobs and log lines call the plugin by it."""
    priority: int = 100
    """Lower is called first; equal ones go by name."""
    enabled: bool = True
    """False: used by jobs that name it only."""
    required: bool = False
    """True: used by every job, also by one that names others."""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    """How long one call may take, at most `LONGEST_TIMEOUT_SECONDS`."""

    @abstractmethod
    def supported_phases(self) -> Collection[PluginPhase]:
        """Return the phases in which to call `execute`."""

    @abstractmethod
    def execute(self, context: "PluginContext") -> None:
        """Do the work of ``context.phase``.

        Raises:
            JobRefused: the job shall not run.
            Exception: anything else counts as a fault of this plugin, and ends the run too.
        """


class JobFiles(Protocol):
    """The files of a job, reached without following a link. Paths are as the job sees them."""

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the content of a regular file of at most so many bytes."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Put a file of the job's own in place."""
        ...

    def copy(self, source: str, target: str, limit_bytes: int) -> int:
        """Copy a regular file; return its size."""
        ...

    def find(self, globs: Sequence[str]) -> list[str]:
        """Return the regular files of the source that match, sorted."""
        ...


@dataclass
class JobConfig:
    """What the job asks for, with the host's defaults filled in.

    ``image`` may be set up to ``post_validation``; ``timeout_seconds``, ``silence_timeout_seconds`` (both
    only downwards), ``network`` (only to ``none``), ``cpu``, ``memory_mb``, ``pids`` and ``artifacts`` up to
    ``pre_container``. Any other change is a `ChangeRefused`.
    """

    job_id: str
    job_name: str
    attempt: int
    command: str
    source_type: str
    source_url: str | None
    source_ref: str | None
    code_dir: str
    job_dir: str
    image: str | None
    timeout_seconds: float
    silence_timeout_seconds: float | None
    network: Literal["default", "none"]
    cpu: float | None
    memory_mb: int | None
    pids: int | None
    artifacts: tuple[str, ...]

    _phase: ClassVar[str] = ""
    """Set on an object once it is made: from then on every change is judged."""

    @classmethod
    def of(cls, spec: RunSpec) -> "JobConfig":
        """Return what ``spec`` asks for."""
        asked, usual = spec.resources, spec.host.default_resources
        return cls(
            job_id=spec.job_id,
            job_name=spec.job_name,
            attempt=spec.attempt,
            command=spec.command,
            source_type=spec.source.type,
            source_url=None if spec.source.url is None else redact_url(spec.source.url),
            source_ref=spec.source.ref,
            code_dir=spec.code_dir,
            job_dir=spec.job_dir,
            image=spec.image,
            timeout_seconds=spec.timeout_seconds,
            silence_timeout_seconds=spec.silence_timeout_seconds,
            network=spec.network,
            cpu=usual.cpu if asked.cpu is None else asked.cpu,
            memory_mb=usual.memory_mb if asked.memory_mb is None else asked.memory_mb,
            pids=usual.pids if asked.pids is None else asked.pids,
            artifacts=spec.artifacts,
        )

    def enter(self, phase: PluginPhase) -> None:
        """Judge changes as of this phase."""
        object.__setattr__(self, "_phase", phase)

    def applied_to(self, spec: RunSpec) -> RunSpec:
        """Return ``spec`` with what was changed here."""
        return msgspec.structs.replace(
            spec,
            image=self.image,
            timeout_seconds=self.timeout_seconds,
            silence_timeout_seconds=self.silence_timeout_seconds,
            network=self.network,
            resources=Resources(cpu=self.cpu, memory_mb=self.memory_mb, pids=self.pids),
            artifacts=self.artifacts,
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Raises ChangeRefused for what a plugin may not do."""
        if self._phase:
            rule = _RULES.get(name)
            if rule is None:
                raise ChangeRefused(f"config.{name} cannot be changed: only {', '.join(_RULES)} can")
            if self._phase not in rule.phases:
                raise ChangeRefused(
                    f"config.{name} can no longer be changed in {self._phase},"
                    f" the last chance is {rule.phases[-1]}"
                )
            fault = rule.check(getattr(self, name), value)
            if fault is not None:
                raise ChangeRefused(f"config.{name} cannot become {value!r}: {fault}")
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class _Rule:
    """Until when a field may change, and to what: ``check`` gets the old and the new value."""

    check: Callable[[object, object], str | None]
    phases: Sequence[PluginPhase] = BEFORE_JOB


def _check_downwards(old: object, new: object) -> str | None:
    if isinstance(new, bool) or not isinstance(new, int | float) or not new > 0:
        return "must be seconds above 0"
    if isinstance(old, int | float) and new > old:
        return f"only less than now, {old:g}, is possible"
    return None


def _check_network(old: object, new: object) -> str | None:
    return None if new in ("none", old) else "it can only be taken away, by none"


def _check_image(_: object, new: object) -> str | None:
    return check_image(new) if isinstance(new, str) else "must be the reference of a container image"


def _check_artifacts(_: object, new: object) -> str | None:
    is_good = isinstance(new, tuple) and all(isinstance(glob, str) for glob in new)
    return None if is_good else "must be a tuple of globs"


def _within(name: str, kind: type[int] | type[float]) -> Callable[[object, object], str | None]:
    def check(_: object, new: object) -> str | None:
        if isinstance(new, bool) or not isinstance(new, int | kind):
            return "must be a whole number" if kind is int else "must be a number"
        return check_number(name, new)

    return check


_RULES: Mapping[str, _Rule] = {
    "image": _Rule(_check_image, _BEFORE_IMAGE),
    "timeout_seconds": _Rule(_check_downwards),
    "silence_timeout_seconds": _Rule(_check_downwards),
    "network": _Rule(_check_network),
    "cpu": _Rule(_within("cpu", float)),
    "memory_mb": _Rule(_within("memory_mb", int)),
    "pids": _Rule(_within("pids", int)),
    "artifacts": _Rule(_check_artifacts),
}


@dataclass(frozen=True)
class RunFacts:
    """Where the run is."""

    phase: PluginPhase = PluginPhase.PRE_VALIDATION
    job_path: Path | None = None
    exit_code: int | None = None
    error: str | None = None
    status: str | None = None
    reason: str | None = None


@dataclass
class PluginContext:
    """What plugins know of the run, and the ways to act on it. One object for all phases and plugins."""

    config: JobConfig
    env_vars: dict[str, str]
    """Up to ``pre_container``: what the job gets. Before that the job's own variables and secrets; in
    it everything, the platform's included, which nothing overrides."""
    take_line: Callable[[str], None] = field(repr=False)
    """Plugins reach this and the next two by `log`, `add_secret` and `mask`."""
    take_secret: Callable[[str], None] = field(repr=False)
    mask_text: Callable[[str], str] = field(repr=False)
    metadata: dict[str, object] = field(default_factory=dict)
    """For plugins to leave word for each other."""
    facts: RunFacts = RunFacts()
    files: JobFiles | None = None

    @property
    def phase(self) -> PluginPhase:
        """The phase that is on."""
        return self.facts.phase

    @property
    def job_path(self) -> Path | None:
        """Where the runner reaches the job's ``/job``; None before there is one.

        The job fills it as it likes, links included: prefer `read_file` and the other methods on files.
        """
        return self.facts.job_path

    @property
    def exit_code(self) -> int | None:
        """How the command ended, once it has; None also if it never started."""
        return self.facts.exit_code

    @property
    def error(self) -> str | None:
        """What went wrong, in words, from ``on_error`` on; None if nothing did."""
        return self.facts.error

    @property
    def status(self) -> str | None:
        """``completed``, ``failed``, ``cancelled`` or ``timeout``, from ``post_container`` on."""
        return self.facts.status

    @property
    def reason(self) -> str | None:
        """Why, in the closed words of the API, e.g. ``exit_nonzero``; with `status`."""
        return self.facts.reason

    def log(self, text: str) -> None:
        """Write lines of the platform into the job's log, masked."""
        self.take_line(text)

    def add_secret(self, value: str) -> None:
        """Mask ``value`` in all that is logged from now on."""
        self.take_secret(value)

    def mask(self, text: str) -> str:
        """Return ``text`` with every secret of the run replaced, for what leaves by another way."""
        return self.mask_text(text)

    def read_file(self, path: str, limit_bytes: int = DEFAULT_READ_LIMIT_BYTES) -> bytes:
        """Return a regular file of the job; ``path`` as the job sees it, or relative to its source.

        Raises:
            PathRefused: there is none, a link is in the way, or it is longer.
        """
        return self._job_files().read(path, limit_bytes)

    def write_file(self, path: str, data: bytes) -> None:
        """Put a file of the job's own in place, whole, with the folders above it. Raises PathRefused."""
        self._job_files().write(path, data)

    def copy_file(self, source: str, target: str, limit_bytes: int = DEFAULT_COPY_LIMIT_BYTES) -> int:
        """Copy a regular file within the workspace; return its size. Raises PathRefused."""
        return self._job_files().copy(source, target, limit_bytes)

    def find_files(self, globs: Sequence[str]) -> list[str]:
        """Return the regular files below the source that match, sorted, as the job sees them.

        ``**`` is any number of folders; a glob that matches a folder takes all that is in it.
        """
        return self._job_files().find(globs)

    def _job_files(self) -> JobFiles:
        if self.files is None:
            raise RuntimeError(f"there is no workspace in {self.phase}")
        return self.files
