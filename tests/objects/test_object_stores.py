"""The backends of this package keep the contract."""

from pathlib import Path

import pytest

from contracts.object_store import ObjectStoreContract
from reactorcide.objects.filesystem import FilesystemObjectStore
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import InvalidKey, ObjectStore
from reactorcide.objects.prefixed import PrefixedStore


class TestFilesystemObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return FilesystemObjectStore(tmp_path / "objects")


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return MemoryObjectStore()


class TestEmptyPrefix(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return PrefixedStore(MemoryObjectStore(), "")


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
