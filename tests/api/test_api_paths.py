"""Addresses, methods, headers and the form of every error."""

import asyncio

import httpx2
import pytest
from api_people import JOB, Api, Person, assert_problem, running_api

from fixture_types import MakeUser
from reactorcide.store.database import Database
from runnerlib.spec.job_file_schema import SCHEMA_PATH, job_file_schema

pytest_plugins = ["api_fixtures"]

NOBODY = "01890000-0000-7000-8000-000000000000"
PROTECTED = [
    ("GET", "/api/v1/jobs"),
    ("POST", "/api/v1/jobs"),
    ("GET", f"/api/v1/jobs/{NOBODY}"),
    ("DELETE", f"/api/v1/jobs/{NOBODY}"),
    ("PUT", f"/api/v1/jobs/{NOBODY}/cancel"),
    ("POST", f"/api/v1/jobs/{NOBODY}/cancel"),
    ("POST", f"/api/v1/jobs/{NOBODY}/retry"),
    ("GET", f"/api/v1/jobs/{NOBODY}/events"),
    ("GET", f"/api/v1/jobs/{NOBODY}/why"),
    ("GET", f"/api/v1/jobs/{NOBODY}/logs"),
    ("GET", f"/api/v1/jobs/{NOBODY}/artifacts"),
    ("GET", f"/api/v1/jobs/{NOBODY}/artifacts/{{path}}"),
    ("POST", "/api/v1/trees/missing"),
    ("POST", "/api/v1/trees/blobs"),
    ("PUT", "/api/v1/trees/blobs/{sha256}"),
    ("PUT", "/api/v1/trees/{sha256}"),
    ("GET", "/api/v1/trees/{sha256}"),
    ("POST", "/api/v1/tokens"),
    ("GET", "/api/v1/tokens"),
    ("DELETE", f"/api/v1/tokens/{NOBODY}"),
    ("POST", "/api/v1/users"),
    ("GET", "/api/v1/users"),
    ("PATCH", f"/api/v1/users/{NOBODY}"),
    ("GET", "/api/v1/me"),
    ("GET", "/api/v1/queues"),
    ("GET", "/api/v1/workers"),
    ("GET", "/api/v1/retention"),
    ("GET", "/api/v1/retention/preview"),
    ("GET", "/api/v1/removals"),
    ("GET", "/api/v1/metrics"),
    ("GET", "/metrics"),
]
OPEN = {
    "/api/v1/health",
    "/api/health",
    "/healthz",
    "/readyz",
    "/",
    "/docs",
    "/docs/style.css",
    "/docs/page.js",
}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_api_25_no_spelling_of_an_address_passes_without_a_token(
    api: Api, method: str, path: str
) -> None:
    variants = [
        path,
        "/" + path,
        path + "/",
        path.replace("/api/", "//api//"),
        path.replace("/v1/", "/v1//"),
        path + ";x",
        path.replace("/v1/", "/v1/%2e%2e/v1/"),
        path.replace("/v1/", "/./v1/"),
        path.upper(),
        path.replace("/api", "/%61pi"),
        path + "%2f",
        path + "%00",
        path + "?x=1",
    ]
    for variant in variants:
        answer = await _raw(api, method, variant)
        assert answer in (401, 404, 405), (variant, answer)


async def test_api_25_every_route_but_the_open_ones_asks_for_a_token(api: Api) -> None:
    schema = (await api.http.get("/openapi.json")).json()
    told = {
        (method.upper(), path)
        for path, methods in schema["paths"].items()
        for method in methods
        if path not in OPEN
    }
    tried = {(method, path.replace(NOBODY, "{id}")) for method, path in PROTECTED}

    for method, path in told:
        spelled = path.replace("{job_id}", NOBODY).replace("{token_id}", NOBODY).replace("{user_id}", NOBODY)
        answer = await api.http.request(method, spelled)
        assert_problem(answer, 401, "unauthorized")
    # What is open to workers is tried with every kind of token in `robustness/test_rows_auth.py`.
    assert len({path for path in told if not path[1].startswith("/api/v1/worker/")}) == len(tried)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/jobs", "GET, HEAD, POST"),
        ("PATCH", f"/api/v1/jobs/{NOBODY}", "DELETE, GET, HEAD"),
        ("GET", f"/api/v1/jobs/{NOBODY}/cancel", "POST, PUT"),
        ("DELETE", "/api/v1/me", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("TRACE", "/api/v1/jobs", "GET, HEAD, POST"),
        ("BREW", "/api/v1/jobs", "GET, HEAD, POST"),
    ],
)
async def test_api_25_a_wrong_method_is_405_and_tells_the_right_ones(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await api.http.request(method, path)

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/nothing", "/api", "/api/v1", "/api/v2/jobs", "/api/v1/jobs/", "/.git/config"]
)
async def test_an_unknown_address_is_404(person: Person, path: str) -> None:
    assert_problem(await person.get(path), 404, "not_found")


