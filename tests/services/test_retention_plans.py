"""That rounds stay cheap: no statement of retention or of the search reads a whole table of jobs."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from fixture_types import MakeUser
from reactorcide.store import removals, retention, searches
from reactorcide.store.database import Database

JOBS = 20_000
_FILL = """
    WITH made AS (
        SELECT n, gen_random_uuid() AS job_id, now() - n * interval '1 minute' AS at
          FROM generate_series(1, %(count)s) n
    ), jobs AS (
        INSERT INTO jobs (job_id, user_id, name, source_type, code_dir, job_dir, job_command, runner_image,
            timeout_seconds, queue_timeout_seconds, queue_name, queue_deadline_at, status, attempt, runs,
            created_at, started_at, deadline_at, completed_at, exit_code, reason, fault, logs_object_key,
            artifacts_object_key)
        SELECT job_id, %(user_id)s, 'job', 'none', '/job', '/job', 'true', 'image', 60, 60, 'q', at,
               'completed', 1, 1, at, at, at, at, 0, 'ok', 'none', 'logs/1.log', 'artifacts/manifest.json'
          FROM made
    )
    INSERT INTO attempts (job_id, attempt, lease_id, worker_id, claimed_at, started_at, lease_expires_at,
        ended_at, log_length, final_log_length, log_sealed_at, artifacts, artifact_bytes)
    SELECT job_id, 1, gen_random_uuid(), %(worker_id)s, at, at, at, at, 1000, 1000, at, 1,
           CASE WHEN n %% 100 > 0 THEN 1000 END
      FROM made
"""
_KEYS = {
    "after_end": "-infinity",
    "after_job": "00000000-0000-0000-0000-000000000000",
    "after_attempt": 0,
    "until_end": "infinity",
    "until_job": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "until_attempt": 2**31 - 1,
    "before_end": "infinity",
    "before_job": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "before_attempt": 2**31 - 1,
}
_GIVEN: dict[str, Any] = _KEYS | {
    "ended_before": "2100-01-01T00:00:00Z",
    "before": "2100-01-01T00:00:00Z",
    "why": "bytes",
    "actor": "system:retention",
    "limit": 100,
    "room": 10**6,
    "kept_for": timedelta(days=1),
    "delivery": timedelta(days=2),
    "safe_age": timedelta(days=1),
    "job_ids": ["00000000-0000-0000-0000-000000000001"] * 100,
    "job_id": "00000000-0000-0000-0000-000000000001",
    "attempt": 1,
    "size_bytes": 1,
    "what": "log",
    "final": ["completed"],
}
STATEMENTS = {
    "delete old jobs": removals._DELETE_OLD_JOBS,
    "delete a job": removals._DELETE_JOB,
    "remove logs": retention._REMOVE_PART["log"],
    "remove artifacts": retention._REMOVE_PART["artifacts"],
    "survey logs": retention._SURVEY_PART["log"],
    "survey artifacts": retention._SURVEY_PART["artifacts"],
    "survey jobs": retention._SURVEY_JOBS,
    "sum of logs": retention._SUM_OF_PART["log"],
    "sum of artifacts": retention._SUM_OF_PART["artifacts"],
    "find limit of logs": retention._LIMIT_OF_PART["log"],
    "find limit of artifacts": retention._LIMIT_OF_PART["artifacts"],
    "list unmeasured": retention._LIST_UNMEASURED,
    "find owners": searches._FIND_OWNERS,
    "find deleted": searches._FIND_DELETED,
    "list logs": searches._LIST_LOGS,
    "list artifacts": searches._LIST_ARTIFACTS,
    "lose a log": searches._LOSE_PART["log"],
}


@pytest.fixture
async def full(database: Database, dsn: str, make_user: MakeUser) -> Database:
    """A database with many ended jobs, all known to the planner."""
    worker_id = "00000000-0000-0000-0000-00000000000a"
    user = await make_user()
    # Beside the pool, whose transactions must be short.
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO workers (worker_id, name, boot_id, queues, slots, version)"
            " VALUES (%s, 'w', %s, '{q}', 1, '1')",
            [worker_id, worker_id],
        )
        await connection.execute(_FILL, {"count": JOBS, "user_id": user.user_id, "worker_id": worker_id})
        await connection.execute("VACUUM ANALYZE jobs, attempts")
    return database


async def test_no_statement_reads_a_whole_table_of_jobs(full: Database) -> None:
    told = {}
    for name, statement in STATEMENTS.items():
        rows = await full.read(f"EXPLAIN {statement}", _GIVEN)
        plan = "\n".join(row["QUERY PLAN"] for row in rows)
        told |= {name: plan} if "Seq Scan on jobs" in plan or "Seq Scan on attempts" in plan else {}

    assert told == {}


@pytest.mark.parametrize("part", ["log", "artifacts"])
async def test_the_sum_of_what_is_kept_is_read_from_an_index_alone(
    full: Database, part: retention.Kept
) -> None:
    rows = await full.read(f"EXPLAIN {retention._SUM_OF_PART[part]}", _GIVEN)
    plan = "\n".join(row["QUERY PLAN"] for row in rows)

    assert "Index Only Scan Backward" in plan
