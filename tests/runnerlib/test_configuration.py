"""A run on this machine as it is told: what wins, where each value came from, and what is refused."""

from dataclasses import fields
from pathlib import Path

import click
import pytest

from runnerlib.cli import cli
from runnerlib.configuration import ConfigInvalid, RunConfig, load_config
from runnerlib.dry_run import describe_config
from runnerlib.run_settings import SETTINGS
from runnerlib.spec.job_file import parse_job_file
from runnerlib.standalone import compose_spec
from runnerlib.validation import Runtime, validate

ROOT = Path(__file__).parents[2]
FROM_FILES = {"env_file", "secrets", "artifact_globs", "plugins"}
"""Fields that only a job file or a secrets file fills."""
BUBBLEWRAP = Runtime("bubblewrap", "bubblewrap 0.11")
PODMAN = Runtime("podman", "podman 5")


def faults_of(flags: dict[str, str], environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigInvalid) as refused:
        load_config(flags, environ or {})
    return {fault.field: str(fault) for fault in refused.value.faults}


def test_flags_win_over_the_job_file_and_that_over_the_environment(tmp_path: Path) -> None:
    job = parse_job_file(b"timeout: 2\nnetwork: none\nenvironment: {A: file, B: file}\n")
    environ = {"REACTORCIDE_TIMEOUT": "1", "REACTORCIDE_NETWORK": "default", "REACTORCIDE_CPUS": "2"}

    loaded = load_config(
        {"timeout_seconds": "3", "job_env": "B=flag"}, environ, job=job, job_path=tmp_path / "job.yaml"
    )

    config = loaded.config
    assert (config.timeout_seconds, config.network, config.cpu) == (3, "none", 2)
    assert config.job_env == {"A": "file", "B": "flag"}
    assert loaded.sources["timeout_seconds"] == "--timeout"
    assert loaded.sources["network"] == str(tmp_path / "job.yaml")
    assert loaded.sources["cpu"] == "REACTORCIDE_CPUS"
    assert loaded.sources["executor"] == "default"


def test_the_job_starts_in_its_source_unless_told_otherwise() -> None:
    plain = load_config({"code_dir": "/job/code"}, {}).config
    told = load_config({"code_dir": "/job/code", "job_dir": "/job/code/sub"}, {}).config

    assert (plain.job_dir, told.job_dir) == ("/job/code", "/job/code/sub")


def test_every_fault_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    told = faults_of(
        {
            "code_dir": "/jobs",
            "timeout_seconds": "0",
            "source_path": str(tmp_path / "none"),
            "git_url": "ext::sh",
            "job_env": "9=x",
        },
        {"REACTORCIDE_NETWORK": "host"},
    )

    assert set(told) == {"code_dir", "timeout_seconds", "source_path", "git_url", "job_env", "network"}
    assert told["network"] == "network (REACTORCIDE_NETWORK): must be one of default, none"
    assert told["timeout_seconds"] == "timeout_seconds (--timeout): must be from 1 to 604800"


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"git_ref": "main"}, "git_ref"),
        ({"git_url": "https://example.org/x", "source_path": "/"}, "source_path"),
        ({"git_url": "https://example.org/x", "git_ref": "--upload-pack=x"}, "git_ref"),
        ({"git_url": "http://127.0.0.1/x"}, "git_url"),
        ({"job_dir": "/job/../etc"}, "job_dir"),
        ({"runner_image": "--privileged"}, "runner_image"),
        ({"plugin_dir": "/no/such/folder"}, "plugin_dir"),
        ({"executor": "kubernetes"}, "executor"),
        ({"memory_mb": "much"}, "memory_mb"),
        ({"unsandboxed": "perhaps"}, "unsandboxed"),
    ],
)
def test_a_value_that_cannot_be_is_refused(flags: dict[str, str], field: str) -> None:
    assert set(faults_of(flags)) == {field}


def test_variables_come_inline_or_from_a_file_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "ci.env").write_text("A=1\nB='two words'\n")

    inline = load_config({"job_env": "A=1\nB=two words"}, {}).config
    of_file = load_config({"job_env": "./job/ci.env"}, {}).config

    assert inline.job_env == of_file.job_env == {"A": "1", "B": "two words"}
    assert "cannot be read" in faults_of({"job_env": "./job/none.env"})["job_env"]


def test_secrets_come_from_a_private_file_the_job_file_and_the_environment(tmp_path: Path) -> None:
    private = tmp_path / "secrets.env"
    private.write_text("A=from the file\nB=from the file\n")
    private.chmod(0o600)
    job = parse_job_file(b"secrets: {B: written, C: }")

    config = load_config({"secrets_file": str(private)}, {"C": "mine"}, job=job).config

    assert config.secrets == {"A": "from the file", "B": "written", "C": "mine"}
    private.chmod(0o644)
    assert "chmod 600" in faults_of({"secrets_file": str(private)})["secrets_file"]


def test_no_secret_is_shown_by_a_configuration_or_a_fault() -> None:
    job = parse_job_file(b"secrets: {A: swordfish}\ntimeout: 5")
    loaded = load_config(
        {"secrets_list": "swordfish,opensesame", "job_env": "API_KEY=swordfish"}, {}, job=job
    )

    told = str(list(describe_config(loaded))) + repr(loaded)

    assert "swordfish" not in told
    assert "opensesame" not in told
    assert "swordfish" not in str(faults_of({"secrets_list": "swordfish" * 40_000}))


def test_a_spec_has_secrets_for_names_that_look_like_them(tmp_path: Path) -> None:
    config = load_config({"job_command": "\n true\n", "job_env": "A=1\nAPI_KEY=swordfish"}, {}).config

    spec = compose_spec(config, tmp_path)

    assert (spec.environment, spec.secrets) == ({"A": "1"}, {"API_KEY": "swordfish"})
    assert spec.job_name == "true"


def test_a_path_in_a_job_file_is_looked_for_beside_it(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    job = parse_job_file(b"source: {path: code}")

    config = load_config({}, {}, job=job, job_path=tmp_path / "job.yaml").config

    assert (config.source_type, config.source_path) == ("copy", tmp_path / "code")


def test_flag_variable_and_field_of_every_setting_match() -> None:
    named = {setting.field for setting in SETTINGS}

    assert named | FROM_FILES == {entry.name for entry in fields(RunConfig)}
    for name in ("run", "run-job", "config", "validate"):
        command = cli.commands[name]
        options = {
            option.opts[0]: option.name for option in command.params if isinstance(option, click.Option)
        }
        for setting in SETTINGS:
            assert options[setting.flag] == setting.field
            assert setting.variable == "REACTORCIDE_" + setting.flag[2:].replace("-", "_").upper()


def test_the_page_on_runnerlib_tells_every_flag_and_variable() -> None:
    page = (ROOT / "docs" / "runnerlib.md").read_text()

    missing = [s.flag for s in SETTINGS if f"`{s.flag}`" not in page or f"`{s.variable}`" not in page]
    assert missing == []
    assert [name for name in cli.commands if f"`{name}" not in page] == []


@pytest.mark.parametrize(
    ("flags", "runtime", "finding"),
    [
        ({}, BUBBLEWRAP, "error: job_command: is missing"),
        ({"job_command": "x"}, Runtime("none", "no bwrap"), "error: executor: nothing can run the job here"),
        ({"job_command": "x"}, PODMAN, "error: runner_image: is missing"),
        ({"job_command": "x", "runner_image": "a/b"}, PODMAN, "warning: runner_image: names no version"),
        ({"job_command": "x", "runner_image": "a:5000/b"}, PODMAN, "warning: runner_image: names no version"),
        ({"job_command": "x", "runner_image": "a:latest"}, PODMAN, "warning: runner_image: names no version"),
        ({"job_command": "x", "runner_image": "a:1"}, BUBBLEWRAP, "warning: runner_image: is not used"),
        ({"job_command": "x", "job_env": "PATH=/x"}, BUBBLEWRAP, "warning: job_env.PATH: overrides"),
        (
            {"job_command": "x", "job_env": "A=" + "x" * 1001},
            BUBBLEWRAP,
            "warning: job_env.A: is longer than",
        ),
        ({"job_command": "x"}, Runtime("unsandboxed", ""), "warning: unsandboxed: the job can do all"),
        (
            {"job_command": "x", "source_path": "/usr", "job_dir": "/job/src/none"},
            BUBBLEWRAP,
            "error: job_dir: there is no directory none in /usr",
        ),
    ],
)
def test_validation_finds(flags: dict[str, str], runtime: Runtime, finding: str) -> None:
    found = [str(each) for each in validate(load_config(flags, {}), runtime)]

    assert any(each.startswith(finding) for each in found), found


@pytest.mark.parametrize("image", ["a/b:1", "a:5000/b:1", "a@sha256:" + "0" * 64])
def test_an_image_with_a_version_is_fine(image: str) -> None:
    assert validate(load_config({"job_command": "x", "runner_image": image}, {}), PODMAN) == []
