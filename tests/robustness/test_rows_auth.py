"""Rows AUTH-15 and AUTH-16: worker and user tokens do not mix, and no worker acts for another."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from api.api_people import Api, running_api
from fixture_types import MakeUser
from reactorcide.domain.accounts import Role, TokenKind
from reactorcide.store.database import Database
from robustness.remote_worker import WORKER, RemoteWorker, acts_on
from runnerlib.spec.job_file_schema import SCHEMA_PATH

OPEN = (
    *("/", "/healthz", "/readyz", "/api/health", "/api/v1/health"),
    *("/openapi.json", "/docs", "/redoc", SCHEMA_PATH),
)
"""Routes that ask for no token; every other one must refuse the wrong kind."""


@pytest.fixture
async def api(database: Database, make_user: MakeUser) -> AsyncIterator[Api]:
    async with running_api(database, make_user) as made:
        yield made


async def _state(database: Database) -> list[object]:
    """All there is of the jobs, and of the worker that holds one, to be compared."""
    tables = ("jobs", "attempts", "job_events", "workers WHERE name = 'b'")
    return [
        await database.read(f"SELECT to_jsonb(t) AS row FROM (SELECT * FROM {table}) t ORDER BY 1::text")
        for table in tables
    ]


def _routes(api: Api) -> list[tuple[str, str]]:
    found = []
    for route in iter_route_contexts(api.server._app.routes):
        if route.path is not None and route.path not in OPEN and not route.path.startswith("/docs/"):
            found += [(method, route.path) for method in sorted(route.methods or ()) if method != "HEAD"]
    assert len(found) > 20
    return found


def _filled(path: str) -> str:
    return "/".join(str(uuid.uuid4()) if part.startswith("{") else part for part in path.split("/"))


async def test_auth_15_every_route_refuses_the_token_of_the_other_kind(api: Api) -> None:
    user, admin = await api.person(), await api.person(Role.ADMIN)
    workers = [await api.person(kind=TokenKind.WORKER), await api.person(Role.ADMIN, kind=TokenKind.WORKER)]
    wrong: list[tuple[str, str, int]] = []
    tried = 0
    for method, path in _routes(api):
        callers = [user, admin] if path.startswith(f"{WORKER}/") else workers
        for caller in callers:
            body: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": {}}
            answer = await caller.call(method, _filled(path), **body)
            tried += 1
            if answer.status_code != 403:
                wrong.append((method, path, answer.status_code))

    assert wrong == []
    assert tried >= 2 * 20
    assert [path for _, path in _routes(api) if path.startswith(f"{WORKER}/")]


@pytest.mark.parametrize("stage", ["claimed", "running"])
async def test_auth_16_a_worker_with_anothers_job_and_lease_changes_nothing(
    api: Api, database: Database, stage: str
) -> None:
    owner = await api.person()
    await owner.submit(job_secrets={"KEY": "a-secret-of-the-job"})
    victim, thief = await RemoteWorker.registered(api, "b"), await RemoteWorker.registered(api, "a")
    claim = await victim.take()
    if stage == "running":
        assert (await victim.call("start", claim=claim)).status_code == 200
    before = await _state(database)
    forgeries: list[dict[str, Any]] = [
        {},
        {"worker_id": victim.worker_id},
        {"worker_id": victim.worker_id, "boot_id": victim.boot_id},
    ]

    for forgery in forgeries:
        for what, fields in acts_on(claim).items():
            if not forgery and what in ("orders", "claim", "deregister"):
                continue  # those are its own affair
            answer = await thief.call(what, **{**fields, **forgery})
            assert "a-secret-of-the-job" not in answer.text
            if what == "heartbeat" and not forgery:
                assert [order["order"] for order in answer.json()["orders"]] == ["abandon"]
            elif what == "release" and not forgery:
                assert answer.status_code in (204, 409), (what, answer.text)
            else:
                assert answer.status_code in (403, 404, 409), (forgery, what, answer.text)
    taken_over = await thief.register("b", boot_id=str(uuid.uuid4()))
    spooled = await thief.register("a", spooled=[claim])

    assert (taken_over.status_code, spooled.status_code) == (403, 200)
    assert await _state(database) == before
    if stage == "claimed":
        assert (await victim.call("start", claim=claim)).status_code == 200
    done = await victim.call("finish", **acts_on(claim)["finish"])
    assert done.status_code == 204, done.text


async def test_auth_16_what_a_worker_must_not_see_is_answered_alike_for_what_is_not_there(api: Api) -> None:
    owner = await api.person()
    await owner.submit()
    victim, thief = await RemoteWorker.registered(api, "b"), await RemoteWorker.registered(api, "a")
    claim = await victim.take()
    absent = {"job_id": str(uuid.uuid4()), "attempt": 1, "lease_id": str(uuid.uuid4())}

    for what in ("start", "log", "finish", "release"):
        answers = [await thief.call(what, **acts_on(named)[what]) for named in (claim, absent)]
        seen = [
            {
                name: value
                for name, value in (answer.json() if answer.content else {}).items()
                if name not in ("request_id", "message", "detail")
            }
            for answer in answers
        ]
        assert answers[0].status_code == answers[1].status_code, what
        assert seen[0] == seen[1], what


async def test_auth_16_a_worker_whose_token_was_revoked_is_out_at_once(api: Api) -> None:
    admin, owner = await api.person(Role.ADMIN), await api.person()
    await owner.submit()
    worker = await RemoteWorker.registered(api, "b")
    claim = await worker.take()

    revoked = await admin.call("DELETE", f"/api/v1/tokens/{worker.person.token}")

    assert revoked.status_code == 204
    for what, fields in acts_on(claim).items():
        assert (await worker.call(what, **fields)).status_code == 401, what
