"""Job files as submissions: secrets taken from the environment, flags over the file."""

from pathlib import Path

import pytest

from reactorcide.cli.job_file import JobFileUnusable, compose_submission, merge_bodies, read_job_file
from runnerlib.spec.job_file import JobFile


def test_a_secret_without_a_value_takes_that_of_its_variable() -> None:
    job = JobFile(job_command="x", job_secrets={"A": "written", "B": None})

    body = compose_submission(job, "job.yaml", {"A": "other", "B": "mine"})

    assert body == {"job_command": "x", "job_secrets": {"A": "written", "B": "mine"}}


def test_a_secret_that_is_nowhere_is_a_fault_of_the_file() -> None:
    job = JobFile(job_secrets={"B": None})

    with pytest.raises(JobFileUnusable, match=r"secrets\.B: has no value in the file"):
        compose_submission(job, "job.yaml", {})


def test_plugins_are_left_out_and_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    body = compose_submission(JobFile(job_command="x", plugins=("timer",)), "job.yaml", {})

    assert body == {"job_command": "x"}
    assert "plugins of the job file are left out" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(JobFileUnusable, match=r"none\.yaml is refused"):
        read_job_file(str(tmp_path / "none.yaml"))


def test_flags_win_over_the_file_and_join_its_maps() -> None:
    told = {"name": "a", "job_env_vars": {"A": "1", "B": "1"}}

    merged = merge_bodies(told, {"name": "b", "job_env_vars": {"B": "2"}})

    assert merged == {"name": "b", "job_env_vars": {"A": "1", "B": "2"}}
