"""Submission: idempotency keys, concurrent submits in one commit, and retries."""

import asyncio
import hashlib
from dataclasses import replace

import pytest

from fixture_types import MakeUser
from job_desk import NO_WAIT, JobDesk, outcome, request
from reactorcide.domain.accounts import Role
from reactorcide.domain.errors import Conflict, Forbidden, IdempotencyMismatch, InvalidInput, NotFound
from reactorcide.domain.jobs import REDACTED
from reactorcide.services.group_commit import GroupCommit
from reactorcide.services.jobs import IdempotencyKey
from reactorcide.services.new_ids import IdSource
from reactorcide.store import jobs as job_store
from reactorcide.store.database import Database


@pytest.fixture
async def desk(database: Database, make_user: MakeUser) -> JobDesk:
    return JobDesk(database, await make_user())


def key(text: str = "key-1", body: str = "body") -> IdempotencyKey:
    return IdempotencyKey(text, hashlib.sha256(body.encode()).digest())


async def test_api_28_twenty_parallel_submits_with_one_key_make_one_job(desk: JobDesk) -> None:
    answers = await asyncio.gather(*(desk.jobs.submit(desk.user, request(), key()) for _ in range(20)))

    assert len({answer.job.job_id for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert await desk.rows("SELECT count(*) FROM jobs") == [{"count": 1}]


async def test_api_28_one_key_at_two_coordinators_makes_one_job(desk: JobDesk) -> None:
    other = JobDesk(desk.database, desk.user)

    answers = await asyncio.gather(
        *(at.jobs.submit(at.user, request(), key(f"key-{n}")) for n in range(25) for at in (desk, other))
    )

    assert len({answer.job.job_id for answer in answers}) == 25
    assert await desk.rows("SELECT count(*) FROM jobs") == [{"count": 25}]


async def test_api_29_the_same_key_with_another_body_is_refused(desk: JobDesk) -> None:
    await desk.jobs.submit(desk.user, request(), key())

    with pytest.raises(IdempotencyMismatch):
        await desk.jobs.submit(desk.user, request(name="other"), key(body="other"))

    assert await desk.rows("SELECT count(*) FROM jobs") == [{"count": 1}]


async def test_keys_of_two_users_do_not_meet(desk: JobDesk, make_user: MakeUser) -> None:
    mine = await desk.jobs.submit(desk.user, request(), key())
    theirs = await desk.jobs.submit(await make_user(), request(), key(body="other"))

    assert mine.job.job_id != theirs.job.job_id


async def test_a_replay_shows_the_job_as_it_is_now(desk: JobDesk) -> None:
    first = await desk.jobs.submit(desk.user, request(), key())
    await desk.jobs.cancel(desk.user, first.job.job_id)

    again = await desk.jobs.submit(desk.user, request(), key())

    assert (again.replayed, again.job.status) == (True, "cancelled")


async def test_a_key_is_forgotten_after_a_day_and_not_before(desk: JobDesk) -> None:
    for name, hours in (("old", 25), ("young", 23)):
        await desk.jobs.submit(desk.user, request(), key(name))
        async with desk.database.transaction() as tx:
            await tx.execute(
                "UPDATE idempotency SET created_at = now() - make_interval(hours => %(hours)s)"
                " WHERE key = %(key)s",
                {"hours": hours, "key": name},
            )

    await desk.reap()

    assert not (await desk.jobs.submit(desk.user, request(), key("old"))).replayed
    assert (await desk.jobs.submit(desk.user, request(), key("young"))).replayed


async def test_the_key_of_a_deleted_job_makes_no_second_one(desk: JobDesk, make_user: MakeUser) -> None:
    first = await desk.jobs.submit(desk.user, request(), key())
    await desk.jobs.cancel(desk.user, first.job.job_id)
    await desk.jobs.delete(await make_user(Role.ADMIN), first.job.job_id)

    with pytest.raises(Conflict):
        await desk.jobs.submit(desk.user, request(), key())


@pytest.mark.parametrize("text", ["", "a b", "a\n", "é", "x" * 256, "\x7f", "a\0"])
async def test_a_key_that_is_not_1_to_255_visible_characters_is_refused(desk: JobDesk, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await desk.jobs.submit(desk.user, request(), key(text))

    assert [fault.pointer for fault in refused.value.faults] == ["header Idempotency-Key"]


async def test_concurrent_submits_share_commits_and_each_gets_its_own_job(desk: JobDesk) -> None:
    submitted = await asyncio.gather(*(desk.submit(name=f"job {n}") for n in range(100)))

    commits = await desk.rows("SELECT count(DISTINCT xmin::text) FROM jobs")
    assert [job.spec.name for job in submitted] == [f"job {n}" for n in range(100)]
    assert commits[0]["count"] < 10  # type: ignore[operator]
    for job in submitted[::20]:
        assert await desk.read(job.job_id) == job


async def test_jobs_of_one_commit_are_claimed_in_the_order_of_their_submission(desk: JobDesk) -> None:
    submitted = await asyncio.gather(*(desk.submit() for _ in range(30)))

    claims = await desk.attempts.claim(await desk.worker(), 30, NO_WAIT)

    assert [claim.job_id for claim in claims] == [job.job_id for job in submitted]


async def test_a_row_the_database_refuses_fails_alone(desk: JobDesk) -> None:
    nobody = replace(desk.user, user_id="00000000-0000-4000-8000-000000000000")

    answers = await asyncio.gather(
        *(
            desk.jobs.submit(nobody if n == 3 else desk.user, request(name=str(n)), key(f"key-{n}"))
            for n in range(6)
        ),
        return_exceptions=True,
    )

    assert isinstance(answers[3], job_store.RowsRefused)
    assert await desk.rows("SELECT string_agg(name, '' ORDER BY name) AS names FROM jobs") == [
        {"names": "01245"}
    ]


async def test_retry_makes_a_new_job_of_the_same_spec_with_its_secrets(desk: JobDesk) -> None:
    url = "https://me:hunter2@example.org/repo.git"
    old = await desk.submit(source_type="git", git_url=url, job_secrets={"WORD": "swordfish"}, priority=3)
    await desk.jobs.cancel(desk.user, old.job_id)

    new = await desk.jobs.retry(desk.user, old.job_id)
    started = await desk.start(await desk.worker())

    assert (new.retry_of, new.spec) == (old.job_id, old.spec)
    assert started.claim.job_id == new.job_id
    assert (started.spec.git_url, started.spec.job_secrets) == (url, {"WORD": "swordfish"})
    assert new.spec.job_secrets == {"WORD": REDACTED}


async def test_only_a_job_that_has_ended_can_be_retried(desk: JobDesk, make_user: MakeUser) -> None:
    job = await desk.submit()

    with pytest.raises(Conflict):
        await desk.jobs.retry(desk.user, job.job_id)
    with pytest.raises(Forbidden):
        await desk.jobs.retry(await make_user(), job.job_id)


async def test_auth_09_only_admins_delete_and_only_what_has_ended(desk: JobDesk, make_user: MakeUser) -> None:
    admin = await make_user(Role.ADMIN)
    job = await desk.submit()
    claim = (await desk.start(await desk.worker())).claim

    with pytest.raises(Forbidden):
        await desk.jobs.delete(desk.user, job.job_id)
    with pytest.raises(Conflict) as refused:
        await desk.jobs.delete(admin, job.job_id)
    await desk.attempts.finish(claim, outcome())
    await desk.jobs.delete(admin, job.job_id)

    assert refused.value.status == "running"
    with pytest.raises(NotFound):
        await desk.read(job.job_id)
    assert await desk.rows("SELECT kind, payload FROM outbox") == [
        {"kind": "purge_objects", "payload": {"job_id": job.job_id}}
    ]


async def test_one_batch_is_committed_at_a_time_and_waits_for_nobody() -> None:
    batches: list[int] = []
    may_go = asyncio.Event()

    async def commit(items: object) -> list[int | Exception]:
        batches.append(len(items))  # type: ignore[arg-type]
        await may_go.wait()
        return [ValueError("odd") if item % 2 else item for item in items]  # type: ignore[attr-defined]

    gathered: GroupCommit[int, int] = GroupCommit(commit, limit=4)
    calls = [asyncio.create_task(gathered.put(item)) for item in range(7)]
    await asyncio.sleep(0)
    calls[2].cancel()
    may_go.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert batches == [4, 3]
    assert [type(answer).__name__ for answer in answers] == [
        *("int", "ValueError", "CancelledError", "ValueError"),
        *("int", "ValueError", "int"),
    ]


def test_ids_of_one_source_rise() -> None:
    source = IdSource()

    ids = [source.new_id() for _ in range(2_000)]

    assert ids == sorted(set(ids))
