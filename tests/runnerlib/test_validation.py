"""What is found wrong or odd about a run before it starts."""

import os
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT
from plugin_folder import PluginFolder
from runnerlib.configuration import load_config
from runnerlib.runtime import ImageState, Runtime
from runnerlib.spec.job_file import parse_job_file
from runnerlib.validation import Finding, check_config, check_runtime, look_ahead

BUBBLEWRAP = Runtime("bubblewrap", "bubblewrap 0.11")
PODMAN = Runtime("podman", "podman 5")
NOTHING = Runtime("none", "no bwrap")


def config_findings(flags: dict[str, str], tmp_path: Path, job: bytes | None = None) -> list[Finding]:
    flags = {"job_command": "x", "work_dir": str(tmp_path / "work")} | flags
    return check_config(load_config(flags, {}, job=None if job is None else parse_job_file(job)))


def runtime_findings(image: str, runtime: Runtime, state: ImageState | None = None) -> list[str]:
    loaded = load_config({"runner_image": image}, {})
    return [str(found) for found in check_runtime(loaded.config, runtime, state)]


def test_a_good_run_has_no_findings(tmp_path: Path) -> None:
    assert (
        config_findings({"job_env": "A=1", "source_path": "/usr", "job_dir": "/job/src/bin"}, tmp_path) == []
    )
    assert runtime_findings("", BUBBLEWRAP) == []


@pytest.mark.parametrize(
    ("flags", "finding"),
    [
        ({"job_command": ""}, "error: job_command: is missing"),
        ({"unsandboxed": "true"}, "warning: unsandboxed: the job can do all that you may do"),
        ({"job_env": "PATH=/x"}, "warning: job_env.PATH: overrides"),
        ({"job_env": "HOME=/x"}, "warning: job_env.HOME: overrides"),
        ({"job_env": "USER=x"}, "warning: job_env.USER: overrides"),
        ({"job_env": "A=" + "x" * 1001}, "warning: job_env.A: is longer than 1000 characters"),
        ({"job_env": "A=" + "x" * 131_072}, "error: job_env: A is longer than 131071 bytes"),
        ({"job_env": "API_KEY=x"}, "warning: job_env.API_KEY: is shorter than 6 bytes, and is not masked"),
        ({"secrets_list": "abcdef"}, "warning: secrets_list: other users of this machine can read"),
        ({"secrets_list": "abcdef,x"}, "warning: secrets_list.2: is shorter than 6 bytes"),
        (
            {"source_path": "/usr", "job_dir": "/job/src/none"},
            "error: job_dir: there is no directory /usr/none",
        ),
        ({"source_path": "/usr", "job_dir": "/job/srcs"}, "error: job_dir: is /job/srcs, where nothing"),
        (
            {"git_url": "https://example.org/x", "job_dir": "/job/x"},
            "error: job_dir: is /job/x, where nothing",
        ),
        ({"artifacts": "/etc/passwd"}, "error: artifacts: /etc/passwd is no directory"),
        (
            {"artifacts": "/etc/passwd/out"},
            "error: artifacts: /etc/passwd/out cannot be used: Not a directory",
        ),
        ({"work_dir": "/etc/passwd"}, "error: work_dir: /etc/passwd is no directory"),
        ({"source_path": "/", "work_dir": "/tmp/w"}, "error: work_dir: /tmp/w lies in the source /"),
    ],
)
def test_a_run_by_itself_has_findings(tmp_path: Path, flags: dict[str, str], finding: str) -> None:
    found = [str(each) for each in config_findings(flags, tmp_path)]

    assert len(found) >= 1
    assert any(each.startswith(finding) for each in found), found


@pytest.mark.parametrize(
    "job_dir", ["/job", "/job/src", "/job/src/../src/bin", "/job/artifacts", "/job/home"]
)
def test_a_command_may_start_where_there_is_a_directory(tmp_path: Path, job_dir: str) -> None:
    assert config_findings({"source_path": "/usr", "job_dir": job_dir}, tmp_path) == []


