"""Rows NET, and CRD-03 and CRD-04: a worker on another host, and the line between it and its coordinator."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from fakes.fault_proxy import FaultProxy
from reactorcide.store.database import Database
from robustness.installation import (
    IS_LONG,
    TIMES,
    Installation,
    Part,
    Serve,
    ended,
    installed,
    log_of,
    printed,
    submit,
    until,
)
from worker.worker_fixtures import processes_of

LOST = float(TIMES["REACTORCIDE_LOST_AFTER"])
CUT_SECONDS = 10.0 if IS_LONG else 3.0
RESET_SECONDS = 600.0 if IS_LONG else 10.0
TICKS = "for i in $(seq 1 {n}); do echo tick $i $(date +%s.%N); sleep 0.1; done"
TICK = re.compile(rb"^tick (\d+) ([\d.]+)$", re.MULTILINE)


@dataclass
class Remote:
    """A coordinator, and a worker that reaches it over a line with faults."""

    site: Installation
    serve: Serve
    client: httpx2.AsyncClient
    line: FaultProxy
    worker: Part


@pytest.fixture
async def remote(dsn: str, tmp_path: Path) -> AsyncIterator[Remote]:
    times = {"REACTORCIDE_LEASE": "30", "REACTORCIDE_LOST_AFTER": "60"} if IS_LONG else {}
    async with installed(dsn, tmp_path, **times) as site:
        serve = await site.serve()
        async with FaultProxy(("127.0.0.1", serve.port)) as line:
            worker = await site.remote_worker(serve, "far", port=line.port)
            yield Remote(site, serve, site.client(serve.url), line, worker)
            await site.close()


def _ticks(log: bytes) -> list[int]:
    return [int(number) for number, _ in TICK.findall(log)]


async def test_net_01_a_cut_shorter_than_the_lease_changes_no_state(
    remote: Remote, database: Database
) -> None:
    job_id = await submit(remote.client, "kept", TICKS.format(n=60 + int(CUT_SECONDS * 10)))
    await printed(remote.client, job_id, b"tick 3 ")
    before = await database.read("SELECT count(*) AS n FROM job_events")

    remote.line.swallow()
    await asyncio.sleep(CUT_SECONDS)  # so long is the line cut
    during = await database.read("SELECT count(*) AS n FROM job_events")
    await remote.line.heal()

    job = await ended(remote.client, job_id)
    assert before == during
    assert (job["status"], job["attempt"]) == ("completed", 1), remote.worker.output[-3000:]
    await printed(remote.client, job_id, b"tick %d " % (60 + int(CUT_SECONDS * 10)))
    assert _ticks(await log_of(remote.client, job_id)) == list(range(1, 61 + int(CUT_SECONDS * 10)))


@pytest.mark.skipif(IS_LONG, reason="the long profile has another lease")
async def test_net_02_a_cut_longer_than_lost_loses_the_job_once_and_overlaps_with_nothing(
    remote: Remote,
) -> None:
    client, mark = remote.client, f"63{remote.worker.pid}"
    once = await submit(client, "once", f"echo begun; sleep {mark}")
    twice = await submit(client, "twice", TICKS.format(n=40), retry_on_lost=1)
    await printed(client, once, b"begun")
    await printed(client, twice, b"tick 3 ")
    await remote.site.remote_worker(remote.serve, "near")

    remote.line.swallow()
    lost = await ended(client, once)
    again = await ended(client, twice)
    alive = bool(processes_of(mark))
    await remote.line.heal()

    assert (lost["status"], lost["reason"]) == ("failed", "worker_lost")
    assert (again["status"], again["attempt"], again["worker"]) == ("completed", 2, "near")
    # An at-most-once job works on through a cut; on healing its sandbox goes, and nothing of it counts.
    assert alive
    await until(lambda: not processes_of(mark), 20, lambda: remote.worker.output[-3000:])
    # What of its log was still on the way may arrive; how it ended stays.
    assert {**await ended(client, once), "log_size": 0, "updated_at": 0} == {
        **lost,
        "log_size": 0,
        "updated_at": 0,
    }
    logs = [
        (await client.get(f"/api/v1/jobs/{twice}/logs", params={"attempt": str(n)})).content for n in (1, 2)
    ]
    first, second = ([float(at) for _, at in TICK.findall(log)] for log in logs)
    assert first
    assert len(second) == 40
    assert max(first) < min(second)


async def test_net_04_with_every_tenth_request_reset_all_jobs_are_right(remote: Remote) -> None:
    loop = asyncio.get_running_loop()
    over = loop.time() + RESET_SECONDS
    jobs: dict[str, tuple[int, int]] = {}

    async def resetter() -> None:
        while loop.time() < over:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            # Connections are kept, so that a request in ten is about one cut in so many milliseconds.
            for link in [link for link in remote.line._links if random.random() < 0.1]:
                link.close(is_reset=True)

    async def client() -> None:
        number = 0
        while loop.time() < over:
            number += 1
            lines, code = random.randrange(1, 30), random.choice([0, 0, 0, 7])
            command = f"for i in $(seq 1 {lines}); do echo tick $i 0; sleep 0.01; done; exit {code}"
            job_id = await submit(remote.client, f"job {number}", command)
            jobs[job_id] = (lines, code)
            await asyncio.sleep(0.5)

    await asyncio.gather(resetter(), client())

    for job_id, (lines, code) in jobs.items():
        job = await ended(remote.client, job_id, 60)
        expected = ("completed" if code == 0 else "failed", code, 1)
        assert (job["status"], job["exit_code"], job["attempt"]) == expected, (job, remote.worker.output)
        await printed(remote.client, job_id, b"tick %d 0\n" % lines)
        assert _ticks(await log_of(remote.client, job_id)) == list(range(1, lines + 1))


async def test_crd_03_a_coordinator_killed_around_finishes_ends_each_job_once_with_its_code(
    remote: Remote, database: Database
) -> None:
    jobs: dict[str, int] = {}
    for round_number in range(10 if IS_LONG else 3):
        made = {}
        for code in (0, 3):
            made[await submit(remote.client, f"{round_number}.{code}", f"sleep 0.3; exit {code}")] = code
        jobs |= made
        await asyncio.sleep(random.uniform(0.2, 1.2))
        await remote.serve.kill()
        await remote.serve.start()
        for job_id, code in made.items():
            job = await ended(remote.client, job_id, 30)
            expected = ("completed" if code == 0 else "failed", code)
            assert (job["status"], job["exit_code"]) == expected, remote.worker.output[-3000:]

    ends = await database.read(
        "SELECT job_id, count(*) AS n FROM job_events"
        " WHERE to_status IN ('completed', 'failed') GROUP BY job_id"
    )
    assert {row["job_id"]: row["n"] for row in ends} == dict.fromkeys(jobs, 1)


@pytest.mark.skipif(IS_LONG, reason="the long profile has another lease")
async def test_crd_04_a_coordinator_that_was_away_for_twice_lost_fails_nothing(remote: Remote) -> None:
    client = remote.client
    kept = await submit(client, "kept", TICKS.format(n=int(LOST * 40)))
    done = await submit(client, "done meanwhile", "echo begun; sleep 4; echo over; exit 5")
    for job_id, text in ((kept, b"tick 3 "), (done, b"begun")):
        await printed(client, job_id, text)

    await remote.serve.kill()
    await asyncio.sleep(2 * LOST)  # so long is it away
    await remote.serve.start()

    finished = await ended(client, done, 60)
    job = await ended(client, kept, 90)
    assert (finished["status"], finished["exit_code"]) == ("failed", 5), remote.worker.output[-3000:]
    assert (job["status"], job["attempt"]) == ("completed", 1), remote.worker.output[-3000:]
    await printed(client, kept, b"tick %d " % int(LOST * 40))
    assert _ticks(await log_of(client, kept)) == list(range(1, int(LOST * 40) + 1))
    assert b"begun\nover\n" in await log_of(client, done)
