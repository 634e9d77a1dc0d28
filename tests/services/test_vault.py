"""The vault: what is sealed for a job opens for that job, with that key, and looks like nothing else."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reactorcide.domain.errors import Misconfigured
from reactorcide.services.vault import Vault, load_key

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SECRETS = {"WORD": "swordfish", "ü\n": "\t€"}


def test_what_was_sealed_opens_again() -> None:
    record = Vault(KEY).seal("job-1", SECRETS)

    assert Vault(KEY).open("job-1", record) == SECRETS
    assert b"swordfish" not in record


def test_the_same_secrets_never_look_the_same() -> None:
    vault = Vault(KEY)

    assert vault.seal("job-1", SECRETS) != vault.seal("job-1", SECRETS)


def test_a_record_moved_to_another_job_does_not_open() -> None:
    vault = Vault(KEY)

    with pytest.raises(Misconfigured, match="damaged"):
        vault.open("job-2", vault.seal("job-1", SECRETS))


def test_a_record_of_another_key_says_so() -> None:
    with pytest.raises(Misconfigured, match="another ENCRYPTION_KEY"):
        Vault(OTHER_KEY).open("job-1", Vault(KEY).seal("job-1", SECRETS))


def test_every_damaged_record_is_refused() -> None:
    vault = Vault(KEY)
    record = vault.seal("job-1", SECRETS)

    for place in range(len(record)):
        damaged = record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]
        with pytest.raises(Misconfigured):
            vault.open("job-1", damaged)
        with pytest.raises(Misconfigured):
            vault.open("job-1", record[:place])


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = load_key(None, tmp_path / "data")
    second = load_key(None, tmp_path / "data")

    file = tmp_path / "data" / "encryption-key"
    assert first == second
    assert len(first) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_racing_starts_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load_key(None, tmp_path), range(64)))

    assert len(keys) == 1


def test_a_configured_key_is_taken_and_no_file_made(tmp_path: Path) -> None:
    assert load_key("00" * 32, tmp_path) == OTHER_KEY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "00", "zz" * 32])
def test_a_key_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "encryption-key").write_text(text)

    with pytest.raises(Misconfigured, match="64 hexadecimal digits"):
        load_key(None, tmp_path)
