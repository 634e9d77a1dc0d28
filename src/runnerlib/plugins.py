"""Loading the operator's plugins: from one folder that nobody else can write, each file checked.

Plugins run in the runner, outside of the job's sandbox and with the worker's rights. So a file is
loaded only if root or the runner's own user alone can change it, all the way up to it, and never
from where a job's files lie. Its bytes are read once, from what was checked. Authors import what
they need from here.
"""

import os
import re
import stat
import sys
import types
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from runnerlib.plugin_api import (
    DEFAULT_TIMEOUT_SECONDS,
    LONGEST_TIMEOUT_SECONDS,
    ChangeRefused,
    JobConfig,
    JobRefused,
    Plugin,
    PluginContext,
    PluginPhase,
)

__all__ = [
    "ChangeRefused",
    "JobConfig",
    "JobRefused",
    "LoadedPlugin",
    "Plugin",
    "PluginContext",
    "PluginHost",
    "PluginPhase",
    "PluginUnknown",
    "PluginsUnusable",
    "load_plugins",
    "read_settings",
]

MOST_FILES = 100
LONGEST_FILE_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

SettingsType = TypeVar("SettingsType", bound=msgspec.Struct)


class PluginsUnusable(Exception):
    """The operator's folder, a file in it or a class in that cannot be used; the text says which and why."""


class PluginUnknown(Exception):
    """A job names a plugin that the operator's folder does not have."""


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin, and what it said of itself when it was loaded."""

    name: str
    priority: int
    phases: frozenset[PluginPhase]
    timeout_seconds: float
    is_enabled: bool
    is_required: bool
    file: Path
    plugin: Plugin


@dataclass(frozen=True)
class PluginHost:
    """The plugins that one run uses, in the order in which they are called."""

    plugins: tuple[LoadedPlugin, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in that order."""
        return tuple(plugin.name for plugin in self.plugins)

    def for_phase(self, phase: PluginPhase) -> tuple[LoadedPlugin, ...]:
        """Return those that take part in ``phase``, in that order."""
        return tuple(plugin for plugin in self.plugins if phase in plugin.phases)


def load_plugins(
    folder: Path, wanted: tuple[str, ...] | None, *, job_folders: Sequence[Path] = ()
) -> PluginHost:
    """Load every ``plugin_*.py`` in ``folder`` and choose the plugins that a run uses.

    Args:
        wanted: those named by the job, besides the required ones; None: all that are enabled.
        job_folders: where jobs' files lie: plugins may not.

    Raises:
        PluginsUnusable: something in the folder is not as it must be.
        PluginUnknown: ``wanted`` names one that is not there.
    """
    place = _check_folder(folder, job_folders)
    loaded: dict[str, LoadedPlugin] = {}
    for path in _files_in(place):
        for plugin in _load_file(path, place):
            other = loaded.get(plugin.name)
            if other is not None:
                raise PluginsUnusable(
                    f"two plugins are called {plugin.name!r}: {other.file.name} and {plugin.file.name}"
                )
            loaded[plugin.name] = plugin
    unknown = [name for name in wanted or () if name not in loaded]
    if unknown:
        have = ", ".join(sorted(loaded)) or "none"
        raise PluginUnknown(
            f"there is no plugin {', '.join(map(repr, unknown))} on this worker; it has {have}"
        )
    chosen = [
        plugin
        for plugin in loaded.values()
        if plugin.is_required or (plugin.is_enabled if wanted is None else plugin.name in wanted)
    ]
    return PluginHost(tuple(sorted(chosen, key=lambda plugin: (plugin.priority, plugin.name))))


def read_settings(plugin_file: str, kind: type[SettingsType]) -> SettingsType:
    """Return the settings of a plugin, from the TOML file of the same name beside it.

    Called as ``read_settings(__file__, Settings)``. Without a file, the defaults of ``kind`` hold.

    Args:
        kind: a `msgspec.Struct`; say ``forbid_unknown_fields=True``, so that a slip of the pen is told.

    Raises:
        PluginsUnusable: the file is not to be trusted, or holds something else.
    """
    path = Path(plugin_file).with_suffix(".toml")
    try:
        data = _read_trusted(path, path.parent) if os.path.lexists(path) else b""
        return msgspec.toml.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ImportError) as error:
        raise PluginsUnusable(f"{path.name}: {error}") from error


def _check_folder(folder: Path, job_folders: Sequence[Path]) -> Path:
    """Return the folder, without links in its path."""
    try:
        place = folder.resolve(strict=True)
        if not place.is_dir():
            raise PluginsUnusable(f"{folder} is no folder")
        for job_folder in job_folders:
            if place.is_relative_to(job_folder.resolve()):
                raise PluginsUnusable(f"{folder} lies in {job_folder}, where jobs write")
        for above in (place, *place.parents):
            _check_owner(above, above.stat(), may_be_sticky=above != place)
    except OSError as error:
        raise PluginsUnusable(f"{folder} cannot be read: {error.strerror or error}") from error
    return place


