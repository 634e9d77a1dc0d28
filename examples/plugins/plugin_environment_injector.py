"""Environment injector: gives every job variables and secrets of the operator's.

The job's own variables win unless `override` is set; the platform's always win. All values from
`secrets_file`, and those of names that look like a credential's, are masked in the log.

Settings, in `plugin_environment_injector.toml` beside this file, all optional:

    override = false
    secrets_file = "/etc/reactorcide/job-secrets.toml"   # NAME = "value" lines; readable by the worker alone

    [variables]
    HTTP_PROXY = "http://proxy.example.org:3128"
"""

import os
import stat
from pathlib import Path

import msgspec

from runnerlib.plugins import Plugin, PluginContext, PluginPhase, read_settings

LONGEST_SECRETS_FILE = 1024 * 1024


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What to add."""

    variables: dict[str, str] = {}
    secrets_file: str | None = None
    override: bool = False


class EnvironmentInjector(Plugin):
    """Adds variables before the command starts."""

    name = "environment-injector"
    priority = 50

    def __init__(self) -> None:
        self._settings = read_settings(__file__, Settings)

    def supported_phases(self) -> list[PluginPhase]:
        """Before the command, when all that the job gets is known."""
        return [PluginPhase.PRE_CONTAINER]

    def execute(self, context: PluginContext) -> None:
        """Add the variables; secrets are masked before anything else happens to them."""
        secrets = read_secrets(Path(self._settings.secrets_file)) if self._settings.secrets_file else {}
        for value in secrets.values():
            context.add_secret(value)
        added = {
            name: value
            for name, value in {**self._settings.variables, **secrets}.items()
            if self._settings.override or name not in context.env_vars
        }
        context.env_vars.update(added)
        if added:
            context.log(f"added {', '.join(sorted(added))}")


def read_secrets(path: Path) -> dict[str, str]:
    """Return the names and values in a TOML file that only its owner can read; no error tells a value."""
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise PermissionError(f"{path} can be read by others: chmod 600 it")
        data = file.read(LONGEST_SECRETS_FILE + 1)
    if len(data) > LONGEST_SECRETS_FILE:
        raise ValueError(f"{path} is longer than {LONGEST_SECRETS_FILE} bytes")
    return msgspec.toml.decode(data, type=dict[str, str])
