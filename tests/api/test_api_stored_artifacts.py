"""Artifacts that clients fetch from the object store itself: who is sent there, and when nobody is."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from api_people import Api, Person, assert_problem, running_api

from fakes.s3_faults import Effect, Fault
from fakes.s3_stub import BUCKET, S3Stub
from fixture_types import MakeUser
from reactorcide.domain.accounts import Role
from reactorcide.objects.cloud_s3 import S3Place, open_s3
from reactorcide.objects.credentials import AwsKeys
from reactorcide.services.artifacts import LINK_LIFE
from reactorcide.store.database import Database

FILES = {"dist/größe €.txt": b"seven\n", "empty": b"", "page.html": b"<script>alert(1)</script>"}
PAGE = FILES["page.html"]


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with S3Stub() as made:
        yield made


@pytest.fixture
async def api(database: Database, make_user: MakeUser, stub: S3Stub) -> AsyncIterator[Api]:
    """The API on a bucket that others can fetch from."""
    store = open_s3(S3Place(BUCKET, endpoint=stub.url, keys=AwsKeys("id", "key")), seconds=5)
    async with running_api(database, make_user, objects=store, signer=store) as made:
        yield made


@dataclass
class Left:
    """A job that left files, and its owner."""

    owner: Person
    address: str


@pytest.fixture
async def left(api: Api) -> Left:
    owner = await api.person()
    job_id = (await owner.submit())["job_id"]
    started = await api.start_next()
    await api.finish(started, artifacts=len(FILES))
    await api.leave(started, FILES)
    return Left(owner, f"/api/v1/jobs/{job_id}/artifacts")


async def fetch(answer: httpx2.Response, **headers: str) -> httpx2.Response:
    """Go where an answer sends its client, with no token."""
    assert answer.status_code == 307, answer.text
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.get(answer.headers["Location"], headers=headers)


async def test_a_download_is_sent_to_the_object_store_for_minutes(left: Left) -> None:
    before = datetime.now(UTC).replace(microsecond=0)

    answer = await left.owner.get(f"{left.address}/page.html")

    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert timedelta(seconds=int(query["X-Amz-Expires"][0])) == LINK_LIFE <= timedelta(minutes=10)
    assert before <= signed_at <= datetime.now(UTC)
    assert (answer.content, answer.headers["cache-control"]) == (b"", "no-store")
    assert (await fetch(answer)).content == PAGE
    assert left.owner.token not in answer.headers["Location"]


@pytest.mark.parametrize("path", ["dist/größe €.txt", "page.html"])
async def test_what_the_store_gives_is_to_be_saved_and_never_to_be_shown(left: Left, path: str) -> None:
    found = await fetch(await left.owner.get(f"{left.address}/{path}"))

    assert found.content == FILES[path]
    assert found.headers["content-disposition"].startswith("attachment; filename=")
    assert found.headers["content-type"] == "application/octet-stream"


async def test_a_range_is_had_from_the_store(left: Left) -> None:
    asked = {"Range": "bytes=3-5"}

    found = await fetch(await left.owner.get(f"{left.address}/page.html", headers=asked), **asked)

    assert (found.status_code, found.content) == (206, PAGE[3:6])


async def test_only_owner_and_admins_are_sent_anywhere(api: Api, left: Left, stub: S3Stub) -> None:
    address = f"{left.address}/page.html"
    stranger, admin = await api.person(), await api.person(Role.ADMIN)

    assert_problem(await stranger.get(address), 403, "forbidden")
    assert_problem(await api.http.get(address), 401, "unauthorized")
    assert_problem(await left.owner.get(f"{left.address}/none"), 404, "not_found")
    assert (await fetch(await admin.get(address))).content == PAGE


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("HEAD", "page.html", {}, 200),
        ("GET", "empty", {}, 200),
        ("GET", "page.html", {"Range": "bytes=25-"}, 416),
    ],
)
async def test_what_needs_no_bytes_is_answered_here(
    left: Left, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await left.owner.call(method, f"{left.address}/{path}", headers=headers)

    assert answer.status_code == status
    assert "location" not in answer.headers


async def test_conditions_on_our_etag_are_answered_here(left: Left) -> None:
    address = f"{left.address}/page.html"
    etag = (await left.owner.call("HEAD", address)).headers["etag"]

    same = await left.owner.get(address, headers={"If-None-Match": etag})
    going_on = await left.owner.get(address, headers={"If-Range": etag, "Range": "bytes=3-"})

    assert same.status_code == 304
    assert (going_on.status_code, going_on.content) == (206, PAGE[3:])


async def test_all_of_them_as_a_tar_come_from_here(left: Left) -> None:
    answer = await left.owner.get(left.address, params={"format": "tar"})

    assert answer.status_code == 200
    assert PAGE in answer.content


async def test_sending_a_client_on_asks_the_store_for_nothing_but_the_list(left: Left, stub: S3Stub) -> None:
    await left.owner.get(left.address)
    stub.calls.clear()
    stub.faults.add(Fault(Effect.SLOW_DOWN))

    answer = await left.owner.get(f"{left.address}/page.html")

    assert answer.status_code == 307
    assert stub.calls == {}


async def test_the_schema_declares_where_clients_are_sent(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()

    told = document["paths"]["/api/v1/jobs/{job_id}/artifacts/{path}"]["get"]["responses"]["307"]
    assert set(told["headers"]) == {"Location", "Cache-Control"}
