"""Rows LOAD: many submissions at once, and many old jobs in the store."""

import asyncio
import statistics
import time
from collections import Counter
from pathlib import Path

import psycopg

from fixture_types import MakeUser
from job_desk import NO_WAIT, JobDesk, outcome
from reactorcide.services.jobs import JobFilter
from reactorcide.store.database import Database
from robustness.installation import IS_LONG, ended, installed, job_of

JOBS = "/api/v1/jobs"
SUBMISSIONS = 1_000 if IS_LONG else 60
CLIENTS = 20
OLD_JOBS = 100_000 if IS_LONG else 5_000
SAMPLES = 100

FILL = """
    INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object(
        'job_id', gen_random_uuid(), 'created_at', now() - n * interval '1 minute'))).*
      FROM jobs j, generate_series(1, %s) n
"""


async def test_load_01_submissions_of_20_clients_are_all_taken_and_all_end(dsn: str, tmp_path: Path) -> None:
    async with installed(dsn, tmp_path) as site:
        serve = await site.serve()
        client = site.client(serve.url)
        await site.worker()
        statuses: Counter[int] = Counter()
        seconds: list[float] = []
        ids: list[str] = []
        begun = time.monotonic()

        async def one_client(number: int) -> None:
            for n in range(number, SUBMISSIONS, CLIENTS):
                # A hundred a second, evenly.
                await asyncio.sleep(max(0.0, begun + n / 100 - time.monotonic()))
                sent = time.monotonic()
                answer = await client.post(JOBS, json=job_of(f"job {n}"))
                seconds.append(time.monotonic() - sent)
                statuses[answer.status_code] += 1
                ids.append(answer.json()["job_id"])

        await asyncio.gather(*(one_client(number) for number in range(CLIENTS)))
        p99 = statistics.quantiles(seconds, n=100)[98]
        print(f"LOAD-01: {SUBMISSIONS} submissions, p99 {p99 * 1000:.0f} ms")  # noqa: T201 - the figure is the point

        assert statuses == {201: SUBMISSIONS}
        for job_id in ids:
            assert (await ended(client, job_id, 600))["status"] == "completed"
        print(f"LOAD-01: all ended {time.monotonic() - begun:.0f} s after the first was sent")  # noqa: T201 - the figure is the point
        assert p99 < (0.5 if IS_LONG else 5)


async def test_load_02_old_jobs_slow_neither_lists_nor_claims(
    dsn: str, database: Database, make_user: MakeUser
) -> None:
    desk = JobDesk(database, await make_user())
    worker = await desk.worker()
    await desk.submit()
    await desk.attempts.finish((await desk.start(worker)).claim, outcome())
    # Longer than any transaction of ours may take.
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(FILL, [OLD_JOBS])
    lists, claims = [], []

    for number in range(SAMPLES):
        await desk.submit()
        begun = time.monotonic()
        await desk.jobs.list_page(desk.user, JobFilter(), limit=20, offset=number)
        lists.append(time.monotonic() - begun)
        begun = time.monotonic()
        [claim] = await desk.attempts.claim(worker, 1, NO_WAIT)
        claims.append(time.monotonic() - begun)
        await desk.attempts.start(claim)
        await desk.attempts.finish(claim, outcome())

    p95 = {name: statistics.quantiles(told, n=20)[18] for name, told in (("list", lists), ("claim", claims))}
    print(f"LOAD-02: {OLD_JOBS} old jobs, p95 { ({name: round(s * 1000, 1) for name, s in p95.items()}) } ms")  # noqa: T201 - the figure is the point
    assert p95["list"] < (0.2 if IS_LONG else 2)
    assert p95["claim"] < (0.05 if IS_LONG else 1)
