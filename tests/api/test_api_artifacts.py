"""Artifacts over HTTP: who may have them, in which forms, and that nothing of them is ever shown as ours."""

import hashlib
import io
import os
import tarfile

import pytest
from api_people import Api, Person, artifact_of, assert_problem

from reactorcide.domain.errors import ClaimLost, InvalidInput, TooLarge

pytest_plugins = ["api_fixtures"]

FILES = {
    "dist/größe €.txt": b"seven\n",
    "dist/empty": b"",
    "page.html": b"<script>alert(1)</script>",
    'a "b";c.bin': bytes(range(256)) * 8,
}


async def job_with(api: Api, person: Person, files: dict[str, bytes], **finish: int) -> str:
    job_id: str = (await person.submit())["job_id"]
    started = await api.start_next()
    await api.finish(started, artifacts=len(files), **finish)
    if files:
        await api.leave(started, files)
    return f"/api/v1/jobs/{job_id}/artifacts"


async def test_artifacts_are_listed_by_path_with_size_digest_and_type(api: Api, person: Person) -> None:
    address = await job_with(api, person, FILES, exit_code=1)

    told = (await person.get(address)).json()

    assert told["complete"] is True
    assert [entry["path"] for entry in told["artifacts"]] == sorted(FILES, key=str.encode)
    assert told["artifacts"][-1] == {
        "path": "page.html",
        "size": 25,
        "sha256": hashlib.sha256(FILES["page.html"]).hexdigest(),
        "content_type": "text/html",
    }


async def test_a_list_is_complete_only_when_all_that_was_promised_has_come(api: Api, person: Person) -> None:
    job_id = (await person.submit())["job_id"]
    address = f"/api/v1/jobs/{job_id}/artifacts"
    queued = (await person.get(address)).json()
    started = await api.start_next()
    await api.finish(started, artifacts=2)
    ended = (await person.get(address)).json()
    await api.leave(started, {"only": b"one of two"})

    sealed = (await person.get(address)).json()

    assert queued == ended == {"artifacts": [], "complete": False}
    assert [entry["path"] for entry in sealed["artifacts"]] == ["only"]
    assert sealed["complete"] is False
    assert (await person.get(f"/api/v1/jobs/{job_id}")).json()["artifacts_object_key"]


async def test_a_job_that_left_nothing_is_complete_at_its_end(api: Api, person: Person) -> None:
    address = await job_with(api, person, {})

    assert (await person.get(address)).json() == {"artifacts": [], "complete": True}


@pytest.mark.parametrize("path", FILES)
async def test_an_artifact_is_a_download_of_exactly_its_bytes(api: Api, person: Person, path: str) -> None:
    address = await job_with(api, person, FILES)

    answer = await person.get(f"{address}/{path}")

    assert answer.status_code == 200
    assert answer.content == FILES[path]
    assert answer.headers["content-length"] == str(len(FILES[path]))
    assert answer.headers["etag"] == f'"{hashlib.sha256(FILES[path]).hexdigest()}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert answer.headers["content-disposition"].startswith("attachment; filename=")


