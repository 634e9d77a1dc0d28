"""Artifact collector: keeps files that jobs leave in their source, such as test reports.

When the command has ended, however it ended, every file below the job's source that matches is copied
into the artifacts folder, where it is collected like what the job put there itself. Links are never
followed.

Settings, in `plugin_artifact_collector.toml` beside this file, all optional:

    globs = ["**/junit*.xml", "**/TEST-*.xml", "**/coverage.xml", "**/lcov.info"]
    target = "collected"             # folder inside the artifacts folder
    limit_bytes = 104857600          # of one file
    most_files = 200
"""

import msgspec

from runnerlib.plugins import Plugin, PluginContext, PluginPhase, read_settings
from runnerlib.workspace import ARTIFACTS, PathRefused


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What to keep."""

    globs: tuple[str, ...] = ("**/junit*.xml", "**/TEST-*.xml", "**/coverage.xml", "**/lcov.info")
    target: str = "collected"
    limit_bytes: int = 100 * 1024 * 1024
    most_files: int = 200


class ArtifactCollector(Plugin):
    """Copies what matches, after the job."""

    name = "artifact-collector"

    def __init__(self) -> None:
        self._settings = read_settings(__file__, Settings)

    def supported_phases(self) -> list[PluginPhase]:
        """After the command, before artifacts are collected."""
        return [PluginPhase.POST_CONTAINER]

    def execute(self, context: PluginContext) -> None:
        """Copy; what cannot be copied is named in the log and costs the job nothing."""
        copied = 0
        try:
            found = context.find_files(self._settings.globs)
        except PathRefused as error:
            context.log(f"nothing is collected: {error}")
            return
        if len(found) > self._settings.most_files:
            context.log(f"{len(found)} files match; only the first {self._settings.most_files} are collected")
        for path in found[: self._settings.most_files]:
            relative = path.removeprefix(context.config.code_dir).lstrip("/")
            try:
                context.copy_file(
                    path, f"{ARTIFACTS}/{self._settings.target}/{relative}", self._settings.limit_bytes
                )
                copied += 1
            except (PathRefused, OSError) as error:
                context.log(f"{relative} is not collected: {error}")
        if copied:
            context.log(f"collected {copied} file{'s' if copied > 1 else ''} into {self._settings.target}")
