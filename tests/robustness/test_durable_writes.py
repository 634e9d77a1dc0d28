"""C20: what is acknowledged is on the disk, in the order that a power cut cannot turn round."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from crash_points_hooks import find_place

from job_desk import CANCELLED, JobDesk, outcome
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.jobs import Claim, LogPiece
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.services.logs import LogService
from reactorcide.services.private_files import keep_private_text, write_private_file
from reactorcide.store.database import Database
from reactorcide.store.embedded import EmbeddedPostgres
from reactorcide.store.migrate import migrate, weak_settings
from reactorcide.worker.spool import AttemptSpool
from runnerlib.spec import RunResult
from runnerlib.spool import Spool

RESULT = RunResult(
    status="completed",
    reason="ok",
    fault="none",
    exit_code=0,
    log_length=5,
    log_sha256="0" * 64,
    isolation="tested",
)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to files and directories from now on, in order."""
    taken: list[str] = []

    def record(name: str, tell: Callable[..., str | None]) -> None:
        call = getattr(os, name)

        def recorded(*given: Any, **named: Any) -> Any:
            answer = call(*given, **named)
            if step := tell(*given):
                taken.append(step)
            return answer

        monkeypatch.setattr(os, name, recorded)

    record("fsync", lambda fd: f"sync {_kind(fd)}")
    record("write", lambda fd, *_: "write" if _kind(fd) == "file" else None)
    for name in ("link", "rename", "replace"):
        record(name, lambda *_: "place")
    return taken


def _kind(descriptor: int) -> str:
    return "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"


@pytest.mark.parametrize("create_only", [True, False])
def test_c20_an_object_is_written_synced_placed_and_its_directory_synced(
    tmp_path: Path, steps: list[str], create_only: bool
) -> None:
    objects = FilesystemObjectStore(tmp_path)
    objects.put("logs/first", b"makes the directory")
    steps.clear()

    objects.put("logs/second", [b"one", b"two"], create_only=create_only)

    assert steps == ["write", "write", "sync file", "place", "sync directory"]


def test_c20_a_directory_that_a_key_needs_is_synced_before_the_object_is_placed(
    tmp_path: Path, steps: list[str]
) -> None:
    objects = FilesystemObjectStore(tmp_path)

    objects.put("logs/job/1", b"data")

    assert steps == [
        *("write", "sync file"),
        *("sync directory", "sync directory"),
        *("place", "sync directory"),
    ]


def test_c20_a_runners_log_and_index_are_synced_before_its_result_is_placed(
    tmp_path: Path, steps: list[str]
) -> None:
    spool = Spool(tmp_path, limit_bytes=1_000)
    spool.write("o", b"hello")
    steps.clear()

    spool.finish(lambda *_: RESULT)
    spool.close()

    assert steps == ["sync file", "sync file", "write", "sync file", "place", "sync directory"]


def test_c20_a_result_that_the_worker_decided_is_synced_placed_and_its_directory_synced(
    tmp_path: Path, steps: list[str]
) -> None:
    claim = Claim("0" * 36, 1, "0" * 36, "0" * 36)

    AttemptSpool(claim, tmp_path).keep_result(RESULT)

    assert steps == ["sync file", "place", "sync directory"]


@pytest.mark.parametrize("keep", [write_private_file, keep_private_text])
def test_c20_keys_and_tokens_are_synced_placed_and_their_directory_synced(
    tmp_path: Path, steps: list[str], keep: Callable[[Path, str], object]
) -> None:
    keep(tmp_path / "key", "text")

    assert steps == ["sync file", "place", "sync directory"]


@pytest.fixture(scope="module")
def durable_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the cluster, which takes long to make."""
    return tmp_path_factory.mktemp("durable")


@pytest.fixture
async def durable_dsn(durable_folder: Path) -> AsyncIterator[str]:
    """A PostgreSQL as users have it, not as tests do."""
    server = EmbeddedPostgres(durable_folder / "pg")
    await server.start()
    await migrate(server.dsn)
    yield server.dsn
    await server.stop()


async def test_c20_a_server_that_may_forget_what_it_committed_is_told_of(
    durable_dsn: str, dsn: str, tmp_path: Path
) -> None:
    told = {name: await weak_settings(where) for name, where in (("durable", durable_dsn), ("tests'", dsn))}

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "reactorcide", "doctor", "--json"],
        env={"PATH": os.environ["PATH"], "REACTORCIDE_DATA_DIR": str(tmp_path), "REACTORCIDE_DB_URI": dsn},
        capture_output=True,
        check=False,
    )

    assert told == {"durable": [], "tests'": ["fsync", "full_page_writes", "synchronous_commit"]}
    (finding,) = [entry for entry in json.loads(done.stdout) if entry["name"] == "database"]
    assert (finding["state"], "fsync" in finding["detail"]) == ("warn", True)


async def test_c20_only_signs_of_life_are_committed_without_waiting_for_the_disk(
    durable_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    commit = psycopg.AsyncConnection.commit

    async def looking(connection: psycopg.AsyncConnection[Any]) -> None:
        names = "fsync", "full_page_writes", "synchronous_commit"
        cursor = await connection.execute(
            "SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting <> 'on'", [list(names)]
        )
        weak = {row["name"] for row in await cursor.fetchall()}
        place = find_place(sys._getframe(1)) or "the test"
        seen.setdefault(place.split(" ")[0], set()).update(weak)
        await commit(connection)

    database = await Database.open(durable_dsn)
    monkeypatch.setattr(psycopg.AsyncConnection, "commit", looking)
    try:
        await _live_a_little(JobDesk(database, await _make_user(database)))
    finally:
        await database.close()

    durable = {"[submit]", "[claim]", "[register]", "[start]", "[append]", "[finish]", "[cancel]", "[reap]"}
    assert durable <= seen.keys()
    assert {place for place, weak in seen.items() if weak} == {"[heartbeat]"}
    assert seen["[heartbeat]"] == {"synchronous_commit"}


async def _make_user(database: Database) -> Principal:
    user = Principal(*["01890000-0000-7000-8000-000000000c20"] * 2, TokenKind.USER, frozenset({Role.ADMIN}))
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO users (user_id, username) VALUES (%s, 'tester')", [user.user_id])
    return user


async def _live_a_little(desk: JobDesk) -> None:
    logs = LogService(desk.database, MemoryObjectStore(), desk.bell)
    worker = await desk.worker()
    finished, cancelled, lost = [await desk.submit() for _ in range(3)]
    started = [await desk.start(worker) for _ in range(3)]
    by_job = {attempt.claim.job_id: attempt.claim for attempt in started}
    claim = by_job[finished.job_id]
    await desk.beat(claim)
    await logs.append(claim, 0, b"hello\n", [LogPiece(0, "o", 6)])
    await desk.attempts.finish(claim, outcome())
    await desk.jobs.cancel(desk.user, cancelled.job_id)
    await desk.attempts.finish(by_job[cancelled.job_id], CANCELLED)
    await desk.age(lost.job_id, timedelta(hours=1).total_seconds())
    await desk.reap()
