"""How runs end with plugins that break, refuse, hang or are stopped, phase by phase."""

import time

import pytest

from attempt_runs import Attempts, processes_running
from plugin_folder import PluginFolder
from runnerlib.spec import JobSource, Stop

SET_UP = [
    "pre_validation",
    "post_validation",
    "pre_source_prep",
    "post_source_prep",
    "pre_container",
]
UNHURT = [*SET_UP, "post_container", "cleanup"]
NOTE_PHASE = "note(context.phase)"


def test_one_context_follows_the_run(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "watcher",
        """
        context.metadata.setdefault("seen", []).append(context.phase)
        note({
            "there": context.job_path is not None and context.job_path.is_dir(),
            "exit_code": context.exit_code, "status": context.status, "reason": context.reason,
            "error": context.error, "seen": len(context.metadata["seen"]), "same": id(context),
            "name": context.config.job_name, "command": context.config.command,
        })
        """,
    )

    attempts.run("exit 3", host=plugins.policy())

    notes = dict(zip(UNHURT, plugins.notes, strict=True))
    assert [notes[phase]["there"] for phase in UNHURT] == [False, False, True, True, True, True, True]
    assert [notes[phase]["exit_code"] for phase in UNHURT] == [None] * 5 + [3, 3]
    assert [notes[phase]["status"] for phase in UNHURT] == [None] * 5 + ["failed", "failed"]
    assert notes["cleanup"]["reason"] == "exit_nonzero"
    assert [notes[phase]["seen"] for phase in UNHURT] == list(range(1, 8))
    assert {notes[phase]["same"] for phase in UNHURT} == {notes["cleanup"]["same"]}
    assert {notes[phase]["error"] for phase in UNHURT} == {None}
    assert (notes["cleanup"]["name"], notes["cleanup"]["command"]) == ("a job", "exit 3")


