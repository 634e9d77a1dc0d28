"""Measure our store in a bucket beside the bare driver: one large object up and down, and many small ones.

Run: `python bench/object_stores.py [MiB] [rounds]` (default 1024 and 3). A server that speaks S3 (moto) runs
in a process of its own; both sides take turns, each round in a fresh process, so that its memory is its own.
Prints MiB per second, the growth of memory in MiB and our time over the driver's, by medians. The goals
are a ratio of at most 1.3 and a growth of at most 64 MiB.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import obstore
from obstore.store import S3Store

from fakes.s3_server import S3Server
from reactorcide.objects.cloud_puts import PART_BYTES, PARTS_AT_ONCE
from reactorcide.objects.cloud_s3 import S3Place, open_s3
from reactorcide.objects.credentials import AwsKeys

MIB = 1024**2
SMALL, SMALL_BYTES = 300, 64 * 1024
BLOCK = os.urandom(MIB)
KEYS = AwsKeys("id", "secret")


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[str, list[dict[str, tuple[float, float]]]] = {"driver": [], "ours": []}
    with S3Server() as server:
        for _ in range(rounds):
            for side, measured in found.items():
                # The server keeps what it was sent: a bucket of one's own does not make it any slower.
                arguments = ["--side", side, server.s3_url, server.make_bucket(), str(size)]
                ran = subprocess.run(
                    [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
                )
                measured.append(json.loads(ran.stdout))
    for step in found["ours"][0]:
        seconds = {side: statistics.median(each[step][0] for each in found[side]) for side in found}
        growth = max(each[step][1] for each in found["ours"])
        work = (
            f"{size / seconds['ours']:7.0f} MiB/s"
            if "large" in step
            else f"{SMALL / seconds['ours']:7.0f} /s"
        )
        ratio = seconds["ours"] / seconds["driver"]
        print(f"{step:12} {work:>14}   {ratio:5.2f} x the driver's time   grew by {growth:4.0f} MiB at most")


def measure(side: str, url: str, bucket: str, size: int) -> None:
    """Print the seconds and the growth of memory of each step."""
    steps = ours(url, bucket, size) if side == "ours" else driver(url, bucket, size)
    found = {}
    for name, step in steps.items():
        with Growth() as growth:
            begun = time.monotonic()
            step()
            found[name] = (time.monotonic() - begun, growth.mib)
    print(json.dumps(found))


def blocks(size: int) -> Iterator[bytes]:
    for _ in range(size):
        yield BLOCK


def ours(url: str, bucket: str, size: int) -> dict[str, Callable[[], object]]:
    store = open_s3(S3Place(bucket, endpoint=url, keys=KEYS), seconds=60)
    small = BLOCK[:SMALL_BYTES]
    return {
        "large put": lambda: store.put("large", blocks(size)),
        "large get": lambda: check(sum(map(len, store.stream("large"))), size),
        "small put": lambda: [store.put(f"small/{n}", small, create_only=True) for n in range(SMALL)],
        "small get": lambda: [store.read(f"small/{n}") for n in range(SMALL)],
        "small delete": lambda: store.delete_many(f"small/{n}" for n in range(SMALL)),
    }


def driver(url: str, bucket: str, size: int) -> dict[str, Callable[[], object]]:
    store = S3Store(
        bucket,
        endpoint=url,
        access_key_id=KEYS.access_key_id,
        secret_access_key=KEYS.secret_access_key,
        client_options={"allow_http": True, "timeout": "120s"},
    )
    small = BLOCK[:SMALL_BYTES]
    return {
        "large put": lambda: obstore.put(
            store, "large", blocks(size), chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        ),
        "large get": lambda: check(
            sum(map(len, obstore.get(store, "large").stream(min_chunk_size=MIB))), size
        ),
        "small put": lambda: [obstore.put(store, f"small/{n}", small, mode="create") for n in range(SMALL)],
        "small get": lambda: [bytes(obstore.get(store, f"small/{n}").bytes()) for n in range(SMALL)],
        "small delete": lambda: obstore.delete(store, [f"small/{n}" for n in range(SMALL)]),
    }


def check(came: int, size: int) -> None:
    if came != size * MIB:
        raise SystemExit(f"{came} bytes came back, and {size} MiB were put")


class Growth:
    """How much the memory of this process grows, looked at every 20 ms."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._before = resident_mib()

    def __enter__(self) -> "Growth":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.mib = max(self.mib, resident_mib() - self._before)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        measure(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        main()
