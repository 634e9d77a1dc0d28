"""What only the file system backend has to stand: planted files, a full disk, a sudden death."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reactorcide.objects.filesystem import STALE_AFTER, FilesystemObjectStore
from reactorcide.objects.port import InvalidKey, ObjectInfo, ObjectNotFound, StoreUnavailable

KILLS = int(os.environ.get("REACTORCIDE_TEST_KILLS", "30"))
"""Rounds of sudden death; 200 is the size of a release."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def objects(root: Path) -> FilesystemObjectStore:
    return FilesystemObjectStore(root)


@pytest.mark.parametrize("target", ["file", "directory", "nothing"])
def test_obj_03_a_planted_symlink_is_followed_by_no_operation(
    objects: FilesystemObjectStore, root: Path, tmp_path: Path, target: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"secret")
    goal = {"file": outside / "file", "directory": outside, "nothing": outside / "none"}[target]
    objects.put("logs/own", b"own")
    (root / "data/logs/planted").symlink_to(goal)

    for key in ("logs/planted", "logs/planted/file", "logs/planted/new"):
        with pytest.raises(ObjectNotFound):
            objects.read(key)
        with pytest.raises(ObjectNotFound):
            objects.size(key)
        with pytest.raises(InvalidKey):
            objects.put(key, b"overwritten")
        with pytest.raises(InvalidKey):
            objects.delete(key)

    assert [info.key for info in objects.list("")] == ["logs/own"]
    assert list(objects.list("logs/planted/")) == []
    assert [entry.name for entry in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b"secret"
    assert (root / "data/logs/planted").is_symlink()
    assert list((root / "partial").iterdir()) == []


def test_a_planted_pipe_neither_blocks_a_reader_nor_is_listed(
    objects: FilesystemObjectStore, root: Path
) -> None:
    os.mkfifo(root / "data/pipe")

    with pytest.raises(ObjectNotFound):
        objects.read("pipe")
    with pytest.raises(InvalidKey):
        objects.put("pipe", b"x")

    assert list(objects.list("")) == []


def test_a_name_that_is_no_key_is_left_out_of_a_list(objects: FilesystemObjectStore, root: Path) -> None:
    (root / "data/back\\slash").write_bytes(b"x")
    Path(os.fsdecode(bytes(root / "data") + b"/\xff")).write_bytes(b"x")
    objects.put("good", b"x")

    assert [info.key for info in objects.list("")] == ["good"]


def test_a_key_cannot_be_an_object_and_a_folder(objects: FilesystemObjectStore) -> None:
    objects.put("a/b", b"x")

    with pytest.raises(InvalidKey):
        objects.put("a", b"y")
    with pytest.raises(InvalidKey):
        objects.put("a/b/c", b"y")

    assert list(objects.list("")) == [ObjectInfo("a/b", 1)]


def test_files_and_folders_are_the_owners_alone(objects: FilesystemObjectStore, root: Path) -> None:
    objects.put("logs/a", b"x")

    modes = {path.name: path.stat().st_mode & 0o777 for path in [root, *root.rglob("*")]}

    assert modes == {"objects": 0o700, "data": 0o700, "partial": 0o700, "logs": 0o700, "a": 0o600}


def test_a_delete_removes_the_folders_it_leaves_empty(objects: FilesystemObjectStore, root: Path) -> None:
    objects.put("a/b/c/one", b"x")
    objects.put("a/two", b"x")

    objects.delete("a/b/c/one")

    assert sorted(path.name for path in (root / "data").rglob("*")) == ["a", "two"]


def test_a_store_that_vanished_is_unavailable_and_not_empty(
    objects: FilesystemObjectStore, root: Path
) -> None:
    objects.put("a", b"x")
    root.rename(root.with_name("unmounted"))

    for operation in (
        lambda: objects.read("a"),
        lambda: objects.size("a"),
        lambda: objects.put("a", b"x"),
        lambda: objects.delete("a"),
        lambda: list(objects.list("")),
    ):
        with pytest.raises(StoreUnavailable):
            operation()


def test_a_store_that_cannot_be_made_yet_is_made_when_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    root = tmp_path / "in the way" / "objects"

    with pytest.raises(StoreUnavailable):
        FilesystemObjectStore(root)
    objects = FilesystemObjectStore(root, is_patient=True)
    with pytest.raises(StoreUnavailable):
        objects.put("key", b"refused")
    (tmp_path / "in the way").unlink()
    objects.tidy()

    objects.put("key", b"kept")
    assert objects.read("key") == b"kept"


def test_a_store_whose_disk_went_away_is_not_made_anew_in_its_place(
    objects: FilesystemObjectStore, root: Path
) -> None:
    objects.put("key", b"kept")
    away = root.rename(root.with_name("unmounted"))
    root.mkdir()

    with pytest.raises(StoreUnavailable):
        objects.tidy()
    with pytest.raises(StoreUnavailable):
        objects.read("key")
    assert list(root.iterdir()) == []

    root.rmdir()
    away.rename(root)
    objects.tidy()
    assert objects.read("key") == b"kept"


def test_parts_of_dead_writers_are_cleared_at_start_and_no_others(
    objects: FilesystemObjectStore, root: Path
) -> None:
    long_ago = time.time() - STALE_AFTER.total_seconds() - 60

    def age(name: str) -> None:
        os.utime(root / "partial" / name, (long_ago, long_ago))

    (root / "partial/dead").write_bytes(b"x")
    age("dead")
    (root / "partial/fresh").write_bytes(b"x")

    def slow() -> Iterator[bytes]:
        yield b"begun "
        (writing,) = {path.name for path in (root / "partial").iterdir()} - {"dead", "fresh"}
        age(writing)
        FilesystemObjectStore(root)
        yield b"and ended"

    objects.put("slow", slow())

    assert [path.name for path in (root / "partial").iterdir()] == ["fresh"]
    assert objects.read("slow") == b"begun and ended"


def test_a_file_size_limit_leaves_nothing_behind(objects: FilesystemObjectStore, root: Path) -> None:
    objects.put("old", b"old")
    program = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from reactorcide.objects.filesystem import FilesystemObjectStore
        from reactorcide.objects.port import StoreUnavailable
        objects = FilesystemObjectStore(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        for key in ("old", "new"):
            try:
                objects.put(key, [b"x" * 300_000] * 10)
            except StoreUnavailable as error:
                print(error.detail)
        """
    )

    run = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines() == [os.strerror(errno.EFBIG)] * 2
    assert list(objects.list("")) == [ObjectInfo("old", 3)]
    assert objects.read("old") == b"old"
    assert list((root / "partial").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a 5 MiB disk needs the right to mount; the file size limit stands in for it")
    yield place
    subprocess.run(["umount", place], check=True)


def puts_until_full(objects: FilesystemObjectStore) -> int:
    for stored in range(20):
        try:
            objects.put(f"logs/{stored}", [b"%03d" % stored * 100_000] * 2)
        except StoreUnavailable:
            return stored
    raise AssertionError("the disk is larger than it should be")


def test_ost_06_a_full_disk_shows_nothing_partial_and_recovers(small_disk: Path) -> None:
    objects = FilesystemObjectStore(small_disk)

    stored = puts_until_full(objects)
    with pytest.raises(StoreUnavailable):
        objects.put("logs/0", b"y" * 600_000)

    assert stored > 3
    assert [info.size_bytes for info in objects.list("")] == [600_000] * stored
    assert objects.read("logs/0") == b"000" * 200_000
    assert list((small_disk / "partial").iterdir()) == []
    objects.delete("logs/0")
    objects.put("logs/new", b"z" * 600_000)
    assert objects.read("logs/new") == b"z" * 600_000


WRITER = textwrap.dedent(
    """
    import hashlib, os, sys
    from pathlib import Path
    from reactorcide.objects.filesystem import FilesystemObjectStore

    objects = FilesystemObjectStore(Path(sys.argv[1]))
    print("ready", flush=True)
    for number in range(10**9):
        pieces = [os.urandom(60_000) for _ in range(1 + number % 7)]
        digest = hashlib.sha256(b"".join(pieces)).digest()
        objects.put(f"logs/{sys.argv[2]}/{number % 3}", [digest, *pieces])
        print(number, flush=True)
    """
)


def test_obj_06_kill_9_during_a_put_leaves_objects_absent_or_complete(
    objects: FilesystemObjectStore, root: Path
) -> None:
    acknowledged = 0

    for turn in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, root, str(turn)], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            # Not a wait for anything: the moment of death is to be random.
            time.sleep(random.uniform(0.0, 0.03))
            writer.send_signal(signal.SIGKILL)
            puts = len(writer.stdout.readlines())
        assert len(list(objects.list(f"logs/{turn}/"))) >= min(puts, 3)
        acknowledged += puts

    assert acknowledged > 0
    for info in objects.list(""):
        whole = objects.read(info.key)
        assert whole[:32] == hashlib.sha256(whole[32:]).digest(), info.key
    for part in (root / "partial").iterdir():
        os.utime(part, (0, 0))
    FilesystemObjectStore(root)
    assert list((root / "partial").iterdir()) == []
