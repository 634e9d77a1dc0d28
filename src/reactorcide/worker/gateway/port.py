"""The gateway port: every word between a worker and its coordinator.

All methods may raise `Unavailable`: nothing is known of the effect, and the same call may be made
again, for each of them is idempotent under its fencing pair. Each may raise `Superseded`, when a later
process has registered under the name, and all but `register` `NotFound`, when the coordinator does not know
the worker at all. A gateway speaks for the one process that registered through it.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.jobs import (
    AppendedLog,
    AttemptOutcome,
    Claim,
    HeartbeatOrder,
    LogPiece,
    StartedAttempt,
)
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport


class Gateway(Protocol):
    """The coordinator, as a worker sees it."""

    async def register(self, identity: WorkerIdentity, spooled: Sequence[Claim]) -> Registration:
        """Announce a worker process, and the attempts whose results its spool still holds.

        Every other attempt that an earlier boot of this name holds is ended at once as lost.

        Raises:
            InvalidInput: there cannot be such a worker.
            Forbidden: the name belongs to a worker of somebody else.
            Superseded: a process that began later has registered under it.
        """

    async def claim(self, worker_id: str, free_slots: int, wait: timedelta) -> list[Claim]:
        """Claim at most ``free_slots`` jobs, waiting up to ``wait`` for the first of them."""

    async def start(self, claim: Claim) -> StartedAttempt:
        """Begin the attempt and get the job with its secrets. Repeating it gives the same answer.

        Raises:
            ClaimLost: cancelled, expired or taken; do not run it.
        """

    async def heartbeat(
        self, worker_id: str, held: Sequence[Claim], report: WorkerReport
    ) -> list[HeartbeatOrder]:
        """Renew the leases of all held attempts at once; the answer has one order for each.

        It tells, too, whether somebody follows the attempt's log, which then is wanted at once.

        A worker that waits in `claim` counts as seen; it needs a heartbeat only for what it holds, or to
        tell another ``report``.
        """

    async def wait_for_orders(self, worker_id: str, timeout: timedelta) -> bool:
        """Wait until a heartbeat would bring something new, such as a cancel or a follower of a log.

        False: ``timeout`` passed.
        """

    async def append_log(
        self, claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece]
    ) -> AppendedLog:
        """Append log bytes; return the length now stored, and how long to gather bytes for the next append.

        ``pieces`` tell when and on which stream they came; their lengths add up to ``data``'s.

        Raises:
            OffsetGap: ``offset`` is past the stored end; send again from its ``length``.
            LogMismatch: other bytes are stored there already.
            ClaimLost: the attempt is unknown or its log is sealed.
        """

    async def finish(self, claim: Claim, outcome: AttemptOutcome) -> None:
        """Tell how the attempt ended. Repeating the same outcome succeeds.

        Raises:
            ClaimLost: someone else has decided this attempt.
        """

    async def put_artifact(self, claim: Claim, sha256: str, size_bytes: int, file: Path) -> None:
        """Bring the content of ``file``, which artifacts of this attempt have, after its outcome.

        What is stored already is not stored again.

        Raises:
            InvalidInput: the file has another digest or size, or will never be taken.
            ClaimLost: the coordinator does not want artifacts of this attempt.
            OSError: the file cannot be read.
        """

    async def seal_artifacts(self, claim: Claim, artifacts: Sequence[Artifact]) -> list[str]:
        """Tell all artifacts of the attempt; return the digests of contents that are to be brought first.

        None: they are the job's now. To repeat that succeeds.

        Raises:
            InvalidInput: they are too large, more than were promised, or no folder could hold them.
            ClaimLost: as `put_artifact`.
        """

    async def fetch_blobs(self, claim: Claim, blobs: Sequence[str], take: Callable[[bytes], None]) -> None:
        """Give contents that the attempt, which must be running, needs of its job's tree to ``take``.

        They come as a pack (`reactorcide.domain.trees`), piece by piece, at most `MAX_FETCHED_BLOBS` of them;
        ``take`` is called in a thread. After an error they may have come in part.

        Raises:
            InvalidInput: the tree does not have these.
            ClaimLost: the attempt is not this worker's, does not run, or its job has no tree.
            And what ``take`` raises.
        """

    async def release(self, claim: Claim) -> None:
        """Give back a claim that was not started, so that another worker may take it at once."""

    async def deregister(self, worker_id: str) -> None:
        """Say good-bye: the worker holds nothing and takes nothing more."""
