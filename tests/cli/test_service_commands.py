"""The commands around a service: its settings, its place on the network, its one owner."""

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from reactorcide.cli.config import config
from reactorcide.cli.discovery import read_local_url
from reactorcide.cli.doctor import doctor
from reactorcide.cli.errors import CommandFailed
from reactorcide.cli.migrate import migrate
from reactorcide.cli.service import (
    as_variables,
    check_address,
    make_data_dir,
    server_file,
    sole_owner,
    stop_signals,
)
from reactorcide.cli.worker import worker
from reactorcide.config import load_settings


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Give the log back: a command sends it to a stream that is closed after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_faulty_setting_is_told_at_once() -> None:
    done = CliRunner(env={"REACTORCIDE_PORT": "many", "LEASE": "-1"}).invoke(config)

    assert done.exit_code == 2
    assert "REACTORCIDE_PORT must be a whole number" in done.stderr
    assert "LEASE must be from 1" in done.stderr


def test_config_tells_where_a_value_came_from_and_hides_secrets(tmp_path: Path) -> None:
    runner = CliRunner(env={"REACTORCIDE_DATA_DIR": str(tmp_path), "DB_URI": "postgresql://u:sesame@h/d"})

    rows = {row["name"]: row for row in json.loads(runner.invoke(config, ["--json"]).stdout)}

    assert rows["DATA_DIR"]["value"] == str(tmp_path)
    assert rows["DATA_DIR"]["source"] == "REACTORCIDE_DATA_DIR"
    assert rows["PORT"]["source"] == "default"
    assert rows["DB_URI"]["value"] == "[REDACTED]"


def test_a_flag_wins_over_the_environment_and_one_that_was_not_given_does_not() -> None:
    assert as_variables({"port": 0, "host": None, "unsandboxed": False}) == {"REACTORCIDE_PORT": "0"}
    assert as_variables({"unsandboxed": True}) == {"REACTORCIDE_UNSANDBOXED": "True"}


def test_a_busy_port_is_named_with_the_setting_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(CommandFailed) as failed:
            check_address("127.0.0.1", port)

    assert str(port) in failed.value.message
    assert "REACTORCIDE_PORT" in str(failed.value.hint)
    assert failed.value.exit_code == 69


def test_two_services_never_share_a_data_directory(tmp_path: Path) -> None:
    with (
        sole_owner(tmp_path),
        server_file(tmp_path, "http://127.0.0.1:6081"),
        pytest.raises(CommandFailed) as failed,
        sole_owner(tmp_path),
    ):
        pass

    assert "already" in failed.value.message
    assert "http://127.0.0.1:6081" in failed.value.message
    with sole_owner(tmp_path):
        pass


