"""Resource limiter: caps what jobs may use, by their names, and refuses those that ask for far too much.

Every rule whose pattern matches the job's name holds, the first that sets a value for that value. What is
above a cap is lowered to it, and the log says so; what is above a hard cap is refused, as `policy_denied`.
It is required: a job that names other plugins cannot leave it out.

Settings, in `plugin_resource_limiter.toml` beside this file; without rules it does nothing:

    [[rules]]
    name = "nightly *"             # as in a shell; * is every job
    cap = {memory_mb = 16384, cpu = 8.0, pids = 4096, timeout_seconds = 14400}

    [[rules]]
    name = "*"
    cap = {memory_mb = 2048, cpu = 2.0, pids = 512, timeout_seconds = 3600}
    hard_cap = {memory_mb = 65536}
    network = "none"               # take the network away
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from runnerlib.plugins import JobRefused, Plugin, PluginContext, PluginPhase, read_settings

FIELDS = ("memory_mb", "cpu", "pids", "timeout_seconds")


class Caps(msgspec.Struct, forbid_unknown_fields=True):
    """The most that a job may have; None: no cap of this rule's."""

    memory_mb: int | None = None
    cpu: float | None = None
    pids: int | None = None
    timeout_seconds: float | None = None


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """What holds for jobs of some names."""

    name: str
    cap: Caps = msgspec.field(default_factory=Caps)
    hard_cap: Caps = msgspec.field(default_factory=Caps)
    network: Literal["none"] | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The rules, in order."""

    rules: list[Rule] = []


class ResourceLimiter(Plugin):
    """Lowers or refuses, before anything of the job is made."""

    name = "resource-limiter"
    priority = 10
    required = True

    def __init__(self) -> None:
        self._settings = read_settings(__file__, Settings)

    def supported_phases(self) -> list[PluginPhase]:
        """Once the job is known to be well-formed."""
        return [PluginPhase.POST_VALIDATION]

    def execute(self, context: PluginContext) -> None:
        """Hold the job to the rules for its name."""
        rules = [rule for rule in self._settings.rules if fnmatchcase(context.config.job_name, rule.name)]
        for field in FIELDS:
            asked = getattr(context.config, field)
            hard_cap = first(getattr(rule.hard_cap, field) for rule in rules)
            if hard_cap is not None and asked is not None and asked > hard_cap:
                raise JobRefused(
                    f"{field} {asked:g} is more than the {hard_cap:g} that a job may ask for here"
                )
            cap = first(getattr(rule.cap, field) for rule in rules)
            # Without a limit of its own a job may use all there is.
            if cap is not None and (asked is None or asked > cap):
                setattr(context.config, field, cap)
                context.log(f"{field} is limited to {cap:g}")
        if any(rule.network == "none" for rule in rules) and context.config.network != "none":
            context.config.network = "none"
            context.log("the network is taken away")


def first(values: Iterable[float | None]) -> float | None:
    """Return the first value that is set."""
    return next((value for value in values if value is not None), None)
