"""Disks that are really full: a small tmpfs below the object store, and below a worker's spool."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from whole_product import Product, wait_until

MIB = 1024 * 1024
NUMBERS = 1_100_000
"""`seq` prints 7.5 MB of these."""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Make a disk of so many MiB."""
    mounted: list[Path] = []

    def make(name: str, mebibytes: int) -> Path:
        place = tmp_path / name
        place.mkdir(mode=0o711)
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=711", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("a small disk needs the right to mount")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A product that is not up yet; it must be alive to the end."""
    (tmp_path / "data").mkdir(mode=0o700)
    made = Product(tmp_path / "data", {"REACTORCIDE_LOG_LEVEL": "error"})
    yield made
    if made.process is not None:
        assert made.stop() == 0


def test_ost_06_a_full_object_store_holds_up_no_job_and_has_the_whole_log_when_there_is_room(
    product: Product, mount: Callable[[str, int], Path]
) -> None:
    objects = mount("objects", 5)
    product.settings["REACTORCIDE_OBJECT_STORE_BASE_PATH"] = str(objects)
    product.up()
    job_id = product.submit(f"seq 1 {NUMBERS}")
    wait_until(lambda: product.job(job_id)["status"] == "completed", 60)
    assert free_bytes(objects) < 2 * MIB
    stored = product.log(job_id)
    other = product.submit("echo another")
    wait_until(lambda: product.job(other)["status"] == "completed", 60)
    visible = sum(path.stat().st_size for path in objects.glob("data/**/*") if path.is_file())

    subprocess.run(["mount", "-o", "remount,size=64m", objects], check=True)

    whole = "".join(f"{number}\n" for number in range(1, NUMBERS + 1))
    assert whole.startswith(stored)
    assert len(stored) <= visible
    wait_until(lambda: product.log(job_id) == whole, 60)
    wait_until(lambda: product.log(other) == "another\n", 60)
    assert list(objects.glob("partial/*")) == []


def test_wrk_12_a_worker_whose_disk_is_full_says_so_takes_no_job_and_goes_on_when_there_is_room(
    product: Product, mount: Callable[[str, int], Path]
) -> None:
    disk = mount("worker", 64)
    product.settings |= {
        "REACTORCIDE_SPOOL_DIR": str(disk / "spool"),
        "REACTORCIDE_WORK_DIR": str(disk / "work"),
    }
    product.up()
    running = product.submit("echo begun; while sleep 0.2; do seq 1 20000; done")
    wait_until(lambda: "begun" in product.log(running), 60)

    fill(disk)

    wait_until(lambda: "completed_at" in product.job(running), 60)
    ended = product.job(running)
    assert (ended["status"], ended["fault"]) == ("failed", "infra"), ended
    assert ended["reason"] in ("worker_disk", "log_lost"), ended
    waiting = product.submit("echo there is room")
    with pytest.raises(subprocess.TimeoutExpired):
        product.run("wait", waiting, timeout=5)
    held_back = product.job(waiting)
    assert held_back["status"] in ("submitted", "queued"), held_back
    # The worker may have been asking for work when the disk became full: such a claim goes back at once.
    assert held_back["attempt"] <= 2
    (disk / "filler").unlink()
    wait_until(lambda: product.job(waiting)["status"] == "completed", 60)
    assert product.log(waiting) == "there is room\n"
    wait_until(lambda: not list((disk / "spool").iterdir()) and not list((disk / "work").iterdir()), 60)


def fill(disk: Path) -> None:
    """Write until nothing fits on ``disk`` any more."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (MIB, 4096):
            try:
                while True:
                    filler.write(b"\0" * size)
            except OSError:
                continue


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize
