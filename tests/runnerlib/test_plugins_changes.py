"""What plugins change of a job, how it takes effect, and what is not theirs to change."""

import pytest

from attempt_runs import Attempts
from plugin_folder import PluginFolder
from runnerlib.spec import JobSource, Resources

SECRET = "s3cr3t-of-the-operator"


@pytest.mark.parametrize("phase", ["pre_validation", "post_source_prep", "pre_container"])
def test_variables_that_a_plugin_sets_reach_the_job(
    attempts: Attempts, plugins: PluginFolder, phase: str
) -> None:
    plugins.add(
        "injector",
        """
        context.env_vars["ADDED"] = "new"
        context.env_vars["KEPT"] = context.env_vars["KEPT"] + "!"
        del context.env_vars["DROPPED"]
        context.env_vars["CI_JOB_ID"] = "forged"
        context.env_vars["CI"] = "forged"
        """,
        f"['{phase}']",
    )

    done = attempts.run(
        'echo "$ADDED $KEPT $LEFT [$DROPPED] $CI_JOB_ID $CI"',
        environment={"KEPT": "kept", "DROPPED": "x", "LEFT": "left"},
        host=plugins.policy(),
        job_id="real-id",
    )

    assert done.output == "new kept! left [] real-id true\n"


def test_in_the_last_phase_before_the_job_all_its_variables_are_seen(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    tree = plugins.path.parent / "tree"
    tree.mkdir()
    (tree / "ci.env").write_text("FROM_FILE=file\n")
    plugins.add(
        "watcher",
        "note(sorted(n for n in context.env_vars if n in ('OWN', 'MINE', 'FROM_FILE', 'CI', 'PATH')))",
        "['post_source_prep', 'pre_container']",
    )

    done = attempts.run(
        'echo "$OWN $MINE $FROM_FILE"',
        environment={"OWN": "own"},
        secrets={"MINE": "a-secret-value"},
        env_file="ci.env",
        source=JobSource(type="copy", path=str(tree)),
        host=plugins.policy(copy_source_roots=(str(plugins.path.parent),)),
    )

    assert plugins.notes == [["MINE", "OWN"], ["CI", "FROM_FILE", "MINE", "OWN", "PATH"]]
    assert done.output == "own [REDACTED] file\n"


@pytest.mark.parametrize("phase", ["pre_validation", "pre_container"])
def test_what_a_plugin_adds_is_masked_at_once(attempts: Attempts, plugins: PluginFolder, phase: str) -> None:
    plugins.add(
        "injector",
        f"""
        context.env_vars["DEPLOY_TOKEN"] = "{SECRET}"
        context.log("set {SECRET}")
        context.add_secret("pa55-phrase-of-it")
        context.env_vars["PLAIN"] = "pa55-phrase-of-it"
        note(context.mask("of {SECRET}"))
        """,
        f"['{phase}']",
    )

    done = attempts.run('echo "$DEPLOY_TOKEN $PLAIN"', host=plugins.policy())

    assert done.output == "[REDACTED] [REDACTED]\n"
    assert b"reactorcide: [injector] set [REDACTED]\n" in done.log
    assert plugins.notes == ["of [REDACTED]"]


def test_no_error_of_a_plugin_shows_a_secret(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "breaker",
        f"""
        context.env_vars["DEPLOY_TOKEN"] = "{SECRET}"
        raise RuntimeError("cannot log in with {SECRET} or " + context.env_vars["MINE"])
        """,
        "['pre_container']",
    )
    plugins.add("witness", "note(context.error)", "['on_error']")

    done = attempts.run("true", secrets={"MINE": "secret-of-the-job"}, host=plugins.policy())

    assert "cannot log in with [REDACTED] or [REDACTED]" in (done.result.message or "")
    assert plugins.notes == [done.result.message]
    for text in (SECRET, "secret-of-the-job"):
        assert text.encode() not in done.log + (done.spool / "result.json").read_bytes()


BAD_VARIABLES = {
    "context.env_vars['A B'] = 'x'": "env_vars['A B']: a name is 1 to 255 letters",
    "context.env_vars['REACTORCIDE_X'] = 'x'": "env_vars['REACTORCIDE_X']: names that start with",
    "context.env_vars['A'] = 3": "env_vars['A']: the value must be a text without NUL",
    "context.env_vars['A'] = 'never-shown\\0'": "env_vars['A']: the value must be a text without NUL",
    "context.env_vars[3] = 'x'": "env_vars[3]: a name is a text",
    "context.env_vars = ['A=1']": "env_vars must be a dict",
    "context.env_vars['A'] = 'x' * 200_000": "env_vars: A is longer than 131071 bytes",
    "context.env_vars.update({f'A{n}': '' for n in range(3000)})": "env_vars: more than 2500 variables",
}


@pytest.mark.parametrize("change", BAD_VARIABLES)
def test_variables_that_no_job_can_have_are_refused(
    attempts: Attempts, plugins: PluginFolder, change: str
) -> None:
    plugins.add("injector", change, "['pre_container']")

    done = attempts.run("echo never", host=plugins.policy())

    assert (done.result.reason, done.result.fault) == ("internal", "infra")
    told = f"the plugin injector broke in pre_container: {BAD_VARIABLES[change]}"
    assert (done.result.message or "").startswith(told)
    assert b"never-shown" not in done.log


def test_variables_set_after_the_job_come_too_late_which_is_said(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("late", "context.env_vars['A'] = 'x'", "['post_container']")

    done = attempts.run("true", host=plugins.policy())

    assert done.result.reason == "ok"
    assert "the plugin late changed env_vars in post_container: too late" in done.log.decode()


def test_a_plugin_may_shorten_the_time_of_a_job(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("limiter", "context.config.timeout_seconds = 1", "['pre_container']")

    done = attempts.run("sleep 60", host=plugins.policy(), timeout_seconds=50)

    assert done.result.reason == "timeout_run"
    assert "the limit is 1 seconds" in (done.result.message or "")


def test_a_plugin_may_limit_silence(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("limiter", "context.config.silence_timeout_seconds = 1", "['pre_validation']")

    done = attempts.run("sleep 60", host=plugins.policy())

    assert done.result.reason == "timeout_silent"


def test_a_plugin_may_limit_resources_and_artifacts(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "limiter",
        """
        note([context.config.pids, context.config.memory_mb])
        context.config.pids = 20
        context.config.artifacts = ("*.txt",)
        """,
        "['post_validation']",
    )

    done = attempts.run(
        'cd "$CI_ARTIFACTS_DIR"; touch a.txt b.bin; for n in $(seq 40); do sleep 5 & done; echo all',
        host=plugins.policy(default_resources=Resources(pids=500, memory_mb=256)),
    )

    assert plugins.notes == [[500, 256]]
    assert "all" not in done.output
    assert done.result.artifacts == 1


def test_a_plugin_may_take_the_network_away(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("limiter", "context.config.network = 'none'", "['pre_container']")
    command = "cut -d: -f1 /proc/net/dev | sed 1,2d | tr -d ' ' | tr '\\n' ' '"

    alone = attempts.run(command, host=plugins.policy())
    asked = attempts.run(command, network="none")

    assert alone.output == asked.output == "lo "


def test_an_image_can_be_chosen_before_it_is_taken(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add(
        "mirror", "context.config.image = 'mirror.example.org/' + context.config.image", "['pre_validation']"
    )

    done = attempts.run('echo "$REACTORCIDE_RUNNER_IMAGE"', host=plugins.policy(), image="alpine:3")

    assert done.output == "mirror.example.org/alpine:3\n"


BAD_CHANGES = {
    (
        "pre_validation",
        "config.timeout_seconds = 7200",
    ): "cannot become 7200: only less than now, 3600, is possible",
    ("pre_validation", "config.timeout_seconds = 0"): "cannot become 0: must be seconds above 0",
    ("pre_validation", "config.timeout_seconds = True"): "cannot become True: must be seconds above 0",
    ("pre_validation", "config.network = 'host'"): "cannot become 'host': it can only be taken away, by none",
    ("pre_validation", "config.memory_mb = 'lots'"): "cannot become 'lots': must be a whole number",
    ("pre_validation", "config.memory_mb = 1.5"): "cannot become 1.5: must be a whole number",
    ("pre_validation", "config.cpu = 0"): "cannot become 0: must be from 0.01 to 1024",
    ("pre_validation", "config.pids = 1"): "cannot become 1: must be from 4",
    (
        "pre_validation",
        "config.image = '--privileged'",
    ): "cannot become '--privileged': must be the reference of a container image",
    ("pre_validation", "config.artifacts = '*'"): "cannot become '*': must be a tuple of globs",
    ("pre_validation", "config.command = 'true'"): "cannot be changed: only image, timeout_seconds,",
    ("pre_validation", "config.job_id = 'x'"): "cannot be changed",
    ("pre_validation", "config.privileged = True"): "cannot be changed",
    ("pre_source_prep", "config.image = 'other'"): "in pre_source_prep, the last chance is post_validation",
    ("post_container", "config.cpu = 1"): "in post_container, the last chance is pre_container",
}


@pytest.mark.parametrize(("phase", "change"), BAD_CHANGES, ids=lambda text: text.partition(".")[2] or text)
def test_what_a_plugin_may_not_change_is_refused_by_name(
    attempts: Attempts, plugins: PluginFolder, phase: str, change: str
) -> None:
    plugins.add("changer", f"context.{change}", f"['{phase}']")

    done = attempts.run("true", host=plugins.policy())

    field = change.partition(" ")[0]
    message = done.result.message or ""
    assert done.result.reason == "internal"
    assert message.startswith(f"the plugin changer broke in {phase}: ChangeRefused: {field} ")
    assert BAD_CHANGES[phase, change] in message


@pytest.mark.parametrize("name", ["phase", "exit_code", "job_path", "error", "status"])
def test_where_the_run_is_cannot_be_forged(attempts: Attempts, plugins: PluginFolder, name: str) -> None:
    plugins.add("forger", f"context.{name} = None", "['pre_validation']")

    done = attempts.run("true", host=plugins.policy())

    assert "AttributeError" in (done.result.message or "")


def test_files_go_into_and_out_of_the_workspace(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("giver", "context.write_file('deep/in.txt', b'given')", "['post_source_prep']")
    plugins.add(
        "taker",
        """
        note(context.read_file("/job/src/out.txt").decode())
        note(context.find_files(["**/*.txt"]))
        note(context.copy_file("out.txt", "/job/artifacts/copies/out.txt"))
        """,
        "['post_container']",
    )

    done = attempts.run(
        "cat deep/in.txt > out.txt; echo '!' >> out.txt; rm -rf deep; mkdir a; echo x > a/b.txt",
        host=plugins.policy(),
    )

    assert plugins.notes == ["given!\n", ["/job/src/a/b.txt", "/job/src/out.txt"], 7]
    assert done.result.artifacts == 1
    assert (done.spool / "artifacts" / "1").read_text() == "given!\n"


def test_no_link_of_a_job_leads_a_plugin_astray(attempts: Attempts, plugins: PluginFolder) -> None:
    outside = plugins.path.parent / "outside"
    outside.mkdir()
    (outside / "file.txt").write_text("of the host")
    plugins.add(
        "taker",
        """
        def tried(work):
            try:
                return str(work())
            except Exception as error:
                return type(error).__name__
        note([
            tried(lambda: context.read_file("link.txt")),
            tried(lambda: context.read_file("folder/file.txt")),
            tried(lambda: context.read_file("../../outside/file.txt")),
            tried(lambda: context.read_file("pipe")),
            tried(lambda: context.write_file("folder/file.txt", b"spoilt")),
            tried(lambda: context.write_file("link.txt", b"in place of the link")),
            tried(lambda: context.write_file("/job", b"x")),
            tried(lambda: context.write_file("real", b"x")),
            tried(lambda: context.copy_file("folder/file.txt", "copy")),
            tried(lambda: context.copy_file("large", "copy", 10)),
            tried(lambda: context.read_file("large", 10)),
            tried(lambda: context.find_files(["**"])),
        ])
        """,
        "['post_container']",
    )

    attempts.run(
        f"ln -s {outside}/file.txt link.txt; ln -s {outside} folder; mkfifo pipe; mkdir real;"
        " echo 01234567890 > large",
        host=plugins.policy(),
    )

    refused = "PathRefused"
    assert plugins.notes == [
        [refused] * 5
        + ["None", refused, refused, refused, refused, refused]
        + ["['/job/src/large', '/job/src/link.txt']"]
    ]
    assert (outside / "file.txt").read_text() == "of the host"


def test_before_there_is_a_workspace_its_files_cannot_be_asked_for(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("early", "context.read_file('x')", "['pre_validation']")

    done = attempts.run("true", host=plugins.policy())

    assert "there is no workspace in pre_validation" in (done.result.message or "")


def test_lines_of_a_plugin_carry_its_name_and_nothing_that_acts(
    attempts: Attempts, plugins: PluginFolder
) -> None:
    plugins.add("talker", "context.log('one\\ntwo \\x1b[31m')", "['pre_validation']")

    done = attempts.run("true", host=plugins.policy())

    assert b"reactorcide: [talker] one\nreactorcide: [talker] two \\x1b[31m\n" in done.log


def test_unsandboxed_jobs_have_plugins_too(attempts: Attempts, plugins: PluginFolder) -> None:
    plugins.add("injector", "context.env_vars['ADDED'] = 'new'", "['pre_container']")

    done = attempts.run('echo "$ADDED"', host=plugins.policy(unsandboxed=True))

    assert done.output == "new\n"
