"""Measure one job after another through the whole product: submit to finished, and many at once.

Run: ``.venv/bin/python bench/latency.py [JOBS]``. Milliseconds from sending the POST until a waiting GET
answers with the final status, for the command `true` without a source; then jobs per second with 8 slots.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx2
from product import Up

JOB = {"name": "bench", "source_type": "none", "job_command": "true"}


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with (
        tempfile.TemporaryDirectory() as folder,
        Up(Path(folder), REACTORCIDE_WORKER_CONCURRENCY="8") as up,
        up.client() as client,
    ):
        for _ in range(3):
            run_one(client)
        times = sorted(run_one(client) * 1000 for _ in range(jobs))
        print(
            f"submit to finished, ms: p50 {statistics.median(times):.0f}  "
            f"p95 {times[int(len(times) * 0.95)]:.0f}  max {times[-1]:.0f}"
        )
        begun = time.monotonic()
        submitted = [client.post("/api/v1/jobs", json=JOB).raise_for_status().json() for _ in range(jobs)]
        for job in submitted:
            wait(client, job)
        print(f"throughput with 8 slots: {jobs / (time.monotonic() - begun):.1f} jobs/s")


def run_one(client: httpx2.Client) -> float:
    begun = time.monotonic()
    wait(client, client.post("/api/v1/jobs", json=JOB).raise_for_status().json())
    return time.monotonic() - begun


def wait(client: httpx2.Client, job: dict[str, object]) -> None:
    while job["status"] in ("submitted", "queued", "running"):
        answer = client.get(f"/api/v1/jobs/{job['job_id']}", params={"wait": 30})
        job = answer.raise_for_status().json()
    if job["status"] != "completed":
        raise SystemExit(f"a job ended {job['status']}: {job.get('message')}")


if __name__ == "__main__":
    main()