def test_a_command_does_not_start_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "code" / "real").mkdir(parents=True)
    (tmp_path / "code" / "link").symlink_to("real")

    found = config_findings({"source_path": str(tmp_path / "code"), "job_dir": "/job/src/link"}, tmp_path)

    assert [each.field for each in found] == ["job_dir"]


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a folder to somebody else")
def test_workspaces_are_not_made_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    os.chown(tmp_path / "work", 12345, 12345)

    assert [each.field for each in config_findings({}, tmp_path)] == ["work_dir"]


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    assert [each.field for each in config_findings({"artifacts": "/usr/out"}, tmp_path)] == ["artifacts"]


@pytest.mark.parametrize(
    ("job", "field"),
    [(b"env_file: .env", "env_file"), (b"plugins: [timer]", "plugins")],
)
def test_a_job_file_that_needs_more_than_there_is_is_found(tmp_path: Path, job: bytes, field: str) -> None:
    assert [(each.level, each.field) for each in config_findings({}, tmp_path, job)] == [("error", field)]


@pytest.mark.parametrize(
    ("image", "runtime", "state", "findings"),
    [
        ("", PODMAN, None, ["error: runner_image: is missing"]),
        ("a/b", PODMAN, None, ["warning: runner_image: names no version"]),
        ("a:5000/b", PODMAN, None, ["warning: runner_image: names no version"]),
        ("a:latest", PODMAN, None, ["warning: runner_image: names no version"]),
        ("a/b:1", PODMAN, None, []),
        ("a:5000/b:1", PODMAN, ImageState("sha256:1"), []),
        ("a@sha256:" + "0" * 64, PODMAN, None, []),
        ("a:1", PODMAN, ImageState(None, "it is not on this host"), ["error: runner_image: it is not on"]),
        ("a:1", BUBBLEWRAP, None, ["warning: runner_image: is not used"]),
        ("a:1", NOTHING, None, ["error: executor: nothing can run the job here: no bwrap"]),
    ],
)
def test_an_image_is_judged_by_what_would_run_it(
    image: str, runtime: Runtime, state: ImageState | None, findings: list[str]
) -> None:
    found = runtime_findings(image, runtime, state)

    assert len(found) == len(findings)
    assert all(told.startswith(start) for told, start in zip(found, findings, strict=True)), found


def test_errors_come_before_warnings(tmp_path: Path) -> None:
    found = config_findings({"job_env": "PATH=x", "job_command": ""}, tmp_path)

    assert [each.level for each in found] == ["error", "warning"]


def test_looking_ahead_finds_plugins_that_cannot_be_used(tmp_path: Path, plugins: PluginFolder) -> None:
    (plugins.path / "plugin_broken.py").write_text("this is no python")
    flags = {"job_command": "x", "unsandboxed": "true", "plugin_dir": str(plugins.path)}

    outlook = look_ahead(load_config(flags, {"HOME": str(tmp_path)}))

    assert not outlook.is_fit
    assert [each.field for each in outlook.findings if each.level == "error"] == ["plugin_dir"]


@pytest.mark.parametrize("engine", ["no-such-engine", "/no/such/engine"])
def test_looking_ahead_finds_an_engine_missing(tmp_path: Path, engine: str) -> None:
    flags = {"job_command": "x", "executor": "container", "container_engine": engine, "runner_image": "a:1"}

    outlook = look_ahead(load_config(flags, {"HOME": str(tmp_path)}))

    assert outlook.runtime.isolation == "none"
    assert [each.field for each in outlook.findings] == ["executor"]
    assert engine in outlook.findings[0].message


def test_looking_ahead_makes_nothing(tmp_path: Path) -> None:
    look_ahead(load_config({"job_command": "x", "unsandboxed": "true"}, {"HOME": str(tmp_path)}))

    assert list(tmp_path.iterdir()) == []