async def test_the_name_of_a_download_is_safe_and_whole(api: Api, person: Person) -> None:
    address = await job_with(api, person, FILES)

    told = [
        (await person.get(f"{address}/{path}")).headers["content-disposition"]
        for path in ("dist/größe €.txt", 'a "b";c.bin')
    ]

    assert told == [
        "attachment; filename=\"gr__e _.txt\"; filename*=UTF-8''gr%C3%B6%C3%9Fe%20%E2%82%AC.txt",
        "attachment; filename=\"a _b__c.bin\"; filename*=UTF-8''a%20%22b%22%3Bc.bin",
    ]


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-1", 206, slice(0, 2)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=2040-9999", 206, slice(2040, None)),
        ("bytes=0-0,5-6", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_a_range_of_an_artifact(
    api: Api, person: Person, header: str, status: int, expected: slice
) -> None:
    address = await job_with(api, person, FILES)

    answer = await person.get(f'{address}/a "b";c.bin', headers={"Range": header})

    assert answer.status_code == status
    assert answer.content == FILES['a "b";c.bin'][expected]


async def test_conditions_on_an_artifact(api: Api, person: Person) -> None:
    address = f"{await job_with(api, person, FILES)}/page.html"
    etag = (await person.get(address)).headers["etag"]

    same = await person.get(address, headers={"If-None-Match": f'"x", {etag}'})
    other = await person.get(address, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
    beyond = await person.get(address, headers={"Range": "bytes=25-"})
    head = await person.call("HEAD", address)

    assert (same.status_code, same.content) == (304, b"")
    assert (other.status_code, len(other.content)) == (200, 25)
    assert_problem(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == "bytes */25"
    assert (head.status_code, head.headers["content-length"]) == (200, "25")


@pytest.mark.parametrize("ask", [{"params": {"format": "tar"}}, {"headers": {"Accept": "application/x-tar"}}])
async def test_all_artifacts_come_as_one_tar_of_plain_files(
    api: Api, person: Person, ask: dict[str, dict[str, str]]
) -> None:
    address = await job_with(api, person, FILES)

    answer = await person.get(address, **ask)

    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        members = tar.getmembers()
        found = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert answer.headers["content-type"] == "application/x-tar"
    assert found == FILES
    assert {(member.type, member.mode, member.uid, member.uname) for member in members} == {
        (tarfile.REGTYPE, 0o644, 0, "")
    }


@pytest.mark.parametrize(
    "path", ["none", "dist", "dist/", "../page.html", "..%2Fpage.html", "%ff", "page.html/"]
)
async def test_what_is_no_artifact_is_not_found(api: Api, person: Person, path: str) -> None:
    address = await job_with(api, person, FILES)

    answer = await person.get(f"{address}/{path}")

    assert answer.status_code in (404, 405)


async def test_auth_07_artifacts_are_their_owners_alone(api: Api, person: Person, admin: Person) -> None:
    address = await job_with(api, person, FILES)
    stranger = await api.person()

    for path in (address, f"{address}/page.html", f"{address}?format=tar"):
        assert_problem(await stranger.get(path), 403, "forbidden")
        assert_problem(await api.http.get(path), 401, "unauthorized")
        assert (await admin.get(path)).status_code == 200


async def test_obj_08_no_answer_tells_where_a_store_keeps_its_objects(api: Api, person: Person) -> None:
    address = await job_with(api, person, FILES)

    listed = await person.get(address)

    assert "file:" not in listed.text
    assert os.fspath("/") + "tmp" not in listed.text


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "a/../b", "/a", "a/", "a//b", "a\\b", "a\nb", "a\x7fb", "x" * 256, "d/" * 512 + "x"),
        "\ud800",
    ],
)
async def test_obj_01_no_list_holds_a_path_that_leads_astray(api: Api, person: Person, path: str) -> None:
    await person.submit()
    started = await api.start_next()
    await api.finish(started, artifacts=2)

    with pytest.raises(InvalidInput):
        await api.services.artifacts.seal(started.claim, [artifact_of(path, b"")])


async def test_src_15_no_list_holds_a_path_twice_or_a_file_that_is_a_folder(api: Api, person: Person) -> None:
    await person.submit()
    started = await api.start_next()
    await api.finish(started, artifacts=2)

    for paths in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        with pytest.raises(InvalidInput):
            await api.services.artifacts.seal(started.claim, [artifact_of(path, b"") for path in paths])


async def test_a_content_is_stored_only_if_it_is_what_was_announced(api: Api, person: Person) -> None:
    await person.submit()
    started = await api.start_next()
    await api.finish(started, artifacts=1)
    put, digest = api.services.artifacts.put, hashlib.sha256(b"true").hexdigest()

    for data, size in ((b"lies", 4), (b"tru", 4), (b"true!", 4), (b"true", 5)):
        with pytest.raises(InvalidInput):
            await put(started.claim, digest, size, iter([data]))
    with pytest.raises(TooLarge):
        await put(started.claim, digest, 1024**2 + 1, iter([b"true"]))

    listed = [artifact_of("x", b"true")]
    assert await api.services.artifacts.seal(started.claim, listed) == [digest]
    await put(started.claim, digest, 4, iter([b"true"]))
    await put(started.claim, digest, 4, iter([b"true"]))
    assert await api.services.artifacts.seal(started.claim, listed) == []
    assert await api.services.artifacts.seal(started.claim, listed) == []


async def test_nothing_is_taken_before_the_end_nor_for_an_attempt_that_promised_nothing(
    api: Api, person: Person
) -> None:
    await person.submit()
    started = await api.start_next()
    listed, digest = [artifact_of("x", b"")], hashlib.sha256(b"").hexdigest()

    with pytest.raises(ClaimLost):
        await api.services.artifacts.put(started.claim, digest, 0, iter([]))
    await api.finish(started)
    with pytest.raises(ClaimLost):
        await api.services.artifacts.put(started.claim, digest, 0, iter([]))
    with pytest.raises(ClaimLost):
        await api.services.artifacts.seal(started.claim, listed)


async def test_artifacts_go_with_their_job(api: Api, person: Person, admin: Person) -> None:
    address = await job_with(api, person, FILES)
    job_id = address.split("/")[4]
    store = api.services.artifacts._objects
    assert list(store.list(f"artifacts/{job_id}/"))

    await admin.call("DELETE", f"/api/v1/jobs/{job_id}")
    await api.log_service.purge_due()

    assert not list(store.list(f"artifacts/{job_id}/"))
    assert_problem(await person.get(address), 404, "not_found")
