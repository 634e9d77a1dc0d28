"""Where the commands look for a coordinator and for a token."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reactorcide.cli.discovery import Target, find_target
from reactorcide.cli.errors import CommandFailed

LOCAL = "http://127.0.0.1:6080"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose own coordinator runs."""
    (tmp_path / "server.json").write_text(json.dumps({"url": LOCAL, "pid": os.getpid()}))
    (tmp_path / "admin-token").write_text("rct_local\n")
    return {"REACTORCIDE_DATA_DIR": str(tmp_path)}


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_local_coordinator_is_found_with_its_token(environ: dict[str, str], tmp_path: Path) -> None:
    assert find_target(environ) == Target(
        LOCAL, str(tmp_path / "server.json"), "rct_local", str(tmp_path / "admin-token")
    )


def test_flags_win_over_the_environment_which_wins_over_files(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ |= {"REACTORCIDE_API_URL": "http://env:1/", "REACTORCIDE_API_TOKEN": "rct_env"}
    (tmp_path / "token").write_text("rct_flag")

    by_environment = find_target(environ)
    by_flags = find_target(environ, url="https://flag", token_file=tmp_path / "token")

    assert (by_environment.url, by_environment.token) == ("http://env:1", "rct_env")
    assert (by_flags.url, by_flags.token) == ("https://flag", "rct_flag")


def test_the_token_may_come_from_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "t").write_text("rct_filed\n")

    assert find_target(environ | {"REACTORCIDE_API_TOKEN_FILE": str(tmp_path / "t")}).token == "rct_filed"


def test_the_local_token_is_for_the_local_coordinator_alone(environ: dict[str, str]) -> None:
    target = find_target(environ, url="https://elsewhere.example")

    assert target.token is None
    assert "REACTORCIDE_API_TOKEN" in target.token_source


def test_the_token_of_another_service_is_left_alone(environ: dict[str, str]) -> None:
    assert find_target(environ | {"API_TOKEN": "other", "API_URL": "http://other"}).token == "rct_local"


@pytest.mark.parametrize(
    "told", ["", "[]", "{}", '{"url": 1, "pid": 2}', '{"url": "http://x", "pid": -1}', "\xff"]
)
def test_a_broken_server_file_is_no_coordinator(environ: dict[str, str], tmp_path: Path, told: str) -> None:
    (tmp_path / "server.json").write_bytes(told.encode("latin-1"))

    with pytest.raises(CommandFailed, match="no coordinator runs") as caught:
        find_target(environ)

    assert "reactorcide up" in (caught.value.hint or "")


def test_a_coordinator_that_died_is_no_coordinator(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"url": LOCAL, "pid": dead_pid()}))

    with pytest.raises(CommandFailed, match="no coordinator runs"):
        find_target(environ)


def test_faults_of_other_settings_do_not_matter_here(environ: dict[str, str]) -> None:
    assert find_target(environ | {"REACTORCIDE_PORT": "many"}).url == LOCAL


@pytest.mark.parametrize(
    "url", ["", "localhost:6080", "ftp://x", "http://", "http://u:p@x", "http://x?y", "http://x:a"]
)
def test_a_url_must_be_one(environ: dict[str, str], url: str) -> None:
    if not url:
        assert find_target(environ, url=url).url == LOCAL
        return
    with pytest.raises(CommandFailed, match="--url is not the URL of a coordinator"):
        find_target(environ, url=url)


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "é", "x" * 70_000])
def test_a_token_file_must_hold_a_token(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text)

    with pytest.raises(CommandFailed):
        find_target(environ, token_file=tmp_path / "t")


def test_a_token_file_that_is_not_there_is_told(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot be read: No such file"):
        find_target(environ, token_file=tmp_path / "none")
