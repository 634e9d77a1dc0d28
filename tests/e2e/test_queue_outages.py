"""The whole product while its Corndogs ends without a word, and comes back with nothing."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from whole_product import Product, wait_until

from fakes.corndogs_process import CorndogsProcess

JOBS = 200


@pytest.fixture
def corndogs() -> Iterator[CorndogsProcess]:
    with CorndogsProcess() as server:
        yield server


@pytest.fixture
def backends(corndogs: CorndogsProcess) -> dict[str, str]:
    return {"REACTORCIDE_CORNDOGS_BASE_URL": corndogs.address}


def api(product: Product) -> httpx2.Client:
    url = json.loads((product.data_dir / "server.json").read_text())["url"]
    token = (product.data_dir / "admin-token").read_text().strip()
    return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def submit(client: httpx2.Client, command: str) -> str:
    answer = client.post(
        "/api/v1/jobs", json={"name": "queued", "source_type": "none", "job_command": command}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


def status_of(client: httpx2.Client, job_id: str) -> str:
    return str(client.get(f"/api/v1/jobs/{job_id}").json()["status"])


def count(client: httpx2.Client, status: str) -> int:
    answer = client.get("/api/v1/jobs", params={"status": status, "limit": 1})
    return int(answer.json()["total"])


def test_q_01_jobs_are_taken_in_without_the_queue_and_start_soon_after_its_return(
    running: Product, corndogs: CorndogsProcess
) -> None:
    corndogs.kill()
    with api(running) as client:
        took = []
        for _ in range(5):
            begun = time.monotonic()
            job_id = submit(client, "echo started")
            took.append(time.monotonic() - begun)
        before = client.get(f"/api/v1/jobs/{job_id}").json()
        shown = client.get("/api/v1/queues").json()

        corndogs.start()
        returned = time.monotonic()
        wait_until(lambda: status_of(client, job_id) not in ("submitted", "queued"), 30)
        started = time.monotonic() - returned
        wait_until(lambda: count(client, "completed") == 5, 30)

    assert max(took) < 1
    assert before["status"] == "submitted"
    assert before["waiting"] == "the queue service has not been told of it yet"
    assert shown["queue_service"] == "unreachable"
    assert started < 10


def test_q_04_a_queue_that_comes_back_empty_is_told_of_200_jobs_and_each_runs_once(
    product: Product, corndogs: CorndogsProcess
) -> None:
    product.settings["REACTORCIDE_WORKER_QUEUE"] = "nobody-submits-here"
    product.up()
    with api(product) as client:
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(lambda _: submit(client, "true"), range(JOBS)))
        wait_until(lambda: count(client, "queued") == JOBS, 60)
    corndogs.kill()
    corndogs.start()
    product.stop()
    product.settings |= {
        "REACTORCIDE_WORKER_QUEUE": "reactorcide-jobs",
        "REACTORCIDE_WORKER_CONCURRENCY": "8",
    }
    product.up()

    with api(product) as client:
        wait_until(lambda: corndogs.order().get("SubmitTask", 0) >= JOBS, 60)
        wait_until(lambda: count(client, "completed") == JOBS, 120)
        ended = [client.get(f"/api/v1/jobs/{job_id}").json() for job_id in jobs]
        wait_until(lambda: _tickets(client) == 0, 30)

    assert {job["status"] for job in ended} == {"completed"}
    assert {job["attempt"] for job in ended} == {1}


def _tickets(client: httpx2.Client) -> int:
    queues = client.get("/api/v1/queues").json()["queues"]
    return sum(sum(queue.get("tickets", {"ready": 1}).values()) for queue in queues)
