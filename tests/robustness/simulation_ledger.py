"""What really happened in a simulation, told by those it happened to; and what must be true of it."""

from collections import defaultdict
from dataclasses import dataclass

from job_laws import JobFacts
from reactorcide.domain.jobs import AttemptOutcome, Claim
from reactorcide.domain.status import JobStatus
from robustness.simulation_world import World


class Broken(AssertionError):
    """A promise was broken; ``job_id`` is the job concerned, if it is one."""

    def __init__(self, job_id: str, what: str) -> None:
        super().__init__(f"{what} (job {job_id})")
        self.job_id = job_id


@dataclass(eq=False)
class Execution:
    """One sandbox, from its first to its last moment."""

    claim: Claim
    began: float
    ended: float | None = None
    exit_code: int | None = None
    """Of the job itself; None: it runs, or was killed."""


class Ledger:
    """Executions, and what was acknowledged to clients and workers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.executions: dict[str, list[Execution]] = defaultdict(list)
        self.submitted: dict[str, str] = {}
        """The job of each acknowledged idempotency key."""
        self.asked_keys: set[str] = set()
        self.retries_asked = 0
        self.cancelled: set[str] = set()
        """Jobs whose cancellation before any start was acknowledged."""
        self.finished: dict[Claim, AttemptOutcome] = {}
        self.acknowledged: dict[Claim, int] = defaultdict(int)
        self.logs: dict[Claim, bytearray] = defaultdict(bytearray)
        """What each attempt has written."""
        self.whole_logs: set[Claim] = set()
        """Attempts whose worker was told that all of the log is stored."""

    def begin(self, claim: Claim, *, may_run_again: bool) -> Execution:
        earlier = self.executions[claim.job_id]
        self._world.note(claim.job_id, f"execution of attempt {claim.attempt} begins")
        for other in earlier:
            if other.ended is None:
                raise Broken(claim.job_id, f"attempts {other.claim.attempt} and {claim.attempt} overlap")
            if other.claim == claim:
                raise Broken(claim.job_id, f"attempt {claim.attempt} was executed twice")
        if claim.job_id in self.cancelled:
            raise Broken(claim.job_id, "it began after its cancellation had been acknowledged")
        execution = Execution(claim, self._world.now)
        earlier.append(execution)
        return execution

    def end(self, execution: Execution, exit_code: int | None) -> None:
        execution.ended, execution.exit_code = self._world.now, exit_code
        self._world.note(
            execution.claim.job_id, f"execution of attempt {execution.claim.attempt} ends: {exit_code}"
        )

    def check(
        self, jobs: dict[str, JobFacts], *, keys: dict[str, str], is_ended: bool, is_sealed: bool
    ) -> None:
        """Compare with the database; ``is_ended``, ``is_sealed``: all jobs, all logs must be."""
        for job_id, executions in self.executions.items():
            # Executions of a job are at most its starts, so an at-most-once job has one.
            attempts = [execution.claim.attempt for execution in executions]
            if len(set(attempts)) != len(attempts) or len(attempts) > jobs[job_id].row["max_runs"]:
                raise Broken(job_id, f"it was executed as attempts {attempts}")
        for key, job_id in self.submitted.items():
            if job_id not in jobs or keys.get(key) != job_id:
                raise Broken(job_id, f"the acknowledged submission {key} is lost")
        for facts in jobs.values():
            self._check_job(facts, is_ended=is_ended, is_sealed=is_sealed)

    def _check_job(self, facts: JobFacts, *, is_ended: bool, is_sealed: bool) -> None:
        job_id = facts.job_id
        if facts.status is JobStatus.COMPLETED:
            last = facts.attempts[-1]["attempt"]
            ends = [e.exit_code for e in self.executions[job_id] if e.claim.attempt == last]
            if ends != [0]:
                raise Broken(job_id, f"it is completed, but its attempt {last} ended with {ends}")
        if is_ended and not facts.status.is_final:
            raise Broken(job_id, f"it is {facts.status} when everything should have ended")
        for attempt in facts.attempts:
            if is_sealed and not attempt["is_sealed"]:
                raise Broken(job_id, f"the log of attempt {attempt['attempt']} was never sealed")
        for claim, told in self.finished.items():
            if claim.job_id != job_id:
                continue
            kept = facts.attempts[claim.attempt - 1]["end_status"]
            if kept != told.status and not (told.status == "cancelled" and kept == "failed"):
                raise Broken(job_id, f"attempt {claim.attempt} was accepted as {told.status} and is {kept}")

    def check_log(self, claim: Claim, stored: bytes) -> None:
        """Check the sealed log of an attempt against what was written and acknowledged."""
        written = bytes(self.logs[claim])
        if not written.startswith(stored):
            raise Broken(claim.job_id, f"the log of attempt {claim.attempt} is not what was written")
        if len(stored) < self.acknowledged[claim]:
            raise Broken(claim.job_id, f"the log of attempt {claim.attempt} lost acknowledged bytes")
        if claim in self.whole_logs and stored != written:
            raise Broken(claim.job_id, f"the log of attempt {claim.attempt} is not whole")
