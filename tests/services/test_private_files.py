"""Files for the owner's eyes only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reactorcide.services.private_files import keep_private_text, write_private_file


def test_a_file_is_its_owners_alone_whatever_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o666)

    write_private_file(path, "new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_directory_that_was_absent_is_made_owner_only(tmp_path: Path) -> None:
    write_private_file(tmp_path / "data" / "token", "new")

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()

    with pytest.raises(OSError, match="token"):
        write_private_file(tmp_path / "token", "new")

    assert list(tmp_path.iterdir()) == [tmp_path / "token"]


def test_of_many_that_race_all_keep_what_the_first_one_put_there(tmp_path: Path) -> None:
    path = tmp_path / "key"

    with ThreadPoolExecutor(8) as racers:
        kept = set(racers.map(lambda number: keep_private_text(path, f"text {number}"), range(32)))

    assert kept == {keep_private_text(path, "later")}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
