"""Numbered points in a process of the product: every commit, sync, rename, write and send it passes.

Nothing in the product knows of this. A launcher (see `crash_points_launcher`) replaces what the product
stands on (psycopg's commit, `os.fsync`, `os.rename`, `os.write`, the transports of asyncio) by wrappers
that tell a `Meter` before and after; the meter names the point by kind, path of interest, place in the
code and how often it was passed, writes it down, and at one point dies or lets the call fail.
"""

import errno
import functools
import io
import json
import os
import re
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

SOURCES = str(Path(__file__).parents[2] / "src") + "/"
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
_PLUMBING = ("reactorcide/store/database.py", "reactorcide/services/group_commit.py")
_PATHS = (
    ("api/jobs.py", "submit_job", "submit"),
    ("services/jobs.py", "JobService.submit", "submit"),
    ("services/jobs.py", "JobService._commit_jobs", "submit"),
    ("services/jobs.py", "JobService.cancel", "cancel"),
    ("services/dispatch.py", "", "claim"),
    ("queue/database.py", "", "claim"),
    ("services/attempts.py", "AttemptService.register", "register"),
    ("services/attempts.py", "AttemptService.deregister", "deregister"),
    ("services/attempts.py", "AttemptService.start", "start"),
    ("services/attempts.py", "AttemptService.heartbeat", "heartbeat"),
    ("services/attempts.py", "AttemptService.finish", "finish"),
    ("services/attempts.py", "AttemptService.release", "release"),
    ("services/logs.py", "LogService.append", "append"),
    ("services/logs.py", "LogService._put", "append"),
    ("services/log_sealing.py", "LogSealing._seal", "seal"),
    ("services/log_sealing.py", "LogSealing._write_sealed", "seal"),
    ("services/logs.py", "LogService.purge", "purge"),
    ("services/logs.py", "LogService._purge", "purge"),
    ("services/maintenance.py", "Maintenance._reap", "reap"),
    ("services/maintenance.py", "Maintenance._end_lease", "reap"),
    ("services/maintenance.py", "Maintenance._expire", "maintenance"),
    ("services/tally.py", "", "maintenance"),
    ("services/accounts.py", "AccountService.bootstrap_admin", "startup"),
    ("services/accounts.py", "_keep_token", "startup"),
    ("services/vault.py", "", "startup"),
    ("store/migrate.py", "", "startup"),
    ("cli/service.py", "server_file", "startup"),
    ("wiring/core.py", "ensure_admin", "startup"),
    ("store/bell.py", "", "bell"),
    ("gateway/http.py", "HttpGateway.register", "register"),
    ("gateway/http.py", "HttpGateway.claim", "claim"),
    ("gateway/http.py", "HttpGateway.start", "start"),
    ("gateway/http.py", "HttpGateway.heartbeat", "heartbeat"),
    ("gateway/http.py", "HttpGateway.append_log", "append"),
    ("gateway/http.py", "HttpGateway.finish", "finish"),
    ("worker/spool.py", "Spool.create", "start"),
    ("worker/spool.py", "AttemptSpool.keep_result", "finish"),
    ("worker/runner.py", "Runner.begin", "start"),
    ("worker/runner.py", "Runner.send", "heartbeat"),
    ("runnerlib/spool.py", "Spool.__init__", "start"),
    ("runnerlib/spool.py", "Spool.finish", "finish"),
    ("runnerlib/spool.py", "Spool.", "append"),
    ("runnerlib/spool.py", "_Keeper.", "append"),
    ("runnerlib/attempt.py", "EventChannel", "append"),
)


@dataclass(frozen=True)
class Plan:
    """What shall happen in one process, and where it is written down.

    ``fault``: `kill`, or the name of an errno that the call at ``target`` gets, and with ``seconds``
    every write after it for so long. It happens once: whoever makes ``marker`` first.
    """

    process: str
    trace: str
    marker: str
    target: str | None = None
    fault: str = "kill"
    seconds: float = 0.0

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Plan":
        return cls(**json.loads(text))


