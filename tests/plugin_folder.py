"""A folder of plugins for tests, as an operator would have it."""

import json
import textwrap
from pathlib import Path
from typing import Any

from runnerlib.spec import HostPolicy

_HEAD = """
import json, os, sys, threading, time
from pathlib import Path
from runnerlib.plugins import ChangeRefused, JobRefused, Plugin, PluginContext, PluginPhase

ALL = list(PluginPhase)

def note(value):
    with open({notes!r}, "a") as file:
        file.write(json.dumps(value) + "\\n")

class It(Plugin):
    name = {name!r}
    {settings}

    def supported_phases(self):
        return {phases}

    def execute(self, context):
{body}
"""


class PluginFolder:
    """Plugins in ``path``; what they note is in `notes`."""

    def __init__(self, root: Path) -> None:
        self.path = root / "plugins"
        self.path.mkdir()
        self.path.chmod(0o755)
        self._notes = root / "notes"
        self._notes.touch()

    def write(self, file_name: str, text: str) -> Path:
        path = self.path / file_name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def add(self, name: str, body: str, phases: str = "ALL", settings: str = "") -> Path:
        """Add a plugin whose ``execute`` is ``body``; there ``note(x)`` keeps a value for the test."""
        lines = textwrap.indent(textwrap.dedent(body).strip() or "pass", " " * 8)
        text = _HEAD.format(notes=str(self._notes), name=name, settings=settings, phases=phases, body=lines)
        return self.write(f"plugin_{name.replace('-', '_')}.py", text)

    @property
    def notes(self) -> list[Any]:
        return [json.loads(line) for line in self._notes.read_text().splitlines()]

    def policy(self, **more: Any) -> HostPolicy:
        """The policy of a host that uses these plugins."""
        return HostPolicy(plugin_dir=str(self.path), **{"cancel_grace_seconds": 1, **more})