async def test_head_is_answered_as_get_without_a_body(person: Person) -> None:
    job = await person.submit()
    for path in ("/healthz", "/readyz", "/api/v1/jobs", f"/api/v1/jobs/{job['job_id']}"):
        got, asked = await person.get(path), await person.call("HEAD", path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == got.headers["content-length"]


async def test_headers_of_more_than_32_kib_are_431(api: Api, person: Person) -> None:
    within = await person.get("/api/v1/me", headers={"X-A": "x" * 20_000})
    beyond = await person.get("/api/v1/me", headers={"X-A": "x" * 40_000})
    far_beyond = await api.http.get("/api/v1/me", headers={"X-A": "x" * 200_000})

    assert within.status_code == 200
    assert_problem(beyond, 431, "headers_too_large")
    assert (far_beyond.status_code, far_beyond.json()["error"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_ambiguous_framing_is_refused_and_the_connection_closed(api: Api, request_bytes: bytes) -> None:
    answer = await _exchange(api, request_bytes)

    assert answer.split(b"\r\n")[0].split()[1] in (b"400", b"501")
    assert b'"error":"invalid_input"' in answer


async def test_the_callers_own_request_id_is_kept_if_it_is_sane(api: Api) -> None:
    kept = await api.http.get("/healthz", headers={"X-Request-Id": "deploy-7.a"})
    replaced = await api.http.get("/healthz", headers={"X-Request-Id": "x" * 500})

    assert kept.headers["x-request-id"] == "deploy-7.a"
    assert len(replaced.headers["x-request-id"]) == 16


async def test_api_33_no_error_tells_of_our_inside(api: Api, person: Person, admin: Person) -> None:
    job = await person.submit()
    other = await api.person()
    answers = [
        await person.get("/api/v1/jobs?x=1"),
        await api.http.get("/api/v1/jobs"),
        await other.get(f"/api/v1/jobs/{job['job_id']}"),
        await person.get(f"/api/v1/jobs/{NOBODY}"),
        await person.call("PUT", "/api/v1/jobs"),
        await admin.call("DELETE", f"/api/v1/jobs/{job['job_id']}"),
        await person.post_raw("/api/v1/jobs", b" " * 2_000_000),
        await person.call("POST", "/api/v1/jobs", content=b"{}"),
        await person.get("/api/v1/jobs", headers={"X-A": "x" * 40_000}),
    ]

    assert [answer.status_code for answer in answers] == [400, 401, 403, 404, 405, 409, 413, 415, 431]
    for answer in answers:
        assert_problem(answer, answer.status_code, answer.json()["error"])
        for inside in ("Traceback", "SELECT", "psycopg", "postgres", "/src/", "site-packages", person.token):
            assert inside not in answer.text
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_api_33_a_bug_is_500_without_detail(
    api: Api, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(api.services.overview, "queues", broken)

    answer = await person.get("/api/v1/queues")

    assert_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert (await api.http.get("/healthz")).status_code == 200


async def test_db_08_a_database_out_of_reach_is_503_never_401_or_404(api: Api, person: Person) -> None:
    job = await person.submit()
    await api.database.close()

    answers = [await person.get("/api/v1/me"), await person.get(f"/api/v1/jobs/{job['job_id']}")]
    answers.append(await person.post("/api/v1/jobs", JOB))
    health, ready, alive = [await api.http.get(path) for path in ("/api/v1/health", "/readyz", "/healthz")]

    for answer in answers:
        assert_problem(answer, 503, "service_unavailable")
        assert answer.headers["retry-after"].isdecimal()
    assert (health.status_code, health.json()["status"]) == (503, "UNAVAILABLE")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert ready.json()["checks"]["object_store"] == "ok"
    assert ready.json()["checks"]["database"] != "ok"
    assert alive.status_code == 200


async def test_health_reflects_a_token(api: Api, person: Person) -> None:
    for path in ("/api/v1/health", "/api/health"):
        none = (await api.http.get(path)).json()
        good = (await person.get(path)).json()
        bad = (await api.http.get(path, headers={"Authorization": "Bearer nonsense"})).json()

        assert (
            none == bad == {"status": "OK", "verification": {"verified": False, "user_authenticated": False}}
        )
        assert good["verification"] == {
            "verified": True,
            "user_authenticated": True,
            "user_id": person.user_id,
        }


async def test_metrics_tell_of_requests_by_route_and_of_queues(person: Person, admin: Person) -> None:
    job = await person.submit(queue_name="gpu")
    await person.get(f"/api/v1/jobs/{job['job_id']}")

    text = (await admin.get("/metrics")).text

    assert 'reactorcide_jobs_submitted_total{queue="gpu",source_type="none"} 1.0' in text
    assert 'endpoint="/api/v1/jobs/{job_id}",method="GET",status_code="200"' in text
    assert 'reactorcide_queue_depth{queue="gpu",status="ready"} 1.0' in text
    assert job["job_id"] not in text


async def test_metrics_may_be_public(database: Database, make_user: MakeUser) -> None:
    async with running_api(database, make_user, metrics_public=True) as api:
        assert (await api.http.get("/metrics")).status_code == 200


async def test_the_documentation_needs_no_other_host(api: Api) -> None:
    page = await api.http.get("/docs")
    parts = [await api.http.get(path) for path in ("/docs/style.css", "/docs/page.js", "/openapi.json", "/")]

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text.replace("<!doctype", "")
    assert [part.status_code for part in parts] == [200] * 4
    assert parts[2].json()["openapi"].startswith("3.1")


async def test_editors_find_the_schema_of_job_files_without_a_token(api: Api) -> None:
    answer = await api.http.get(SCHEMA_PATH)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == job_file_schema()
    assert (await api.http.get("/")).json()["job_file"] == SCHEMA_PATH


async def _raw(api: Api, method: str, target: str) -> int:
    """Send a request whose target nobody normalises."""
    answer = await _exchange(
        api, f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    return int(answer.split(b" ", 2)[1])


async def _exchange(api: Api, request: bytes) -> bytes:
    address = httpx2.URL(api.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer
