"""A run on this machine as it is told: what wins, where each value came from, and what is refused."""

from dataclasses import fields
from pathlib import Path

import click
import pytest

from runnerlib.cli import cli
from runnerlib.configuration import ConfigInvalid, RunConfig, load_config
from runnerlib.dry_run import describe_config
from runnerlib.local_runs import compose_spec
from runnerlib.run_settings import SETTINGS
from runnerlib.spec.job_file import parse_job_file
from runnerlib.validation import RunRefused, read_run

ROOT = Path(__file__).parents[2]
FROM_FILES = {"env_file", "secrets", "artifact_globs", "plugins"}
"""Fields that only a job file or a secrets file fills."""


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
    assert told["network"] == "network (REACTORCIDE_NETWORK): is 'host': must be one of default, none"
    assert told["timeout_seconds"] == "timeout_seconds (--timeout): is '0': must be from 1 to 604800"


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
        ({"memory_mb": "1M"}, "memory_mb"),
        ({"pids": "1_000"}, "pids"),
        ({"cpu": "nan"}, "cpu"),
        ({"timeout_seconds": "１２"}, "timeout_seconds"),
        ({"grace_seconds": "-1"}, "grace_seconds"),
        ({"container_user": "--privileged"}, "container_user"),
        ({"job_env": "./job/../../etc/passwd"}, "job_env"),
        ({"job_env": "/etc/passwd"}, "job_env"),
        ({"job_env": "job"}, "job_env"),
        ({"unsandboxed": "perhaps"}, "unsandboxed"),
    ],
)
def test_a_value_that_cannot_be_is_refused(flags: dict[str, str], field: str) -> None:
    assert set(faults_of(flags)) == {field}


@pytest.mark.parametrize(
    ("text", "mib"), [("512", 512), ("512m", 512), ("2G", 2048), ("1 GiB", 1024), ("1t", 1024**2)]
)
def test_memory_is_in_mib_or_has_a_unit(text: str, mib: int) -> None:
    assert load_config({"memory_mb": text}, {}).config.memory_mb == mib


def test_an_empty_variable_is_none_and_an_empty_flag_goes_back_to_the_default() -> None:
    environ = {"REACTORCIDE_TIMEOUT": "5", "REACTORCIDE_NETWORK": "", "REACTORCIDE_SOURCE_PATH": "/usr"}

    loaded = load_config({"timeout_seconds": "", "source_path": ""}, environ)

    assert (loaded.config.timeout_seconds, loaded.config.network, loaded.config.source_type) == (
        3600,
        "default",
        "none",
    )
    assert loaded.sources["timeout_seconds"] == loaded.sources["source_path"] == "default"


def test_a_fault_that_a_stronger_value_hides_is_none() -> None:
    assert load_config({"timeout_seconds": "3"}, {"REACTORCIDE_TIMEOUT": "x"}).config.timeout_seconds == 3


def test_a_source_replaces_another_one_as_a_whole(tmp_path: Path) -> None:
    environ = {"REACTORCIDE_GIT_URL": "https://example.org/x", "REACTORCIDE_GIT_REF": "main"}

    copied = load_config({"source_path": str(tmp_path)}, environ).config
    other_ref = load_config({"git_ref": "dev"}, environ).config
    of_file = load_config({}, environ, job=parse_job_file(b"source: {type: none}")).config

    assert (copied.source_type, copied.git_url, copied.git_ref) == ("copy", None, None)
    assert (other_ref.git_url, other_ref.git_ref) == ("https://example.org/x", "dev")
    assert of_file.source_type == "none"


@pytest.mark.parametrize(
    ("text", "field", "fault"),
    [
        (b"source: {type: git}", "git_url", "source.type git needs source.url"),
        (b"source: {type: copy}", "source_path", "source.type copy needs source.path"),
        (b"source: {type: none, url: https://example.org/x}", "git_url", "source.type none"),
        (b"source: {type: git, url: https://example.org/x, path: /usr}", "source_path", "source.type git"),
        (b"source: {path: none-such}", "source_path", "there is no directory"),
        (b"secrets: {NO_SUCH_SECRET: }", "secrets", "NO_SUCH_SECRET has no value"),
    ],
)
def test_a_job_file_that_says_half_of_something_is_refused(text: bytes, field: str, fault: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        load_config({}, {}, job=parse_job_file(text))

    assert {found.field for found in refused.value.faults} == {field}
    assert fault in str(refused.value)


def test_a_value_of_a_job_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("command: 'true'\nresources:\n  pids: 40\nenvironment: {A: file}\n")

    loaded = read_run({"job_env": "B=flag"}, {}, str(file))

    assert loaded.sources["job_command"] == f"{file}:1"
    assert loaded.sources["pids"] == f"{file}:3"
    assert loaded.sources["job_env"] == f"{file}:4, --job-env"


def test_a_job_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="cannot be read: No such file"):
        read_run({}, {}, str(tmp_path / "none.yaml"))


def test_a_source_is_named_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert load_config({"source_path": str(tmp_path / "link")}, {}).config.source_path == tmp_path / "real"


def test_workspaces_are_made_in_the_cache_of_the_user_if_there_is_one() -> None:
    def place(**environ: str) -> str:
        return str(load_config({}, environ).config.work_dir)

    assert place(HOME="/home/me") == "/home/me/.cache/reactorcide/runs"
    assert place(HOME="/home/me", XDG_CACHE_HOME="/cache") == "/cache/reactorcide/runs"
    assert place(HOME="/home/me", XDG_CACHE_HOME="relative") == "/home/me/.cache/reactorcide/runs"
    assert place() == place(HOME="") != place(HOME="/home/me")


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
    flags = {
        "secrets_list": "swordfish,opensesame",
        "job_env": "API_KEY=swordfish\nPLAIN=say opensesame",
        "job_command": "echo swordfish",
        "git_url": "https://me:opensesame@example.org/x",
    }
    loaded = load_config(flags, {}, job=job)

    rows = list(describe_config(loaded))
    told = str(rows) + "".join(row.text for row in rows) + repr(loaded)

    assert "swordfish" not in told
    assert "opensesame" not in told
    assert "PLAIN=say [REDACTED]" in told
    assert "swordfish" not in str(faults_of({"secrets_list": "swordfish" * 40_000}))
    assert "swordfish" not in str(faults_of({"git_url": "http://me:swordfish@127.0.0.1/x"}))
    assert "swordfish" not in str(faults_of({"job_env": "A B=swordfish"}))


def test_a_spec_has_secrets_for_names_that_look_like_them(tmp_path: Path) -> None:
    config = load_config({"job_command": "\n true\n", "job_env": "A=1\nAPI_KEY=swordfish"}, {}).config

    spec = compose_spec(config, "run-1", tmp_path)

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
