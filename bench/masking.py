"""Masking of a log against a plain copy of it, in the same run: ``python bench/masking.py``.

Reads blocks of 64 KiB from a pipe and writes them to a file, as the pump of a job's output does.
The goal is a ratio of at least 0.4 with 20 secrets.
"""

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runnerlib.masking import Masker

BLOCK = 64 * 1024
SIZE = 256 * 1024 * 1024
ROUNDS = 5


def log_text(secrets: list[str], lines_per_secret: int | None) -> bytes:
    """Return 8 MiB of lines like a build's, with a secret in every so many lines."""
    randomness = random.Random(1)
    lines = []
    for number in range(100_000):
        line = (
            f"2026-11-22T20:28:15 INFO compiling module {number} of reactor {randomness.getrandbits(64):x} ok"
        )
        if lines_per_secret and number % lines_per_secret == 0:
            line += " token=" + randomness.choice(secrets)
        lines.append(line)
    return "\n".join(lines).encode()[: 8 * 1024 * 1024]


def seconds_to_copy(source: Path, target: Path, change: Callable[[bytes], bytes]) -> float:
    with (
        subprocess.Popen(["cat", str(source)], stdout=subprocess.PIPE) as cat,
        target.open("wb", buffering=0) as out,
    ):
        assert cat.stdout is not None
        began = time.perf_counter()
        while block := os.read(cat.stdout.fileno(), BLOCK):
            out.write(change(block))
        return time.perf_counter() - began


def main() -> None:
    randomness = random.Random(2)
    secrets = [randomness.randbytes(20).hex() for _ in range(20)]
    with tempfile.TemporaryDirectory() as folder:
        for name, every in (("no secret in the text", None), ("a secret in each 100th line", 100)):
            text = log_text(secrets, every)
            source = Path(folder) / "source"
            source.write_bytes(text * (SIZE // len(text)))
            target = Path(folder) / "target"
            plain, masked = [], []
            for _ in range(ROUNDS):
                plain.append(seconds_to_copy(source, target, lambda block: block))
                masked.append(seconds_to_copy(source, target, Masker(secrets).stream().feed))
            size = source.stat().st_size / 1e6
            fast, slow = (size / statistics.median(seconds) for seconds in (plain, masked))
            print(f"{name}: plain {fast:.0f} MB/s, masked {slow:.0f} MB/s, ratio {slow / fast:.2f}")


if __name__ == "__main__":
    main()
