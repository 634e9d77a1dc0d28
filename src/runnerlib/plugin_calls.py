"""Calling the plugins of one run: phase by phase, each within its time, and never past a stop.

Each call has a thread of its own. One that does not come back in time is left behind: Python cannot
end it, but the runner does not wait for it, calls that plugin no more, and its process ends with the
attempt. Before the job, a plugin's fault ends the run; after it, what the job came to stands, unless
it had completed. ``on_error`` and ``cleanup`` go on to the next plugin whatever one of them does.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from runnerlib.environment import EnvironmentTooLarge, check_size, secret_values
from runnerlib.executors.port import Interrupted
from runnerlib.guardian import TICK_SECONDS, Guardian
from runnerlib.masking import Masker
from runnerlib.outcome import Outcome
from runnerlib.plugin_api import BEFORE_JOB, JobConfig, JobRefused, PluginContext, PluginPhase
from runnerlib.plugin_files import WorkspaceFiles
from runnerlib.plugins import (
    LoadedPlugin,
    PluginHost,
    PluginsUnusable,
    PluginUnknown,
    explain_error,
    load_plugins,
)
from runnerlib.spec import RunSpec
from runnerlib.spec.rules import check_env_name
from runnerlib.workspace import Workspace

SetUpPhase = Literal[
    "pre_validation", "post_validation", "pre_source_prep", "post_source_prep", "pre_container"
]
LOADING_SECONDS = 60.0
ENDING_SECONDS = 3.0
"""All calls after the job together may go on for so long once the attempt has to end."""
_LONGEST_LINE = 4096
_MOST_LINES = 100
_JOBS_OWN_ENDS = ("ok", "exit_nonzero", "signalled", "oom_killed")


class PluginAbort(Exception):
    """A plugin, or what keeps plugins from being loaded, ends the run; ``outcome`` is how it ended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class PluginCalls:
    """The plugins of one run and the context they share. Used by one thread.

    Args:
        tell: takes lines of the platform for the job's log, and masks them.
    """

    def __init__(
        self,
        plugins: PluginHost,
        spec: RunSpec,
        guardian: Guardian,
        masker: Masker,
        tell: Callable[[str], None],
    ) -> None:
        self._plugins = plugins
        self._guardian = guardian
        self._masker = masker
        self._tell = tell
        self._calling = ""
        self._left_behind: set[str] = set()
        self._failure: str | None = None
        self._ending = _Ending(guardian)
        self._is_over = False
        self._context = PluginContext(
            config=JobConfig.of(spec),
            env_vars={**spec.environment, **spec.secrets},
            take_line=self._take_lines,
            take_secret=self._take_secret,
            mask_text=self._mask,
        )

    @classmethod
    def load(
        cls, spec: RunSpec, guardian: Guardian, masker: Masker, tell: Callable[[str], None]
    ) -> "PluginCalls":
        """Load what the host's policy and the job name.

        Raises:
            PluginAbort: they cannot be had.
            Interrupted: the attempt has to end.
        """
        folder = spec.host.plugin_dir
        if folder is None:
            named = ", ".join(spec.plugins or ())
            raise PluginAbort(_refused(f"the job asks for plugins, and this worker has none: {named}"))
        job_folders = [Path(spec.workspace_root), Path(spec.spool_dir)]
        turn = _Turn(lambda: load_plugins(Path(folder), spec.plugins, job_folders=job_folders))
        try:
            turn.run(LOADING_SECONDS, guardian.should_stop)
        except _TooLong as error:
            raise PluginAbort(_unusable(error)) from error
        if isinstance(turn.error, PluginUnknown):
            raise PluginAbort(_refused(str(turn.error))) from turn.error
        if isinstance(turn.error, PluginsUnusable):
            raise PluginAbort(_unusable(turn.error)) from turn.error
        if turn.result is None:
            raise turn.error or AssertionError("a call without an error has a result")
        return cls(turn.result, spec, guardian, masker, tell)

    def give_workspace(self, workspace: Workspace, code_dir: str) -> None:
        """Let plugins reach the job's files from now on."""
        self._context.facts = replace(self._context.facts, job_path=workspace.root)
        self._context.files = WorkspaceFiles(workspace, code_dir)

    def call(
        self, phase_name: SetUpPhase, spec: RunSpec, environment: Mapping[str, str] | None = None
    ) -> RunSpec:
        """Call the plugins of a phase before the job; return ``spec`` with all that they changed.

        Args:
            environment: all variables of the job, once they are known.

        Raises:
            PluginAbort: one refused the job, or broke.
            Interrupted: the attempt has to end.
        """
        phase = PluginPhase(phase_name)
        self._enter(phase)
        if environment is not None:
            self._context.env_vars = dict(environment)
        for plugin in self._plugins.for_phase(phase):
            if self._guardian.should_stop():
                raise Interrupted
            try:
                self._call(plugin, self._guardian.should_stop)
            except _Failed as failed:
                self._failure = self._masked(failed.outcome)
                raise PluginAbort(failed.outcome) from failed
        config = self._context.config
        self._guardian.tighten(config.timeout_seconds, config.silence_timeout_seconds)
        changed = config.applied_to(spec)
        return msgspec.structs.replace(changed, environment=dict(self._context.env_vars), secrets={})

    def job_ended(self, outcome: Outcome) -> Outcome:
        """Call ``post_container``; return how the run ended, which a plugin's fault may change."""
        facts = self._context.facts
        self._context.facts = replace(
            facts, exit_code=outcome.exit_code, status=outcome.status, reason=outcome.reason
        )
        self._enter(PluginPhase.POST_CONTAINER)
        try:
            for plugin in self._plugins.for_phase(PluginPhase.POST_CONTAINER):
                self._call_at_end(plugin)
        except _Failed as failed:
            self._failure = self._masked(failed.outcome)
            if outcome.status == "completed":
                return replace(failed.outcome, exit_code=outcome.exit_code)
            self._report(failed)
        return outcome

    def run_ended(self, outcome: Outcome) -> None:
        """Call ``on_error``, unless all that happened is that the job ended by itself."""
        went_wrong = self._failure is not None or outcome.reason not in _JOBS_OWN_ENDS
        self._context.facts = replace(
            self._context.facts,
            exit_code=outcome.exit_code,
            status=outcome.status,
            reason=outcome.reason,
            error=(self._failure or self._masked(outcome)) if went_wrong else None,
        )
        if went_wrong:
            self._call_all(PluginPhase.ON_ERROR)

    def clean_up(self) -> None:
        """Call ``cleanup``, the last of all."""
        self._call_all(PluginPhase.CLEANUP)
        self._is_over = True

    def _call_all(self, phase: PluginPhase) -> None:
        self._enter(phase)
        for plugin in self._plugins.for_phase(phase):
            try:
                self._call_at_end(plugin)
            except _Failed as failed:
                self._report(failed)

    def _call_at_end(self, plugin: LoadedPlugin) -> None:
        phase = self._context.phase
        if self._ending.is_over():
            self._tell(f"the plugin {plugin.name} is not called in {phase}: there is no time left")
            return
        try:
            self._call(plugin, self._ending.is_over)
        except Interrupted:
            self._tell(f"the plugin {plugin.name} had no more time in {phase}")

    def _enter(self, phase: PluginPhase) -> None:
        self._context.facts = replace(self._context.facts, phase=phase)
        self._context.config.enter(phase)

    def _call(self, plugin: LoadedPlugin, is_over: Callable[[], bool]) -> None:
        """Call one plugin. Raises _Failed, or Interrupted as soon as ``is_over``."""
        if plugin.name in self._left_behind:
            return
        self._calling = plugin.name
        before = dict(self._context.env_vars)
        phase = self._context.phase
        turn = _Turn(lambda: plugin.plugin.execute(self._context))
        try:
            turn.run(plugin.timeout_seconds, is_over)
        except Interrupted:
            self._left_behind.add(plugin.name)
            raise
        except _TooLong as error:
            self._left_behind.add(plugin.name)
            raise _Failed(_broken(plugin.name, phase, str(error))) from error
        finally:
            # Whatever it said or raised about them is logged after this.
            self._mask_variables()
        if isinstance(turn.error, JobRefused):
            text = f"the plugin {plugin.name} refused the job in {phase}: {turn.error}"
            raise _Failed(_refused(text)) from turn.error
        if turn.error is not None:
            text = explain_error(turn.error, plugin.file)
            raise _Failed(_broken(plugin.name, phase, text)) from turn.error
        fault = self._fault_of_variables(before)
        if fault is not None:
            self._context.env_vars = before
            raise _Failed(_broken(plugin.name, phase, fault))

    def _fault_of_variables(self, before: Mapping[str, str]) -> str | None:
        """Judge what a plugin did to the variables; a refused value is in no error."""
        variables: object = self._context.env_vars
        if not isinstance(variables, dict):
            return "env_vars must be a dict"
        changed = [name for name in {*variables, *before} if variables.get(name) != before.get(name)]
        if changed and self._context.phase not in BEFORE_JOB:
            self._tell(f"the plugin {self._calling} changed env_vars in {self._context.phase}: too late")
            return None
        for name in changed:
            value = variables.get(name, "")
            fault = check_env_name(name) if isinstance(name, str) else "a name is a text"
            if fault is None and (not isinstance(value, str) or "\0" in value):
                fault = "the value must be a text without NUL"
            if fault is not None:
                return f"env_vars[{name!r}]: {fault}"
        try:
            check_size(self._context.env_vars)
        except EnvironmentTooLarge as error:
            return f"env_vars: {error}"
        return None

    def _take_lines(self, text: str) -> None:
        if self._is_over:
            return
        self._mask_variables()
        for line in str(text).split("\n")[:_MOST_LINES]:
            self._tell(f"[{self._calling}] {line[:_LONGEST_LINE]}")

    def _take_secret(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError("a secret must be a text")
        self._masker.add([value])

    def _mask_variables(self) -> None:
        variables: object = self._context.env_vars
        if isinstance(variables, dict):
            texts = {n: v for n, v in dict(variables).items() if isinstance(n, str) and isinstance(v, str)}
            self._masker.add(secret_values(texts))

    def _masked(self, outcome: Outcome) -> str:
        return self._mask(outcome.message or outcome.reason)

    def _mask(self, text: str) -> str:
        self._mask_variables()
        return self._masker.mask(text.encode(errors="backslashreplace")).decode(errors="backslashreplace")

    def _report(self, failed: "_Failed") -> None:
        self._tell(failed.outcome.message or failed.outcome.reason)


class _Failed(Exception):
    """A plugin refused or broke; ``outcome`` is what that makes of a run."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class _TooLong(Exception):
    """A call has not come back within its time."""


@dataclass
class _Turn:
    """One call, in a thread of its own."""

    work: Callable[[], PluginHost | None]
    result: PluginHost | None = None
    error: BaseException | None = None

    def run(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Do the work and wait for its result, or its error.

        Raises:
            _TooLong: it took longer than ``seconds``; it goes on.
            Interrupted: ``is_over`` said so; it goes on.
        """
        end = time.monotonic() + seconds
        # A daemon: the end of the process does not wait for one that never comes back.
        thread = threading.Thread(target=self._work, name="plugin", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(max(0.0, min(TICK_SECONDS, end - time.monotonic())))
            if not thread.is_alive():
                break
            if is_over():
                raise Interrupted
            if time.monotonic() >= end:
                raise _TooLong(f"it did not come back within {seconds:g} seconds")

    def _work(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001 - the top of a thread
            self.error = error


class _Ending:
    """How long plugins are called after the job: without haste, until the attempt has to end."""

    def __init__(self, guardian: Guardian) -> None:
        self._guardian = guardian
        self._end: float | None = None

    def is_over(self) -> bool:
        """Tell whether the time is up."""
        if not self._guardian.should_stop():
            return False
        now = time.monotonic()
        if self._end is None:
            self._end = now + ENDING_SECONDS
        return now >= self._end


def _refused(text: str) -> Outcome:
    return Outcome("failed", "policy_denied", "policy", text)


def _unusable(error: Exception) -> Outcome:
    return Outcome("failed", "internal", "infra", f"the plugins of this worker cannot be used: {error}")


def _broken(name: str, phase: PluginPhase, text: str) -> Outcome:
    return Outcome("failed", "internal", "infra", f"the plugin {name} broke in {phase}: {text}")
