"""Rows DB: a database that stops, dies, falls silent, answers late or loses its answers."""

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.api_people import running_api
from fakes.fault_proxy import Direction, FaultProxy
from fixture_types import MakeUser
from job_desk import NO_WAIT, JobDesk, outcome, request
from job_laws import check_laws
from reactorcide.domain.errors import Unavailable
from reactorcide.services.jobs import IdempotencyKey
from reactorcide.store.database import Database
from reactorcide.store.embedded import EmbeddedPostgres
from robustness.installation import (
    IS_LONG,
    ended,
    installed,
    job_of,
    log_of,
    printed,
    submit,
    until,
)
from robustness.remote_worker import RemoteWorker, acts_on

JOBS = "/api/v1/jobs"
KILLS = 20 if IS_LONG else 3
OUTAGE_SECONDS = 30.0 if IS_LONG else 4.0
SILENCE_SECONDS = 60.0 if IS_LONG else 7.0
CUTS = 100 if IS_LONG else 25


def through(proxy: FaultProxy, dsn: str) -> str:
    """Return the DSN by which the database is reached through a proxy."""
    return make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")


def socket_of(dsn: str) -> Path:
    parts = conninfo_to_dict(dsn)
    return Path(str(parts["host"])) / f".s.PGSQL.{parts.get('port') or 5432}"


