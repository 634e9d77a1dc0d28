"""Who may do what, and that nothing passes without a token."""

import asyncio
import hashlib
import re
from typing import Any

import httpx2
import pytest
from api_people import JOB, Api, Person, assert_problem, running_api

from fixture_types import MakeUser
from reactorcide.domain.accounts import Role, TokenKind
from reactorcide.store.database import Database

pytest_plugins = ["api_fixtures"]

NOBODY = "01890000-0000-7000-8000-000000000000"
MISSING = "Missing Authorization header"
MALFORMED = "Invalid Authorization header format. Use: Bearer <token>"
INVALID = "Invalid or expired token"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, MISSING),
        ("", MALFORMED),
        ("Basic dTpw", MALFORMED),
        ("Bearer", MALFORMED),
        ("Bearer a b", MALFORMED),
        ("Token abc", MALFORMED),
        ("Bearer tökén".encode("latin-1"), MALFORMED),
        ("Bearer unknown", INVALID),
        ("Bearer " + "x" * 5000, INVALID),
    ],
)
async def test_auth_01_a_missing_or_malformed_credential_is_401(
    api: Api, header: str | bytes | None, message: str
) -> None:
    headers = {} if header is None else {"Authorization": header}

    answer = await api.http.get("/api/v1/jobs", headers=headers)

    assert assert_problem(answer, 401, "unauthorized")["message"] == message
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_auth_01_a_token_of_a_megabyte_is_401(api: Api) -> None:
    answer = await api.http.get("/api/v1/jobs", headers={"Authorization": "Bearer " + "x" * 1024 * 1024})

    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer", "bEaReR"])
async def test_auth_01_the_scheme_may_be_written_in_any_case(person: Person, scheme: str) -> None:
    answer = await person.api.http.get("/api/v1/me", headers={"Authorization": f"{scheme} {person.token}"})

    assert answer.status_code == 200


async def test_auth_01_two_credentials_are_none(person: Person) -> None:
    twice = [("Authorization", f"Bearer {person.token}")] * 2

    answer = await person.api.http.get("/api/v1/me", headers=twice)

    assert_problem(answer, 401, "unauthorized")


async def test_auth_01_a_token_in_the_query_is_not_read(person: Person) -> None:
    answer = await person.api.http.get(
        "/api/v1/me", params={"token": person.token, "access_token": person.token}
    )

    assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_tokens SET expires_at = now() - interval '1 second' WHERE token_id = %(token)s",
        "UPDATE api_tokens SET is_active = false WHERE token_id = %(token)s",
        "DELETE FROM api_tokens WHERE token_id = %(token)s",
        "UPDATE users SET enabled = false WHERE user_id = %(user)s",
        "DELETE FROM users WHERE user_id = %(user)s",
    ],
)
async def test_auth_03_a_token_that_is_no_longer_valid_is_401(person: Person, change: str) -> None:
    before = await person.get("/api/v1/me")

    async with person.api.database.transaction() as tx:
        await tx.execute(change, {"token": person.token, "user": person.user_id})  # type: ignore[arg-type]
    after = await person.get("/api/v1/me")

    assert before.status_code == 200
    assert assert_problem(after, 401, "unauthorized")["message"] == INVALID


async def test_auth_03_a_revoked_token_opens_nothing_from_then_on(admin: Person) -> None:
    minted = (await admin.post("/api/v1/tokens", {"name": "ci"})).json()
    headers = {"Authorization": f"Bearer {minted['token']}"}
    before = await admin.api.http.get("/api/v1/me", headers=headers)

    revoked = await admin.call("DELETE", f"/api/v1/tokens/{minted['token_id']}")
    after = await admin.api.http.get("/api/v1/me", headers=headers)

    assert (before.status_code, revoked.status_code, after.status_code) == (200, 204, 401)


async def test_auth_04_the_database_holds_the_hash_alone(admin: Person) -> None:
    text = (await admin.post("/api/v1/tokens", {"name": "ci"})).json()["token"]

    async with admin.api.database.transaction() as tx:
        rows = await (await tx.execute("SELECT t::text AS row, token_hash FROM api_tokens t")).fetchall()

    assert all(text not in row["row"] for row in rows)
    assert hashlib.sha256(text.encode()).digest() in [row["token_hash"] for row in rows]
    assert re.fullmatch(r"rct_[0-9A-Za-z]{36}", text)


