"""What every object store keeps; a backend's test supplies the fixture ``objects``."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reactorcide.objects.port import InvalidKey, ObjectExists, ObjectInfo, ObjectNotFound, ObjectStore

BAD_KEYS = {
    "empty": "",
    "dot": ".",
    "dot dot": "..",
    "inner dot dot": "logs/../secret",
    "inner dot": "logs/./a",
    "inner empty": "logs//a",
    "leading slash": "/logs/a",
    "trailing slash": "logs/",
    "backslash": "logs\\a",
    "nul": "logs/a\0b",
    "newline": "logs/a\nb",
    "delete": "logs/a\x7f",
    "c1 control": "logs/a\x85",
    "lone surrogate": "logs/\udc80",
    "1025 bytes": "/".join(["a" * 204] * 5) + "b",
    "component of 256 bytes": "logs/" + "a" * 256,
    "component of 256 bytes, 128 characters": "logs/" + "é" * 128,
}
GOOD_KEYS = [
    "a",
    "v1..v2.log",
    "...",
    ".hidden",
    "logs/a b/ü.log",
    "a" * 255,
    "/".join(["a" * 204] * 5),
    "data/partial",
]


class ObjectStoreContract:
    """The promises of `reactorcide.objects.port.ObjectStore`."""

    @pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
    def test_obj_01_every_operation_refuses_a_bad_key(self, objects: ObjectStore, key: str) -> None:
        for operation in (
            lambda: objects.put(key, b"x"),
            lambda: objects.put(key, b"x", create_only=True),
            lambda: objects.read(key),
            lambda: next(objects.stream(key)),
            lambda: objects.size(key),
            lambda: objects.delete(key),
            lambda: objects.delete_many([key]),
        ):
            with pytest.raises(InvalidKey):
                operation()

        assert list(objects.list("")) == []

    @pytest.mark.parametrize("key", GOOD_KEYS)
    def test_obj_01_a_legal_key_is_kept_as_it_is(self, objects: ObjectStore, key: str) -> None:
        objects.put(key, b"x")

        assert list(objects.list("")) == [ObjectInfo(key, 1)]
        assert objects.read(key) == b"x"

    @pytest.mark.parametrize("prefix", ["logs", "/", "../", "logs//", "a\\/"])
    def test_obj_01_a_list_refuses_a_bad_prefix(self, objects: ObjectStore, prefix: str) -> None:
        with pytest.raises(InvalidKey):
            objects.list(prefix)

    def test_what_was_put_is_read_back(self, objects: ObjectStore) -> None:
        data = bytes(range(256)) * 9_000

        stored = objects.put("logs/a", data)

        assert stored == len(data)
        assert objects.size("logs/a") == len(data)
        assert objects.read("logs/a") == data
        assert b"".join(objects.stream("logs/a")) == data

    def test_an_empty_object_is_an_object(self, objects: ObjectStore) -> None:
        objects.put("logs/empty", b"")

        assert objects.read("logs/empty") == b""
        assert list(objects.stream("logs/empty")) == []
        assert list(objects.list("logs/")) == [ObjectInfo("logs/empty", 0)]

    def test_a_put_replaces_the_whole_object(self, objects: ObjectStore) -> None:
        objects.put("a", b"a long first version")

        objects.put("a", b"second")

        assert objects.read("a") == b"second"

    def test_an_iterable_is_stored_in_order(self, objects: ObjectStore) -> None:
        stored = objects.put("a", (bytes([n]) * 1000 for n in range(200)))

        assert stored == 200_000
        assert objects.read("a") == b"".join(bytes([n]) * 1000 for n in range(200))

    def test_an_iterable_that_fails_midway_leaves_what_was_there(self, objects: ObjectStore) -> None:
        def failing() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise OSError("the disk this is read from broke")

        objects.put("old", b"old")

        for key in ("old", "new"):
            with pytest.raises(OSError, match="the disk this is read from broke"):
                objects.put(key, failing())

        assert list(objects.list("")) == [ObjectInfo("old", 3)]
        assert objects.read("old") == b"old"

    def test_a_large_iterable_is_stored_whole_or_not_at_all(self, objects: ObjectStore) -> None:
        blocks = [os.urandom(700_001) for _ in range(30)]

        def failing() -> Iterator[bytes]:
            yield from blocks
            raise LookupError("the end is missing")

        stored = objects.put("large", iter(blocks))
        with pytest.raises(LookupError, match="the end is missing"):
            objects.put("large", failing())
        with pytest.raises(LookupError, match="the end is missing"):
            objects.put("new", failing(), create_only=True)

        assert stored == objects.size("large") == 21_000_030
        assert objects.read("large") == b"".join(blocks)
        assert [info.key for info in objects.list("")] == ["large"]

    def test_what_is_put_may_come_out_of_the_same_store(self, objects: ObjectStore) -> None:
        pieces = {f"pieces/{number}": os.urandom(1_000_000) for number in range(20)}
        for key, piece in pieces.items():
            objects.put(key, piece)

        objects.put("whole", (objects.read(key) for key in pieces))

        assert objects.read("whole") == b"".join(pieces.values())

    @pytest.mark.parametrize("size", [3_000, 20_000_000])
    def test_a_create_only_iterable_does_not_replace(self, objects: ObjectStore, size: int) -> None:
        def pieces(content: bytes) -> Iterator[bytes]:
            for _ in range(0, size, 1_000):
                yield content * 1_000

        def overtaken() -> Iterator[bytes]:
            yield from pieces(b"2")
            objects.put("b", b"first")

        stored = objects.put("a", pieces(b"1"), create_only=True)
        with pytest.raises(ObjectExists):
            objects.put("a", pieces(b"2"), create_only=True)
        with pytest.raises(ObjectExists):
            objects.put("b", overtaken(), create_only=True)

        assert stored == size
        assert objects.read("a") == b"1" * size
        assert objects.read("b") == b"first"

    def test_reading_a_missing_key_raises_object_not_found(self, objects: ObjectStore) -> None:
        objects.put("logs/one/two", b"x")

        for key in ("logs/none", "logs/one", "none/at/all", "logs/one/two/three"):
            with pytest.raises(ObjectNotFound):
                objects.read(key)
            with pytest.raises(ObjectNotFound):
                next(objects.stream(key))
            with pytest.raises(ObjectNotFound):
                objects.size(key)

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (3, 4, b"3456"),
            (3, 0, b""),
            (3, 100, b"3456789"),
            (10, None, b""),
            (10, 5, b""),
            (1_000_000, 5, b""),
        ],
    )
    def test_a_range_is_what_lies_in_it(
        self, objects: ObjectStore, start: int, length: int | None, expected: bytes
    ) -> None:
        objects.put("a", b"0123456789")

        assert objects.read("a", start=start, length=length) == expected
        assert b"".join(objects.stream("a", start=start, length=length)) == expected

    def test_a_stream_comes_in_pieces_of_at_most_1_mib(self, objects: ObjectStore) -> None:
        data = os.urandom(2_500_000)
        objects.put("a", data)

        pieces = list(objects.stream("a", start=7, length=2_400_000))

        assert max(map(len, pieces)) <= 1024 * 1024
        assert b"".join(pieces) == data[7:2_400_007]

    def test_a_list_is_in_byte_order_of_keys_and_of_its_prefix_only(self, objects: ObjectStore) -> None:
        keys = ["a-b/x", "a.b", "a/b", "a/b-c", "a/c/d", "a0", "ab", "b", "ä", "\U0001f600", "\uffee", "logs"]
        for key in keys:
            objects.put(key, key.encode())

        assert [info.key for info in objects.list("")] == sorted(keys, key=str.encode)
        assert [info.key for info in objects.list("a/")] == ["a/b", "a/b-c", "a/c/d"]
        assert list(objects.list("none/")) == []
        assert list(objects.list("logs/")) == []

    def test_a_delete_removes_one_object_and_may_be_repeated(self, objects: ObjectStore) -> None:
        objects.put("a/b/c", b"1")
        objects.put("a/d", b"2")

        for _ in range(2):
            objects.delete("a/b/c")

        assert [info.key for info in objects.list("")] == ["a/d"]
        objects.delete("a/d")
        objects.delete("never/was")
        assert list(objects.list("")) == []

    def test_many_deletes_remove_what_is_there_of_them_and_nothing_else(self, objects: ObjectStore) -> None:
        for number in range(30):
            objects.put(f"a/b/{number:02}", b"x")
        objects.put("a/b-c", b"kept")

        objects.delete_many(f"a/b/{number:02}" for number in range(1, 60))
        objects.delete_many([])

        assert [info.key for info in objects.list("")] == ["a/b-c", "a/b/00"]

    def test_a_key_that_cannot_be_deleted_keeps_no_other_from_it(self, objects: ObjectStore) -> None:
        for key in ("a", "b"):
            objects.put(key, b"x")

        with pytest.raises(InvalidKey):
            objects.delete_many(["a", "../c", "b"])

        assert list(objects.list("")) == []

    def test_a_create_only_put_does_not_replace(self, objects: ObjectStore) -> None:
        objects.put("a", b"first", create_only=True)

        with pytest.raises(ObjectExists):
            objects.put("a", b"second", create_only=True)

        assert objects.read("a") == b"first"

    def test_obj_07_of_50_parallel_create_only_puts_one_wins(self, objects: ObjectStore) -> None:
        start = threading.Barrier(50)

        def put(number: int) -> int | None:
            start.wait()
            try:
                objects.put("logs/x/one", b"%d" % number * 1000, create_only=True)
            except ObjectExists:
                return None
            return number

        with ThreadPoolExecutor(50) as pool:
            winners = [number for number in pool.map(put, range(50)) if number is not None]

        assert len(winners) == 1
        assert objects.read("logs/x/one") == b"%d" % winners[0] * 1000

    def test_a_reader_meets_the_old_object_or_the_new_one(self, objects: ObjectStore) -> None:
        versions = [bytes([n]) * 300_000 for n in range(40)]
        objects.put("a", versions[0])
        done = threading.Event()

        def watch() -> set[bytes]:
            seen = set()
            while not done.is_set():
                seen.add(objects.read("a"))
            return seen

        with ThreadPoolExecutor(2) as pool:
            seen = [pool.submit(watch) for _ in range(2)]
            for version in versions:
                objects.put("a", version)
            done.set()

        assert seen[0].result() | seen[1].result() <= set(versions)

    def test_puts_and_deletes_of_neighbours_do_not_disturb_each_other(self, objects: ObjectStore) -> None:
        def churn(number: int) -> None:
            for turn in range(40):
                data = hashlib.sha256(b"%d %d" % (number, turn)).digest()
                objects.put(f"a/b/c/{number}", data)
                assert objects.read(f"a/b/c/{number}") == data
                objects.delete(f"a/b/c/{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(churn, range(4)))

        assert list(objects.list("")) == []
