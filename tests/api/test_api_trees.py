"""Trees over HTTP: what is taken, what is refused, and that digests give nobody another one's contents."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from api_people import Api, Person, assert_problem, pointers

from reactorcide.domain.trees import MAX_PACK_BYTES, Blob, pack_head
from runnerlib.spec.trees import TreeEntry, encode_manifest, name_of

pytest_plugins = ["api_fixtures"]

BYTES = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}
FILES = {"a": b"one", "d/b": b"two", "empty": b"", "same": b"one"}
TREE_BYTES, USER_BYTES = 8 * 1024**2, 16 * 1024**2


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pack_of(*contents: bytes) -> bytes:
    return b"".join(pack_head(Blob(digest_of(data), len(data))) + data for data in contents)


def manifest_of(files: dict[str, bytes]) -> bytes:
    return encode_manifest(TreeEntry(path, "644", len(data), digest_of(data)) for path, data in files.items())


async def missing(person: Person, *contents: bytes) -> list[str]:
    answer = await person.post("/api/v1/trees/missing", {"blobs": [digest_of(data) for data in contents]})
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["missing"]
    return found


async def put_many(person: Person, *contents: bytes) -> int:
    answer = await person.call("POST", "/api/v1/trees/blobs", content=pack_of(*contents), headers=BYTES)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["stored"])


async def put_tree(person: Person, files: dict[str, bytes]) -> str:
    manifest = manifest_of(files)
    await put_many(person, *{*files.values()})
    answer = await person.call("PUT", f"/api/v1/trees/{name_of(manifest)}", content=manifest, headers=JSON)
    assert answer.status_code == 200, answer.text
    return name_of(manifest)


async def test_only_what_is_missing_has_to_come_and_then_a_job_may_run_on_it(person: Person) -> None:
    manifest = manifest_of(FILES)
    address = f"/api/v1/trees/{name_of(manifest)}"

    before = await missing(person, *FILES.values())
    early = await person.call("PUT", address, content=manifest, headers=JSON)
    absent = await person.get(address)
    stored = [await put_many(person, b"one", b""), await put_many(person, b"one", b"two")]
    after = await missing(person, *FILES.values())
    entered = await person.call("PUT", address, content=manifest, headers=JSON)
    again = await person.call("PUT", address, content=manifest, headers=JSON)
    job = await person.submit(source_type="tree", source_tree=name_of(manifest), source_commit="c" * 40)

    assert before == [digest_of(b"one"), digest_of(b"two"), digest_of(b"")]
    assert digest_of(b"one") in assert_problem(early, 409, "conflict")["message"]
    assert_problem(absent, 404, "not_found")
    assert (stored, after) == ([2, 1], [])
    assert entered.json() == again.json() == (await person.get(address)).json()
    assert entered.json() == {"sha256": name_of(manifest), "entries": 4, "size": 9}
    assert (job["source_type"], job["source_tree"], job["source_commit"]) == (
        "tree",
        name_of(manifest),
        "c" * 40,
    )


async def test_auth_06_to_know_a_digest_gives_nothing_of_another_user(api: Api, person: Person) -> None:
    stranger = await api.person()
    tree = await put_tree(person, {"secret": b"another one's file"})
    manifest = manifest_of({"mine": b"another one's file"})

    claimed = await stranger.call("PUT", f"/api/v1/trees/{name_of(manifest)}", content=manifest, headers=JSON)
    submitted = await stranger.post(
        "/api/v1/jobs", {"name": "x", "source_type": "tree", "source_tree": tree, "job_command": "cat *"}
    )

    assert await missing(stranger, b"another one's file") == [digest_of(b"another one's file")]
    assert_problem(claimed, 409, "conflict")
    assert_problem(await stranger.get(f"/api/v1/trees/{tree}"), 404, "not_found")
    assert pointers(assert_problem(submitted, 400, "invalid_input")) == {"/source_tree"}
    assert await missing(person, b"another one's file") == []


async def test_trees_are_for_users_with_a_token(api: Api) -> None:
    for method, path in (
        ("POST", "/missing"),
        ("POST", "/blobs"),
        ("PUT", f"/blobs/{'0' * 64}"),
        ("PUT", f"/{'0' * 64}"),
        ("GET", f"/{'0' * 64}"),
    ):
        assert_problem(await api.http.request(method, f"/api/v1/trees{path}"), 401, "unauthorized")


@pytest.mark.parametrize(
    "pack",
    [
        pack_of(b"one")[:-1],
        pack_of(b"one")[:20],
        b"x",
        pack_head(Blob(digest_of(b"one"), 3)) + b"two",
        pack_head(Blob(digest_of(b"one"), 2**63)) + b"one",
        b"".join(pack_of(str(number).encode()) for number in range(1001)),
    ],
)
async def test_a_pack_that_is_none_is_refused_whole(person: Person, pack: bytes) -> None:
    answer = await person.call("POST", "/api/v1/trees/blobs", content=pack_of(b"good") + pack, headers=BYTES)

    assert_problem(answer, 400, "invalid_input")
    assert await missing(person, b"good") == [digest_of(b"good")]


async def test_a_pack_past_the_limit_is_refused(person: Person) -> None:
    answer = await person.call(
        "POST", "/api/v1/trees/blobs", content=pack_of(bytes(MAX_PACK_BYTES)), headers=BYTES
    )

    assert_problem(answer, 413, "too_large")


async def test_a_large_content_comes_alone_and_may_come_twice(person: Person, api: Api) -> None:
    content = bytes(range(256)) * 16_000
    address = f"/api/v1/trees/blobs/{digest_of(content)}"

    answers = await asyncio.gather(
        *(person.call("PUT", address, content=content, headers=BYTES) for _ in range(3))
    )
    again = await person.call("PUT", address, content=content, headers=BYTES)

    assert {answer.status_code for answer in [*answers, again]} == {204}
    assert await missing(person, content) == []
    assert await put_tree(person, {"large": content})


@pytest.mark.parametrize(
    ("path", "content"), [(digest_of(b"one"), b"two"), (digest_of(b"one"), b"one more"), ("x", b"one")]
)
async def test_a_content_that_is_another_one_is_refused(person: Person, path: str, content: bytes) -> None:
    answer = await person.call("PUT", f"/api/v1/trees/blobs/{path}", content=content, headers=BYTES)

    assert_problem(answer, 400, "invalid_input")
    assert set(await missing(person, b"one", content)) == {digest_of(b"one"), digest_of(content)}


async def test_the_size_of_a_content_must_be_announced(person: Person) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"

    answer = await person.call(
        "PUT", f"/api/v1/trees/blobs/{digest_of(b'one')}", content=pieces(), headers=BYTES
    )

    assert pointers(assert_problem(answer, 400, "invalid_input")) == {"header Content-Length"}


async def test_a_body_of_another_type_is_refused(person: Person) -> None:
    for method, path, headers in (
        ("POST", "/blobs", JSON),
        ("PUT", f"/blobs/{digest_of(b'one')}", JSON),
        ("PUT", f"/{name_of(b'{}')}", BYTES),
    ):
        answer = await person.call(method, f"/api/v1/trees{path}", content=b"one", headers=headers)
        assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        manifest_of(FILES)[:-1],
        encode_manifest([TreeEntry("../a", "644", 3, digest_of(b"one"))]),
        encode_manifest([TreeEntry(".git/config", "644", 3, digest_of(b"one"))]),
        encode_manifest([TreeEntry("a", "link", 0, "/etc/passwd")]),
        encode_manifest([TreeEntry("a", "644", 3, "0" * 64), TreeEntry("b", "644", 4, "0" * 64)]),
    ],
)
async def test_src_15_a_manifest_that_is_no_tree_is_refused(person: Person, manifest: bytes) -> None:
    address = f"/api/v1/trees/{name_of(manifest)}"

    answer = await person.call("PUT", address, content=manifest, headers=JSON)

    assert_problem(answer, 400, "invalid_input")
    assert_problem(await person.get(address), 404, "not_found")


async def test_a_manifest_under_another_name_is_refused(person: Person) -> None:
    answer = await person.call("PUT", f"/api/v1/trees/{'0' * 64}", content=manifest_of(FILES), headers=JSON)

    assert_problem(answer, 400, "invalid_input")


async def test_a_manifest_that_lies_about_a_size_is_refused(person: Person) -> None:
    await put_many(person, b"one")
    manifest = encode_manifest([TreeEntry("a", "644", 1_000_000, digest_of(b"one"))])

    answer = await person.call("PUT", f"/api/v1/trees/{name_of(manifest)}", content=manifest, headers=JSON)

    assert_problem(answer, 409, "conflict")


async def test_what_passes_a_limit_is_refused(person: Person) -> None:
    large = bytes(TREE_BYTES + 1)
    sizes = [TreeEntry(name, "644", TREE_BYTES // 2 + 1, digest_of(name.encode())) for name in "ab"]
    manifest = encode_manifest(sizes)

    content = await person.call(
        "PUT", f"/api/v1/trees/blobs/{digest_of(large)}", content=large, headers=BYTES
    )
    tree = await person.call("PUT", f"/api/v1/trees/{name_of(manifest)}", content=manifest, headers=JSON)
    many = await person.post("/api/v1/trees/missing", {"blobs": ["0" * 64] * 10_001})

    assert_problem(content, 413, "too_large")
    assert_problem(tree, 413, "too_large")
    assert_problem(many, 400, "invalid_input")


async def test_all_of_a_user_together_has_a_limit_and_others_have_their_own(api: Api, person: Person) -> None:
    contents = [bytes([number]) * (TREE_BYTES - 1000) for number in range(3)]

    statuses = []
    for content in contents:
        path = f"/api/v1/trees/blobs/{digest_of(content)}"
        statuses.append((await person.call("PUT", path, content=content, headers=BYTES)).status_code)
    other = await api.person()

    assert statuses == [204, 204, 413]
    assert await missing(person, *contents) == [digest_of(contents[2])]
    assert await put_many(other, contents[2][:1000]) == 1


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"source_type": "tree"}, "/source_tree"),
        ({"source_type": "tree", "source_tree": "x"}, "/source_tree"),
        ({"source_type": "tree", "source_tree": "0" * 64}, "/source_tree"),
        ({"source_type": "none", "source_tree": "0" * 64}, "/source_tree"),
        ({"source_type": "none", "source_commit": "0" * 40}, "/source_commit"),
        ({"source_type": "tree", "source_tree": "0" * 64, "source_commit": "HEAD"}, "/source_commit"),
        ({"source_type": "tree", "source_tree": "0" * 64, "source_changes": -1}, "/source_changes"),
        ({"source_type": "tree", "source_tree": "0" * 64, "git_url": "https://a.org/b"}, "/git_url"),
    ],
)
async def test_a_job_whose_tree_makes_no_sense_is_refused(
    api: Api, person: Person, fields: dict[str, object], pointer: str
) -> None:
    answer = await person.post("/api/v1/jobs", {"name": "x", "job_command": "true"} | fields)

    assert pointer in pointers(assert_problem(answer, 400, "invalid_input"))
    assert await api.count_jobs() == 0


async def test_jobs_on_trees_can_be_listed_and_run_again(person: Person, api: Api) -> None:
    tree = await put_tree(person, FILES)
    job = await person.submit(source_type="tree", source_tree=tree, source_changes=0)
    await api.finish(await api.start_next())

    listed = (await person.get("/api/v1/jobs", params={"source_type": "tree"})).json()["jobs"]
    again = await person.post(f"/api/v1/jobs/{job['job_id']}/retry")

    assert [entry["job_id"] for entry in listed] == [job["job_id"]]
    assert (again.json()["source_tree"], again.json()["source_changes"]) == (tree, 0)
