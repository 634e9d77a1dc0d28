"""Counting what became of jobs, off the path of those who wait for it.

Who ends a job only notes its id. A chore reads the rows of the noted jobs together and counts them, so
that a job costs no statement of its own and the guarded ones need not return what metrics want to know.
"""

from functools import partial
from itertools import islice

from reactorcide.domain.status import JobStatus
from reactorcide.observability.metrics import Metrics
from reactorcide.store import jobs
from reactorcide.store.database import Database

_MOST_NOTED = 100_000
"""Noted jobs, while the database is away; those beyond are not counted."""
_BATCH = 1_000


class JobTally:
    """Counts ends, losses and new runs of jobs into the metrics of this process."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._ended: dict[str, None] = {}

    def note_end(self, job_id: str) -> None:
        """A job has ended, by this process's doing. Told twice, it is counted once."""
        if len(self._ended) < _MOST_NOTED:
            self._ended[job_id] = None

    def note_loss(self, queue_name: str, worker_id: str, status: JobStatus, *, by: str) -> None:
        """A lease ended without a word from its worker, and its job went on to ``status``.

        Args:
            by: what found out: `maintenance`, or the `register` of the worker's next process.
        """
        self._metrics.lease_lost(queue_name, by)
        if not status.is_final:
            self._metrics.job_retried(queue_name, worker_id, "worker_lost")

    async def settle(self) -> None:
        """Count what was noted. Raises Unavailable: it is kept, and counted later."""
        while self._ended:
            wanted = list(islice(self._ended, _BATCH))
            found = await self._database.run(partial(jobs.find_ends, job_ids=wanted))
            for job_id in wanted:
                self._ended.pop(job_id, None)
            for end in found:
                self._metrics.job_ended(end.queue_name, end.status, end.reason, end.worker, end.seconds)
                if end.waited_seconds is not None:
                    self._metrics.job_waited(end.queue_name, end.waited_seconds)
                if end.claimed_seconds is not None:
                    self._metrics.job_started(end.queue_name, end.claimed_seconds)
