"""Lists of jobs: newest first, filtered, paged by key or by counting."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from reactorcide.domain.jobs import Job
from reactorcide.store.database import Transaction
from reactorcide.store.jobs import JOB_COLUMNS, JOB_SOURCE, job_of


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are wanted; an empty field wants all. All fields must fit, one value of each suffices."""

    statuses: tuple[str, ...] = ()
    queue_names: tuple[str, ...] = ()
    source_types: tuple[str, ...] = ()
    user_id: str | None = None
    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True)
class PageKey:
    """The place of a job in the list: what comes after it is older."""

    created_at: datetime
    job_id: str


_PAGE = sql.SQL(
    "SELECT {columns} FROM {source} WHERE {wanted} ORDER BY {order} LIMIT {limit} OFFSET {offset}"
)
_COUNT = sql.SQL("SELECT count(*) AS total FROM jobs j WHERE {wanted}")
_ORDER = sql.SQL("j.created_at DESC, j.job_id DESC")
_AFTER = sql.SQL("(j.created_at, j.job_id) < (%(after_time)s, %(after_id)s::uuid)")
_ONE_OF_MANY = (("statuses", "status"), ("queue_names", "queue_name"), ("source_types", "source_type"))
_CONDITIONS = (
    ("user_id", sql.SQL("j.user_id = %(user_id)s")),
    ("name", sql.SQL("j.name = %(name)s")),
    ("created_after", sql.SQL("j.created_at > %(created_after)s")),
    ("created_before", sql.SQL("j.created_at < %(created_before)s")),
)


async def list_jobs(
    tx: Transaction, wanted: JobFilter, *, limit: int, offset: int = 0, after: PageKey | None = None
) -> list[Job]:
    """Return at most ``limit`` jobs, newest first, those of the same time by id."""
    conditions, given = _conditions_of(wanted)
    if after is not None:
        conditions.append(_AFTER)
        given |= {"after_time": after.created_at, "after_id": after.job_id}
    statement = _PAGE.format(
        columns=sql.SQL(JOB_COLUMNS),
        source=sql.SQL(JOB_SOURCE),
        wanted=_all_of(conditions),
        order=_ORDER,
        limit=sql.Placeholder("limit"),
        offset=sql.Placeholder("offset"),
    )
    cursor = await tx.execute(statement, given | {"limit": limit, "offset": offset})
    return [job_of(row) for row in await cursor.fetchall()]


async def count_jobs(tx: Transaction, wanted: JobFilter) -> int:
    """Return how many jobs are wanted, on all pages together."""
    conditions, given = _conditions_of(wanted)
    row = await (await tx.execute(_COUNT.format(wanted=_all_of(conditions)), given)).fetchone()
    return int(row["total"]) if row else 0


def _conditions_of(wanted: JobFilter) -> tuple[list[sql.Composable], dict[str, Any]]:
    conditions: list[sql.Composable] = []
    given: dict[str, Any] = {}
    for field, column in _ONE_OF_MANY:
        values = list(getattr(wanted, field))
        if len(values) == 1:
            # Equality keeps the order of the index; a list of one would have the planner sort.
            conditions.append(sql.SQL("j.{} = {}").format(sql.Identifier(column), sql.Placeholder(field)))
            given[field] = values[0]
        elif values:
            conditions.append(
                sql.SQL("j.{} = ANY({})").format(sql.Identifier(column), sql.Placeholder(field))
            )
            given[field] = values
    for field, condition in _CONDITIONS:
        value = getattr(wanted, field)
        if value is not None:
            conditions.append(condition)
            given[field] = value
    for place, (key, value) in enumerate(wanted.labels):
        # The first half is the predicate of the index.
        condition = sql.SQL("j.labels <> '{{}}' AND j.labels @> {}")
        conditions.append(condition.format(sql.Placeholder(f"label_{place}")))
        given[f"label_{place}"] = Jsonb({key: value})
    return conditions, given


def _all_of(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")