@pytest.fixture
async def line(dsn: str) -> AsyncIterator[FaultProxy]:
    """The line to the test's database."""
    async with FaultProxy(socket_of(dsn)) as proxy:
        yield proxy


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own, to be stopped and killed."""
    folder = tmp_path_factory.mktemp("own")
    folder.chmod(0o711)
    made = EmbeddedPostgres(folder / "pg", is_durable=True)
    await made.start()
    yield made
    await made.stop()


@dataclass
class Timed:
    """What calls of a while were answered, and how long the slowest took."""

    statuses: Counter[int]
    slowest: float = 0.0

    async def call(self, client: httpx2.AsyncClient, method: str, path: str, **given: Any) -> httpx2.Response:
        begun = time.monotonic()
        answer = await client.request(method, path, **given)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
        return answer


async def test_c12_a_coordinator_that_starts_without_its_object_store_is_ready_when_that_is_there(
    dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "objects").write_bytes(b"in the way")
    async with installed(dsn, tmp_path) as site:
        serve = await site.serve()
        client = site.client(serve.url)
        unready = await client.get("/readyz")
        job_id = await submit(client, "waits")

        (tmp_path / "objects").unlink()
        await until(lambda: is_answered(client, "/readyz", 200), 10)

        assert (unready.status_code, unready.json()["checks"]["database"]) == (503, "ok")
        assert (await client.get(f"{JOBS}/{job_id}")).status_code == 200


async def test_c12_a_coordinator_that_starts_without_its_database_answers_503_and_serves_when_it_is_there(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    dsn = server.dsn
    await server.stop()
    async with installed(dsn, tmp_path) as site:
        serve = await site.serve()
        client = site.client(serve.url, "nobody-knows-yet")
        await until(lambda: is_answered(client, "/healthz", 200))
        refused = await client.post(JOBS, json=job_of("refused"))
        unready = await client.get("/readyz")

        await server.start()
        await until(lambda: is_answered(client, "/readyz", 200), 5)
        await until(lambda: list(tmp_path.glob("*/admin-token")))

        assert (refused.status_code, unready.status_code) == (503, 503)
        assert (serve.process is not None, serve.process and serve.process.returncode) == (True, None)
        await submit(site.client(serve.url), "accepted", "true")


async def is_answered(client: httpx2.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await client.get(path)).status_code == status
    except httpx2.TransportError:
        return False


async def test_db_01_an_outage_is_503_in_2_seconds_and_over_5_seconds_after_it_ends(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    times = {"REACTORCIDE_LEASE": "30", "REACTORCIDE_LOST_AFTER": "60"} if IS_LONG else {}
    async with installed(server.dsn, tmp_path, **times) as site:
        serve = await site.serve()
        client = site.client(serve.url)
        await site.worker()
        ticks = int(OUTAGE_SECONDS * 2) + 8
        job_id = await submit(client, "long", f"for i in $(seq 1 {ticks}); do echo tick $i; sleep 0.5; done")
        await printed(client, job_id, b"tick 1\n")
        await server.stop()
        stopped, timed = time.monotonic(), Timed(Counter())

        while time.monotonic() - stopped < OUTAGE_SECONDS:
            answers = await asyncio.gather(
                *(timed.call(client, "POST", JOBS, json=job_of("refused")) for _ in range(20)),
                *(timed.call(client, "GET", path) for path in (JOBS, f"{JOBS}/{job_id}", "/readyz")),
                timed.call(client, "GET", f"{JOBS}/{job_id}/logs"),
            )
            assert {answer.status_code for answer in answers} == {503}
            begun = time.monotonic()
            assert (await client.get("/healthz")).status_code == 200
            assert time.monotonic() - begun < 1
        await server.start()
        returned = time.monotonic()
        await until(lambda: _is_well(client))

        assert time.monotonic() - returned <= 5
        assert timed.slowest <= 2
        job = await ended(client, job_id)
        assert (job["status"], job["attempt"]) == ("completed", 1), job
        lines = (await log_of(client, job_id)).splitlines()
        assert [text for text in lines if text.startswith(b"tick")] == [
            b"tick %d" % n for n in range(1, ticks + 1)
        ]
        names = {job["name"] for job in (await client.get(JOBS)).json()["jobs"]}
        assert names == {"long"}


async def _is_well(client: httpx2.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200 and (await client.get(JOBS)).status_code == 200


async def test_db_02_no_acknowledged_job_is_lost_when_the_server_is_killed_under_load(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with installed(server.dsn, tmp_path) as site:
        serve = await site.serve()
        client = site.client(serve.url)
        acknowledged: dict[str, str] = {}
        cancelled: set[str] = set()
        over = asyncio.Event()

        async def one_client(number: int) -> None:
            for n in itertools.count():
                if over.is_set():
                    return
                name = f"{number}.{n}"
                answer = await client.post(JOBS, json=job_of(name), headers={"Idempotency-Key": name})
                if answer.status_code != 201:
                    assert answer.status_code == 503, answer.text
                    await asyncio.sleep(0.05)
                    continue
                acknowledged[name] = answer.json()["job_id"]
                if n % 3 == 0:
                    told = await client.put(f"{JOBS}/{acknowledged[name]}/cancel")
                    assert told.status_code in (200, 503), told.text
                    if told.status_code == 200:
                        cancelled.add(name)

        async def killer() -> None:
            for _ in range(KILLS):
                seen = len(acknowledged)
                await until(lambda seen=seen: len(acknowledged) > seen + 50, 60)
                await asyncio.sleep(random.uniform(0, 0.05))
                os.kill(server.pid, signal.SIGKILL)
                await until(lambda: _is_well(client), 60)
            over.set()

        keeping = asyncio.create_task(server.keep_running())
        await asyncio.gather(killer(), *(one_client(number) for number in range(6)))
        keeping.cancel()
        await asyncio.wait({keeping})

        database = await Database.open(server.dsn)
        rows = await database.read("SELECT job_id, name, status FROM jobs")
        await check_laws(database)
        await database.close()
    found = {row["name"]: row for row in rows}
    assert len(found) == len(rows)
    assert {name: job_id for name, job_id in acknowledged.items() if found[name]["job_id"] != job_id} == {}
    assert {name for name in cancelled if found[name]["status"] != "cancelled"} == set()


async def test_db_03_calls_into_a_black_hole_end_in_5_seconds_and_the_pool_recovers(
    dsn: str, line: FaultProxy, tmp_path: Path
) -> None:
    async with installed(dsn, tmp_path) as site:
        serve = await site.serve(dsn=through(line, dsn))
        client = site.client(serve.url)
        job_id = await submit(client, "kept")
        over = asyncio.Event()
        timed = Timed(Counter())

        async def one_client(number: int) -> None:
            while not over.is_set():
                path = random.choice([JOBS, f"{JOBS}/{job_id}", f"{JOBS}/{job_id}/events"])
                if number % 2:
                    await timed.call(client, "GET", path)
                else:
                    await timed.call(client, "POST", JOBS, json=job_of("sent"))

        load = asyncio.gather(*(one_client(number) for number in range(16)))
        await until(lambda: timed.statuses[200] > 50 and timed.statuses[201] > 50)
        line.swallow()
        await asyncio.sleep(SILENCE_SECONDS)  # so long is the line silent
        await line.heal()
        healed = time.monotonic()
        await until(lambda: _is_well(client))
        recovered = time.monotonic() - healed
        over.set()
        await load

    assert set(timed.statuses) == {200, 201, 503}
    # Beside the other tests of a small machine a call waits for the processor too.
    bound = 5 if IS_LONG else 10
    assert timed.slowest <= bound
    assert recovered <= bound


async def test_db_07_200_clients_at_an_exhausted_pool_leave_room_for_heartbeats_and_finishes(
    dsn: str, make_user: MakeUser
) -> None:
    database = await Database.open(dsn, size=10)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api(database, make_user))
        owner = await api.person()
        await owner.submit()
        worker = await RemoteWorker.registered(api, "busy")
        claim = await worker.take()
        assert (await worker.call("start", claim=claim)).status_code == 200
        limits = httpx2.Limits(max_connections=400)
        crowd = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=api.url, limits=limits, timeout=60)
        )
        # All but the reserved share; transactions would lose theirs after a while.
        held = [await database._usual.getconn() for _ in range(8)]
        timed = Timed(Counter())

        waiting = [
            asyncio.create_task(timed.call(crowd, "GET", JOBS, headers=owner.headers)) for _ in range(200)
        ]
        beats = [await worker.call("heartbeat", **acts_on(claim)["heartbeat"]) for _ in range(5)]
        done = await worker.call("finish", **acts_on(claim)["finish"])
        refused = [await waited for waited in waiting]
        for connection in held:
            await database._usual.putconn(connection)

    await database.close()
    assert [beat.status_code for beat in beats] == [200] * 5, beats[-1].text
    assert done.status_code == 204, done.text
    assert {answer.status_code for answer in refused} == {503}
    assert timed.slowest <= (2 if IS_LONG else 30)


@pytest.fixture
async def cut_desk(dsn: str, line: FaultProxy, make_user: MakeUser) -> AsyncIterator[JobDesk]:
    """The services over a line whose answers can be cut off."""
    database = await Database.open(through(line, dsn))
    yield JobDesk(database, await make_user())
    await database.close()


async def test_db_04_an_answer_lost_after_the_commit_is_made_good_by_a_repeat(
    cut_desk: JobDesk, database: Database, line: FaultProxy
) -> None:
    desk, worker = cut_desk, await cut_desk.worker()
    lost: Counter[str] = Counter()

    async def persist(step: str, call: Any) -> Any:
        """Cut the line as the first COMMIT is answered, and repeat the call as a client does."""
        cut = line.cut_after(Direction.TO_CLIENT, b"COMMIT\0", is_let_through=False)
        for _ in range(20):
            try:
                return await call()
            except Unavailable:
                lost[step] += 1
            finally:
                cut.times = 0
        return pytest.fail(f"{step} never came through")

    for number in range(CUTS):
        key = IdempotencyKey(f"key-{number}", b"k" * 32)
        job = (await persist("submit", lambda key=key: desk.jobs.submit(desk.user, request(), key))).job
        claims = await persist("claim", lambda: desk.attempts.claim(worker, 1, NO_WAIT))
        if not claims:
            # The claim whose answer was lost is nobody's until its start deadline.
            await desk.age(job.job_id, 11)
            await desk.reap()
            await desk.age(job.job_id, 5)
            claims = await desk.attempts.claim(worker, 1, NO_WAIT)
        [claim] = claims
        await persist("start", lambda claim=claim: desk.attempts.start(claim))
        await persist("finish", lambda claim=claim: desk.attempts.finish(claim, outcome()))

    rows = await database.read("SELECT status, runs, attempt FROM jobs")
    assert len(rows) == CUTS
    assert {(row["status"], row["runs"]) for row in rows} == {("completed", 1)}
    terminal = await database.read(
        "SELECT job_id FROM job_events WHERE to_status = 'completed' GROUP BY job_id HAVING count(*) = 1"
    )
    assert len(terminal) == CUTS
    assert min(lost[step] for step in ("submit", "claim", "start", "finish")) >= CUTS
    await check_laws(database)
