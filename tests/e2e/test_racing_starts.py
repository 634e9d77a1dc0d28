"""Several people, or one impatient script, start the product on one data directory at once."""

import fcntl
import subprocess
from pathlib import Path

from whole_product import Product, processes_holding, wait_until

from reactorcide.cli.discovery import read_local_url
from reactorcide.cli.service import LOCK_FILE

STARTERS = 3


def start(product: Product) -> subprocess.Popen[str]:
    return product.start("up", "--detach")


def test_of_several_that_start_it_at_once_all_find_it_up(tmp_path: Path) -> None:
    product = Product(tmp_path)
    try:
        starting = [start(product) for _ in range(STARTERS)]
        told = [process.communicate(timeout=120)[1] for process in starting]
        url = read_local_url(tmp_path)
        answers = product.run("me").returncode
    finally:
        down = product.run("down", "--now")

    assert [process.returncode for process in starting] == [0] * STARTERS, told
    assert url is not None
    assert all(url in text for text in told)
    assert sum("stops it" in text for text in told) == 1
    assert "a service already runs" not in (tmp_path / "up.log").read_text()
    assert (answers, down.returncode) == (0, 0)


def test_who_waited_for_another_start_that_failed_starts_it_instead(tmp_path: Path) -> None:
    product = Product(tmp_path)
    try:
        with (tmp_path / LOCK_FILE).open("w") as held:
            # Another `up` that never gets ready.
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = start(product)
            tries: set[int] = set()

            def has_tried_again() -> bool:
                tries.update(tries_of(tmp_path))
                return len(tries) > 1

            wait_until(has_tried_again, 60)
        told = waiting.communicate(timeout=120)[1]
        url = read_local_url(tmp_path)
    finally:
        product.run("down", "--now")

    assert waiting.returncode == 0, told
    assert url is not None
    assert url in told


def tries_of(data_dir: Path) -> set[int]:
    """Return the processes that try to be the service of a data directory now."""
    found = set()
    for pid in processes_holding("--ready-fd"):
        try:
            if str(data_dir).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found
