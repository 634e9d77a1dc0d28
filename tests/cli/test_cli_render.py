"""How answers look."""

from datetime import UTC, datetime, timedelta

import pytest

from reactorcide.cli.answers import JobAnswer, read_answer
from reactorcide.cli.options import DURATION
from reactorcide.cli.render import fit_columns, relative_time, show_seconds, sum_up, write_table
from reactorcide.cli.run import default_name, join_command

NOW = datetime(2030, 1, 1, tzinfo=UTC)
JOB = {
    "job_id": "01890000-0000-7000-8000-000000000001",
    "name": "build",
    "started_at": "2030-01-01T00:00:00Z",
    "completed_at": "2030-01-01T00:00:02.1Z",
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (59, "59 s ago"),
        (180, "3 min ago"),
        (7300, "2 h ago"),
        (200_000, "2 d ago"),
        (-90, "in 90 s"),
    ],
)
def test_times_are_told_as_people_say_them(seconds: int, text: str) -> None:
    assert relative_time(NOW - timedelta(seconds=seconds), now=NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.04, "0.0 s"), (119.9, "119.9 s"), (600, "10 min 0 s"), (7260, "2 h 1 min")],
)
def test_durations_are_told_as_people_say_them(seconds: float | None, text: str) -> None:
    assert show_seconds(seconds) == text


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"status": "completed", "exit_code": 0, "reason": "ok"}, "job build completed in 2.1 s"),
        (
            {"status": "failed", "exit_code": 3, "reason": "exit_nonzero", "message": "the job ended"},
            "job build failed in 2.1 s: exit code 3 (exit_nonzero)",
        ),
        (
            {"status": "failed", "reason": "source_failed", "message": "no such ref"},
            "job build failed in 2.1 s (source_failed): no such ref",
        ),
        ({"status": "timeout", "reason": "timeout_run"}, "job build timed out after 2.1 s (timeout_run)"),
        (
            {"status": "cancelled", "reason": "cancelled_user"},
            "job build was cancelled after 2.1 s (cancelled_user)",
        ),
    ],
)
def test_an_end_is_one_line(told: dict[str, object], line: str) -> None:
    assert sum_up(read_answer(JobAnswer, JOB | told)) == line


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1d1h1m1s", 90_061)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == seconds


def test_several_arguments_are_quoted_and_one_is_not() -> None:
    assert join_command(("echo $A; exit 3",)) == "echo $A; exit 3"
    assert join_command(("echo", "$A; exit 3")) == "echo '$A; exit 3'"


@pytest.mark.parametrize(
    ("command", "name"),
    [("make\nmake test", "make"), ("\n  a\tb\x1b", "a b"), ("x" * 300, "x" * 59 + "…"), ("\n", "job")],
)
def test_a_job_without_a_name_gets_one(command: str, name: str) -> None:
    assert default_name(command) == name


def test_a_narrow_terminal_goes_without_optional_columns() -> None:
    columns, rows = ["ID", "QUEUE", "TOOK"], [["1" * 36, "q" * 30, "1 s"]]

    assert fit_columns(columns, rows, ["QUEUE", "TOOK"], 80)[0] == columns
    assert fit_columns(columns, rows, ["QUEUE", "TOOK"], 60) == (["ID", "TOOK"], [["1" * 36, "1 s"]])
    assert fit_columns(columns, rows, ["QUEUE", "TOOK"], 10)[0] == ["ID"]


def test_a_table_in_a_pipe_is_aligned_and_inert(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("A", "NAME"), [("1", "x\x1b[2Jy"), ("222", "z")], empty="none")

    assert capsys.readouterr().out == "A    NAME\n1    x^[[2Jy\n222  z\n"
