"""Workers: who they are, and the times by which they and their coordinator go."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from reactorcide.domain.account_rules import check_name
from reactorcide.domain.errors import InputFault
from reactorcide.domain.ids import is_id
from reactorcide.domain.submission import check_queue_name


@dataclass(frozen=True)
class WorkerIdentity:
    """Who a worker is. ``name`` stays over restarts, ``boot_id`` is made anew by each process."""

    name: str
    boot_id: str
    queues: tuple[str, ...]
    slots: int
    version: str
    isolation: str


@dataclass(frozen=True)
class WorkerReport:
    """What a worker tells of itself with a heartbeat."""

    draining: bool = False
    has_room: bool = True
    """Whether its disks have room for another job."""
    spooled: int = 0
    """Attempts in its spool: those that run, and those not wholly delivered yet."""
    spool_bytes: int = 0


@dataclass(frozen=True)
class Registration:
    """What a coordinator answers a worker that registers: who it is, and the times it has to keep."""

    worker_id: str
    lease_seconds: float
    heartbeat_seconds: float
    lost_after_seconds: float
    cancel_grace_seconds: float
    public_url: str | None = None
    """Where jobs and people find the API, as far as the coordinator knows."""


@dataclass(frozen=True)
class Timing:
    """The times of section D of the robustness programme; its letters in brackets."""

    lease: timedelta
    """[L] A lease ends so long after its last renewal."""
    heartbeat: timedelta
    """[H] Between two heartbeats of a worker."""
    start_deadline: timedelta
    """[S] A claim that was not started by then goes back."""
    lost_after: timedelta
    """[LOST] An at-most-once job of a silent worker is given up after this, counted from its renewal."""
    reap_interval: timedelta
    """[R] Between two rounds of maintenance."""
    cancel_grace: timedelta
    """[G] Between TERM and KILL."""


def check_identity(identity: WorkerIdentity) -> Iterator[InputFault]:
    """Yield what makes it impossible to register a worker."""
    yield from check_name("/name", identity.name)
    for name in ("version", "isolation"):
        if not getattr(identity, name).isprintable():
            yield InputFault(f"/{name}", "must not contain control characters")
    if not is_id(identity.boot_id):
        yield InputFault("/boot_id", "must be a lower-case UUID")
    for number, queue_name in enumerate(identity.queues):
        if fault := check_queue_name(queue_name):
            yield InputFault(f"/queues/{number}", fault)
