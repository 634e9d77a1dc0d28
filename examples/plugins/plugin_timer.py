"""Timer: says at the end of the log how long the parts of a run took.

One line: `checks 0.0 s, source 3.2 s, preparing 0.1 s, command 41.7 s, after it 0.2 s, in all 45.2 s`.
The seconds are in `context.metadata["timer"]` too, for other plugins' `on_error` and `cleanup`.
It has no settings.
"""

import time

from runnerlib.plugins import Plugin, PluginContext, PluginPhase

PARTS = {
    PluginPhase.PRE_SOURCE_PREP: "checks",
    PluginPhase.POST_SOURCE_PREP: "source",
    PluginPhase.PRE_CONTAINER: "preparing",
    PluginPhase.POST_CONTAINER: "command",
    PluginPhase.CLEANUP: "after it",
}
"""Which part of a run a phase ends."""


class Timer(Plugin):
    """Takes the time at each phase."""

    name = "timer"
    priority = 1000

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._seconds: dict[str, float] = {}

    def supported_phases(self) -> list[PluginPhase]:
        """All that end a part of the run."""
        return list(PARTS)

    def execute(self, context: PluginContext) -> None:
        """Take the time; in the last phase, tell all."""
        now = time.monotonic()
        self._seconds[PARTS[context.phase]] = now - self._last
        self._last = now
        if context.phase is not PluginPhase.CLEANUP:
            context.metadata["timer"] = dict(self._seconds)
            return
        context.metadata["timer"] = {**self._seconds, "in all": now - self._began}
        told = [f"{part} {seconds:.1f} s" for part, seconds in self._seconds.items()]
        context.log(f"{', '.join(told)}, in all {now - self._began:.1f} s")
