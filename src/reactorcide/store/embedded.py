"""The PostgreSQL that the program starts for itself when it is given none.

It listens on a Unix socket in an owner-only directory and never on TCP, runs as our child, and goes down
with us, however we end. Here is its life; `postgres_programs` finds the programs and how to run them.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import structlog

from reactorcide.domain.errors import Misconfigured
from reactorcide.store.postgres_programs import (
    Programs,
    Runner,
    find_programs,
    find_runner,
    initdb_command,
    upgrade_script,
)

_LOG_LIMIT_BYTES = 4 * 1024 * 1024
_LONGEST_SOCKET_DIRECTORY = 90
"""Of the 107 bytes of a Unix socket's path the name of PostgreSQL's own takes up to 17."""
_POLL_SECONDS = 0.01
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_KILL_SECONDS = 5.0
_WATCH_SECONDS = 1.0

_CONFIGURATION = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "48MB",
    "huge_pages": "off",
    "max_worker_processes": "1",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "1",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Neither statements nor rows: they hold what users wrote.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

log = structlog.get_logger()


@dataclass(frozen=True)
class _Postmaster:
    """What a running server wrote of itself into `postmaster.pid`."""

    pid: int
    socket_directory: str
    status: str


class EmbeddedPostgres:
    """A PostgreSQL server on ``data_dir``, started as our child or, where one runs already, attached to.

    `start` and `stop` are asynchronous and never block the event loop. Call `start` in a thread that lives
    as long as the server shall: on Linux its end, like that of the whole process, shuts the server down.
    An attached server goes down with the process that started it.

    Args:
        data_dir: made if absent; its parent takes two lock files of the same name.
        pg_bin: folder of the programs; None looks for them.
        is_durable: False gives up crash safety for speed, for tests alone.
        runner: how to run the programs; None finds out.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        pg_bin: Path | None = None,
        is_durable: bool = True,
        runner: Runner | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._pg_bin = pg_bin
        self._is_durable = is_durable
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_directory = self._choose_socket_directory()

    @property
    def is_ours(self) -> bool:
        """Whether the server is our child; not so when we attached to another's."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Process id of the server, if it is our child."""
        return self._process.pid if self._process else None

    @property
    def dsn(self) -> str:
        """Where the database is once `start` has returned; the same after a restart."""
        return self._dsn_at(self._socket_directory)

    def _dsn_at(self, socket_directory: str) -> str:
        return f"postgresql://postgres@/postgres?host={quote(socket_directory, safe='')}"

    async def start(self) -> None:
        """Make the data directory if absent and return when the server takes connections.

        Raises:
            Misconfigured: no programs, a data directory of another major version or of something else, or
                the server does not start; the text says what to do.
        """
        started = time.monotonic()
        runner = self._runner if self._runner is not None else await asyncio.to_thread(find_runner)
        programs = await asyncio.to_thread(find_programs, self._pg_bin, runner)
        self._make_parent()
        async with self._lock("lock"):
            running = await self._find_running()
            if running is not None:
                self._socket_directory = running.socket_directory
                log.info("postgres.attached", pid=running.pid, data_dir=str(self.data_dir))
                return
            await self._prepare(programs, runner)
            await self._launch(programs, runner)
        seconds = round(time.monotonic() - started, 3)
        log.info("postgres.started", pid=self.pid, data_dir=str(self.data_dir), seconds=seconds)

    async def stop(self) -> None:
        """Shut our server down cleanly, its clients cut off; an attached one is left alone."""
        if self._process is not None:
            await _shut_down(self._process)
            self._process = None

    async def keep_running(self) -> None:
        """Start the server again whenever it has ended, our own or the one attached to, until cancelled.

        Cancel it, and wait for its end, before `stop`.
        """
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._is_running():
                continue
            log.error("postgres.ended", exit_code=self._process.returncode if self._process else None)
            self._process = None
            try:
                await self.start()
            except Misconfigured as error:
                log.error("postgres.start_failed", detail=str(error))

    def _is_running(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        found = self._read_postmaster()
        return found is not None and self._is_alive(found)

    def _make_parent(self) -> None:
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Misconfigured(f"{self.data_dir.parent} cannot be made: {error.strerror}") from error

    @contextlib.asynccontextmanager
    async def _lock(self, name: str) -> AsyncIterator[int]:
        """Hold the lock file ``name`` beside the data directory, in the block and wherever its number goes.

        `lock` keeps others from starting or making the same server; `running` is inherited by the server,
        so that it tells, even between containers, whether one still works on these data.
        """
        handle = self._open_lock(name)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _try_lock(handle):
                if time.monotonic() > deadline:
                    raise Misconfigured(f"another process holds the {name} file of {self.data_dir}")
                await asyncio.sleep(_POLL_SECONDS)
            yield handle
        finally:
            os.close(handle)

    def _open_lock(self, name: str) -> int:
        path = self.data_dir.with_name(f"{self.data_dir.name}.{name}")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misconfigured(f"{path} cannot be opened: {error.strerror}") from error

    async def _find_running(self) -> _Postmaster | None:
        """Return the live server of this data directory, waiting while one starts or stops."""
        deadline = time.monotonic() + _START_SECONDS
        while (found := self._read_postmaster()) is not None:
            if not self._is_alive(found):
                # Another program may have its number by now, which PostgreSQL would not dare pass over.
                (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
                return None
            if found.status == "ready" and await _answers(self._dsn_at(found.socket_directory)):
                return found
            if time.monotonic() > deadline:
                raise Misconfigured(f"the server of process {found.pid} stays {found.status or 'silent'}")
            await asyncio.sleep(_POLL_SECONDS)
        return None

    def _read_postmaster(self) -> _Postmaster | None:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise Misconfigured(f"{self.data_dir} belongs to another user") from error
        lines += [""] * (8 - len(lines))
        return _Postmaster(int(lines[0] or 0), lines[4], lines[7].strip())

    def _is_alive(self, found: _Postmaster) -> bool:
        """Tell whether a server works on these data, started by us, elsewhere or by hand."""
        handle = self._open_lock("running")
        try:
            return not _try_lock(handle) or _works_in(found.pid, self.data_dir)
        finally:
            os.close(handle)

    async def _prepare(self, programs: Programs, runner: Runner) -> None:
        try:
            major = (self.data_dir / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            await self._make_cluster(programs, runner)
            return
        if major != str(programs.major):
            raise Misconfigured(
                f"{self.data_dir} was made by PostgreSQL {major}, the programs in {programs.folder} are "
                f"PostgreSQL {programs.major}; nothing was touched. Have the programs of {major} at hand, "
                f"stop all that uses the directory, and run:\n"
                f"{upgrade_script(self.data_dir, major, programs, runner)}"
            )

    async def _make_cluster(self, programs: Programs, runner: Runner) -> None:
        """Make a new cluster beside its place and move it there whole, so that no half of one is ever met."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise Misconfigured(f"{self.data_dir} is not empty and holds no PostgreSQL data")
        part = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        runner.give(part)
        command = initdb_command(programs, part)
        if not self._is_durable:
            command.append("--no-sync")
        with tempfile.TemporaryFile() as output:
            process = runner.popen(command, cwd=part, output=output)
            try:
                await _has_ended(process, _START_SECONDS)
            finally:
                process.kill()
                exit_code = process.wait()
            if exit_code != 0:
                output.seek(0)
                raise Misconfigured(f"initdb failed: {_last_lines(output.read())}")
        part.replace(self.data_dir)

    async def _launch(self, programs: Programs, runner: Runner) -> None:
        self._make_socket_directory(runner)
        settings = _CONFIGURATION | {"unix_socket_directories": self._socket_directory}
        if programs.major >= 18:
            settings["io_method"] = "sync"
        if not self._is_durable:
            settings |= _NOT_DURABLE
        command = [programs.path("postgres"), "-D", str(self.data_dir)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log_path = self._open_log()
        async with self._lock("running") as lock:
            with log_path.open("ab") as output:
                begin = output.tell()
                process = runner.popen(command, cwd=self.data_dir, output=output, server_lock=lock)
        try:
            await self._wait_until_ready(process)
        except TimeoutError as error:
            await _shut_down(process)
            with log_path.open("rb") as written:
                written.seek(begin)
                raise Misconfigured(f"PostgreSQL does not start: {_last_lines(written.read())}") from error
        except BaseException:
            await _shut_down(process)
            raise
        self._process = process

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it takes connections, or raise TimeoutError when it ended or it takes too long."""
        async with asyncio.timeout(_START_SECONDS):
            while process.poll() is None:
                found = self._read_postmaster()
                if found is not None and found.pid == process.pid and found.status == "ready":
                    return
                await asyncio.sleep(_POLL_SECONDS)
        raise TimeoutError

    def _open_log(self) -> Path:
        path = self.data_dir / "server.log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _LOG_LIMIT_BYTES:
                path.replace(path.with_suffix(".log.1"))
        return path

    def _choose_socket_directory(self) -> str:
        """The data directory, or one of its own under the temporary one where its path is too long."""
        if len(os.fsencode(self.data_dir)) <= _LONGEST_SOCKET_DIRECTORY:
            return str(self.data_dir)
        mark = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return str(Path(tempfile.gettempdir()) / f"reactorcide-{os.geteuid()}-{mark}")

    def _make_socket_directory(self, runner: Runner) -> None:
        self._socket_directory = self._choose_socket_directory()
        path = Path(self._socket_directory)
        if path == self.data_dir:
            return
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        owners = {os.geteuid(), runner.account.pw_uid if runner.account else os.geteuid()}
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in owners:
            # Others could listen there in our server's place.
            raise Misconfigured(f"{path} is not a directory for our eyes only: remove it")
        runner.give(path)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _works_in(pid: int, directory: Path) -> bool:
    """Tell whether ``pid`` is a process in ``directory``, where this system shows that."""
    process = Path(f"/proc/{pid}")
    try:
        return (process / "cwd").samefile(directory)
    except PermissionError:
        # Another user's: ours too, where root had to run the server as somebody else.
        with contextlib.suppress(OSError):
            return (process / "comm").read_text().strip() == "postgres"
    except OSError:
        return False
    return False


async def _answers(dsn: str) -> bool:
    try:
        await (await psycopg.AsyncConnection.connect(dsn, connect_timeout=2)).close()
    except psycopg.OperationalError:
        return False
    return True


async def _shut_down(process: subprocess.Popen[bytes]) -> None:
    """Ask for a fast shutdown, then for an immediate one, then end the process."""
    for request, seconds in (
        (signal.SIGINT, _STOP_SECONDS),
        (signal.SIGQUIT, _KILL_SECONDS),
        (signal.SIGKILL, _KILL_SECONDS),
    ):
        process.send_signal(request)
        if await _has_ended(process, seconds):
            log.info("postgres.stopped", signal=request.name, exit_code=process.returncode)
            return


async def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


def _last_lines(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").strip().splitlines()[-8:]) or "it said nothing"