async def test_auth_05_no_answer_shows_a_token_or_a_secret(admin: Person) -> None:
    minted = (await admin.post("/api/v1/tokens", {"name": "ci"})).json()
    job = await admin.submit(
        job_secrets={"KEY": "hunter2hunter2"}, job_env_vars={"DB_PASSWORD": "swordfish9", "A": "b"}
    )

    answers = [
        (await admin.get(path)).text
        for path in (
            "/api/v1/tokens",
            "/api/v1/jobs",
            f"/api/v1/jobs/{job['job_id']}",
            "/api/v1/me",
            "/api/v1/users",
        )
    ]

    for text in answers:
        assert minted["token"] not in text
        assert hashlib.sha256(minted["token"].encode()).hexdigest() not in text
        assert "hunter2" not in text
        assert "swordfish" not in text
    assert job["job_env_vars"] == {"A": "b", "DB_PASSWORD": "[REDACTED]"}
    assert job["job_secrets"] == {"KEY": "[REDACTED]", "DB_PASSWORD": "[REDACTED]"}


async def test_auth_06_only_an_admin_makes_tokens(person: Person) -> None:
    own = await person.post("/api/v1/tokens", {"name": "x"})
    anothers = await person.post("/api/v1/tokens", {"name": "x", "user_id": NOBODY})

    assert_problem(own, 403, "forbidden")
    assert_problem(anothers, 403, "forbidden")


@pytest.mark.parametrize(
    "expires_at",
    ["2020-01-01T00:00:00Z", "2099-01-01T00:00:00", "tomorrow", 4102444800],
)
async def test_auth_06_an_expiry_in_the_past_or_without_a_zone_is_refused(
    admin: Person, expires_at: Any
) -> None:
    answer = await admin.post("/api/v1/tokens", {"name": "x", "expires_at": expires_at})

    assert_problem(answer, 400, "invalid_input")


async def test_an_admin_makes_a_token_for_another(admin: Person, person: Person) -> None:
    body = {"name": "x", "user_id": person.user_id, "expires_at": "2099-01-01T00:00:00+02:00"}

    minted = (await admin.post("/api/v1/tokens", body)).json()
    me = await admin.api.http.get("/api/v1/me", headers={"Authorization": f"Bearer {minted['token']}"})
    listed = (await person.get("/api/v1/tokens")).json()

    assert me.json()["user_id"] == person.user_id
    assert minted["expires_at"] == "2098-12-31T22:00:00Z"
    assert listed["total"] == 2
    assert minted["token_id"] in [token["token_id"] for token in listed["tokens"]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PUT", "/cancel"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
        ("GET", "/logs"),
        ("GET", "/events"),
    ],
)
async def test_auth_07_anothers_job_is_out_of_reach(api: Api, person: Person, method: str, path: str) -> None:
    job = await person.submit(name="mine-alone")
    before = (await person.get(f"/api/v1/jobs/{job['job_id']}")).json()
    other = await api.person()

    answer = await other.call(method, f"/api/v1/jobs/{job['job_id']}{path}")

    assert_problem(answer, 403, "forbidden")
    assert "mine-alone" not in answer.text
    assert (await person.get(f"/api/v1/jobs/{job['job_id']}")).json() == before


async def test_auth_07_a_foreign_and_a_missing_token_look_alike(api: Api, person: Person) -> None:
    other = await api.person()

    foreign = await other.call("DELETE", f"/api/v1/tokens/{person.token}")
    missing = await other.call("DELETE", f"/api/v1/tokens/{NOBODY}")

    for answer in (foreign, missing):
        assert_problem(answer, 404, "not_found")
    assert foreign.json()["message"] == missing.json()["message"]


async def test_auth_09_only_an_admin_deletes_and_only_what_has_ended(person: Person, admin: Person) -> None:
    job = await person.submit()
    address = f"/api/v1/jobs/{job['job_id']}"

    by_owner = await person.call("DELETE", address)
    while_waiting = await admin.call("DELETE", address)
    await person.call("PUT", f"{address}/cancel")
    deleted = await admin.call("DELETE", address)

    assert_problem(by_owner, 403, "forbidden")
    assert assert_problem(while_waiting, 409, "conflict")["job_status"] == job["status"]
    assert deleted.status_code == 204
    assert_problem(await person.get(address), 404, "not_found")


