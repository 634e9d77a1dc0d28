"""Measure what a runner costs around a command: time, memory, and the speed of its log.

Run: ``.venv/bin/python bench/runner_overhead.py [RUNS] [EXECUTOR [IMAGE]]``; the executor is ``process``
unless ``container`` is said. Each run measures the bare command and the attempt side by side. The
runner waits for its spec already, as a worker keeps one; the time is from giving it the spec until it
has ended, its result on the disk. Processor time, which neighbours on the machine change less, is told apart
by what a runner has used before its spec, and what it and its sandbox use from then on.
"""

import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runnerlib.spec import HostPolicy, JobSource, RunSpec, decode_result, encode_spec

RUNNER = (sys.executable, "-P", "-m", "runnerlib.attempt")
LOG_BYTES = 200_000_000
SECRETS = {f"SECRET_{number}": os.urandom(12).hex() for number in range(20)}
PRINTING = (
    f"yes 'a line of an ordinary log, with nothing to hide in it, and not too short' | head -c {LOG_BYTES}"
)
_WARM_SECONDS = 0.6


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    host = HostPolicy(executor="container" if sys.argv[2:3] == ["container"] else "process")
    image = sys.argv[3] if len(sys.argv) > 3 else None
    bare = bare_command(host, image)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        measure_time(runs, place, host, image, bare)
        measure_memory(place, host, image)
        measure_log(place, host, image)


def bare_command(host: HostPolicy, image: str | None) -> list[str]:
    if host.executor == "process":
        return ["/bin/sh", "-c", "true"]
    from runnerlib.executors.engine import find_engine

    assert image is not None, "name an image"
    return [str(find_engine(None).path), "run", "--rm", "--network", "none", image, "/bin/sh", "-c", "true"]


def measure_time(runs: int, place: Path, host: HostPolicy, image: str | None, bare: list[str]) -> None:
    alone, within = [], []
    ahead, used = [], []
    for number in range(runs):
        begun = time.perf_counter()
        subprocess.run(bare, check=True)
        alone.append((time.perf_counter() - begun) * 1000)
        runner = warm_runner()
        before = processor_seconds(runner.pid)
        begun = time.perf_counter()
        whole = finish(runner, spec_of("true", place, f"t{number}", host, image))
        within.append((time.perf_counter() - begun) * 1000)
        ahead.append(before * 1000)
        used.append((whole - before) * 1000)
    added = [attempt - command for attempt, command in zip(within, alone, strict=True)]
    print(f"bare {show(alone)} ms, attempt {show(within)} ms, added {show(added)} ms (p50, p95)")
    print(f"processor time: {show(ahead)} ms before the spec, {show(used)} ms after it (p50, p95)")


def measure_memory(place: Path, host: HostPolicy, image: str | None) -> None:
    runner = warm_runner()
    spec = spec_of("echo there; sleep 2", place, "memory", host, image)
    begin(runner, spec)
    log = Path(spec.spool_dir) / "log"
    while not log.exists() or b"there" not in log.read_bytes():
        time.sleep(0.01)
    rollup = Path(f"/proc/{runner.pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    print(
        f"a running attempt: {private / 1024:.1f} MiB unshared, "
        f"{sizes['Pss'] / 1024:.1f} MiB of its own share"
    )
    runner.communicate(timeout=30)


def measure_log(place: Path, host: HostPolicy, image: str | None) -> None:
    begun = time.perf_counter()
    with subprocess.Popen(["/bin/sh", "-c", PRINTING], stdout=subprocess.PIPE) as printing:
        assert printing.stdout is not None
        with (place / "copy").open("wb", buffering=0) as copy:
            while data := os.read(printing.stdout.fileno(), 256 * 1024):
                copy.write(data)
            os.fsync(copy)
    alone = time.perf_counter() - begun
    runner = warm_runner()
    begun = time.perf_counter()
    finish(runner, spec_of(PRINTING, place, "log", host, image, secrets=SECRETS))
    within = time.perf_counter() - begun
    print(
        f"log of {LOG_BYTES / 1e6:.0f} MB, 20 secrets: {LOG_BYTES / within / 1e6:.0f} MB/s, plain copy "
        f"{LOG_BYTES / alone / 1e6:.0f} MB/s: {alone / within:.2f} of it"
    )


def warm_runner() -> subprocess.Popen[bytes]:
    runner = subprocess.Popen(RUNNER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    time.sleep(_WARM_SECONDS)
    return runner


def begin(runner: subprocess.Popen[bytes], spec: RunSpec) -> None:
    assert runner.stdin is not None
    runner.stdin.write(encode_spec(spec))
    runner.stdin.flush()


def finish(runner: subprocess.Popen[bytes], spec: RunSpec) -> float:
    """Let the runner work; return the seconds of processor time of its whole life, its sandbox's included."""
    begin(runner, spec)
    used = end_of(runner, 120)
    result = decode_result((Path(spec.spool_dir) / "result.json").read_bytes())
    if result.status != "completed":
        raise SystemExit(f"the attempt ended {result.status}: {result.message}")
    runner.communicate()
    return used


def end_of(runner: subprocess.Popen[bytes], limit_seconds: float) -> float:
    """Wait for the end to the moment, and return what was used.

    ``Popen.wait`` with a limit sleeps, twice as long each time: what ends after 32 ms would seem to have
    taken 64, and what ends after those 114.
    """
    handle = os.pidfd_open(runner.pid)
    try:
        if not select.select([handle], [], [], limit_seconds)[0]:
            raise SystemExit(f"the attempt has not ended within {limit_seconds:g} s")
    finally:
        os.close(handle)
    _, status, usage = os.wait4(runner.pid, 0)
    runner.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def processor_seconds(pid: int) -> float:
    """Return what a process of one thread has used so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def spec_of(
    command: str,
    place: Path,
    name: str,
    host: HostPolicy,
    image: str | None,
    *,
    secrets: dict[str, str] | None = None,
) -> RunSpec:
    spool = place / f"spool-{name}"
    spool.mkdir(mode=0o700)
    return RunSpec(
        job_id=f"bench-{os.getpid()}-{name}",
        job_name="bench",
        attempt=1,
        command=command,
        source=JobSource(type="none"),
        image=image,
        secrets=secrets or {},
        network="none",
        spool_dir=str(spool),
        workspace_root=str(place / "work"),
        host=host,
    )


def show(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{statistics.median(ordered):.0f} {ordered[int(len(ordered) * 0.95)]:.0f}"


if __name__ == "__main__":
    main()