def test_clients_find_a_service_only_while_it_is_there(tmp_path: Path) -> None:
    with server_file(tmp_path, "http://127.0.0.1:6081"):
        during = read_local_url(tmp_path)
        mode = (tmp_path / "server.json").stat().st_mode & 0o777

    assert during == "http://127.0.0.1:6081"
    assert mode == 0o600
    assert read_local_url(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    settings = load_settings({"REACTORCIDE_DATA_DIR": str(tmp_path / "new")}).settings

    assert make_data_dir(settings).stat().st_mode & 0o777 == 0o700


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = load_settings({"REACTORCIDE_DATA_DIR": str(tmp_path / "file" / "data")}).settings

    with pytest.raises(CommandFailed, match="file/data"):
        make_data_dir(settings)


class Charge:
    """Something to stop, which writes down how it was asked to."""

    running = 1

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.changed = asyncio.Event()

    def drain(self) -> None:
        self.asked.append("drain")
        self.changed.set()

    def stop(self) -> None:
        self.asked.append("stop")
        self.changed.set()


async def test_the_first_signal_drains_and_the_second_stops() -> None:
    charge = Charge()
    with stop_signals() as stopper:
        stopper.hand_over(charge)

        for _ in range(2):
            charge.changed.clear()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(charge.changed.wait(), 5)

    assert charge.asked == ["drain", "stop"]


async def test_a_signal_during_the_start_ends_the_start() -> None:
    async def start() -> None:
        with stop_signals():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(start())


def test_migrate_names_what_it_applied_and_then_has_nothing_to_do(
    make_database: object, tmp_path: Path
) -> None:
    assert callable(make_database)
    dsn = make_database("template0")
    runner = CliRunner(env={"REACTORCIDE_DB_URI": dsn, "REACTORCIDE_DATA_DIR": str(tmp_path)})

    lacking = runner.invoke(migrate, ["--check"])
    applied = runner.invoke(migrate)
    again = runner.invoke(migrate, ["--check"])

    assert (lacking.exit_code, applied.exit_code, again.exit_code) == (1, 0, 0)
    assert "000001_core.sql" in lacking.stdout
    assert applied.stdout == lacking.stdout
    assert again.stdout == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "neither REACTORCIDE_COORDINATOR_URL nor REACTORCIDE_DB_URI"),
        (
            {"REACTORCIDE_DB_URI": "postgresql://h/d", "REACTORCIDE_COORDINATOR_URL": "https://h"},
            "both REACTORCIDE_COORDINATOR_URL and REACTORCIDE_DB_URI",
        ),
        ({"REACTORCIDE_COORDINATOR_URL": "https://h"}, "REACTORCIDE_WORKER_TOKEN_FILE is not set"),
    ],
)
def test_a_worker_without_one_way_to_a_coordinator_says_what_it_needs(
    tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    done = CliRunner(env={"REACTORCIDE_DATA_DIR": str(tmp_path), **variables}).invoke(worker)

    assert isinstance(done.exception, CommandFailed)
    assert words in done.exception.message


def test_doctor_finds_a_host_that_is_good_and_changes_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    runner = CliRunner(env={"REACTORCIDE_DATA_DIR": str(data_dir), "REACTORCIDE_PORT": "0"})

    done = runner.invoke(doctor, ["--json"])

    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)}
    looked_at = {name for name in states if not name.startswith("sandbox: ")}
    assert looked_at == {"settings", "data", "database", "queue", "objects", "sandbox", "git", "disk", "port"}
    assert states["database"] == "ok"
    assert done.exit_code == ("fail" in states.values())
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("part", "settings", "remedy"),
    [
        ("queue", {"CORNDOGS_BASE_URL": "tcp://127.0.0.1:1"}, "REACTORCIDE_CORNDOGS_BASE_URL"),
        (
            "objects",
            {
                "OBJECT_STORE_TYPE": "s3",
                "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
            },
            "address",
        ),
    ],
)
def test_doctor_tells_what_to_do_about_a_backend_out_of_reach(
    tmp_path: Path, part: str, settings: dict[str, str], remedy: str
) -> None:
    given = {f"REACTORCIDE_{name}": value for name, value in settings.items()}
    runner = CliRunner(env={"REACTORCIDE_DATA_DIR": str(tmp_path), "REACTORCIDE_PORT": "0", **given})

    done = runner.invoke(doctor, ["--json"])

    (finding,) = [found for found in json.loads(done.stdout) if found["name"] == part]
    assert done.exit_code == 1
    assert finding["state"] == "fail"
    assert remedy in finding["remedy"]


def test_doctor_tells_what_to_do_about_a_database_out_of_reach(tmp_path: Path) -> None:
    runner = CliRunner(
        env={"REACTORCIDE_DATA_DIR": str(tmp_path), "REACTORCIDE_DB_URI": "postgresql://u@127.0.0.1:1/d"}
    )

    done = runner.invoke(doctor, ["--json"])

    (finding,) = [found for found in json.loads(done.stdout) if found["name"] == "database"]
    assert done.exit_code == 1
    assert finding["state"] == "fail"
    assert "REACTORCIDE_DB_URI" in finding["remedy"]