async def test_auth_13_pages_of_other_sites_get_no_permission(api: Api, person: Person) -> None:
    origin = {"Origin": "https://evil.example"}

    read = await person.get("/api/v1/jobs", headers=origin)
    preflight = await api.http.options(
        "/api/v1/jobs", headers=origin | {"Access-Control-Request-Method": "POST"}
    )
    form = await api.http.post("/api/v1/jobs", data=JOB, headers=origin)

    for answer in (read, preflight, form):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert_problem(form, 401, "unauthorized")
    assert await api.count_jobs() == 0


async def test_auth_13_a_listed_origin_may_call_without_credentials(
    database: Database, make_user: MakeUser
) -> None:
    async with running_api(database, make_user, cors_origins=("https://ci.example",)) as api:
        headers = {"Origin": "https://ci.example", "Access-Control-Request-Method": "POST"}
        preflight = await api.http.options("/api/v1/jobs", headers=headers)
        plain = await api.http.get("/api/v1/health", headers={"Origin": "https://ci.example"})
        foreign = await api.http.get("/api/v1/health", headers={"Origin": "https://ci.example.evil"})

    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://ci.example"
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    assert plain.headers["access-control-allow-origin"] == "https://ci.example"
    assert "access-control-allow-credentials" not in plain.headers
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs", "/api/v1/me", "/api/v1/tokens", "/api/v1/workers", "/metrics"]
)
async def test_a_workers_token_opens_no_route_of_users(api: Api, path: str) -> None:
    worker = await api.person(Role.ADMIN, kind=TokenKind.WORKER)

    assert_problem(await worker.get(path), 403, "forbidden")


@pytest.mark.parametrize("path", ["/api/v1/users", "/api/v1/workers", "/metrics", "/api/v1/metrics"])
async def test_what_is_for_admins_is_not_for_others(person: Person, admin: Person, path: str) -> None:
    assert_problem(await person.get(path), 403, "forbidden")
    assert (await admin.get(path)).status_code == 200


async def test_an_admin_keeps_users(admin: Person) -> None:
    made = await admin.post("/api/v1/users", {"username": "ada", "email": "ada@example.org"})
    user_id = made.json()["user_id"]
    changed = await admin.call(
        "PATCH", f"/api/v1/users/{user_id}", json={"roles": ["support"], "enabled": False}
    )
    again = await admin.post("/api/v1/users", {"username": "ada"})
    listed = (await admin.get("/api/v1/users")).json()

    assert made.status_code == 201
    assert made.json()["roles"] == ["user"]
    assert changed.json() | {"roles": ["support"], "enabled": False} == changed.json()
    assert_problem(again, 409, "conflict")
    assert listed["total"] == len(listed["users"])
    assert "ada" in [user["username"] for user in listed["users"]]


@pytest.mark.parametrize(
    "body", [{"username": ""}, {"username": "x", "roles": ["god"]}, {"username": "x", "id": 1}, {}]
)
async def test_a_bad_user_is_refused(admin: Person, body: dict[str, object]) -> None:
    assert_problem(await admin.post("/api/v1/users", body), 400, "invalid_input")


async def test_me_tells_who_and_what(person: Person, admin: Person) -> None:
    me, boss = (await person.get("/api/v1/me")).json(), (await admin.get("/api/v1/me")).json()

    assert (me["user_id"], me["kind"], me["is_admin"], me["roles"]) == (
        person.user_id,
        "user",
        False,
        ["user"],
    )
    assert boss["is_admin"]
    assert "email" not in me


async def test_many_callers_at_once_keep_their_own_identity(api: Api) -> None:
    people = [await api.person() for _ in range(5)]

    answers = await asyncio.gather(*(someone.get("/api/v1/me") for someone in people * 8))

    assert [answer.json()["user_id"] for answer in answers] == [someone.user_id for someone in people] * 8
    assert all(isinstance(answer, httpx2.Response) for answer in answers)
