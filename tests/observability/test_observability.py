"""The program's log and metrics."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import structlog

from reactorcide.observability.logging import configure_logging
from reactorcide.observability.metrics import MAX_LABEL_VALUES, Metrics


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """What the test configures is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_an_event_is_a_line_of_json_with_what_is_bound() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)

    with structlog.contextvars.bound_contextvars(job_id="j1"):
        structlog.get_logger().info("job.finished", exit_code=3)

    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["job_id"], line["exit_code"]) == (
        "job.finished",
        "info",
        "j1",
        3,
    )
    assert line["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_not_logged() -> None:
    out = io.StringIO()
    configure_logging("warning", "json", out)

    structlog.get_logger().info("job.finished")
    logging.getLogger("uvicorn.error").info("started")

    assert out.getvalue() == ""


def test_other_loggers_take_the_same_form() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)

    logging.getLogger("uvicorn.error").warning("odd %s", "thing")

    line = json.loads(out.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("odd thing", "uvicorn.error", "warning")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    out = io.StringIO()
    configure_logging("info", form, out)
    unseen = "".join(["hun", "ter2"])

    try:
        raise ValueError(len(unseen))
    except ValueError as error:
        structlog.get_logger().error("request.failed", exc_info=error)

    assert "ValueError: 7" in out.getvalue()
    assert "hunter2" not in out.getvalue()


def test_fields_named_like_secrets_are_hidden() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)

    structlog.get_logger().info("token.minted", token="rct_abc", token_id="t1")

    assert json.loads(out.getvalue())["token"] == "[REDACTED]"
    assert json.loads(out.getvalue())["token_id"] == "t1"


def test_the_hundred_and_first_queue_is_other() -> None:
    metrics = Metrics()

    for number in range(MAX_LABEL_VALUES + 5):
        metrics.job_submitted(f"q{number}", "none")

    text = metrics.render().decode()
    assert 'reactorcide_jobs_submitted_total{queue="q99",source_type="none"} 1.0' in text
    assert 'reactorcide_jobs_submitted_total{queue="other",source_type="none"} 5.0' in text
    assert "q100" not in text


@dataclass
class _Queue:
    name: str
    ready: int
    running: int = 0
    live_workers: int = 0


def test_queues_of_an_earlier_scrape_are_forgotten() -> None:
    metrics = Metrics()
    metrics.render([_Queue("earlier", 3)])

    text = metrics.render([_Queue("new", 1)]).decode()

    assert 'queue_depth{queue="new",status="ready"} 1.0' in text
    assert "earlier" not in text


def test_an_end_is_counted_with_its_reason_and_time() -> None:
    metrics = Metrics()

    metrics.job_ended("q", "failed", "exit_nonzero", "w", 3.0)
    metrics.job_ended("q", "completed", "ok", "w", 1.0)
    metrics.job_retried("q", "w", "worker_lost")

    text = metrics.render().decode()
    assert 'reactorcide_jobs_processed_total{queue="q",status="failed",worker_id="w"} 1.0' in text
    assert 'reactorcide_job_errors_total{error_type="exit_nonzero",queue="q",retryable="false"} 1.0' in text
    assert 'reactorcide_job_errors_total{error_type="worker_lost",queue="q",retryable="true"} 1.0' in text
    assert 'reactorcide_job_duration_seconds_bucket{le="16384.0",queue="q",status="completed"} 1.0' in text
