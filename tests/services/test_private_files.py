"""Files for the owner's eyes only."""

import stat
from pathlib import Path

import pytest

from reactorcide.services.private_files import write_private_file


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
