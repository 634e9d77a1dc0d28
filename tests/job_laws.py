"""The laws that the rows of every job keep at every moment: I1 to I6 of the state machine, and their kin."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reactorcide.domain.status import TRANSITIONS, JobStatus
from reactorcide.store.database import Database, Row

# One statement is one snapshot.
_SNAPSHOT = """
    SELECT j.job_id, j.status, j.attempt, j.runs, j.max_runs, j.desired, j.lease_id, j.version, j.exit_code,
           j.signal, j.reason, j.fault, j.message, j.completed_at, j.not_before,
           (SELECT json_agg(json_build_object(
                       'seq', seq, 'from', from_status, 'to', to_status, 'attempt', attempt, 'reason', reason)
                       ORDER BY seq)
              FROM job_events e WHERE e.job_id = j.job_id) AS events,
           (SELECT coalesce(json_agg(json_build_object(
                       'attempt', attempt, 'lease_id', lease_id, 'worker_id', worker_id,
                       'claimed', extract(epoch FROM claimed_at)::float8,
                       'started', extract(epoch FROM started_at)::float8,
                       'ended', extract(epoch FROM ended_at)::float8, 'end_status', end_status,
                       'exit_code', exit_code, 'reason', reason, 'log_length', log_length,
                       'final_log_length', final_log_length, 'is_sealed', log_sealed_at IS NOT NULL)
                       ORDER BY attempt), '[]')
              FROM attempts a WHERE a.job_id = j.job_id) AS attempts
      FROM jobs j
"""
_MAY_CHANGE_AFTER_THE_END = frozenset({"attempts", "version"})
_NEVER_FALLS = ("attempt", "runs", "desired", "version")


@dataclass(frozen=True)
class JobFacts:
    """The rows of one job at one moment."""

    row: Row

    @property
    def job_id(self) -> str:
        return str(self.row["job_id"])

    @property
    def status(self) -> JobStatus:
        return JobStatus(self.row["status"])

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return list(self.row["attempts"])

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self.row["events"])


class LawBook:
    """Checks every job of a database now, and against what it saw of it before."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, JobFacts] = {}

    async def check(self) -> dict[str, JobFacts]:
        """Raise AssertionError where a law is broken; return every job."""
        rows = await self._database.read(_SNAPSHOT)
        found = {str(row["job_id"]): JobFacts(row) for row in rows}
        for job_id, facts in found.items():
            check_job(facts)
            if job_id in self._seen:
                check_change(self._seen[job_id], facts)
        for job_id in self._seen.keys() - found.keys():
            assert self._seen[job_id].status.is_final, f"{job_id} is gone before its end"
        self._seen = found
        return found


async def check_laws(database: Database) -> dict[str, JobStatus]:
    """Check every job of the database; return the status of each."""
    found = await LawBook(database).check()
    return {job_id: facts.status for job_id, facts in found.items()}


def check_job(facts: JobFacts) -> None:
    """Check the laws of one moment."""
    job, status, events, attempts = facts.row, facts.status, facts.events, facts.attempts

    # I1: only legal edges, each from where the one before led.
    assert (events[0]["from"], events[0]["to"]) == (None, "submitted")
    for before, event in pairwise(events):
        assert event["from"] == before["to"], (facts.job_id, events)
        assert event["to"] in TRANSITIONS[JobStatus(event["from"])], (facts.job_id, events)
        assert event["attempt"] >= before["attempt"]
    assert events[-1]["to"] == status
    assert events[-1]["seq"] <= job["version"]

    # I2: one end, and the row tells it as the event does.
    assert sum(JobStatus(event["to"]).is_final for event in events) == int(status.is_final)
    assert (job["completed_at"] is not None) == status.is_final
    if status.is_final:
        assert job["reason"] == events[-1]["reason"]

    # I3: attempts rise by one.
    assert [attempt["attempt"] for attempt in attempts] == list(range(1, job["attempt"] + 1))

    # I4: an attempt begins after the end of the one before; a lease is held exactly by one without an end.
    assert [a["lease_id"] for a in attempts if a["ended"] is None] == [
        lease for lease in [job["lease_id"]] if lease is not None
    ]
    for earlier, later in pairwise(attempts):
        assert earlier["ended"] <= later["claimed"]
    for attempt in attempts:
        _check_attempt(facts, attempt)
    starts = [event["attempt"] for event in events if event["to"] == "running"]
    assert starts == sorted(set(starts)) == [a["attempt"] for a in attempts if a["started"] is not None]

    # I5: completed means that this attempt was started and finished with 0.
    if status is JobStatus.COMPLETED:
        last = attempts[-1]
        assert (last["end_status"], last["exit_code"], job["exit_code"]) == ("completed", 0, 0)
        assert last["started"] is not None

    # I6: starts are counted, and never too many.
    assert len(starts) == job["runs"] <= job["max_runs"]


def _check_attempt(facts: JobFacts, attempt: dict[str, Any]) -> None:
    """An attempt's row says what the events say of it, and its log is within what was promised."""
    moves = [event for event in facts.events if event["attempt"] == attempt["attempt"]]
    ends = [event for event in moves if event["from"] == "running"]
    is_running = attempt["started"] is not None and attempt["ended"] is None
    assert len(ends) == int(attempt["started"] is not None and not is_running), (attempt, moves)
    assert is_running == (facts.status is JobStatus.RUNNING and attempt["attempt"] == facts.row["attempt"])
    if ends:
        # What goes back to the queue is an attempt that failed.
        assert attempt["end_status"] == ends[0]["to"].replace("queued", "failed")
        assert attempt["reason"] == ends[0]["reason"]
    else:
        assert (attempt["end_status"], attempt["exit_code"]) == (None, None)
    if attempt["started"] is not None:
        assert attempt["claimed"] <= attempt["started"]
    if attempt["final_log_length"] is not None:
        assert attempt["ended"] is not None
    if attempt["is_sealed"]:
        assert attempt["log_length"] == attempt["final_log_length"]


def check_change(before: JobFacts, now: JobFacts) -> None:
    """Check what may have become of a job since ``before``."""
    if before.status.is_final:
        changed = {name for name, value in before.row.items() if now.row[name] != value}
        assert changed <= _MAY_CHANGE_AFTER_THE_END, f"{now.job_id} has ended, and {changed} changed"
    for name in _NEVER_FALLS:
        assert now.row[name] >= before.row[name], f"{name} of {now.job_id} fell"
    assert now.events[: len(before.events)] == before.events, f"an event of {now.job_id} changed"
    for old, new in zip(before.attempts, now.attempts, strict=False):
        assert new["log_length"] >= old["log_length"], f"the log of {now.job_id} shrank"
        kept = ["attempt", "lease_id", "worker_id", "claimed"]
        kept += ["started"] if old["started"] is not None else []
        kept += ["started", "ended", "end_status", "exit_code", "reason"] if old["ended"] is not None else []
        kept += ["is_sealed", "log_length", "final_log_length"] if old["is_sealed"] else []
        assert [new[name] for name in kept] == [old[name] for name in kept], (old, new)
