"""Plugins in real attempts: when they are called, what they may change, and what becomes of their faults."""

import time

import pytest

from attempt_runs import Attempt, Attempts
from plugin_folder import PluginFolder
from runnerlib.plugins import PluginPhase
from runnerlib.spec import HostPolicy, Resources, Stop

PHASES = [phase.value for phase in PluginPhase]
BEFORE = PHASES[: PHASES.index("post_container")]


def run(attempts: Attempts, plugins: PluginFolder, command: str = "echo ran", **asked: object) -> Attempt:
    return attempts.run(command, host=plugins.policy(), **asked)


def test_every_phase_is_called_in_order_and_on_error_only_for_errors(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("watcher", "note([context.phase, context.exit_code, context.status])")

    done = run(attempts, plugins, "exit 3")

    assert done.result.reason == "exit_nonzero"
    before = [[phase, None, None] for phase in BEFORE]
    assert plugins.notes == [*before, ["post_container", 3, "failed"], ["cleanup", 3, "failed"]]


def test_lower_priority_is_called_first_and_equal_ones_by_name(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    for name, priority in (("b", 100), ("a", 100), ("last", 200), ("first", 1)):
        plugins.add(name, "note(self.name)", "[PluginPhase.CLEANUP]", f"priority = {priority}")

    run(attempts, plugins)

    assert plugins.notes == ["first", "a", "b", "last"]


@pytest.mark.parametrize("phase", BEFORE)
def test_a_plugin_that_breaks_before_the_job_ends_the_run(
    attempts: Attempts, plugins: PluginFolder, phase: str
) -> None:
    plugins.add("breaker", f"if context.phase == {phase!r}: raise RuntimeError('out of order')")
    plugins.add("witness", "note([context.phase, context.error])", "['on_error', 'cleanup']")

    done = run(attempts, plugins)

    assert (done.result.status, done.result.reason, done.result.fault) == (
        "failed",
        "internal",
        "infra",
    )
    assert f"the plugin breaker broke in {phase}" in str(done.result.message)
    assert "out of order" in str(done.result.message)
    assert "ran" not in done.output
    assert [told[0] for told in plugins.notes] == ["on_error", "cleanup"]
    assert "breaker" in plugins.notes[0][1]


def test_a_plugin_refuses_a_job_as_denied_by_policy(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("guard", "raise JobRefused('not on Fridays')", "[PluginPhase.POST_VALIDATION]")

    done = run(attempts, plugins)

    assert (done.result.reason, done.result.fault) == ("policy_denied", "policy")
    assert "not on Fridays" in str(done.result.message)
    assert "ran" not in done.output


def test_after_the_job_a_fault_spoils_a_success_and_no_failure(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("breaker", "raise RuntimeError('late')", "[PluginPhase.POST_CONTAINER]")

    good, bad = run(attempts, plugins, "true"), run(attempts, plugins, "exit 4")

    assert (good.result.status, good.result.reason) == ("failed", "internal")
    assert (bad.result.reason, bad.result.exit_code) == ("exit_nonzero", 4)
    assert b"late" in bad.log


def test_every_cleanup_is_called_whatever_one_of_them_does(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("a", "raise RuntimeError('one')", "[PluginPhase.CLEANUP]")
    plugins.add("b", "note('called')", "[PluginPhase.CLEANUP]")

    done = run(attempts, plugins)

    assert plugins.notes == ["called"]
    assert done.result.status == "completed"
    assert b"the plugin a broke in cleanup" in done.log


def test_a_plugin_that_hangs_is_left_behind(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "sleeper", "threading.Event().wait()", "[PluginPhase.PRE_VALIDATION]", "timeout_seconds = 0.5"
    )
    began = time.monotonic()

    done = run(attempts, plugins)

    assert time.monotonic() - began < 30
    assert "it did not come back within 0.5 seconds" in str(done.result.message)


def test_a_cancel_does_not_wait_for_a_plugin(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("sleeper", "note('in')\nthreading.Event().wait()", "[PluginPhase.PRE_SOURCE_PREP]")
    going = attempts.start("true", host=plugins.policy())
    while not plugins.notes:
        time.sleep(0.01)

    going.send(Stop("cancel"))
    going.wait()

    assert going.result.status == "cancelled"


def test_what_a_plugin_adds_to_the_variables_the_job_gets(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("early", "context.env_vars['EARLY'] = '1'", "[PluginPhase.PRE_VALIDATION]")
    plugins.add(
        "late",
        """
        context.env_vars["LATE"] = context.env_vars["MINE"] + "2"
        context.env_vars["CI_JOB_ID"] = "forged"
        """,
        "[PluginPhase.PRE_CONTAINER]",
    )

    done = run(attempts, plugins, "echo $EARLY $LATE $CI_JOB_ID", environment={"MINE": "m"}, job_id="true-id")

    assert done.output == "1 m2 true-id\n"


def test_secrets_of_plugins_are_masked_in_everything(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "giver",
        """
        context.env_vars["API_TOKEN"] = "swordfish-1"
        context.add_secret("swordfish-2")
        context.log("mine are swordfish-1 and swordfish-2")
        """,
        "[PluginPhase.PRE_CONTAINER]",
    )

    done = run(attempts, plugins, "echo $API_TOKEN swordfish-2")

    assert b"swordfish" not in done.log
    assert done.output == "[REDACTED] [REDACTED]\n"


@pytest.mark.parametrize(
    "change",
    [
        "context.config.command = 'rm -rf /'",
        "context.config.timeout_seconds = 10_000_000",
        "context.config.network = 'default'",
        "context.config.memory_mb = 'much'",
        "context.config.source_url = 'x'",
        "context.env_vars['REACTORCIDE_X'] = 'y'",
        "context.env_vars['A'] = 'a\\0b'",
        "context.env_vars['BIG'] = 'x' * 200_000",
    ],
)
def test_a_change_that_is_not_a_plugins_to_make_ends_the_run(
    attempts: Attempts, plugins: PluginFolder, change: str
) -> None:
    plugins.add("changer", change, "[PluginPhase.POST_VALIDATION]")

    done = run(attempts, plugins, network="none", timeout_seconds=60)

    assert done.result.reason == "internal"
    assert "the plugin changer broke in post_validation" in str(done.result.message)


def test_a_plugin_may_tighten_what_the_job_gets(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "tightener",
        """
        context.config.network = "none"
        context.config.timeout_seconds = 1
        context.config.pids = 20
        """,
        "[PluginPhase.POST_VALIDATION]",
    )

    done = run(attempts, plugins, "ls /sys/class/net; sleep 60", resources=Resources(pids=500))

    assert done.result.status == "timeout"
    assert done.result.limits is not None
    assert (done.result.limits.pids, done.result.limits.network) == (20, "none")


def test_files_of_the_job_are_reached_without_its_links(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "reader",
        """
        note(context.read_file("plain").decode())
        for path in ("link", "/job/src/link", "../../etc/passwd", "/etc/passwd"):
            try:
                note(context.read_file(path).decode())
            except Exception as error:
                note(type(error).__name__)
        """,
        "[PluginPhase.POST_CONTAINER]",
    )

    run(attempts, plugins, "echo mine > plain; ln -s /etc/passwd link")

    assert plugins.notes == ["mine\n", *["PathRefused"] * 4]


def test_a_plugin_that_a_job_plants_is_never_loaded(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("watcher", "note('called')", "[PluginPhase.CLEANUP]")
    evil = "raise SystemExit(9)"

    done = run(attempts, plugins, f"echo '{evil}' > plugin_evil.py; cp plugin_evil.py /job; echo planted")

    assert done.output == "planted\n"
    assert plugins.notes == ["called"]


def test_a_folder_of_plugins_where_jobs_write_is_refused(attempts: Attempts, plugins: PluginFolder) -> None:
    inside = attempts.run("true").work / "plugins"
    inside.mkdir(parents=True, mode=0o755)

    done = attempts.run("echo ran", host=HostPolicy(plugin_dir=str(inside)))

    assert done.result.reason == "internal"
    assert "ran" not in done.output


def test_a_job_gets_the_plugins_it_names_and_those_that_are_required(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    for name, settings in (("usual", ""), ("odd", "enabled = False"), ("must", "required = True")):
        plugins.add(name, "note(self.name)", "[PluginPhase.CLEANUP]", settings)

    run(attempts, plugins)
    attempts.run("true", host=plugins.policy(), plugins=("odd",))
    unknown = attempts.run("true", host=plugins.policy(), plugins=("none",))

    assert plugins.notes == ["must", "usual", "must", "odd"]
    assert unknown.result.reason == "policy_denied"
    assert "none" in str(unknown.result.message)


def test_a_job_that_names_plugins_where_there_are_none_is_refused(attempts: Attempts) -> None:
    done = attempts.run("true", plugins=("timer",))

    assert done.result.reason == "policy_denied"