def _check_owner(path: Path, found: os.stat_result, *, may_be_sticky: bool = False) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise PluginsUnusable(f"{path} belongs to another user (uid {found.st_uid})")
    # In a sticky folder, such as /tmp, nobody can put something else in the place of what is ours.
    is_open = found.st_mode & 0o022 and not (may_be_sticky and found.st_mode & stat.S_ISVTX)
    # A volume of Kubernetes is open to all by its mode, and closed to all by its mount.
    if is_open and not os.statvfs(path).f_flag & os.ST_RDONLY:
        raise PluginsUnusable(f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")


def _files_in(place: Path) -> list[Path]:
    try:
        files = sorted(place.glob("plugin_*.py"))
    except OSError as error:
        raise PluginsUnusable(f"{place} cannot be read: {error.strerror or error}") from error
    if len(files) > MOST_FILES:
        raise PluginsUnusable(f"{place} has more than {MOST_FILES} plugin files")
    return files


def _read_trusted(path: Path, place: Path) -> bytes:
    """Return a file that only root or we can change; a link may lead to it inside of ``place``."""
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(place.resolve()):
            raise PluginsUnusable(f"{path.name} is a link that leads out of {place}")
        for folder in real.parents:
            if folder == place.resolve():
                break
            _check_owner(folder, folder.stat())
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = _read_checked(descriptor, path)
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError) as error:
        raise PluginsUnusable(f"{path.name} cannot be read: {error}") from error
    if len(data) > LONGEST_FILE_BYTES:
        raise PluginsUnusable(f"{path.name} is longer than {LONGEST_FILE_BYTES} bytes")
    return data


def _read_checked(descriptor: int, path: Path) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise PluginsUnusable(f"{path.name} is not a regular file")
    _check_owner(path, found)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(LONGEST_FILE_BYTES + 1)


def _load_file(path: Path, place: Path) -> list[LoadedPlugin]:
    source = _read_trusted(path, place)
    module = types.ModuleType(f"operator_{path.stem}")
    module.__file__ = str(path)
    # Found there by what looks up a class's module, as dataclasses do.
    sys.modules[module.__name__] = module
    try:
        # Compiled here: no bytecode of anybody's is read from the folder, and none is left in it.
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102
        return [_describe(kind, path) for kind in _plugin_classes(module)]
    except PluginsUnusable:
        raise
    except BaseException as error:
        raise PluginsUnusable(f"{path.name} cannot be loaded: {explain_error(error, path)}") from error


def _plugin_classes(module: types.ModuleType) -> list[type[Plugin]]:
    """Return the classes that are plugins: made in this file, not merely imported or a base by its name."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and (
            issubclass(value, Plugin) or all(hasattr(value, part) for part in ("supported_phases", "execute"))
        )
    ]


def _describe(kind: type[Plugin], file: Path) -> LoadedPlugin:
    where = f"{file.name}: class {kind.__name__}"
    plugin = kind()
    name = getattr(plugin, "name", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginsUnusable(
            f"{where}: name {name!r} must be 1 to 63 letters, digits and . _ - and begin with no sign"
        )
    priority = getattr(plugin, "priority", Plugin.priority)
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise PluginsUnusable(f"{where}: priority {priority!r} must be a whole number")
    seconds = getattr(plugin, "timeout_seconds", DEFAULT_TIMEOUT_SECONDS)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= LONGEST_TIMEOUT_SECONDS:
        raise PluginsUnusable(
            f"{where}: timeout_seconds {seconds!r} must be above 0 and at most {LONGEST_TIMEOUT_SECONDS:g}"
        )
    return LoadedPlugin(
        name=name,
        priority=priority,
        phases=_phases_of(plugin.supported_phases(), where),
        timeout_seconds=seconds,
        is_enabled=_flag(plugin, "enabled", where, default=Plugin.enabled),
        is_required=_flag(plugin, "required", where, default=Plugin.required),
        file=file,
        plugin=plugin,
    )


def _flag(plugin: Plugin, field: str, where: str, *, default: bool) -> bool:
    value = getattr(plugin, field, default)
    if not isinstance(value, bool):
        raise PluginsUnusable(f"{where}: {field} {value!r} must be True or False")
    return value


def _phases_of(said: Collection[str], where: str) -> frozenset[PluginPhase]:
    known = set(PluginPhase)
    # A text is a collection too, of letters: no phase among them.
    phases = [said] if isinstance(said, str) else list(said)
    for phase in phases:
        if phase not in known:
            raise PluginsUnusable(f"{where}: there is no phase {phase!r}; there are {', '.join(PluginPhase)}")
    return frozenset(map(PluginPhase, phases))


def explain_error(error: BaseException, path: Path | None = None) -> str:
    """Return an error as one line: kind, text, and the line of the plugin's file it came from."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a plugin's exception may be broken too
        text = "(its text cannot be had)"
    line, step = None, error.__traceback__
    while step is not None:
        if path is not None and step.tb_frame.f_code.co_filename == str(path):
            line = step.tb_lineno
        step = step.tb_next
    where = f" (line {line})" if line is not None else ""
    return f"{type(error).__name__}: {text}{where}"
