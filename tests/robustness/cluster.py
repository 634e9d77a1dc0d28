"""A whole cluster of real processes for tests: PostgreSQL, coordinators, workers, and proxies between them.

Every process has a data directory and a log of its own and, where we are root and workers speak HTTP, an
account of its own; the first worker then is root's, as its sandboxes get control groups. Of two
coordinators each has its own way to the database, and of three workers each its own way to a coordinator.
"""

import asyncio
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import httpx2
import psycopg

from fakes.corndogs_process import CorndogsProcess
from fakes.fault_proxy import FaultProxy
from reactorcide.config import Settings
from reactorcide.store.embedded import EmbeddedPostgres
from robustness.cluster_parts import Account, Part, descendants, find_interpreter
from robustness.cluster_profile import TEST, Profile

ADMIN_ID = "11111111-1111-4111-8111-111111111111"
READY_SECONDS = 60.0
WATCH_SECONDS = 0.5
WORKER_DISK_BYTES = 256 * 1024**2
OBJECTS_DISK_BYTES = 1024**3
_FIRST_UID = 61_000
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def can_speak_http() -> bool:
    """Tell whether workers of this version can reach a coordinator without its database."""
    return "coordinator_url" in {entry.name for entry in fields(Settings)}


@dataclass(frozen=True)
class ClusterPlan:
    """How large a cluster is, and how it works."""

    root: Path
    profile: Profile = TEST
    coordinators: int = 2
    workers: int = 3
    slots: int = 6
    worker_kind: str = "http"
    has_corndogs: bool = False
    """Ready jobs are announced to a Corndogs, which loses everything when it is killed."""
    has_own_accounts: bool = os.geteuid() == 0

    @property
    def is_http(self) -> bool:
        return self.worker_kind == "http"


