"""Rows WRK: workers that are frozen, stall, or live by another clock."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from robustness.installation import (
    IS_LONG,
    TIMES,
    Installation,
    Part,
    ended,
    installed,
    log_of,
    printed,
    submit,
    until,
    wait_for_job,
)
from worker.worker_fixtures import processes_of

LOST = float(TIMES["REACTORCIDE_LOST_AFTER"])
HEARTBEAT = float(TIMES["REACTORCIDE_HEARTBEAT"])
STALLS = 60 if IS_LONG else 4
SHIFTED = str(Path(__file__).with_name("shifted_clock.py"))
TICKS = "for i in $(seq 1 {n}); do echo tick $i $(date +%s.%N); sleep 0.1; done"


@pytest.fixture
async def site(dsn: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with installed(dsn, tmp_path) as made:
        yield made


async def _frozen_for(part: Part, seconds: float) -> None:
    part.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
    await asyncio.sleep(seconds)
    part.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["direct", "http"])
async def test_wrk_04_a_worker_that_slept_twice_lost_changes_nothing_and_its_sandbox_dies(
    site: Installation, way: str
) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    sleeper = await (site.worker("sleeper") if way == "direct" else site.remote_worker(serve, "sleeper"))
    mark = f"61{sleeper.pid}"
    job_id = await submit(client, "at most once", f"echo begun; sleep {mark}")
    finished = await submit(client, "ends meanwhile", "echo begun; sleep 3; echo late")
    await printed(client, job_id, b"begun")
    await printed(client, finished, b"begun")

    await _frozen_for(sleeper, 2 * LOST)
    woke = time.monotonic()

    await until(lambda: not processes_of(mark), 30, lambda: sleeper.output[-2000:])
    seconds = time.monotonic() - woke
    for lost in (job_id, finished):
        job = await ended(client, lost)
        assert (job["status"], job["reason"], job["attempt"]) == ("failed", "worker_lost", 1), job
    await until(lambda: "attempt.outcome_refused" in sleeper.output or "abandon" in sleeper.output)
    again = await submit(client, "afterwards", "echo well")
    assert (await ended(client, again))["status"] == "completed"
    for lost in (job_id, finished):
        assert (await ended(client, lost))["reason"] == "worker_lost"
        events = (await client.get(f"/api/v1/jobs/{lost}/events")).json()["events"]
        assert [event["to"] for event in events].count("failed") == 1
    assert seconds <= HEARTBEAT + (1 if IS_LONG else 10)


@pytest.mark.parametrize("way", ["direct", "http"])
async def test_wrk_04_the_first_attempt_of_a_sleeping_worker_is_dead_before_the_second_starts(
    site: Installation, way: str
) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    start = site.worker if way == "direct" else lambda name: site.remote_worker(serve, name)
    sleeper = await start("sleeper")
    job_id = await submit(client, "twice", TICKS.format(n=40), retry_on_lost=3)
    await printed(client, job_id, b"tick 3 ")
    await start("other")

    await _frozen_for(sleeper, 2 * LOST)

    job = await ended(client, job_id)
    # On a machine too busy to renew in time there may be a third.
    assert (job["status"], job["attempt"] >= 2) == ("completed", True), job
    ticks = [await _ticks_of_attempt(client, job_id, n) for n in range(1, job["attempt"] + 1)]
    assert len(ticks[-1]) == 40
    spans = [span for span in ticks if span]
    assert all(max(earlier) < min(later) for earlier, later in pairwise(spans))
    # Its guardian may have ended the job in its sleep: then it is the outcome that comes too late.
    told = ("stop_ordered", "attempt.lost", "attempt.outcome_refused")
    await until(lambda: any(text in sleeper.output for text in told), explain=lambda: sleeper.output)


async def _ticks_of_attempt(client: httpx2.AsyncClient, job_id: str, attempt: int) -> list[float]:
    """When each line was written by the attempt, whose log may still be on its way."""
    answer = await client.get(
        f"/api/v1/jobs/{job_id}/logs", params={"attempt": str(attempt)}, headers={"Accept": "text/plain"}
    )
    assert answer.status_code == 200, answer.text
    lines = [line.split() for line in answer.text.splitlines() if line.startswith("tick")]
    return [float(line[2]) for line in lines if len(line) == 3]


async def test_wrk_14_a_worker_that_stalls_three_seconds_in_five_loses_nothing(site: Installation) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    staller = await site.remote_worker(serve, "staller")
    ticks = STALLS * 50
    jobs = [
        await submit(client, "once", TICKS.format(n=ticks)),
        await submit(client, "again", TICKS.format(n=ticks), retry_on_lost=1),
    ]
    for job_id in jobs:
        await printed(client, job_id, b"tick 1 ")

    for _ in range(STALLS):
        await _frozen_for(staller, 3)
        await asyncio.sleep(2)

    for job_id in jobs:
        job = await ended(client, job_id, 60 + STALLS * 5)
        assert (job["status"], job["attempt"]) == ("completed", 1), (job, staller.output[-2000:])
        lines = [line for line in (await log_of(client, job_id)).splitlines() if line.startswith(b"tick")]
        assert len(lines) == ticks


@pytest.mark.parametrize("shift", [3600, -3600, "jump"])
async def test_wrk_13_a_worker_with_a_shifted_clock_keeps_leases_timeouts_and_order(
    site: Installation, shift: int | str
) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    clock = site.folder / "shift"
    clock.write_text("0" if shift == "jump" else str(shift))
    worker = await site.worker(
        "shifted", command=(sys.executable, SHIFTED, str(clock)), REACTORCIDE_WORKER_CONCURRENCY="3"
    )
    # Longer than a lease, so that only renewals can keep it.
    kept = await submit(client, "kept", TICKS.format(n=80), retry_on_lost=1)
    timed = await submit(client, "timed", "echo begun; sleep 60", timeout_seconds=2)
    await printed(client, kept, b"tick 2 ")
    await printed(client, timed, b"begun")

    if shift == "jump":
        clock.write_text("-7200")
    job, late = await ended(client, kept), await ended(client, timed)

    assert (job["status"], job["attempt"]) == ("completed", 1), (job, worker.output[-2000:])
    assert (late["status"], late["reason"]) == ("timeout", "timeout_run")
    lines = [line.split()[1] for line in (await log_of(client, kept)).splitlines() if b"tick" in line]
    assert lines == [b"%d" % n for n in range(1, 81)]
    answer = await client.get(f"/api/v1/jobs/{kept}/logs", headers={"Accept": "application/json"})
    shown = [line["message"].split()[1] for line in answer.json() if line["message"].startswith("tick")]
    assert shown == [str(n) for n in range(1, 81)]
    waiting = await submit(client, "cancelled", "echo begun; sleep 60")
    await printed(client, waiting, b"begun")
    await client.put(f"/api/v1/jobs/{waiting}/cancel")
    assert (await ended(client, waiting))["status"] == "cancelled"


async def test_wrk_08_a_second_signal_kills_the_jobs_of_a_draining_remote_worker(site: Installation) -> None:
    serve = await site.serve()
    client = site.client(serve.url)
    worker = await site.remote_worker(serve, "drained")
    mark = f"62{worker.pid}"
    job_id = await submit(client, "long", f"echo begun; sleep {mark}")
    await printed(client, job_id, b"begun")
    worker.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    await until(lambda: "worker.draining" in worker.output)
    untouched = await submit(client, "not taken")

    code = await worker.end(seconds=15)

    job = await wait_for_job(client, job_id, lambda job: job["status"] == "failed")
    assert (code, job["reason"]) == (0, "worker_lost")
    assert "shut down" in job["message"]
    assert not processes_of(mark)
    assert (await client.get(f"/api/v1/jobs/{untouched}")).json()["status"] in ("submitted", "queued")
