"""The laws that the rows of every job keep at every moment: I1 to I6 of the state machine."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

from reactorcide.domain.status import TRANSITIONS, JobStatus
from reactorcide.store.database import Database, Row

_JOBS = "SELECT job_id, status, attempt, runs, max_runs, lease_id, version, exit_code FROM jobs"
_EVENTS = "SELECT job_id, seq, from_status, to_status, attempt FROM job_events ORDER BY job_id, seq"
_ATTEMPTS = """
    SELECT job_id, attempt, lease_id, claimed_at, started_at, ended_at, end_status, exit_code
      FROM attempts ORDER BY job_id, attempt
"""


async def check_laws(database: Database) -> dict[str, JobStatus]:
    """Check every job of the database; return the status of each."""
    async with database.transaction() as tx:
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        jobs = await (await tx.execute(_JOBS)).fetchall()
        events = _by_job(await (await tx.execute(_EVENTS)).fetchall())
        attempts = _by_job(await (await tx.execute(_ATTEMPTS)).fetchall())
    for job in jobs:
        _check_job(job, events[job["job_id"]], attempts[job["job_id"]])
    return {job["job_id"]: JobStatus(job["status"]) for job in jobs}


def _by_job(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["job_id"]].append(row)
    return grouped


def _check_job(job: dict[str, Any], events: list[Row], attempts: list[Row]) -> None:
    status = JobStatus(job["status"])

    # I1: only legal edges, each from where the one before led.
    assert (events[0]["from_status"], events[0]["to_status"]) == (None, "submitted")
    for before, event in pairwise(events):
        assert event["from_status"] == before["to_status"]
        assert event["to_status"] in TRANSITIONS[JobStatus(event["from_status"])]
        assert event["attempt"] >= before["attempt"]
    assert events[-1]["to_status"] == status
    assert events[-1]["seq"] <= job["version"]

    # I2: one end.
    assert sum(JobStatus(event["to_status"]).is_final for event in events) == int(status.is_final)

    # I3: attempts rise by one.
    assert [attempt["attempt"] for attempt in attempts] == list(range(1, job["attempt"] + 1))

    # I4: an attempt begins after the end of the one before; a lease is held exactly by one without an end.
    assert [a["lease_id"] for a in attempts if a["ended_at"] is None] == [
        lease for lease in [job["lease_id"]] if lease is not None
    ]
    for earlier, later in pairwise(attempts):
        assert earlier["ended_at"] <= later["claimed_at"]
    starts = [event["attempt"] for event in events if event["to_status"] == "running"]
    assert starts == sorted(set(starts)) == [a["attempt"] for a in attempts if a["started_at"] is not None]

    # I5: completed means that this attempt was started and finished with 0.
    if status is JobStatus.COMPLETED:
        assert (attempts[-1]["end_status"], attempts[-1]["exit_code"], job["exit_code"]) == (
            "completed",
            0,
            0,
        )
        assert attempts[-1]["started_at"] is not None

    # I6: starts are counted, and never too many.
    assert len(starts) == job["runs"] <= job["max_runs"]
