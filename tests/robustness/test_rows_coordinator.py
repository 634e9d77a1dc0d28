"""Rows CRD: coordinators that are killed, stopped and replaced while they are used."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from reactorcide.store.database import Database
from robustness.installation import (
    IS_LONG,
    OUT_OF_REACH,
    PROGRAM,
    Installation,
    installed,
    job_of,
    printed,
    submit,
    until,
)

SUBMISSIONS = 200
KILLS = 20 if IS_LONG else 5
RESTARTS = 10 if IS_LONG else 3
JOBS = "/api/v1/jobs"


@pytest.fixture
async def site(dsn: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(dsn, tmp_path) as made:
        yield made


async def _names(database: Database) -> Counter[str]:
    rows = await database.read("SELECT name FROM jobs")
    return Counter(str(row["name"]) for row in rows)


async def test_crd_01_of_200_submissions_through_kills_each_key_makes_one_job(
    site: Installation, database: Database
) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    acknowledged: dict[str, str] = {}
    failed: list[str] = []

    async def one_client(number: int) -> None:
        for n in range(SUBMISSIONS // 8):
            name = f"{number}.{n}"
            # Every fifth is told once, without a key, whatever becomes of it.
            headers = {"Idempotency-Key": name} if n % 5 else {}
            while name not in acknowledged:
                try:
                    answer = await client.post(JOBS, json=job_of(name), headers=headers)
                    if answer.status_code == 201:
                        acknowledged[name] = answer.json()["job_id"]
                        continue
                    assert answer.status_code in (503, 409), answer.text
                except OUT_OF_REACH:
                    pass
                if not headers:
                    failed.append(name)
                    break
                await asyncio.sleep(0.05)

    async def killer() -> None:
        for kill in range(KILLS):
            goal = SUBMISSIONS * (kill + 1) // (KILLS + 2)
            await until(lambda goal=goal: len(acknowledged) + len(failed) >= goal, 60)
            await asyncio.sleep(random.uniform(0, 0.02))
            await serve.kill()
            await serve.start()

    await asyncio.gather(killer(), *(one_client(number) for number in range(8)))

    made = await _names(database)
    assert len(acknowledged) + len(failed) == SUBMISSIONS
    assert {name: made[name] for name in acknowledged if made[name] != 1} == {}
    assert {name: made[name] for name in failed if made[name] > 1} == {}
    assert set(made) <= {*acknowledged, *failed}
    for name, job_id in acknowledged.items():
        again = await client.get(f"{JOBS}/{job_id}")
        assert (again.status_code, again.json()["name"]) == (200, name)


async def test_crd_05_a_rolling_restart_costs_no_call_more_than_one_retry(site: Installation) -> None:
    serves = [await site.serve("first"), await site.serve("second")]
    clients = [site.client(serve.url) for serve in serves]
    retries: Counter[int] = Counter()
    over = asyncio.Event()

    async def call(prefer: int, method: str, path: str, **given: object) -> httpx2.Response:
        for tries in range(6):
            try:
                answer = await clients[(prefer + tries) % 2].request(method, path, **given)  # type: ignore[arg-type]
            except OUT_OF_REACH:
                continue
            if answer.status_code < 500:
                retries[tries] += 1
                return answer
        pytest.fail(f"{method} {path} had no answer in 6 tries")

    async def one_client(number: int) -> None:
        n = 0
        while not over.is_set():
            n += 1
            name = f"{number}.{n}"
            key = {"Idempotency-Key": name}
            made = await call(number, "POST", JOBS, json=job_of(name), headers=key)
            assert made.status_code == 201, made.text
            read = await call(n, "GET", made.headers["Location"])
            assert read.status_code == 200
            listed = await call(n, "GET", JOBS, params={"limit": "5"})
            assert listed.status_code == 200

    async def roll() -> None:
        for serve in serves * (RESTARTS // 2 + 1):
            begun = retries.total()
            await until(lambda begun=begun: retries.total() > begun + 20)
            assert await serve.end(seconds=10) == 0
            await serve.start()
        over.set()

    await asyncio.gather(roll(), *(one_client(number) for number in range(4)))

    assert max(retries) <= 1, retries


async def test_crd_07_a_stopping_coordinator_gives_whole_answers_or_none_and_acknowledges_nothing_it_lost(
    site: Installation, database: Database
) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    waiting = await submit(client, "waited for")
    acknowledged: list[str] = []
    half_answers: list[str] = []

    async def submitter() -> None:
        for n in range(100_000):
            try:
                answer = await client.post(JOBS, json=job_of(f"{id(n)}"))
            except httpx2.ConnectError:
                return
            except OUT_OF_REACH as error:
                # An idle connection that was closed as we wrote; half an answer is something else.
                half_answers.extend([str(error)] if "complete message" in str(error) else [])
                return
            if answer.status_code == 201:
                acknowledged.append(answer.json()["job_id"])
            else:
                assert answer.status_code == 503, answer.text

    async def waiter(path: str, headers: dict[str, str]) -> None:
        try:
            async with client.stream("GET", path, headers=headers) as answer:
                assert answer.status_code in (200, 304, 503), answer.status_code
                async for _ in answer.aiter_bytes():
                    pass
        except OUT_OF_REACH as error:
            half_answers.extend([str(error)] if "complete message" in str(error) else [])

    for _ in range(RESTARTS):
        goal = len(acknowledged) + 50
        calls = [submitter() for _ in range(12)]
        calls += [waiter(f"{JOBS}/{waiting}?wait=60", {}) for _ in range(4)]
        calls += [waiter(f"{JOBS}/{waiting}/logs", {"Accept": "text/event-stream"}) for _ in range(4)]
        load = asyncio.gather(*calls)
        await until(lambda goal=goal: len(acknowledged) >= goal)
        begun = time.monotonic()

        code = await serve.end(seconds=15)

        seconds = time.monotonic() - begun
        async with asyncio.timeout(20):
            await load
        assert code == 0, serve.output[-3000:]
        assert seconds <= 10
        assert not half_answers
        await serve.start()
    rows = await database.read("SELECT job_id FROM jobs")
    assert set(acknowledged) <= {row["job_id"] for row in rows}


async def test_crd_10_a_follower_lives_through_a_killed_coordinator_without_a_line_twice(
    site: Installation,
) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    await site.worker()
    command = "for i in $(seq 1 60); do echo tick $i; sleep 0.1; done; exit 3"
    follower = await asyncio.create_subprocess_exec(
        *(*PROGRAM, "run", "--", "sh", "-c", command),
        env={**serve.environment, "REACTORCIDE_API_URL": serve.url, "REACTORCIDE_API_TOKEN": site.token},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async def submitted() -> list[dict[str, str]]:
        jobs: list[dict[str, str]] = (await client.get(JOBS)).json()["jobs"]
        return jobs

    await until(submitted)
    [job] = await submitted()
    job_id = job["job_id"]
    await printed(client, job_id, b"tick 10\n")

    await serve.kill()
    await serve.start()

    async with asyncio.timeout(60):
        out, complaints = await follower.communicate()
    ticks = [line for line in out.splitlines() if line.startswith(b"tick")]
    assert ticks == [b"tick %d" % n for n in range(1, 61)], complaints
    assert follower.returncode == 3, complaints
