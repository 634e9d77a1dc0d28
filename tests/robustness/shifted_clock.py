"""A worker that lives by a wall clock of its own: `shifted_clock.py FILE`, the file holding seconds.

The file is read at every look at the clock, so the clock can jump while jobs run. Runners share it; only
the monotonic clock is the machine's.
"""

import runpy
import sys
import time
from pathlib import Path

_true_time, _true_time_ns = time.time, time.time_ns


def shift_clock(path: Path) -> None:
    """Let `time.time` and `time.time_ns` go by the shift in ``path``."""

    def shift() -> float:
        return float(path.read_text() or 0)

    time.time = lambda: _true_time() + shift()
    time.time_ns = lambda: _true_time_ns() + int(shift() * 1e9)


def main() -> None:
    """Be a worker, or with a module's name that module."""
    path = Path(sys.argv[1])
    shift_clock(path)
    if len(sys.argv) > 2:
        module, sys.argv = sys.argv[2], [sys.argv[2]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from reactorcide.cli.worker import worker
    from reactorcide.worker import runner

    runner.RUNNER_COMMAND = (sys.executable, __file__, str(path), "runnerlib.attempt")
    sys.argv = ["worker"]
    worker()


if __name__ == "__main__":
    main()
