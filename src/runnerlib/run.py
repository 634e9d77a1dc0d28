"""One attempt, from the frozen spec to its outcome.

The phases, in order: workspace, source, environment, command; and clean-up, always. Every phase can
be stopped by the guardian; each says in the log, on lines of the platform, what a user should know.
However the command ended, what it left as artifacts is collected before the clean-up. Between the phases
the operator's plugins are called, if there are any; without them nothing of theirs is even imported.
"""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from runnerlib.collecting import collect_from
from runnerlib.environment import EnvironmentTooLarge, compose_environment, place, secret_values
from runnerlib.executors.choice import choose_executor
from runnerlib.executors.port import (
    Executor,
    ImageUnavailable,
    Interrupted,
    JobCommand,
    SandboxUnavailable,
)
from runnerlib.guardian import Guardian, Verdict
from runnerlib.limits import find_limits, limits_for_executor
from runnerlib.masking import Masker
from runnerlib.outcome import Outcome, outcome_of_end, outcome_of_verdict
from runnerlib.pump import OutputPump
from runnerlib.registration import SecretsChannel
from runnerlib.spec import EffectiveLimits, JobSource, RunSpec
from runnerlib.spec.rules import check_env_file_path, check_job_path, redact_url
from runnerlib.spool import Spool
from runnerlib.workspace import ARTIFACTS, HOME, PathRefused, UsageMeter, Workspace

if TYPE_CHECKING:
    from runnerlib.plugin_calls import PluginCalls, SetUpPhase

Phase = Literal["workspace", "image", "source", "environment", "command", "cleanup"]
ENV_FILE_LIMIT_BYTES = 256 * 1024
_DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class RunListener:
    """Who hears of the progress of a run."""

    entered: Callable[[Phase], None]
    resolved: Callable[[str], None]


@dataclass(frozen=True)
class RunReport:
    """What a run came to."""

    outcome: Outcome
    isolation: str
    resolved_sha: str | None
    image_digest: str | None = None
    artifacts: int = 0
    limits: EffectiveLimits | None = None


