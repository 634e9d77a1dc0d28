"""What a user does on the first day, on the real thing."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx2
from whole_product import Product, processes_holding, wait_until

from fakes.git_server import GitServer, git

REPOSITORY = Path(__file__).parents[2]


def test_a_first_job_runs_and_its_log_is_on_the_screen(running: Product) -> None:
    done = running.run("run", "--", "echo hello from $CI_WORKSPACE; echo careful >&2")

    assert done.returncode == 0, done.stderr
    assert "hello from /job" in done.stdout
    assert "careful" in done.stdout


def test_run_ends_with_the_exit_code_of_the_job(running: Product) -> None:
    done = running.run("run", "--", "exit 7")

    assert done.returncode == 7
    assert "exit_nonzero" in done.stderr


def test_a_job_that_prints_its_secret_shows_it_to_nobody(running: Product) -> None:
    done = running.run(
        "run", "--secret", "DEPLOY_TOKEN", "--", "echo got $DEPLOY_TOKEN", DEPLOY_TOKEN="tops3cret-value"
    )

    assert done.returncode == 0, done.stderr
    assert "got [REDACTED]" in done.stdout
    leaks = subprocess.run(
        ["grep", "-rlF", "--exclude-dir=pg", "tops3cret-value", running.data_dir],
        capture_output=True,
        text=True,
    )
    assert leaks.stdout == ""


def test_a_cancelled_job_takes_its_grandchildren_with_it(running: Product) -> None:
    mark = f"31{os.getpid()}"
    job = running.submit(f"(setsid sh -c 'sleep {mark}' &) ; sleep {mark} & sleep {mark}")
    wait_until(lambda: processes_holding(f"sleep\0{mark}"), 30, lambda: str(running.job(job)))

    assert running.run("cancel", job).returncode == 0

    assert running.run("wait", job).returncode == 130
    wait_until(lambda: not processes_holding(f"sleep\0{mark}"), 5)
    assert running.job(job)["reason"] == "cancelled_user"


def test_a_job_of_a_killed_service_ends_as_lost_and_leaves_nothing_running(running: Product) -> None:
    mark = f"32{os.getpid()}"
    job = running.submit(f"echo begun; sleep {mark}")
    wait_until(lambda: processes_holding(f"sleep\0{mark}"), 30, lambda: str(running.job(job)))

    running.kill()
    wait_until(lambda: not processes_holding(f"sleep\0{mark}"), 5)
    running.up()

    wait_until(lambda: running.job(job)["status"] == "failed", 20, lambda: str(running.job(job)))
    assert running.job(job)["reason"] == "worker_lost"
    assert running.job(job)["fault"] == "infra"


def test_a_job_runs_a_part_of_the_tests_of_a_checked_out_repository(product: Product, tmp_path: Path) -> None:
    toolchain = {sys.base_prefix, sys.prefix, sysconfig.get_path("purelib")} - {"/usr"}
    with GitServer(tmp_path / "git") as server:
        git(server.repo, "fetch", "--quiet", str(REPOSITORY), "HEAD")
        git(server.repo, "checkout", "--quiet", "-B", "main", "FETCH_HEAD")
        product.settings = {
            "REACTORCIDE_GIT_ALLOWED_PROTOCOLS": "http",
            "REACTORCIDE_GIT_ALLOWED_HOSTS": server.address,
            "REACTORCIDE_SANDBOX_PATHS": ":".join(sorted(toolchain)),
        }
        product.up()
        command = f"{sys.executable} -m pytest -q -p no:cacheprovider tests/domain/test_status.py"
        done = product.run(
            "run", "--git-url", server.url, "--env", "PYTHONPATH=src", "--", command, timeout=120
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    newest = product.json("jobs", "list")["jobs"][0]
    assert newest["resolved_sha"] == git(server.repo, "rev-parse", "HEAD").strip()


def test_obj_08_no_answer_names_a_path_of_the_host(running: Product) -> None:
    job = running.submit("echo hello; no-such-program")
    assert running.run("wait", job).returncode == 127
    token = (running.data_dir / "admin-token").read_text().strip()
    url = json.loads((running.data_dir / "server.json").read_text())["url"]

    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        pages = ["jobs", f"jobs/{job}", f"jobs/{job}/events", f"jobs/{job}/logs", "queues", "workers", "me"]
        answers = [client.get(f"/api/v1/{page}") for page in pages]
        answers += [client.get("/readyz"), client.get("/metrics"), client.get("/api/v1/jobs/none")]

    for answer in answers:
        told = answer.text + str(answer.headers)
        assert str(running.data_dir) not in told, answer.url
        assert "file:" not in told, answer.url


def test_a_second_up_on_one_data_directory_says_who_runs_already(running: Product) -> None:
    second = running.run("up", timeout=30)

    assert second.returncode == 69
    assert "already" in second.stderr


def test_a_stopped_service_leaves_no_process_behind(running: Product) -> None:
    assert running.run("run", "--", "true").returncode == 0

    assert running.stop() == 0

    wait_until(lambda: not processes_holding(str(running.data_dir)), 5)
