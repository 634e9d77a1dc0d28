"""What is kept no longer: logs, artifacts and whole jobs, why each of them went, and how that is told."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from reactorcide.domain.errors import Gone
from reactorcide.domain.spelling import spell_time


class RemovedThing(StrEnum):
    """What was removed."""

    JOB = "job"
    """All of it: row, logs, artifacts."""
    LOG = "log"
    """Of one attempt."""
    ARTIFACTS = "artifacts"
    """Of one attempt, all of them."""
    OBJECTS = "objects"
    """Of the object store, and no row named them."""


class RemovalCause(StrEnum):
    """Why it was removed."""

    ASKED = "asked"
    """A person wished it."""
    AGE = "age"
    BYTES = "bytes"
    """It was the oldest where all together were too large."""
    ORPHAN = "orphan"
    LOST = "lost"
    """Nobody removed it: the object store no longer has it."""


@dataclass(frozen=True)
class Loss:
    """When and why a log, or the artifacts, of an attempt went before their job."""

    at: datetime
    why: RemovalCause

    def describe(self, what: RemovedThing) -> str:
        """Return a sentence for the owner of the job."""
        subject, verb = _SUBJECTS[what]
        if self.why is RemovalCause.LOST:
            return (
                f"{subject} {verb} lost: the object store did not have it any more at {spell_time(self.at)}"
            )
        return f"{subject} {verb} removed at {spell_time(self.at)}: {_CAUSES[self.why]}"

    def error(self, what: RemovedThing) -> Gone:
        """Return the error for who asks for it."""
        return Gone(self.describe(what))


@dataclass(frozen=True)
class Removal:
    """One entry of the record of removals."""

    removal_id: int
    removed_at: datetime
    what: RemovedThing
    why: RemovalCause
    actor: str
    """`user:<id>` or `system:<part>`."""
    size_bytes: int
    job_id: str | None = None
    attempt: int | None = None
    job_name: str | None = None
    user_id: str | None = None
    """Whose it was."""
    objects: int | None = None
    object_key: str | None = None
    """Of `RemovedThing.OBJECTS`: how many, and the first of them."""


_SUBJECTS = {
    RemovedThing.JOB: ("the job", "was"),
    RemovedThing.LOG: ("the log", "was"),
    RemovedThing.ARTIFACTS: ("the artifacts", "were"),
    RemovedThing.OBJECTS: ("the objects", "were"),
}
_CAUSES = {
    RemovalCause.AGE: "it had been kept for as long as the operator wishes",
    RemovalCause.BYTES: "the oldest go when all together pass the operator's limit",
    RemovalCause.ASKED: "an admin wished it",
    RemovalCause.ORPHAN: "it belonged to nothing",
}
