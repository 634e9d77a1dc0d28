"""Measure `reactorcide up`: from nothing to ready, warm, and the idle memory of all its processes.

Run: ``.venv/bin/python bench/startup.py [ROUNDS]``. Seconds are from exec to `/readyz` answering 200;
memory is the sum of PSS over the process tree, in MiB, five seconds after the last start.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from product import Up, process_tree, pss_mib


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cold, warm, memory = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            with Up(Path(folder)) as up:
                cold.append(up.seconds_to_ready)
            with Up(Path(folder)) as up:
                warm.append(up.seconds_to_ready)
                time.sleep(5)
                memory.append(pss_mib(process_tree(up.process.pid)))
    for name, values in (("cold start s", cold), ("warm start s", warm), ("idle PSS MiB", memory)):
        median = statistics.median(values)
        print(f"{name:14} median {median:7.2f}  min {min(values):7.2f}  max {max(values):7.2f}")


if __name__ == "__main__":
    main()