class _Stopped(Exception):
    """The run cannot or may not go on; ``outcome`` is how it ended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message or outcome.reason)
        self.outcome = outcome


class Run:
    """Runs one attempt. `execute` is called once and never raises for what a job or a host does."""

    def __init__(self, spec: RunSpec, spool: Spool, guardian: Guardian, listener: RunListener) -> None:
        paths = {name: posixpath.normpath(getattr(spec, name)) for name in ("code_dir", "job_dir")}
        self._spec = msgspec.structs.replace(spec, **paths)
        self._spool = spool
        self._guardian = guardian
        self._listener = listener
        self._masker = Masker(
            [
                *spec.secrets.values(),
                *spec.masked,
                *secret_values(spec.environment),
                *_source_secrets(spec.source),
            ]
        )
        self._name = f"{spec.job_id}.{spec.attempt}"
        self._executor: Executor | None = None
        self._workspace: Workspace | None = None
        self._channel: SecretsChannel | None = None
        self._plugins: PluginCalls | None = None
        self._resolved_sha: str | None = None
        self._image_digest: str | None = None
        self._isolation = "none"
        self._artifacts = 0
        self._limits: EffectiveLimits | None = None

    def execute(self) -> RunReport:
        """Run all phases, clean up, and say how it ended."""
        try:
            outcome = self._find_outcome()
            if self._plugins is not None:
                self._plugins.run_ended(outcome)
        finally:
            self._clean_up()
        if outcome.message is not None:
            self._tell(outcome.message)
            outcome = replace(outcome, message=self._mask(outcome.message))
        return RunReport(
            outcome, self._isolation, self._resolved_sha, self._image_digest, self._artifacts, self._limits
        )

    def _find_outcome(self) -> Outcome:
        try:
            return self._run_phases()
        except _Stopped as stop:
            return stop.outcome
        except OSError as error:
            return _outcome_of_host_error(error)

    def _run_phases(self) -> Outcome:
        self._load_plugins()
        self._call_plugins("pre_validation")
        self._check_spec()
        self._call_plugins("post_validation")
        executor, workspace = self._make_workspace()
        self._take_image(executor)
        self._call_plugins("pre_source_prep")
        self._bring_source(executor, workspace)
        self._call_plugins("post_source_prep")
        command = self._compose_command(executor, workspace)
        return self._run_command(executor, workspace, command)

    def _load_plugins(self) -> None:
        if self._spec.host.plugin_dir is None and not self._spec.plugins:
            return
        from runnerlib.plugin_calls import PluginAbort, PluginCalls

        try:
            self._plugins = PluginCalls.load(self._spec, self._guardian, self._masker, self._tell)
        except PluginAbort as error:
            raise _Stopped(error.outcome) from error
        except Interrupted as error:
            raise _Stopped(self._outcome_of_stop()) from error

    def _call_plugins(self, phase: "SetUpPhase", environment: dict[str, str] | None = None) -> None:
        """Call the plugins of a phase; from then on the spec is what they made of it."""
        if self._plugins is None:
            return
        from runnerlib.plugin_calls import PluginAbort

        try:
            self._spec = self._plugins.call(phase, self._spec, environment)
        except PluginAbort as error:
            raise _Stopped(error.outcome) from error
        except Interrupted as error:
            raise _Stopped(self._outcome_of_stop()) from error

    def _check_spec(self) -> None:
        """Check paths once more: whoever sent the spec need not be our coordinator."""
        spec = self._spec
        faults = {"code_dir": check_job_path(spec.code_dir), "job_dir": check_job_path(spec.job_dir)}
        if spec.env_file is not None:
            faults["env_file"] = check_env_file_path(spec.env_file)
        for name, fault in faults.items():
            if fault is not None:
                raise _Stopped(Outcome("failed", "policy_denied", "policy", f"{name} {fault}"))
        if "/" in spec.job_id or "\0" in spec.job_id or spec.job_id in ("", ".", ".."):
            raise _Stopped(Outcome("failed", "policy_denied", "policy", "job_id is no name"))

    def _make_workspace(self) -> tuple[Executor, Workspace]:
        self._enter("workspace")
        try:
            executor = self._executor = choose_executor(self._spec.host, self._name)
            root = Path(self._spec.workspace_root)
            made = self._workspace = Workspace.make(root, self._name, executor.owner)
            workspace = self._workspace = made.moved_to(executor.open_workspace(made.root))
        except SandboxUnavailable as error:
            raise _Stopped(_unavailable(error)) from error
        if self._plugins is not None:
            self._plugins.give_workspace(workspace, self._spec.code_dir)
        return executor, workspace

    def _take_image(self, executor: Executor) -> None:
        self._enter("image")
        try:
            self._image_digest = executor.take_image(self._spec.image, self._tell, self._guardian.should_stop)
        except ImageUnavailable as error:
            raise _Stopped(Outcome("failed", "image_pull_failed", "infra", str(error))) from error
        except SandboxUnavailable as error:
            raise _Stopped(_unavailable(error)) from error
        except Interrupted as error:
            raise _Stopped(self._outcome_of_stop()) from error

    def _bring_source(self, executor: Executor, workspace: Workspace) -> None:
        self._enter("source")
        spec = self._spec
        try:
            target = workspace.make_directory(spec.code_dir)
            if spec.source.type != "none":
                self._fetch(target, executor)
            for path in (ARTIFACTS, HOME, *([spec.job_dir] if spec.source.type == "none" else [])):
                workspace.make_directory(path)
            workspace.check_directory(spec.job_dir)
        except PathRefused as error:
            text = f"the source does not fit: {error}"
            raise _Stopped(Outcome("failed", "source_failed", "user", text)) from error

    def _fetch(self, target: Path, executor: Executor) -> None:
        from runnerlib.source import SourceDenied, SourceFailed, SourceStopped, prepare_source

        source = self._spec.source
        self._tell(_describe_source(source))
        try:
            prepared = prepare_source(
                source,
                target,
                self._spec.host,
                log=self._tell,
                should_stop=self._guardian.should_stop,
                run_as=executor.owner,
            )
        except SourceStopped as error:
            raise _Stopped(self._outcome_of_stop()) from error
        except SourceDenied as error:
            raise _Stopped(Outcome("failed", "source_denied", "policy", str(error))) from error
        except SourceFailed as error:
            fault: Literal["user", "infra"] = "user" if error.is_users_fault else "infra"
            raise _Stopped(Outcome("failed", "source_failed", fault, str(error))) from error
        if prepared.resolved_sha is not None:
            self._resolved_sha = prepared.resolved_sha
            self._listener.resolved(prepared.resolved_sha)
            if source.type == "git":
                self._tell(f"checked out {prepared.resolved_sha}")

    def _compose_command(self, executor: Executor, workspace: Workspace) -> JobCommand:
        self._enter("environment")
        from_file = self._read_env_file(workspace) if self._spec.env_file is not None else {}
        self._masker.add(secret_values(from_file))
        root = executor.job_root(workspace.root)
        compose = partial(
            compose_environment,
            root=root,
            resolved_sha=self._resolved_sha,
            provides_path=executor.provides_path,
            secrets_socket=self._open_channel(executor, workspace),
        )
        try:
            environment = compose(self._spec, file_variables=from_file)
            if self._plugins is not None:
                self._call_plugins("pre_container", environment)
                # Once more, as the platform's variables win over what plugins set.
                environment = compose(self._spec, file_variables={})
        except EnvironmentTooLarge as error:
            raise _Stopped(Outcome("failed", "env_file_invalid", "user", str(error))) from error
        spec = self._spec
        return JobCommand(
            text=spec.command,
            directory=place(spec.job_dir, root),
            environment=environment,
            limits=limits_for_executor(spec, find_limits(spec)),
            network=spec.network,
        )

    def _open_channel(self, executor: Executor, workspace: Workspace) -> str:
        folder = workspace.outer / "channel"
        self._channel = SecretsChannel(folder, self._masker, executor.owner)
        self._channel.open()
        return self._channel.path_for(executor.open_channel(folder))

    def _read_env_file(self, workspace: Workspace) -> dict[str, str]:
        from runnerlib.env_file import EnvFileInvalid, parse_env_file

        path = posixpath.join(self._spec.code_dir, self._spec.env_file or "")
        try:
            return parse_env_file(workspace.read_file(path, ENV_FILE_LIMIT_BYTES))
        except (PathRefused, EnvFileInvalid) as error:
            text = f"the env file cannot be used: {error}"
            raise _Stopped(Outcome("failed", "env_file_invalid", "user", text)) from error

    def _run_command(self, executor: Executor, workspace: Workspace, command: JobCommand) -> Outcome:
        self._enter("command")
        try:
            job = executor.start(command, workspace.root)
        except SandboxUnavailable as error:
            raise _Stopped(_unavailable(error)) from error
        self._isolation = executor.isolation
        self._limits = find_limits(self._spec)
        pump = OutputPump(self._spool, self._masker)
        pump.start(job.stdout, job.stderr)
        meter = UsageMeter(workspace.root)
        try:
            was_signalled = self._guardian.watch(
                job, last_output=lambda: pump.last_output, find_breach=lambda: self._find_breach(meter)
            )
        finally:
            end = job.close()
            self._close_channel()
        is_quiet = pump.finish(_DRAIN_SECONDS)
        if not is_quiet:
            self._tell("something outlived the job and still holds its output open; it is not read further")
        if self._spool.fault is not None:
            return outcome_of_verdict(Verdict.LOG_BROKEN, end, detail=self._spool.fault.strerror)
        if was_signalled and self._guardian.verdict is not None:
            outcome = outcome_of_verdict(self._guardian.verdict, end, detail=self._detail_of_breach())
        else:
            outcome = outcome_of_end(end)
        if self._plugins is not None:
            outcome = self._plugins.job_ended(outcome)
        self._artifacts = collect_from(
            workspace, self._spec, executor, self._guardian, self._tell, is_quiet=is_quiet
        )
        return outcome

    def _find_breach(self, meter: UsageMeter) -> Verdict | None:
        if self._spool.fault is not None:
            return Verdict.LOG_BROKEN
        if meter.used_bytes() > self._spec.host.workspace_limit_bytes:
            return Verdict.WORKSPACE_FULL
        return None

    def _detail_of_breach(self) -> str | None:
        spec = self._spec
        if self._guardian.verdict is Verdict.TIMED_OUT:
            return f"the limit is {spec.timeout_seconds:g} seconds"
        if self._guardian.verdict is Verdict.SILENT:
            return f"the limit is {spec.silence_timeout_seconds:g} seconds"
        if self._guardian.verdict is Verdict.WORKSPACE_FULL:
            return f"the limit is {spec.host.workspace_limit_bytes} bytes"
        return None

    def _clean_up(self) -> None:
        self._listener.entered("cleanup")
        self._close_channel()
        try:
            if self._plugins is not None:
                self._plugins.clean_up()
        finally:
            self._remove_workspace()

    def _remove_workspace(self) -> None:
        if self._workspace is None:
            return
        try:
            self._workspace.remove()
        except OSError as error:
            self._tell(f"the workspace cannot be removed whole: {error.strerror or error}")

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def _enter(self, phase: Phase) -> None:
        if self._guardian.should_stop():
            raise _Stopped(self._outcome_of_stop())
        self._listener.entered(phase)

    def _outcome_of_stop(self) -> Outcome:
        return outcome_of_verdict(self._guardian.verdict or Verdict.KILLED, detail=self._detail_of_breach())

    def _tell(self, text: str) -> None:
        self._spool.tell(self._mask(text))

    def _mask(self, text: str) -> str:
        return self._masker.mask(text.encode(errors="backslashreplace")).decode(errors="backslashreplace")


def _describe_source(source: JobSource) -> str:
    if source.type == "git":
        return f"checking out {source.ref or 'the default branch'} of {redact_url(source.url or '')}"
    if source.type == "tree":
        from runnerlib.tree_source import describe_tree

        return describe_tree(source)
    return f"copying {source.path}"


def _source_secrets(source: JobSource) -> tuple[str, ...]:
    if source.url is None:
        return ()
    from runnerlib.source import source_secrets

    return source_secrets(source)


def _unavailable(error: SandboxUnavailable) -> Outcome:
    return Outcome("failed", "sandbox_unavailable", "infra", f"there is no sandbox for this job: {error}")


def _outcome_of_host_error(error: OSError) -> Outcome:
    reason = "worker_disk" if error.errno in (ENOSPC, EDQUOT) else "internal"
    return Outcome("failed", reason, "infra", f"the worker's host failed: {error.strerror or error}")
