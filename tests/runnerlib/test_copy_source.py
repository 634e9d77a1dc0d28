"""SRC-14, S4: sources copied from a directory of the host."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runnerlib.source import SourceDenied, SourceFailed, SourceStopped, prepare_source
from runnerlib.spec import HostPolicy, JobSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "roots" / "allowed"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "src"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("host content")
    return folder


def copy(
    path: Path | str,
    target: Path,
    *roots: Path,
    should_stop: Callable[[], bool] = lambda: False,
    run_as: tuple[int, int] | None = None,
    **policy: Any,
) -> list[str]:
    lines: list[str] = []
    prepare_source(
        JobSource(type="copy", path=str(path)),
        target,
        HostPolicy(copy_source_roots=tuple(map(str, roots)), **policy),
        log=lines.append,
        should_stop=should_stop,
        run_as=run_as,
    )
    return lines


def content_below(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_files_directories_and_inner_links_are_copied(root: Path, target: Path) -> None:
    (root / "empty").mkdir()
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "run.sh").write_bytes(b"#!/bin/sh\n\x00\xff")
    (root / "a" / "b" / "run.sh").chmod(0o755)
    os.utime(root / "a" / "b" / "run.sh", (1_000_000_000, 1_000_000_000))
    (root / "a" / "up").symlink_to("../empty")
    (root / "dangling").symlink_to("nowhere")

    lines = copy(root, target, root)

    copied = target / "a" / "b" / "run.sh"
    assert copied.read_bytes() == b"#!/bin/sh\n\x00\xff"
    assert stat.S_IMODE(copied.stat().st_mode) == 0o755
    assert copied.stat().st_mtime == 1_000_000_000
    assert (target / "empty").is_dir()
    assert (target / "a" / "up").readlink() == Path("../empty")
    assert (target / "dangling").readlink() == Path("nowhere")
    assert not [line for line in lines if "warning" in line]


def test_a_directory_inside_a_root_is_copied(root: Path, target: Path) -> None:
    (root / "inner").mkdir()
    (root / "inner" / "file").write_text("x")

    copy(f"{root}/./inner/", target, Path("/srv/none"), root)

    assert [entry.name for entry in target.iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["/etc", "/", "ROOT/../../outside", "ROOT-not", "relative", "", "ROOT/\n"])
def test_src_14_a_path_outside_the_roots_is_denied(
    root: Path, target: Path, outside: Path, path: str
) -> None:
    with pytest.raises(SourceDenied):
        copy(path.replace("ROOT", str(root)), target, root)

    assert list(target.iterdir()) == []


def test_a_directory_on_the_way_need_not_be_readable(root: Path, target: Path) -> None:
    (root / "home" / "me").mkdir(parents=True)
    (root / "home" / "me" / "file").write_text("mine")
    (root / "home").chmod(0o311)

    try:
        copy(root / "home" / "me", target, root / "home" / "me")
    finally:
        (root / "home").chmod(0o755)

    assert (target / "file").read_text() == "mine"


def test_src_14_without_roots_nothing_is_allowed(root: Path, target: Path) -> None:
    with pytest.raises(SourceDenied):
        copy(root, target)


def test_src_14_a_root_that_is_a_link_is_denied(root: Path, target: Path, outside: Path) -> None:
    linked = root.parent / "linked"
    linked.symlink_to(outside)

    with pytest.raises(SourceDenied):
        copy(linked, target, linked)

    assert list(target.iterdir()) == []


def test_src_14_a_link_on_the_way_is_denied(root: Path, target: Path, outside: Path) -> None:
    (outside / "inner").mkdir()
    (root / "way").symlink_to(outside)

    with pytest.raises(SourceDenied):
        copy(root / "way" / "inner", target, root)

    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "aim", ["OUTSIDE", "OUTSIDE/secret", "/etc/passwd", "../../../outside/secret", "up/../../outside"]
)
def test_src_14_links_that_lead_out_are_left_out_with_a_warning(
    root: Path, target: Path, outside: Path, aim: str
) -> None:
    (root / "a").mkdir()
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "bad").symlink_to(aim.replace("OUTSIDE", str(outside)))

    lines = copy(root, target, root)

    assert not os.path.lexists(target / "a" / "bad")
    assert "warning: left out a/bad: is a link that leads out of the tree" in lines
    assert b"host content" not in content_below(target)


def test_src_14_set_id_and_sticky_bits_are_dropped(root: Path, target: Path) -> None:
    (root / "tool").write_text("x")
    (root / "tool").chmod(0o6755)
    (root / "shared").mkdir()
    (root / "shared").chmod(0o3777)

    copy(root, target, root)

    assert stat.S_IMODE((target / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "shared").stat().st_mode) == 0o777


def test_src_14_devices_pipes_and_sockets_are_left_out_with_a_warning(root: Path, target: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    special = {"pipe", "socket"}
    if os.geteuid() == 0:
        os.mknod(root / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        special.add("device")

    lines = copy(root, target, root)

    assert list(target.iterdir()) == []
    assert {line.split(":")[1].split()[-1] for line in lines if line.startswith("warning")} == special


def test_a_copy_larger_than_allowed_is_stopped(root: Path, target: Path) -> None:
    with (root / "large").open("wb") as file:
        file.truncate(8 * 1024 * 1024)

    with pytest.raises(SourceFailed, match="larger than") as failed:
        copy(root, target, root, source_limit_bytes=2 * 1024 * 1024)

    assert failed.value.is_users_fault
    assert (target / "large").stat().st_size <= 4 * 1024 * 1024


def test_a_copy_of_too_many_files_is_stopped(root: Path, target: Path) -> None:
    for number in range(20):
        (root / str(number)).touch()

    with pytest.raises(SourceFailed, match="more than the 10 files"):
        copy(root, target, root, source_limit_files=10)


def test_a_tree_nested_too_deep_is_refused(root: Path, target: Path) -> None:
    root.joinpath(*(["d"] * 250)).mkdir(parents=True)

    with pytest.raises(SourceFailed, match="nested deeper"):
        copy(root, target, root)


def test_a_directory_that_is_not_there_is_the_users_fault(root: Path, target: Path) -> None:
    with pytest.raises(SourceFailed, match="does not exist") as failed:
        copy(root / "gone", target, root)

    assert failed.value.is_users_fault


def test_run_20_a_copy_stops_when_told(root: Path, target: Path) -> None:
    (root / "file").write_text("x")

    with pytest.raises(SourceStopped):
        copy(root, target, root, should_stop=lambda: bool(list(target.iterdir())))


def test_what_is_copied_belongs_to_who_runs_the_job(root: Path, target: Path, outside: Path) -> None:
    owner = (12345, 12346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    (root / "file").write_text("x")
    (root / "link").symlink_to("file")

    copy(root, target, root, run_as=owner)

    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in [target, *target.rglob("*")]} == {owner}


def test_src_14_a_directory_swapped_for_a_link_while_copying_is_not_followed(
    root: Path, target: Path, outside: Path
) -> None:
    for number in range(30):
        (root / f"d{number:02}").mkdir()
        (root / f"d{number:02}" / "secret").write_text("mine")
    swapped: list[Path] = []

    def swap_what_comes_next() -> bool:
        name = root / f"d{len(swapped):02}"
        if len(swapped) < 30 and not name.is_symlink():
            for inner in name.iterdir():
                inner.unlink()
            name.rmdir()
            name.symlink_to(outside)
            swapped.append(name)
        return False

    copy(root, target, root, should_stop=swap_what_comes_next)

    assert b"host content" not in content_below(target)
