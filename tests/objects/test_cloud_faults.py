"""What only a store behind a network has to stand: lost answers, wrong bytes, refusals, resets."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator

import pytest

from fakes.fault_proxy import Direction, FaultProxy
from fakes.s3_server import Fault, S3Server
from reactorcide.objects.cloud import CloudObjectStore
from reactorcide.objects.cloud_puts import LARGE_AT_ONCE, PART_BYTES, PartDigest
from reactorcide.objects.cloud_s3 import S3Place, open_s3
from reactorcide.objects.credentials import AwsKeys
from reactorcide.objects.port import (
    ATOMIC_CREATE_BYTES,
    ObjectExists,
    ObjectNotFound,
    ObjectStore,
    StoreRefused,
    StoreUnavailable,
)

LARGE = [os.urandom(1_000_000)] * 20


@pytest.fixture(params=["s3_store", "gcs_store"])
def objects(request: pytest.FixtureRequest) -> ObjectStore:
    store: ObjectStore = request.getfixturevalue(request.param)
    return store


def test_ost_03_other_bytes_than_were_sent_are_put_again(objects: ObjectStore, s3_server: S3Server) -> None:
    s3_server.meet(Fault("PUT", "logs", garbles=True))

    objects.put("logs/a", b"what was sent")

    assert objects.read("logs/a") == b"what was sent"


def test_ost_03_other_bytes_of_a_create_only_put_are_put_again(
    objects: ObjectStore, s3_server: S3Server
) -> None:
    s3_server.meet(Fault("PUT", "logs", garbles=True))

    objects.put("logs/a", b"what was sent", create_only=True)

    assert objects.read("logs/a") == b"what was sent"


@pytest.mark.parametrize("data", [b"what was sent", LARGE], ids=["small", "large"])
def test_ost_03_bytes_that_stay_wrong_do_not_stay(
    objects: ObjectStore, s3_server: S3Server, data: bytes | list[bytes]
) -> None:
    s3_server.meet(Fault("PUT", "logs", times=50, garbles=True))

    with pytest.raises(StoreUnavailable, match="object store"):
        objects.put("logs/a", data)

    assert list(objects.list("")) == []


def test_an_etag_that_is_no_digest_is_seen_through_once_and_then_believed(
    s3_store: CloudObjectStore, s3_server: S3Server
) -> None:
    s3_server.meet(
        Fault("PUT", "logs", times=50, forges_etag=True), Fault("GET", "logs", 50, forges_etag=True)
    )

    for number in range(5):
        s3_store.put(f"logs/{number}", b"content")

    asked = [request.split()[0] for request in s3_server.requests()]
    assert asked == ["PUT", "GET", "PUT", "PUT", "PUT", "PUT"]


def test_one_odd_etag_does_not_end_the_checking(objects: ObjectStore, s3_server: S3Server) -> None:
    objects.put("logs/first", b"content")
    s3_server.meet(Fault("PUT", "odd", forges_etag=True), Fault("PUT", "wrong", garbles=True))

    objects.put("logs/odd", b"content")
    objects.put("logs/wrong", b"content")

    assert objects.read("logs/odd") == objects.read("logs/wrong") == b"content"


def test_a_create_only_put_whose_answer_was_lost_has_won(objects: ObjectStore, s3_server: S3Server) -> None:
    s3_server.meet(Fault("PUT", "logs", status=503, code="SlowDown", is_late=True))

    objects.put("logs/a", b"mine", create_only=True)
    with pytest.raises(ObjectExists):
        objects.put("logs/a", b"mine", create_only=True)

    assert objects.read("logs/a") == b"mine"


@pytest.mark.parametrize("is_new", [False, True])
def test_an_upload_whose_completion_was_not_told_is_complete(
    objects: ObjectStore, s3_server: S3Server, is_new: bool
) -> None:
    s3_server.meet(Fault("POST", "uploadId", status=503, code="SlowDown", is_late=True))

    objects.put("logs/a", iter(LARGE), create_only=is_new)

    assert objects.read("logs/a") == b"".join(LARGE)


def test_a_conflict_over_nothing_is_tried_again(objects: ObjectStore, s3_server: S3Server) -> None:
    s3_server.meet(Fault("PUT", "logs", status=409, code="ConditionalRequestConflict"))

    objects.put("logs/a", b"mine", create_only=True)

    assert objects.read("logs/a") == b"mine"


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE", "POST"])
def test_a_store_that_stumbles_is_asked_again(objects: ObjectStore, s3_server: S3Server, method: str) -> None:
    s3_server.meet(Fault(method, times=2, status=503, code="SlowDown"))

    objects.put("logs/a", iter(LARGE))
    objects.put("logs/b", b"small")
    read, listed = objects.read("logs/a"), [info.key for info in objects.list("logs/")]
    objects.delete_many(["logs/a", "logs/b"])
    objects.delete("logs/c")

    assert read == b"".join(LARGE)
    assert listed == ["logs/a", "logs/b"]
    assert list(objects.list("")) == []


def test_ost_01_a_store_that_goes_on_refusing_is_unavailable_in_time(
    s3_place: S3Place, s3_server: S3Server
) -> None:
    objects = open_s3(s3_place, seconds=1)
    s3_server.meet(*(Fault(method, times=1000, status=503) for method in ("PUT", "GET", "HEAD", "DELETE")))

    for operation in (
        lambda: objects.put("a", b"x"),
        lambda: objects.read("a"),
        lambda: next(objects.stream("a")),
        lambda: objects.size("a"),
        lambda: objects.delete("a"),
        lambda: list(objects.list("")),
    ):
        with pytest.raises(StoreUnavailable):
            operation()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "s3:PutObject"),
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("RequestTimeTooSkewed", "clock"),
        ("NoSuchBucket", "OBJECT_STORE_BUCKET"),
    ],
)
def test_a_refusal_says_what_an_operator_can_do(
    s3_store: CloudObjectStore, s3_server: S3Server, code: str, words: str
) -> None:
    s3_server.meet(Fault("PUT", status=403, code=code))

    with pytest.raises(StoreRefused) as refused:
        s3_store.put("a", b"x")

    assert words in refused.value.detail
    assert "test-secret" not in refused.value.detail


@pytest.mark.parametrize("code", ["NoSuchBucket", ""])
def test_a_missing_bucket_or_another_server_makes_no_object_look_deleted(
    objects: ObjectStore, s3_server: S3Server, code: str
) -> None:
    objects.put("a", b"x")
    s3_server.meet(*(Fault(method, times=50, status=404, code=code) for method in ("GET", "HEAD", "DELETE")))

    for operation in (
        lambda: objects.read("a"),
        lambda: objects.size("a"),
        lambda: next(objects.stream("a")),
        lambda: objects.delete("a"),
    ):
        with pytest.raises(StoreUnavailable):
            operation()


def test_a_key_that_cannot_be_deleted_keeps_no_other_from_it_in_a_bucket(
    gcs_store: CloudObjectStore, s3_server: S3Server
) -> None:
    for number in range(5):
        gcs_store.put(f"logs/{number}", b"x")
    s3_server.meet(Fault("DELETE", "logs/1", times=50, status=404, code="NoSuchKey"))

    gcs_store.delete_many(["logs/none", *(f"logs/{number}" for number in range(5))])

    assert [info.key for info in gcs_store.list("")] == ["logs/1"]


def test_many_are_deleted_by_one_request(s3_store: CloudObjectStore, s3_server: S3Server) -> None:
    keys = [f"logs/{number}" for number in range(30)]
    for key in keys:
        s3_store.put(key, b"x")
    s3_server.meet()

    s3_store.delete_many(keys)

    assert [request.split()[0] for request in s3_server.requests()] == ["POST"]
    assert list(s3_store.list("")) == []


def test_a_service_without_the_request_for_many_is_asked_for_each(
    s3_place: S3Place, s3_server: S3Server
) -> None:
    objects = open_s3(s3_place, seconds=2)
    for number in range(6):
        objects.put(f"logs/{number}", b"x")
    s3_server.meet(Fault("POST", "?delete", times=1000, status=501))

    objects.delete_many(["logs/0", "logs/1", "logs/2"])
    asked_before = len([request for request in s3_server.requests() if request.startswith("POST")])
    objects.delete_many(["logs/3", "logs/4", "logs/5"])

    asked = len([request for request in s3_server.requests() if request.startswith("POST")])
    assert asked == asked_before
    assert list(objects.list("")) == []


def test_no_part_of_a_failed_upload_is_left(objects: ObjectStore, s3_server: S3Server, bucket: str) -> None:
    def failing() -> Iterator[bytes]:
        yield from LARGE
        raise LookupError

    with pytest.raises(LookupError):
        objects.put("a", failing())
    s3_server.meet(Fault("PUT", "partNumber=2", times=50, status=403, code="AccessDenied"))
    with pytest.raises(StoreRefused):
        objects.put("a", iter(LARGE))

    assert s3_server.count_parts_left(bucket) == 0
    assert list(objects.list("")) == []


def test_more_large_uploads_than_memory_is_meant_for_wait_and_are_refused_then(s3_place: S3Place) -> None:
    objects = open_s3(s3_place, seconds=5)
    all_there, go_on = threading.Barrier(LARGE_AT_ONCE + 1), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"x" * (ATOMIC_CREATE_BYTES + 1)
        all_there.wait(30)
        go_on.wait(30)

    threads = [threading.Thread(target=objects.put, args=(f"{n}", pieces())) for n in range(LARGE_AT_ONCE)]
    for thread in threads:
        thread.start()
    all_there.wait(30)

    with pytest.raises(StoreUnavailable):
        objects.put("one more", iter(LARGE))
    objects.put("small", b"is not held up")

    go_on.set()
    for thread in threads:
        thread.join()
    assert len(list(objects.list(""))) == LARGE_AT_ONCE + 1


@pytest.mark.parametrize("sizes", [[1], [PART_BYTES], [PART_BYTES + 1], [3, PART_BYTES - 3, PART_BYTES, 7]])
def test_the_digest_of_parts_is_that_of_their_digests(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    whole = b"".join(pieces)
    parts = [hashlib.md5(whole[at : at + PART_BYTES]).digest() for at in range(0, len(whole), PART_BYTES)]

    digest = PartDigest()
    for piece in pieces:
        digest.feed(piece)

    assert digest.hexdigest == f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    assert digest.size == len(whole)


def behind(proxy: FaultProxy, bucket: str, *, seconds: float = 10) -> CloudObjectStore:
    keys = AwsKeys("test-id", "test-secret")
    return open_s3(S3Place(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", keys=keys), seconds=seconds)


def server_address(server: S3Server) -> tuple[str, int]:
    host, _, port = server.s3_url.removeprefix("http://").partition(":")
    return host, int(port)


async def test_ost_03_an_upload_that_is_reset_midway_is_made_again(s3_server: S3Server, bucket: str) -> None:
    async with FaultProxy(server_address(s3_server)) as proxy:
        objects = behind(proxy, bucket)
        small = os.urandom(300_000)

        proxy.cut_after(Direction.TO_SERVER, 100_000)
        await asyncio.to_thread(objects.put, "created", small, create_only=True)
        proxy.cut_after(Direction.TO_SERVER, 400_000)
        await asyncio.to_thread(objects.put, "small", small)
        proxy.cut_after(Direction.TO_SERVER, 5_000_000, times=2)
        await asyncio.to_thread(objects.put, "large", iter(LARGE))

        assert await asyncio.to_thread(objects.read, "created") == small
        assert await asyncio.to_thread(objects.read, "small") == small
        assert await asyncio.to_thread(objects.read, "large") == b"".join(LARGE)


async def test_answers_that_are_lost_are_asked_for_again(s3_server: S3Server, bucket: str) -> None:
    async with FaultProxy(server_address(s3_server)) as proxy:
        objects = behind(proxy, bucket)

        def lose_answers() -> None:
            proxy.cut()
            proxy.cut_after(Direction.TO_CLIENT, 0, times=2)

        lose_answers()
        await asyncio.to_thread(objects.put, "a", b"mine", create_only=True)
        lose_answers()
        await asyncio.to_thread(objects.put, "b", b"b")
        lose_answers()
        sizes = [await asyncio.to_thread(objects.size, key) for key in ("a", "b")]
        lose_answers()
        listed = await asyncio.to_thread(lambda: [info.key for info in objects.list("")])
        lose_answers()
        await asyncio.to_thread(objects.delete_many, ["a", "b"])
        lose_answers()
        await asyncio.to_thread(objects.delete, "c")

        assert (sizes, listed) == ([4, 1], ["a", "b"])
        assert await asyncio.to_thread(lambda: [*objects.list("")]) == []


async def test_a_reading_that_breaks_off_is_taken_up_where_it_was(
    s3_server: S3Server, s3_store: CloudObjectStore, bucket: str
) -> None:
    s3_store.put("large", iter(LARGE))
    async with FaultProxy(server_address(s3_server)) as proxy:
        objects = behind(proxy, bucket)
        proxy.cut_after(Direction.TO_CLIENT, 6_000_000, times=3)

        pieces = await asyncio.to_thread(lambda: [*objects.stream("large", start=5)])

        assert b"".join(pieces) == b"".join(LARGE)[5:]
        assert max(map(len, pieces)) <= 1024 * 1024


@pytest.mark.parametrize("change", ["replaced", "deleted"])
async def test_a_reading_is_of_one_version_of_the_object(
    s3_server: S3Server, s3_store: CloudObjectStore, bucket: str, change: str
) -> None:
    s3_store.put("large", iter(LARGE))
    async with FaultProxy(server_address(s3_server)) as proxy:
        pieces = behind(proxy, bucket).stream("large")
        await asyncio.to_thread(next, pieces)
        s3_store.put("large", b"another one") if change == "replaced" else s3_store.delete("large")
        proxy.cut()

        with pytest.raises(StoreUnavailable) as broken:
            await asyncio.to_thread(lambda: [*pieces])

        assert change in broken.value.detail


async def test_a_store_that_says_nothing_is_unavailable_in_time(s3_server: S3Server, bucket: str) -> None:
    async with FaultProxy(server_address(s3_server)) as proxy:
        objects = behind(proxy, bucket, seconds=1)
        proxy.swallow()

        for operation in (
            lambda: objects.put("a", b"x"),
            lambda: objects.put("a", iter(LARGE)),
            lambda: objects.read("a"),
            lambda: objects.size("a"),
            lambda: objects.delete_many(["a", "b"]),
            lambda: list(objects.list("")),
        ):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(asyncio.to_thread(operation), 30)


async def test_ost_02_a_trickle_is_not_waited_for_without_end(
    s3_server: S3Server, s3_store: CloudObjectStore, bucket: str
) -> None:
    s3_store.put("a", os.urandom(2_000_000))
    async with FaultProxy(server_address(s3_server)) as proxy:
        objects = behind(proxy, bucket, seconds=1)
        proxy.delay_seconds = 0.4

        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(asyncio.to_thread(objects.read, "a"), 30)


async def test_nobody_listening_is_unavailable_and_not_missing(s3_server: S3Server, bucket: str) -> None:
    async with FaultProxy(server_address(s3_server)) as proxy:
        objects = behind(proxy, bucket, seconds=1)
        await asyncio.to_thread(objects.put, "a", b"x")
        proxy.refuse()

        with pytest.raises(StoreUnavailable) as refused:
            await asyncio.to_thread(objects.size, "a")
        await proxy.heal()

        assert "Connection refused" in refused.value.detail
        assert await asyncio.to_thread(objects.read, "a") == b"x"
        with pytest.raises(ObjectNotFound):
            await asyncio.to_thread(objects.size, "b")
