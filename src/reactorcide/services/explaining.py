"""Explaining a job: what it does or why it ended, in a sentence, with the facts behind it."""

from dataclasses import dataclass

from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import Forbidden, NotFound
from reactorcide.domain.explanations import (
    AttemptSight,
    JobSight,
    QueueSight,
    given_up_seconds,
    renewed_seconds,
    tell_why,
)
from reactorcide.domain.ids import is_id
from reactorcide.domain.workers import Timing
from reactorcide.store.database import Database
from reactorcide.store.explanations import look_at_job
from reactorcide.store.workers import LIVE_HEARTBEATS

__all__ = ["AttemptSight", "Explainer", "Explanation", "JobSight", "QueueSight"]


@dataclass(frozen=True)
class Explanation:
    """A sentence for people, and what it was made from."""

    why: str
    sight: JobSight
    renewed_seconds: float | None
    """How long ago the worker of a running job was heard of for it."""
    given_up_seconds: float | None
    """In how long a running job is given up if its worker stays silent."""


class Explainer:
    """Answers owners and admins who ask why."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database = database
        self._timing = timing
        self._silence = timing.heartbeat * LIVE_HEARTBEATS

    async def explain(self, caller: Principal, job_id: str) -> Explanation:
        """Return what a job does, or why it ended, as of now.

        Raises:
            NotFound: there is none of this id.
            Forbidden: it is somebody else's.
        """
        async with self._database.transaction() as tx:
            sight = await look_at_job(tx, job_id, silence=self._silence) if is_id(job_id) else None
        if sight is None:
            raise NotFound("job", job_id)
        if not caller.may_access(sight.user_id):
            raise Forbidden("the job is somebody else's")
        return Explanation(
            why=tell_why(sight, self._timing, silence=self._silence),
            sight=sight,
            renewed_seconds=renewed_seconds(sight, self._timing),
            given_up_seconds=given_up_seconds(sight, self._timing),
        )