class Meter:
    """Counts the points that this process passes, and lets the planned one happen."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._broken_until = 0.0
        # Taken before they are wrapped.
        self._open, self._write, self._kill = os.open, os.write, os.kill
        self._trace = os.open(plan.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._is_over = Path(plan.marker).exists()

    def passing(self, kind: str, *, may_fail: bool = True, call: str | None = None) -> None:
        """Note a point; die here, or raise the planned OSError, if its turn has come."""
        place = call or find_place(sys._getframe(2))
        if place is None:
            return
        with self._lock:
            self._passed[f"{kind} {place}"] += 1
            name = f"{self._plan.process} {kind} {place} #{self._passed[f'{kind} {place}']}"
        self._write(self._trace, f"{name}\n".encode())
        if name == self._plan.target and self._is_first():
            self._happen()
        elif may_fail and time.monotonic() < self._broken_until and not kind.startswith("commit"):
            self._fail()

    def _is_first(self) -> bool:
        if self._is_over:
            return False
        try:
            os.close(self._open(self._plan.marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        except FileExistsError:
            return False
        finally:
            self._is_over = True
        return True

    def _happen(self) -> None:
        if self._plan.fault == "kill":
            self._kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        self._broken_until = time.monotonic() + self._plan.seconds
        self._fail()

    def _fail(self) -> None:
        code = getattr(errno, self._plan.fault)
        raise OSError(code, os.strerror(code))


def find_place(frame: FrameType | None) -> str | None:
    """Return path of interest and place in the product's code of a call stack; None: not the product's.

    The place is the innermost function that is not plumbing; of paths the outermost counts.
    """
    path = place = None
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(SOURCES):
            file, function = code.co_filename.removeprefix(SOURCES), code.co_qualname.replace(".<locals>", "")
            if place is None and not file.endswith(_PLUMBING):
                place = f"{file.removesuffix('.py')}:{function}"
            for ending, start, name in _PATHS:
                if file.endswith(ending) and function.startswith(start):
                    path = name
                    break
        elif code.co_qualname == "RequestResponseCycle.send":
            scope = frame.f_locals["self"].scope
            path = place = f"{scope['method']} {_ID.sub('ID', scope['path'])}"
            return f"[answer] {place}"
        frame = frame.f_back
    return f"[{path or 'other'}] {place}" if place is not None else None


def install_file_points(meter: Meter, *, writes: bool) -> None:
    """Wrap what makes files durable and visible; with ``writes`` also what fills and makes them."""
    for name in ("fsync", "fdatasync"):
        _wrap(os, name, functools.partial(_around, meter, name))
    for name in ("rename", "replace", "link"):
        _wrap(os, name, functools.partial(_around, meter, name))
    if not writes:
        return
    _wrap(os, "mkdir", functools.partial(_around, meter, "mkdir"))
    _wrap(os, "write", functools.partial(_if, meter, "write", _is_file))
    _wrap(os, "open", functools.partial(_if, meter, "create", lambda _, flags, *rest: flags & os.O_CREAT))
    _wrap(io, "open", functools.partial(_opening, meter))


def install_pipe_points(meter: Meter) -> None:
    """Wrap writes of a synchronous process to its pipes."""
    _wrap(os, "write", functools.partial(_if, meter, "send", lambda fd, *_: not _is_file(fd)))


def install_transport_points(meter: Meter) -> None:
    """Wrap what asyncio sends: answers of the API, requests of a worker, words to a runner."""
    from asyncio import selector_events, unix_events

    for transport in (selector_events._SelectorSocketTransport, unix_events._UnixWritePipeTransport):
        _wrap(transport, "write", functools.partial(_around, meter, "send"))


def install_commit_points(meter: Meter, *, as_full_disk: bool) -> None:
    """Wrap every commit, and every statement that is its own transaction.

    Args:
        as_full_disk: the planned error is the server's, which could not write.
    """
    import psycopg

    commit = psycopg.AsyncConnection.commit

    async def counted(self: Any) -> None:
        try:
            meter.passing("commit:before")
        except OSError as error:
            if not as_full_disk:
                raise
            raise psycopg.errors.DiskFull(str(error)) from error
        await commit(self)
        meter.passing("commit:after", may_fail=False)

    psycopg.AsyncConnection.commit = counted  # type: ignore[method-assign]


def _wrap(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _around(meter: Meter, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(*given: Any, **named: Any) -> Any:
        meter.passing(f"{kind}:before")
        answer = call(*given, **named)
        meter.passing(f"{kind}:after", may_fail=False)
        return answer

    return counted


def _if(
    meter: Meter, kind: str, holds: Callable[..., object], call: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(*given: Any, **named: Any) -> Any:
        if holds(*given):
            meter.passing(f"{kind}:before")
        return call(*given, **named)

    return counted


def _opening(meter: Meter, call: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+"):
            return call(file, mode, *rest, **named)
        meter.passing("create:before")
        return _CountedFile(call(file, mode, *rest, **named), meter)

    return opened


class _CountedFile:
    """A file object whose writes are points."""

    def __init__(self, file: Any, meter: Meter) -> None:
        self._file, self._meter = file, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_CountedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        self._meter.passing("write:before")
        return int(self._file.write(data))


def _is_file(descriptor: int, *_: object) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
