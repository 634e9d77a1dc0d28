"""The whole product as the benches start it: one `reactorcide up` with its own data directory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx2


class Up:
    """A running `reactorcide up`; ``url`` and ``token`` reach it, ``seconds_to_ready`` is its start."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self._data_dir = data_dir
        self._environment = environment
        self.seconds_to_ready = 0.0
        self.url = ""
        self.token = ""

    def __enter__(self) -> "Up":
        environment = {
            **os.environ,
            "REACTORCIDE_DATA_DIR": str(self._data_dir),
            "REACTORCIDE_PORT": "0",
            **self._environment,
        }
        program = Path(sys.executable).with_name("reactorcide")
        asking = httpx2.Client()  # made before the clock runs: it loads certificates
        begun = time.monotonic()
        self.process = subprocess.Popen(
            [program, "up"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        server_file = self._data_dir / "server.json"
        while time.monotonic() - begun < 60:
            if self.process.poll() is not None:
                raise SystemExit(f"up ended with {self.process.returncode}")
            try:
                told = json.loads(server_file.read_text())
                if told["pid"] == self.process.pid and asking.get(told["url"] + "/readyz").status_code == 200:
                    break
            except (OSError, ValueError, KeyError, httpx2.HTTPError):
                pass
            time.sleep(0.005)
        else:
            raise SystemExit("up was not ready within 60 s")
        asking.close()
        self.seconds_to_ready = time.monotonic() - begun
        self.url, self.token = told["url"], (self._data_dir / "admin-token").read_text().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=httpx2.Timeout(70)
        )


def process_tree(root: int) -> list[int]:
    """Return ``root`` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    return found


def pss_mib(pids: list[int]) -> float:
    """Return the proportional set size of the processes together, in MiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024
