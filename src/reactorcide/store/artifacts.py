"""What attempts have promised to bring, and where a job's artifacts are listed. The files are objects."""

from dataclasses import dataclass

from reactorcide.domain.errors import ClaimLost
from reactorcide.domain.jobs import Claim
from reactorcide.domain.removals import Loss
from reactorcide.domain.status import JobStatus
from reactorcide.store.database import Transaction
from reactorcide.store.jobs import loss_of


@dataclass(frozen=True)
class Promise:
    """What an ended attempt has promised, in the eyes of its own worker."""

    artifacts: int
    object_key: str | None
    """Where they are listed, once all has come."""


@dataclass(frozen=True)
class ArtifactsRow:
    """What the rows of a job say of its artifacts."""

    status: JobStatus
    attempt: int
    promised: int
    object_key: str | None
    loss: Loss | None
    """Set if they were removed since."""


# After the end only: no attempt whose outcome was refused ever stores a file. And before a removal only:
# what would come after it nobody would remove.
_FENCE = """
    a.job_id = %(job_id)s AND a.attempt = %(attempt)s AND a.lease_id = %(lease_id)s
    AND a.worker_id = %(worker_id)s AND a.ended_at IS NOT NULL AND a.artifacts > 0
    AND a.artifacts_removed_at IS NULL
    AND j.job_id = a.job_id AND j.attempt = a.attempt
"""
_READ_PROMISE = f"SELECT a.artifacts, j.artifacts_object_key FROM attempts a, jobs j WHERE {_FENCE}"  # noqa: S608 - constants
_SEAL = f"""
    UPDATE jobs j
       SET artifacts_object_key = %(key)s, version = j.version + 1, updated_at = now()
      FROM attempts a WHERE {_FENCE} AND j.artifacts_object_key IS NULL
"""  # noqa: S608 - constants
_MEASURE = """
    UPDATE attempts SET artifact_bytes = %(size_bytes)s
     WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND artifacts_removed_at IS NULL
"""
_READ_ARTIFACTS = """
    SELECT j.status, j.attempt, j.artifacts_object_key, coalesce(a.artifacts, 0) AS promised,
           a.artifacts_removed_at, a.artifacts_removed_why
      FROM jobs j LEFT JOIN attempts a ON a.job_id = j.job_id AND a.attempt = j.attempt
     WHERE j.job_id = %(job_id)s
"""


async def read_promise(tx: Transaction, claim: Claim) -> Promise | None:
    """Return what the attempt has promised; None: this claim may bring nothing."""
    row = await (await tx.execute(_READ_PROMISE, _fence(claim))).fetchone()
    return None if row is None else Promise(row["artifacts"], row["artifacts_object_key"])


async def seal_artifacts(tx: Transaction, claim: Claim, key: str, *, size_bytes: int) -> bool:
    """Let the list under ``key`` be that of the job. False: it has one, or the claim may bring nothing.

    Args:
        size_bytes: of what is stored for it.

    Raises:
        ClaimLost: they were removed at the same moment; the transaction is void.
    """
    sealed = await tx.execute(_SEAL, _fence(claim) | {"key": key})
    if sealed.rowcount == 0:
        return False
    # Who waited for the job's row in the statement before saw the attempt's as it was.
    measured = await tx.execute(_MEASURE, _fence(claim) | {"size_bytes": size_bytes})
    if measured.rowcount == 0:
        raise ClaimLost(claim.job_id, claim.attempt)
    return True


async def read_artifacts(tx: Transaction, job_id: str) -> ArtifactsRow | None:
    """Return what is known of the artifacts of a job, None if there is no such job."""
    row = await (await tx.execute(_READ_ARTIFACTS, {"job_id": job_id})).fetchone()
    if row is None:
        return None
    return ArtifactsRow(
        JobStatus(row["status"]),
        row["attempt"],
        row["promised"],
        row["artifacts_object_key"],
        loss_of(row, "artifacts"),
    )


def _fence(claim: Claim) -> dict[str, object]:
    return {
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "lease_id": claim.lease_id,
        "worker_id": claim.worker_id,
    }
