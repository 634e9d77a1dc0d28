"""A bucket that misbehaves: each call ends exact or with the port's error, soon, and leaves nothing half."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import repeat

import pytest

from fakes.s3_faults import DELETES, UPLOADS, Effect, Fault, Operation
from fakes.s3_stub import BUCKET, S3Stub
from reactorcide.objects.cloud_s3 import S3Place, open_s3
from reactorcide.objects.credentials import AwsKeys
from reactorcide.objects.port import ObjectExists, ObjectStore, StoreRefused, StoreUnavailable

SECONDS = 2.0
"""A call may take so long (OBJECT_STORE_SECONDS)."""
BOUND_SECONDS = 5 * SECONDS + 10
"""No call takes longer even on a machine that does much else."""
LARGE = os.urandom(9 * 1024 * 1024)
MOST = frozenset(Operation) - {Operation.ABORT_UPLOAD}
PARTS = {Operation.PUT_PART}

Put = Callable[[ObjectStore, str], bytes]


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with S3Stub(page_size=10) as made:
        yield made


@pytest.fixture
def objects(stub: S3Stub) -> ObjectStore:
    return open_s3(S3Place(BUCKET, endpoint=stub.url, keys=AwsKeys("id", "key")), seconds=SECONDS)


def put_small(objects: ObjectStore, key: str) -> bytes:
    objects.put(key, b"small" * 1000)
    return b"small" * 1000


def put_new(objects: ObjectStore, key: str) -> bytes:
    objects.put(key, b"new" * 1000, create_only=True)
    return b"new" * 1000


def put_large(objects: ObjectStore, key: str) -> bytes:
    objects.put(key, iter([LARGE, LARGE]))
    return LARGE * 2


def put_large_new(objects: ObjectStore, key: str) -> bytes:
    objects.put(key, iter([LARGE, LARGE]), create_only=True)
    return LARGE * 2


PUTS: tuple[Put, ...] = (put_small, put_new, put_large, put_large_new)
PASSING = (
    Fault(Effect.SLOW_DOWN, times=2),
    Fault(Effect.BREAK, times=2),
    Fault(Effect.RESET_UPLOAD, UPLOADS, times=2, amount=100),
    Fault(Effect.RESET_UPLOAD, UPLOADS, times=1, amount=2**30),
    Fault(Effect.LOSE_ANSWER, UPLOADS, times=1),
    Fault(Effect.DELAY, times=1, amount=SECONDS / 4),
)
LASTING = (
    Fault(Effect.SLOW_DOWN, MOST),
    Fault(Effect.BREAK, MOST),
    Fault(Effect.DENY, MOST),
    Fault(Effect.RESET_UPLOAD, UPLOADS, amount=100),
    Fault(Effect.DELAY, UPLOADS, amount=60),
    Fault(Effect.PACE_UPLOAD, UPLOADS, amount=1000),
)


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.effect}-{fault.amount:g}")
def test_ost_03_a_put_that_meets_a_passing_fault_ends_exact(
    stub: S3Stub, objects: ObjectStore, put: Put, fault: Fault
) -> None:
    stub.faults.add(fault)

    data = put(objects, "logs/x")

    assert stub.content("logs/x") == data
    assert stub.open_uploads() == {}


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.effect)
def test_a_put_that_meets_a_lasting_fault_fails_soon_and_leaves_nothing(
    stub: S3Stub, objects: ObjectStore, put: Put, fault: Fault
) -> None:
    stub.faults.add(fault)
    begun = time.monotonic()

    with pytest.raises(StoreUnavailable):
        put(objects, "logs/x")

    assert time.monotonic() - begun < BOUND_SECONDS
    assert stub.keys() == {}
    assert stub.open_uploads() == {}


@pytest.mark.parametrize("put", [put_small, put_large])
def test_a_failed_put_leaves_what_was_there(stub: S3Stub, objects: ObjectStore, put: Put) -> None:
    objects.put("logs/x", b"old")
    stub.faults.add(Fault(Effect.SLOW_DOWN, MOST - {Operation.CREATE_UPLOAD}))

    with pytest.raises(StoreUnavailable):
        put(objects, "logs/x")

    stub.faults.heal()
    assert objects.read("logs/x") == b"old"
    assert stub.open_uploads() == {}


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("times", [1, 2])
def test_ost_03_bytes_that_are_answered_with_another_etag_are_put_again(
    stub: S3Stub, objects: ObjectStore, put: Put, times: int
) -> None:
    stub.faults.add(Fault(Effect.CORRUPT, UPLOADS, times=times))

    try:
        data = put(objects, "logs/x")
    except StoreUnavailable:
        # Pieces that were taken cannot be taken again: whoever has them puts them once more.
        assert put in (put_large, put_large_new)
        assert stub.keys() == {}
        stub.faults.heal()
        data = put(objects, "logs/x")

    assert stub.content("logs/x") == data


@pytest.mark.parametrize("put", PUTS)
def test_a_bucket_that_keeps_other_bytes_each_time_is_an_error_and_none_are_found(
    stub: S3Stub, objects: ObjectStore, put: Put
) -> None:
    stub.faults.add(Fault(Effect.CORRUPT, UPLOADS))

    with pytest.raises(StoreUnavailable):
        put(objects, "logs/x")

    assert stub.keys() == {}
    assert stub.open_uploads() == {}


def test_a_create_only_put_whose_answer_was_lost_is_no_conflict_with_itself(
    stub: S3Stub, objects: ObjectStore
) -> None:
    stub.faults.add(Fault(Effect.LOSE_ANSWER, {Operation.PUT}, times=1))

    objects.put("a", b"mine", create_only=True)
    with pytest.raises(ObjectExists):
        objects.put("a", b"mine", create_only=True)

    assert stub.content("a") == b"mine"


def test_pieces_that_break_off_abort_their_upload(stub: S3Stub, objects: ObjectStore) -> None:
    def pieces() -> Iterator[bytes]:
        yield LARGE
        yield LARGE
        raise OSError("the file this is read from is gone")

    with pytest.raises(OSError, match="is gone"):
        objects.put("a", pieces())

    assert stub.keys() == {}
    assert stub.open_uploads() == {}


def test_a_failed_put_lets_go_of_its_bytes_at_once(stub: S3Stub, objects: ObjectStore) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (LARGE, LARGE)

    stub.faults.add(Fault(Effect.SLOW_DOWN, PARTS))
    given = pieces()
    held = weakref.ref(given)
    gc.collect()
    gc.disable()

    try:
        with pytest.raises(StoreUnavailable):
            objects.put("a", given)
        del given
        assert held() is None
    finally:
        gc.enable()


def test_a_store_that_is_gone_is_unavailable_soon_and_used_again_once_it_is_back(
    stub: S3Stub, objects: ObjectStore
) -> None:
    objects.put("a", b"1")
    stub.stop()
    begun = time.monotonic()

    for call in (
        lambda: objects.put("b", b"2"),
        lambda: objects.read("a"),
        lambda: objects.size("a"),
        lambda: next(objects.stream("a")),
        lambda: next(objects.list("")),
        lambda: objects.delete("a"),
        lambda: objects.delete_many(["a", "b"]),
    ):
        with pytest.raises(StoreUnavailable):
            call()

    assert time.monotonic() - begun < 7 * BOUND_SECONDS
    stub.start()
    assert objects.read("a") == b"1"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Effect.SLOW_DOWN, times=2),
        Fault(Effect.RESET_DOWNLOAD, times=2, amount=1_000_000),
        Fault(Effect.DELAY, times=1, amount=SECONDS / 4),
    ],
    ids=lambda fault: fault.effect,
)
def test_a_reading_that_breaks_off_goes_on_where_it_was(
    stub: S3Stub, objects: ObjectStore, fault: Fault
) -> None:
    objects.put("a", LARGE)
    stub.faults.add(fault)

    whole = objects.read("a")
    stub.faults.add(fault)
    part = b"".join(objects.stream("a", start=7, length=5_000_000))

    assert whole == LARGE
    assert part == LARGE[7:5_000_007]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Effect.SLOW_DOWN),
        Fault(Effect.RESET_DOWNLOAD, amount=0),
        Fault(Effect.DELAY, amount=60),
        Fault(Effect.PACE_DOWNLOAD, amount=1000),
        Fault(Effect.DENY),
    ],
    ids=lambda fault: fault.effect,
)
def test_a_read_that_cannot_end_fails_soon_and_is_never_short(
    stub: S3Stub, objects: ObjectStore, fault: Fault
) -> None:
    objects.put("a", LARGE)
    stub.faults.add(fault)
    begun = time.monotonic()

    with pytest.raises(StoreUnavailable):
        objects.read("a")

    assert time.monotonic() - begun < BOUND_SECONDS


def test_a_stream_whose_object_is_replaced_midway_never_goes_on_with_the_other(
    stub: S3Stub, objects: ObjectStore
) -> None:
    objects.put("a", LARGE)
    stub.faults.add(Fault(Effect.RESET_DOWNLOAD, times=1, amount=3_000_000))
    stream = objects.stream("a")
    first = next(stream)

    objects.put("a", LARGE[::-1])
    came = [first]
    with pytest.raises(StoreUnavailable):
        came.extend(stream)

    assert b"".join(came) == LARGE[: sum(map(len, came))]


@pytest.mark.parametrize("effect", [Effect.SLOW_DOWN, Effect.BREAK])
def test_a_list_that_meets_a_passing_fault_is_whole(
    stub: S3Stub, objects: ObjectStore, effect: Effect
) -> None:
    keys = [f"logs/{number:03}" for number in range(35)]
    for key in keys:
        objects.put(key, b"x")
    stub.faults.add(Fault(effect, {Operation.LIST}, times=2))

    assert [info.key for info in objects.list("logs/")] == keys


@pytest.mark.parametrize("effect", [Effect.SLOW_DOWN, Effect.DENY, Effect.DELAY, Effect.RESET_DOWNLOAD])
def test_a_list_that_cannot_end_is_an_error_and_never_short(
    stub: S3Stub, objects: ObjectStore, effect: Effect
) -> None:
    for number in range(5):
        objects.put(f"logs/{number}", b"x")
    stub.faults.add(Fault(effect, {Operation.LIST}, amount=60))

    with pytest.raises(StoreUnavailable):
        list(objects.list("logs/"))


@pytest.mark.parametrize("effect", [Effect.SLOW_DOWN, Effect.BREAK, Effect.DENY, Effect.DELAY])
def test_ost_04_a_delete_that_fails_says_so_and_may_be_made_again(
    stub: S3Stub, objects: ObjectStore, effect: Effect
) -> None:
    for key in ("a", "b", "c"):
        objects.put(key, b"x")
    stub.faults.add(Fault(effect, DELETES, amount=60))

    with pytest.raises(StoreUnavailable):
        objects.delete("a")
    with pytest.raises(StoreUnavailable):
        objects.delete_many(["b", "c"])
    assert set(stub.keys()) == {"a", "b", "c"}
    stub.faults.heal()
    objects.delete("a")
    objects.delete_many(["a", "b", "c"])

    assert stub.keys() == {}


def test_ost_04_a_key_that_cannot_be_deleted_keeps_no_other(stub: S3Stub, objects: ObjectStore) -> None:
    keys = [f"logs/{number:03}" for number in range(25)]
    for key in keys:
        objects.put(key, b"x")
    stub.faults.add(Fault(Effect.BREAK, DELETES, keys="logs/01[37]"))

    with pytest.raises(StoreUnavailable):
        objects.delete_many(keys)

    assert set(stub.keys()) == {"logs/013", "logs/017"}


def test_what_is_refused_is_told_apart_from_what_passes_and_not_tried_again(
    stub: S3Stub, objects: ObjectStore
) -> None:
    stub.faults.add(Fault(Effect.DENY))

    with pytest.raises(StoreRefused) as refused:
        objects.put("a", b"x")

    assert "s3:PutObject" in refused.value.detail
    assert stub.calls[Operation.PUT] == 1


def test_many_puts_at_once_into_a_slow_store_all_end_in_time(stub: S3Stub, objects: ObjectStore) -> None:
    stub.faults.add(Fault(Effect.PACE_UPLOAD, UPLOADS, amount=1000))
    ends: list[str] = []

    def put(number: int) -> None:
        try:
            objects.put(f"logs/{number}", b"x" * 100_000)
        except StoreUnavailable:
            ends.append("unavailable")

    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ends == [*repeat("unavailable", 16)]
    assert time.monotonic() - begun < BOUND_SECONDS
    assert stub.keys() == {}