def test_a_plugin_that_breaks_after_a_good_job_makes_it_fail(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("breaker", "raise ValueError('no report')", "['post_container']", "priority = 1")
    plugins.add("witness", NOTE_PHASE)

    done = attempts.run('echo kept > "$CI_ARTIFACTS_DIR/a"', host=plugins.policy())

    assert (done.result.status, done.result.reason, done.result.exit_code) == ("failed", "internal", 0)
    assert "breaker broke in post_container: ValueError: no report" in (done.result.message or "")
    assert plugins.notes == [*SET_UP, "on_error", "cleanup"]
    assert done.result.artifacts == 1


def test_a_plugin_that_breaks_after_a_failed_job_takes_nothing_from_its_end(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("breaker", "raise ValueError('no report')", "['post_container']")
    plugins.add("witness", "note([context.phase, context.error])", "['on_error']")

    done = attempts.run("exit 4", host=plugins.policy())

    assert (done.result.reason, done.result.exit_code, done.result.fault) == ("exit_nonzero", 4, "user")
    told = "the plugin breaker broke in post_container: ValueError: no report (line 20)"
    assert plugins.notes == [["on_error", told]]
    assert told in done.log.decode()


@pytest.mark.parametrize("phase", ["on_error", "cleanup"])
def test_one_that_breaks_at_the_end_keeps_no_other_from_its_turn(
    attempts: Attempts, plugins: PluginFolder, phase: str
) -> None:
    plugins.add("a", "raise RuntimeError('first')", f"['{phase}']")
    plugins.add("b", "sys.exit(1)", f"['{phase}']")
    plugins.add("c", NOTE_PHASE)

    done = attempts.run("true", host=plugins.policy(), job_dir="/job/no/../src", env_file="none.env")

    assert (done.result.reason, done.result.fault) == ("env_file_invalid", "user")
    assert plugins.notes == [*SET_UP[:-1], "on_error", "cleanup"]
    assert f"the plugin a broke in {phase}: RuntimeError: first" in done.log.decode()
    assert f"the plugin b broke in {phase}: SystemExit: 1" in done.log.decode()
    assert not list(done.work.iterdir())


def test_the_jobs_own_end_is_no_error_of_the_run(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("witness", NOTE_PHASE, "['on_error']")

    for command in ("true", "exit 1", "kill -9 $$"):
        attempts.run(command, host=plugins.policy())

    assert plugins.notes == []


def test_a_timeout_is_an_error_of_the_run_and_the_job_has_ended_then(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("witness", "note([context.phase, context.status, context.error])")

    done = attempts.run("sleep 60", host=plugins.policy(), timeout_seconds=1)

    assert done.result.status == "timeout"
    error = "the job ran for longer than it may: the limit is 1 seconds"
    assert plugins.notes[len(SET_UP) :] == [
        ["post_container", "timeout", None],
        ["on_error", "timeout", error],
        ["cleanup", "timeout", error],
    ]


@pytest.mark.parametrize("phase", [*SET_UP, "post_container"])
def test_a_plugin_may_refuse_a_job(attempts: Attempts, plugins: PluginFolder, phase: str) -> None:
    plugins.add("gate", "raise JobRefused('not on a Friday')", f"['{phase}']")
    plugins.add("witness", NOTE_PHASE, "['on_error', 'cleanup']")

    done = attempts.run("echo run", host=plugins.policy())

    assert (done.result.status, done.result.reason, done.result.fault) == (
        "failed",
        "policy_denied",
        "policy",
    )
    assert done.result.message == f"the plugin gate refused the job in {phase}: not on a Friday"
    assert plugins.notes == ["on_error", "cleanup"]
    assert ("run" in done.output) is (phase == "post_container")


@pytest.mark.parametrize("phase", ["pre_container", "post_container", "cleanup"])
def test_a_plugin_that_hangs_is_left_behind(attempts: Attempts, plugins: PluginFolder, phase: str) -> None:
    plugins.add(
        "sleeper",
        f"note(context.phase)\nif context.phase == '{phase}': threading.Event().wait()",
        "['pre_container', 'post_container', 'on_error', 'cleanup']",
        "timeout_seconds = 0.3",
    )
    plugins.add("witness", "note('witness')", "['cleanup']")

    began = time.monotonic()
    done = attempts.run("true", host=plugins.policy())

    assert time.monotonic() - began < 20
    text = f"the plugin sleeper broke in {phase}: it did not come back within 0.3 seconds"
    assert text in done.log.decode()
    assert done.result.reason == ("ok" if phase == "cleanup" else "internal")
    # It may still be at work there: it is called no more. Others are.
    last = plugins.notes.index("witness")
    assert plugins.notes[last - 1] == phase
    assert processes_running(done.name) == []


def test_a_stop_is_obeyed_between_two_plugins(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("a-slow", "time.sleep(1.2)", "['pre_validation']")
    plugins.add("b-late", NOTE_PHASE, "['pre_validation', 'post_validation']")

    done = attempts.run("echo never", host=plugins.policy(), timeout_seconds=1)

    assert done.result.status == "timeout"
    assert plugins.notes == []


@pytest.mark.parametrize("end", ["cancel", "hang_up"])
def test_plugins_cannot_hold_up_the_end_of_a_stopped_attempt(
    attempts: Attempts, plugins: PluginFolder, end: str
) -> None:
    plugins.add("sleeper", "threading.Event().wait()", "['post_container', 'on_error', 'cleanup']")
    plugins.add("witness", NOTE_PHASE, "['post_container', 'cleanup']", "priority = 1")
    attempt = attempts.start("echo up; sleep 60", host=plugins.policy())
    attempt.wait_for(b"up")

    began = time.monotonic()
    if end == "cancel":
        attempt.send(Stop("cancel"))
    else:
        attempt.hang_up()
    attempt.wait()

    assert time.monotonic() - began < 10
    assert attempt.result.reason == ("cancelled_user" if end == "cancel" else "worker_lost")
    assert plugins.notes[0] == "post_container"
    assert "the plugin sleeper had no more time in post_container" in attempt.log.decode()
    assert not list(attempt.work.iterdir())


def test_what_cannot_be_loaded_fails_the_attempt_before_anything_is_made(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("good", NOTE_PHASE)
    plugins.write("plugin_bad.py", "import no_such_module_here")

    done = attempts.run("echo never", host=plugins.policy())

    assert (done.result.status, done.result.reason, done.result.fault) == ("failed", "internal", "infra")
    assert "the plugins of this worker cannot be used: plugin_bad.py" in (done.result.message or "")
    assert not done.work.exists()
    assert plugins.notes == []


def test_a_plugin_in_a_jobs_source_is_a_file_like_any_other(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    source = plugins.path.parent / "tree"
    source.mkdir()
    (source / "plugin_evil.py").write_text(f"open({str(plugins.path.parent / 'evil')!r}, 'w')")
    (source / "plugin_evil.toml").write_text("")
    plugins.add("good", NOTE_PHASE, "['post_container']")

    done = attempts.run(
        'ls; cp plugin_evil.py /job; cp plugin_evil.py "$CI_ARTIFACTS_DIR"; cp plugin_evil.py "$HOME"',
        source=JobSource(type="copy", path=str(source)),
        host=plugins.policy(copy_source_roots=(str(plugins.path.parent),)),
    )

    assert done.result.reason == "ok"
    assert "plugin_evil.py" in done.output
    assert plugins.notes == ["post_container"]
    assert not (plugins.path.parent / "evil").exists()