class Cluster:
    """Starts, holds and stops the parts. What ends by itself is started again, and remembered."""

    def __init__(self, plan: ClusterPlan) -> None:
        self.plan = plan
        self.postgres = EmbeddedPostgres(plan.root / "pg", is_durable=True)
        self.coordinators: list[Part] = []
        self.workers: list[Part] = []
        self.database_proxies: list[FaultProxy] = []
        """One a coordinator."""
        self.uplinks: list[FaultProxy] = []
        """One a worker: to its coordinator or, for a direct one, to the database."""
        self.corndogs = CorndogsProcess() if plan.has_corndogs else None
        self.objects_dir = plan.root / "objects"
        self.token = ""
        self.strangers: set[int] = set()
        """Processes below ours that were there before the cluster, such as other tests' servers."""
        self._mounts: list[Path] = []
        self._key = secrets.token_hex(32)
        # Direct workers and coordinators write the same objects.
        self._has_own_accounts = plan.has_own_accounts and plan.is_http
        self._interpreter: str | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def urls(self) -> list[str]:
        """Where clients reach the coordinators; no fault is on that way."""
        return [f"http://127.0.0.1:{part.settings['PORT']}" for part in self.coordinators]

    @property
    def has_disks(self) -> bool:
        """Whether spools, workspaces and objects are on small disks of their own, which can be filled."""
        return bool(self._mounts)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything, and return when every worker is registered."""
        self.strangers = {info.pid for info in descendants(os.getpid())}
        _adopt_orphans(is_on=True)
        self.plan.root.mkdir(parents=True, exist_ok=True)
        self.plan.root.chmod(0o711)
        await self.postgres.start()
        if self.corndogs is not None:
            self.start_queue(self.corndogs)
        socket_path = Path(self.postgres.data_dir) / ".s.PGSQL.5432"
        coordinator_account = self._account(0)
        self._make_disk(self.objects_dir, OBJECTS_DISK_BYTES, coordinator_account)
        for number in range(self.plan.coordinators):
            self.database_proxies.append(await _started(FaultProxy(socket_path)))
            self.coordinators.append(self._coordinator(number, coordinator_account))
        self._bootstrap(self.coordinators[0])
        for part in self.coordinators:
            part.launch()
        await self._until(self.are_coordinators_ready, "the coordinators are ready")
        token_path = await self._mint_worker_token()
        for number in range(self.plan.workers):
            target: tuple[str, int] | Path = socket_path
            if self.plan.is_http:
                port = int(self.coordinators[number % len(self.coordinators)].settings["PORT"])
                target = ("127.0.0.1", port)
            self.uplinks.append(await _started(FaultProxy(target)))
            self.workers.append(self._worker(number, token_path))
        if not self.has_disks:
            sys.stderr.write("no small disks can be mounted here: the faults of full disks are left out\n")
        for part in self.workers:
            part.launch()
        await self._until(self._are_workers_registered, "the workers are registered")
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> dict[str, int | None]:
        """End the workers, then the coordinators, then the rest; return exit codes; None: was killed."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._watching = None
        codes: dict[str, int | None] = {}
        for parts in (self.workers, self.coordinators):
            running = [part for part in parts if part.is_running]
            for part in running:
                part.signal(signal.SIGCONT)
            ended = await asyncio.gather(*(part.ask_to_end(60) for part in running))
            codes |= dict(zip((part.name for part in running), ended, strict=True))
        for proxy in (*self.uplinks, *self.database_proxies):
            await proxy.stop()
        await self.postgres.stop()
        if self.corndogs is not None:
            self.corndogs.kill()
        for path in self._mounts:
            subprocess.run(["umount", "-l", str(path)], check=False)
        self._mounts.clear()
        self._reap_orphans()
        _adopt_orphans(is_on=False)
        return codes

    async def monitor(self) -> psycopg.AsyncConnection[dict[str, object]]:
        """Return a connection to the database by a way that no fault is on."""
        return await psycopg.AsyncConnection.connect(
            self.postgres.dsn,
            autocommit=True,
            row_factory=psycopg.rows.dict_row,
            connect_timeout=5,
            options="-c statement_timeout=20000",
        )

    def start_queue(self, corndogs: CorndogsProcess) -> None:
        """Bring the queue up, or up again, with no tickets in it."""
        corndogs.start()
        self.strangers.add(corndogs.pid)

    async def restart_postgres(self) -> None:
        """Bring the database up again after its end."""
        await self.postgres.stop()
        await self.postgres.start()

    async def are_coordinators_ready(self) -> bool:
        """Tell whether every coordinator says that it can work."""
        async with httpx2.AsyncClient(timeout=2, trust_env=False) as client:
            for url in self.urls:
                try:
                    if (await client.get(f"{url}/api/v1/health")).status_code != 200:
                        return False
                except httpx2.HTTPError:
                    return False
        return True

    def work_dir(self, worker: Part) -> Path:
        return worker.home / "work"

    def spool_dir(self, worker: Part) -> Path:
        return worker.home / "spool"

    def _account(self, number: int) -> Account:
        """Return the account of a host: coordinators share number 0, which has no other's."""
        if not self._has_own_accounts or number == 1:
            return Account()
        account = Account(_FIRST_UID + number)
        if self._interpreter is None:
            self._interpreter = find_interpreter(account, self.plan.root / "python")
        if self._interpreter is None:
            sys.stderr.write(f"uid {account.uid} cannot read the product: every part runs as ourselves\n")
            self._has_own_accounts = False
            return Account()
        return account

    def _coordinator(self, number: int, account: Account) -> Part:
        name = f"serve-{number + 1}"
        home = self._make_home(name, account)
        dsn = f"postgresql://postgres@127.0.0.1:{self.database_proxies[number].port}/postgres?sslmode=disable"
        settings = {
            **self._shared_settings(home),
            "DB_URI": f"{dsn}&gssencmode=disable",
            "HOST": "127.0.0.1",
            "PORT": str(_free_port()),
            "DEFAULT_USER_ID": ADMIN_ID,
        }
        return self._part(name, "serve", settings, account)

    def _worker(self, number: int, token_path: Path | None) -> Part:
        name = f"worker-{number + 1}"
        account = self._account(number + 1)
        home = self.plan.root / name
        self._make_disk(home, WORKER_DISK_BYTES, account)
        settings = {
            **self._shared_settings(home),
            "WORKER_NAME": name,
            "WORKER_CONCURRENCY": str(self.plan.slots),
            "WORKER_POLL_INTERVAL": "1",
            "SANDBOX_UID_BASE": str(2_000_000_000 + 1000 * number),
        }
        port = self.uplinks[number].port
        if token_path is None:
            dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
            settings |= {"DB_URI": f"{dsn}&gssencmode=disable"}
        else:
            own_token = self.plan.root / f"{name}.token"
            own_token.touch(0o600)
            own_token.write_text(token_path.read_text())
            account.give(own_token)
            del settings["ENCRYPTION_KEY"], settings["OBJECT_STORE_BASE_PATH"]
            settings |= {"COORDINATOR_URL": f"http://127.0.0.1:{port}", "WORKER_TOKEN_FILE": str(own_token)}
        return self._part(name, "worker", settings, account)

    def _part(self, name: str, command: str, settings: dict[str, str], account: Account) -> Part:
        log_path, home = self.plan.root / f"{name}.log", self.plan.root / name
        python = sys.executable if account.uid is None else self._interpreter or sys.executable
        return Part(name, (command,), settings, home, log_path, account, python)

    def _shared_settings(self, home: Path) -> dict[str, str]:
        return {
            **self.plan.profile.variables(),
            "DATA_DIR": str(home),
            "ENCRYPTION_KEY": self._key,
            "OBJECT_STORE_BASE_PATH": str(self.objects_dir),
            "LOG_FORMAT": "json",
            **({"CORNDOGS_BASE_URL": self.corndogs.address} if self.corndogs is not None else {}),
        }

    def _make_home(self, name: str, account: Account) -> Path:
        home = self.plan.root / name
        home.mkdir(mode=0o700)
        account.give(home)
        return home

    def _make_disk(self, path: Path, size_bytes: int, account: Account) -> None:
        """Make a directory, a small disk of its own where we may mount one."""
        path.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "reactorcide-test", str(path)]
        if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
            self._mounts.append(path)
        account.give(path)

    def _bootstrap(self, part: Part) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(part.home)}
        environment |= {f"REACTORCIDE_{name}": value for name, value in part.settings.items()}
        # Through a thread of its own this would wait for the proxy, which lives in our event loop.
        environment["REACTORCIDE_DB_URI"] = self.postgres.dsn
        subprocess.run(
            [sys.executable, "-m", "reactorcide", "bootstrap"],
            env=environment,
            cwd=part.home,
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.token = (part.home / "admin-token").read_text().strip()
        for path in part.home.iterdir():
            part.account.give(path)
        for path in (self.objects_dir, *self.objects_dir.rglob("*")):
            part.account.give(path)

    async def _mint_worker_token(self) -> Path | None:
        if not self.plan.is_http:
            return None
        body = {"name": "workers", "kind": "worker"}
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=10, trust_env=False) as client:
            answer = await client.post(f"{self.urls[0]}/api/v1/tokens", json=body)
        answer.raise_for_status()
        path = self.plan.root / "worker.token"
        path.touch(0o600)
        path.write_text(answer.json()["token"])
        return path

    async def _are_workers_registered(self) -> bool:
        self._fail_if_ended(self.workers)
        async with await self.monitor() as connection:
            cursor = await connection.execute("SELECT count(*) AS number FROM workers")
            row = await cursor.fetchone()
        return row is not None and row["number"] == self.plan.workers

    def _fail_if_ended(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if not part.is_running:
                raise RuntimeError(f"{part.name} ended: {part.log_path.read_text(errors='replace')[-2000:]}")

    async def _until(self, holds: object, what: str) -> None:
        end = time.monotonic() + READY_SECONDS
        while not await holds():  # type: ignore[operator]
            self._fail_if_ended(self.coordinators)
            if time.monotonic() > end:
                raise TimeoutError(f"not within {READY_SECONDS} s: {what}")
            await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        """Start again what has ended by itself, as a service manager does, and bury orphans."""
        while True:
            for part in (*self.coordinators, *self.workers):
                if part.note_unasked_end():
                    part.launch()
            self._reap_orphans()
            await asyncio.sleep(WATCH_SECONDS)

    def _reap_orphans(self) -> None:
        ours = {part.process.pid for part in (*self.coordinators, *self.workers) if part.process is not None}
        ours.add(self.postgres.pid or 0)
        for info in descendants(os.getpid()):
            if (
                info.state == "Z"
                and info.parent == os.getpid()
                and info.pid not in ours
                and not info.arguments
            ):
                try:
                    os.waitpid(info.pid, os.WNOHANG)
                except ChildProcessError:
                    continue


def remove_tree(path: Path) -> None:
    """Remove a cluster's directory."""
    shutil.rmtree(path, ignore_errors=True)


async def _started(proxy: FaultProxy) -> FaultProxy:
    await proxy.start()
    return proxy


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _adopt_orphans(*, is_on: bool) -> None:
    """Become the parent of what our descendants leave behind, so that nothing of it can hide."""
    ctypes.CDLL(None).prctl(_SUBREAPER, int(is_on), 0, 0, 0)
