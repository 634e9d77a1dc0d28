"""The HTTP client: what it tries again, what it sends, and how it reads what it gets."""

import json
from datetime import timedelta

import pytest

from fakes.sse_server import Answer, ScriptedServer, json_answer, scripted_server
from reactorcide.cli.answers import JobAnswer, exit_code_of, read_answer
from reactorcide.cli.client import ApiClient, pause_seconds
from reactorcide.cli.discovery import Target
from reactorcide.cli.errors import AnswerNotUnderstood, ApiProblem, CoordinatorUnreachable
from reactorcide.domain.status import JobStatus

JOB_ID = "01890000-0000-7000-8000-000000000001"
JOB = {"job_id": JOB_ID, "name": "n", "status": "queued", "brand_new_field": [1]}
AWAY = Answer(503, b"{}", {"Retry-After": "0"})


def client_of(server: ScriptedServer, token: str | None = "rct_x") -> ApiClient:
    return ApiClient(Target(server.url, "--url", token, "the places"))


def test_a_submission_that_broke_off_is_sent_again_under_the_same_key() -> None:
    answers = [AWAY, Answer(201, b"", {"Content-Length": "99"}), json_answer(JOB, 201)]
    with scripted_server({"/api/v1/jobs": answers}) as server, client_of(server) as client:
        job = client.submit_job({"name": "n"})

        keys = {asked.headers["idempotency-key"] for asked in server.asked}
        assert (job.job_id, len(server.asked), len(keys)) == (JOB_ID, 3, 1)
        assert json.loads(server.asked[-1].body) == {"name": "n"}


def test_two_submissions_have_two_keys() -> None:
    with scripted_server({"/api/v1/jobs": [json_answer(JOB, 201)]}) as server, client_of(server) as client:
        client.submit_job({})
        client.submit_job({})

        assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 2


def test_what_cannot_be_done_twice_is_tried_once() -> None:
    with scripted_server({"/api/v1/tokens": [AWAY]}) as server, client_of(server) as client:
        with pytest.raises(CoordinatorUnreachable):
            client.create_token({"name": "n"})

        assert len(server.asked) == 1


def test_the_wait_between_tries_grows_is_jittered_and_bounded() -> None:
    assert 0.07 <= pause_seconds(1) <= 0.13
    assert pause_seconds(40) <= 6.5
    assert 3.0 <= pause_seconds(1, "3") <= 3.6
    assert pause_seconds(1, "86400") <= 15
    assert pause_seconds(1, "Wed, 21 Oct 2015 07:28:00 GMT") < 1


def test_every_fault_of_a_refusal_is_carried() -> None:
    body = {
        "error": "invalid_input",
        "message": "2 faults",
        "errors": [{"pointer": "/name", "detail": "is required"}, {"pointer": "/x", "detail": "unknown"}],
    }
    with (
        scripted_server({"/api/v1/jobs": [json_answer(body, 400)]}) as server,
        client_of(server) as client,
        pytest.raises(ApiProblem) as caught,
    ):
        client.submit_job({})

    assert [fault.pointer for fault in caught.value.faults] == ["/name", "/x"]


@pytest.mark.parametrize(
    ("token", "hint"), [(None, "looked for in the places"), ("rct_x", "came from the places")]
)
def test_a_refused_token_is_told_with_its_place(token: str | None, hint: str) -> None:
    answer = json_answer({"error": "unauthorized", "message": "Invalid or expired token"}, 401)
    with (
        scripted_server({"/api/v1/me": [answer]}) as server,
        client_of(server, token) as client,
        pytest.raises(ApiProblem) as caught,
    ):
        client.me()

    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>", {"Content-Type": "text/html"}),
        Answer(404, b"<html>"),
        json_answer({"job_id": 5}),
        json_answer([]),
        Answer(302, b"", {"Location": "http://elsewhere.example/"}),
    ],
)
def test_something_that_is_no_coordinator_is_told_apart(answer: Answer) -> None:
    with (
        scripted_server({f"/api/v1/jobs/{JOB_ID}": [answer]}) as server,
        client_of(server) as client,
        pytest.raises(AnswerNotUnderstood),
    ):
        client.get_job(JOB_ID)


def test_a_wait_names_what_is_known_and_takes_unchanged_for_an_answer() -> None:
    answers = [json_answer(JOB, ETag='"7"'), Answer(304)]
    with scripted_server({f"/api/v1/jobs/{JOB_ID}": answers}) as server, client_of(server) as client:
        known = client.get_job(JOB_ID)
        again = client.get_job(JOB_ID, known=known, wait=timedelta(hours=1))

        assert again is known
        assert server.asked[1].path.endswith("?wait=60")
        assert server.asked[1].headers["if-none-match"] == '"7"'


def test_fields_of_a_newer_coordinator_are_kept() -> None:
    assert read_answer(JobAnswer, JOB).raw == JOB


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"status": "completed", "exit_code": 0}, 0),
        ({"status": "completed"}, 0),
        ({"status": "failed", "exit_code": 7, "reason": "exit_nonzero"}, 7),
        ({"status": "failed", "exit_code": 137, "signal": 9, "reason": "oom_killed"}, 137),
        ({"status": "failed", "signal": 9, "reason": "signalled"}, 137),
        ({"status": "failed", "reason": "worker_lost"}, 75),
        ({"status": "failed", "reason": "sandbox_died"}, 1),
        ({"status": "failed", "exit_code": 0, "reason": "log_lost"}, 1),
        ({"status": "timeout", "exit_code": 143, "reason": "timeout_run"}, 124),
        ({"status": "timeout", "reason": "timeout_queue"}, 124),
        ({"status": "cancelled", "exit_code": 143}, 130),
    ],
)
def test_the_end_of_a_job_has_an_exit_code(told: dict[str, object], code: int) -> None:
    assert exit_code_of(read_answer(JobAnswer, JOB | told)) == code


@pytest.mark.parametrize("status", [status for status in JobStatus if status.is_final])
def test_only_a_completed_job_exits_with_success(status: JobStatus) -> None:
    job = read_answer(JobAnswer, JOB | {"status": status.value})

    assert (exit_code_of(job) == 0) == (status is JobStatus.COMPLETED)
