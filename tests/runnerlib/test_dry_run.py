"""`run --dry-run` and `run-job --dry-run`: all that would be, and nothing done."""

import shlex
import subprocess

from container_host import IMAGE, ContainerHost
from plugin_folder import PluginFolder
from runnerlib_calls import Here


def test_a_dry_run_tells_all_and_runs_nothing(here: Here) -> None:
    (here.folder / "code" / "inner").mkdir(parents=True)
    (here.folder / "code" / "README").touch()

    done = here.call(
        *("run", "--dry-run", "--source-path", "code", "--job-env", "API_KEY=swordfish\nA=plain"),
        *("--", "touch /job/src/ran; echo swordfish"),
    )

    text = done.stdout.decode()
    assert done.returncode == 0, text
    for part in (
        "  A=plain\n",
        "  API_KEY=[REDACTED]\n",
        "  REACTORCIDE_JOB_COMMAND=touch /job/src/ran; echo [REDACTED]\n",
        " API_KEY=[REDACTED] A=plain  [--job-env]\n",
        f"copy of {here.folder}/code, which has\n    README\n    inner/\n",
        "  bubblewrap: bubblewrap ",
        "copy the source at /job/src\n",
        "no findings\n",
        "verdict: it would start\n",
    ):
        assert part in text
    assert "swordfish" not in text
    assert not (here.folder / "code" / "ran").exists()
    assert not here.runs.exists()


def test_a_dry_run_of_what_cannot_start_says_so(here: Here) -> None:
    (here.folder / "code").mkdir()

    done = here.call("run", "--dry-run", "--source-path", "code", "--job-dir", "/job/src/none", "--", "true")

    assert done.returncode == 1
    assert b"error: job_dir: there is no directory" in done.stdout
    assert b"verdict: it would not start" in done.stdout


def test_a_dry_run_without_a_command_says_so(here: Here) -> None:
    done = here.call("run", "--dry-run")

    assert done.returncode == 1
    assert b"error: job_command: is missing" in done.stdout


def test_a_dry_run_of_a_job_file_names_its_lines(here: Here) -> None:
    (here.folder / "job.yaml").write_text("command: 'true'\ntimeout: 5\n")

    done = here.call("run-job", "job.yaml", "--dry-run")

    assert done.returncode == 0
    assert b"timeout_seconds          5  [job.yaml:2]" in done.stdout


def test_a_dry_run_names_plugins_where_they_are_called_and_calls_none(
    here: Here, plugins: PluginFolder
) -> None:
    plugins.add("first", "note(context.phase)", phases='["pre_source_prep", "cleanup"]')

    done = here.call("run", "--dry-run", "--plugin-dir", str(plugins.path), "--", "true")

    plan = done.stdout.decode().partition("\nplan\n")[2]
    assert done.returncode == 0, done.stdout
    before, after = plan.index("plugin first at pre_source_prep"), plan.index("plugin first at cleanup")
    assert before < plan.index("run the command") < after
    assert plugins.notes == []


def test_the_command_of_a_dry_run_makes_the_same_sandbox(here: Here) -> None:
    told = here.call("run", "--dry-run", "--network", "none", "--", "pwd; id -u; cat /proc/net/dev | wc -l")
    line = told.stdout.decode().partition("the same by hand")[2].splitlines()[1]
    argv = shlex.split(line)
    workspace = here.folder / "by hand"
    (workspace / "src").mkdir(parents=True)
    argv[argv.index("/job") - 1] = str(workspace)

    done = subprocess.run(argv, capture_output=True, timeout=30)

    assert done.stdout.split() == [b"/job/src", b"1000", b"3"], done.stderr


def test_a_dry_run_shows_the_container_and_whether_its_image_is_here(
    here: Here, container_host: ContainerHost
) -> None:
    here.use_engine(container_host.environment)
    asked = ("--executor", "container", "--container-engine", "podman", "--pull", "never")

    here_already = here.call("run", "--dry-run", *asked, "--runner-image", IMAGE, "--", "true")
    missing = here.call("run", "--dry-run", *asked, "--runner-image", "localhost/none:1", "--", "true")

    assert here_already.returncode == 0, here_already.stdout
    assert f"image {IMAGE} is here: sha256:".encode() in here_already.stdout
    assert b"--cap-drop=ALL" in here_already.stdout
    assert missing.returncode == 1
    assert b"image localhost/none:1 cannot be had" in missing.stdout
    assert container_host.containers() == []
