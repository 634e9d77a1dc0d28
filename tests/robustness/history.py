"""What a run left behind, as plain values: all that the checkers look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from robustness.cluster_profile import TEST, Profile
from robustness.ledger import Life
from robustness.nemesis_faults import FaultSpan
from robustness.workload import Plan
from robustness.workload_clients import Trace


@dataclass(frozen=True)
class JobRow:
    """A job as the database has it after all."""

    job_id: str
    name: str
    status: str
    reason: str | None
    attempt: int
    runs: int
    max_runs: int
    exit_code: int | None
    completed_at: float | None = None
    """By the monotonic clock."""
    worker_name: str | None = None

    @property
    def is_final(self) -> bool:
        return self.status in ("completed", "failed", "cancelled", "timeout")


@dataclass(frozen=True)
class AttemptRow:
    """An attempt as the database has it after all."""

    job_id: str
    attempt: int
    log_length: int
    is_started: bool = True
    end_status: str | None = None
    promised_length: int | None = None
    promised_sha256: bytes | None = None
    is_sealed: bool = False


@dataclass(frozen=True)
class ServedLog:
    """What the API serves of an attempt's log: as it is stored, and each stream of the job's."""

    whole: bytes
    stdout: bytes
    stderr: bytes = b""


@dataclass(frozen=True)
class StuckLease:
    """A lease that was over for long, seen after the healing."""

    job_id: str
    over_for_seconds: float


@dataclass
class History:
    """One run. Times are of the monotonic clock."""

    plans: Mapping[str, Plan]
    trace: Trace
    profile: Profile = TEST
    jobs: Sequence[JobRow] = ()
    attempts: Sequence[AttemptRow] = ()
    lives: Mapping[tuple[str, int], Sequence[Life]] = field(default_factory=dict)
    logs: Mapping[tuple[str, int], ServedLog] = field(default_factory=dict)
    acknowledged_bytes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """The longest log that was ever seen acknowledged."""
    spans: Sequence[FaultSpan] = ()
    stuck: Sequence[StuckLease] = ()
    unended: Sequence[str] = ()
    """Jobs that were not final when patience ended."""
    secret_hits: Sequence[str] = ()
    searched_bytes: int = 0
    leftovers: Sequence[str] = ()
    exit_codes: Mapping[str, int | None] = field(default_factory=dict)
    broken_laws: Sequence[str] = ()
    coordinators: int = 1

    def spans_of(self, *targets: str) -> list[FaultSpan]:
        """Return the faults of some targets; a target names its links too."""
        return [span for span in self.spans if span.target in targets or span.target.split(":")[0] in targets]

    @property
    def database_spans(self) -> list[FaultSpan]:
        """The faults of the database, and of any coordinator's way to it."""
        return [span for span in self.spans if "database" in span.target]
