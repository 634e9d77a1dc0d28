"""The backends of this package keep the contract."""

from pathlib import Path

import pytest

from contracts.object_store import ObjectStoreContract
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.measured import MeasuredStore, measured
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import InvalidKey, ObjectExists, ObjectNotFound, ObjectStore
from reactorcide.objects.prefixed import PrefixedStore, prefixed


class TestFilesystemObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return FilesystemObjectStore(tmp_path / "objects")


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return MemoryObjectStore()


class TestMeasuredStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return MeasuredStore(MemoryObjectStore(), lambda *_: None)


class TestS3ObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self, s3_store: ObjectStore) -> ObjectStore:
        return s3_store


class TestGcsObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self, gcs_store: ObjectStore) -> ObjectStore:
        return gcs_store


class TestMeasuredAndPrefixedS3Store(ObjectStoreContract):
    @pytest.fixture
    def objects(self, s3_store: ObjectStore) -> ObjectStore:
        return measured(prefixed(s3_store, ""), lambda *_: None)


class TestEmptyPrefix(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return PrefixedStore(MemoryObjectStore(), "")


def test_a_measured_store_tells_how_each_call_ended_and_how_long_it_took() -> None:
    told: list[tuple[str, str]] = []
    seconds: list[float] = []

    def observe(operation: str, outcome: str, took: float) -> None:
        told.append((operation, outcome))
        seconds.append(took)

    objects = MeasuredStore(MemoryObjectStore(), observe)
    objects.put("a", b"12", create_only=True)
    with pytest.raises(ObjectExists):
        objects.put("a", b"12", create_only=True)
    whole = (objects.read("a"), b"".join(objects.stream("a")), [info.key for info in objects.list("")])
    with pytest.raises(ObjectNotFound):
        list(objects.stream("b"))
    with pytest.raises(InvalidKey):
        objects.size("../b")
    objects.delete("a")
    objects.delete_many(["a"])

    assert whole == (b"12", b"12", ["a"])
    assert told == [
        ("put", "ok"),
        ("put", "exists"),
        ("read", "ok"),
        ("stream", "ok"),
        ("list", "ok"),
        ("stream", "not_found"),
        ("size", "error"),
        ("delete", "ok"),
        ("delete_many", "ok"),
    ]
    assert all(0 <= took < 10 for took in seconds)


def test_a_prefixed_store_keeps_to_its_prefix() -> None:
    whole = MemoryObjectStore()
    objects = PrefixedStore(whole, "team/ci")
    whole.put("team/other", b"x")

    objects.put("logs/a", b"y")

    assert [info.key for info in objects.list("")] == ["logs/a"]
    assert [info.key for info in objects.list("logs/")] == ["logs/a"]
    assert [info.key for info in whole.list("")] == ["team/ci/logs/a", "team/other"]
    assert (objects.read("logs/a"), objects.size("logs/a"), b"".join(objects.stream("logs/a", start=1))) == (
        b"y",
        1,
        b"",
    )
    objects.delete("logs/a")
    assert [info.key for info in whole.list("")] == ["team/other"]


@pytest.mark.parametrize("key", ["../other", "/other", "", "."])
def test_no_key_leads_out_of_a_prefix(key: str) -> None:
    objects = PrefixedStore(MemoryObjectStore(), "team/ci/")

    with pytest.raises(InvalidKey):
        objects.put(key, b"x")


@pytest.mark.parametrize("prefix", ["/absolute", "../up", "a//b", "a\\b"])
def test_a_bad_prefix_is_refused_at_once(prefix: str) -> None:
    with pytest.raises(InvalidKey):
        PrefixedStore(MemoryObjectStore(), prefix)
