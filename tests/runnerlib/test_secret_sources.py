"""Secrets files and lists of secrets: what is taken, and what is refused in which words."""

import os
from pathlib import Path

import pytest

from runnerlib.env_file import MOST_BYTES
from runnerlib.secret_sources import (
    MOST_VALUES,
    SecretsFileRefused,
    SecretsListTooLong,
    read_secrets_file,
    split_secrets_list,
)

VALUE = "s3cr3t-of-the-file"


@pytest.fixture
def secrets_file(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.env"
    path.touch(mode=0o600)
    path.write_text(f"# mine\nexport DEPLOY_TOKEN='{VALUE}'\nPLAIN=\"two\\nlines\"\n")
    return path


def test_a_secrets_file_gives_its_variables_whatever_their_names(secrets_file: Path) -> None:
    assert read_secrets_file(secrets_file) == {"DEPLOY_TOKEN": VALUE, "PLAIN": "two\nlines"}


def test_a_link_to_a_private_file_is_followed(secrets_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secrets_file)

    assert read_secrets_file(link)["DEPLOY_TOKEN"] == VALUE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_file_that_others_may_reach_is_refused_with_what_to_do(secrets_file: Path, mode: int) -> None:
    secrets_file.chmod(mode)

    with pytest.raises(SecretsFileRefused, match=f"mode {mode:04o}.*chmod 600 {secrets_file}") as refused:
        read_secrets_file(secrets_file)

    assert VALUE not in str(refused.value)


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    foreign = Path("/proc/1/status" if os.geteuid() else "/proc/self/status")

    for path in (tmp_path, fifo, Path("/dev/null"), tmp_path / "none", foreign):
        with pytest.raises(SecretsFileRefused, match=str(path)):
            read_secrets_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(secrets_file: Path) -> None:
    os.chown(secrets_file, 12345, 12345)

    with pytest.raises(SecretsFileRefused, match="belongs to user 12345"):
        read_secrets_file(secrets_file)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (f"{VALUE}\n".encode(), "line 1: must be NAME=VALUE"),
        (f"A='x'\nB='{VALUE}\n".encode(), "line 2: the quote ' is not closed"),
        (f"REACTORCIDE_X={VALUE}".encode(), "line 1: .*reserved"),
        (f"A={VALUE}\0".encode(), "NUL"),
        (f"A={VALUE}\xff".encode("latin-1"), "UTF-8"),
        (b"A=" + VALUE.encode() * MOST_BYTES, f"larger than {MOST_BYTES} bytes"),
    ],
)
def test_a_malformed_file_is_refused_by_line_and_without_its_values(
    secrets_file: Path, content: bytes, detail: str
) -> None:
    secrets_file.write_bytes(content)

    with pytest.raises(SecretsFileRefused, match=detail) as refused:
        read_secrets_file(secrets_file)

    assert VALUE not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", ()),
        (" , \n,", ()),
        ("one-value", ("one-value",)),
        ("first, second value ,third", ("first", "second value", "third")),
        ("first\nsecond\r\nfirst,\n", ("first", "second")),
        ("pässword=1;2", ("pässword=1;2",)),
    ],
)
def test_a_list_is_parted_by_commas_and_lines(text: str, values: tuple[str, ...]) -> None:
    assert split_secrets_list(text) == values


@pytest.mark.parametrize("text", ["x" * (MOST_BYTES + 1), ",".join(map(str, range(MOST_VALUES + 1)))])
def test_a_list_that_is_too_long_is_refused(text: str) -> None:
    with pytest.raises(SecretsListTooLong, match="at most"):
        split_secrets_list(text)
