"""Brings the artifacts that an attempt left in its spool to the coordinator, after its outcome was told.

Each round asks what is missing and sends that, until nothing is. So nothing is sent twice, whichever of
the two was killed meanwhile. A file that a crash of the host has damaged is left out of the list, and the
coordinator knows by the number that it is.
"""

import asyncio
import hashlib
import stat
from collections.abc import Awaitable
from pathlib import Path

import structlog

from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.errors import InvalidInput, Unavailable
from reactorcide.domain.jobs import Claim
from reactorcide.domain.reasons import Reason
from reactorcide.worker.gateway.port import Gateway
from reactorcide.worker.shipping import NOT_OURS, pause_before_retry
from reactorcide.worker.spool import AttemptSpool
from runnerlib.spec.artifacts import ARTIFACTS_FILE, ARTIFACTS_FOLDER, CollectedArtifact, decode_artifacts

log = structlog.get_logger()


async def finish_delivery(
    gateway: Gateway | None, spool: AttemptSpool, log_shipped: Awaitable[object]
) -> None:
    """Bring the artifacts while the rest of the log is on its way, and then clear the spool.

    Without a gateway nobody wants artifacts of this attempt.
    """
    rest = [bring_artifacts(gateway, spool)] if gateway is not None else []
    await asyncio.gather(log_shipped, *rest)
    await asyncio.to_thread(spool.remove)


async def bring_artifacts(gateway: Gateway, spool: AttemptSpool) -> None:
    """Bring all artifacts of an attempt whose outcome the coordinator has; return when it needs no more."""
    left = await asyncio.to_thread(_read_list, spool)
    tries = 0
    while left:
        tries += 1
        try:
            missing = await gateway.seal_artifacts(spool.claim, [_as_artifact(entry) for entry in left])
            if not missing:
                log.info("artifacts.delivered", **_ids(spool.claim), artifacts=len(left))
                return
            for sha256 in missing:
                entry = next((entry for entry in left if entry.sha256 == sha256), None)
                if entry is not None and not await _bring(gateway, spool, entry):
                    left = [other for other in left if other.sha256 != sha256]
                tries = 0
        except NOT_OURS:
            log.info("artifacts.refused", **_ids(spool.claim), artifacts=len(left))
            return
        except InvalidInput as error:
            log.error("artifacts.list_refused", **_ids(spool.claim), detail=str(error))
            return
        except Unavailable as error:
            log.warning("artifacts.not_delivered", **_ids(spool.claim), part=error.part, tries=tries)
            await pause_before_retry(max(tries, 1))


async def _bring(gateway: Gateway, spool: AttemptSpool, entry: CollectedArtifact) -> bool:
    """Send one content. False: it is damaged, or will never be taken.

    Raises:
        Unavailable, and those of `NOT_OURS`.
    """
    known = log.bind(**_ids(spool.claim), path=entry.path, size_bytes=entry.size_bytes)
    file = spool.path / ARTIFACTS_FOLDER / str(entry.number)
    if not await asyncio.to_thread(_has_size, file, entry.size_bytes):
        known.error("artifact.damaged")
        return False
    try:
        await gateway.put_artifact(spool.claim, entry.sha256, entry.size_bytes, file)
    except OSError as error:
        known.error("artifact.damaged", detail=error.strerror)
        return False
    except InvalidInput as error:
        if await asyncio.to_thread(_digest, file) == entry.sha256:
            known.error("artifact.refused", detail=str(error))
        else:
            known.error("artifact.damaged")
        return False
    return True


def _read_list(spool: AttemptSpool) -> list[CollectedArtifact]:
    """Return what was collected and promised; nothing, if the attempt was lost or promised nothing."""
    result = spool.read_result()
    if result is None or not result.artifacts or result.reason == Reason.WORKER_LOST.value:
        return []
    try:
        return decode_artifacts((spool.path / ARTIFACTS_FILE).read_bytes())
    except (OSError, ValueError) as error:
        log.error("artifacts.list_damaged", **_ids(spool.claim), detail=str(error))
        return []


def _has_size(file: Path, size_bytes: int) -> bool:
    try:
        found = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size_bytes


def _digest(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def _as_artifact(entry: CollectedArtifact) -> Artifact:
    return Artifact(entry.path, entry.size_bytes, entry.sha256, entry.content_type)


def _ids(claim: Claim) -> dict[str, str | int]:
    return {"job_id": claim.job_id, "attempt": claim.attempt}
