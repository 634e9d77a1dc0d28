"""The gateway of a worker that shares the coordinator's database: the services, called in this process."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.errors import ReactorcideError
from reactorcide.domain.jobs import (
    AppendedLog,
    AttemptOutcome,
    Claim,
    HeartbeatOrder,
    LogPiece,
    StartedAttempt,
)
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from reactorcide.services.artifacts import ArtifactService
from reactorcide.services.attempts import AttemptService
from reactorcide.services.logs import LogService
from reactorcide.services.trees import TreeService
from reactorcide.worker.gateway.uploads import read_pieces


class DirectGateway:
    """Implements `reactorcide.worker.gateway.port.Gateway`."""

    def __init__(
        self, attempts: AttemptService, logs: LogService, artifacts: ArtifactService, trees: TreeService
    ) -> None:
        self._attempts = attempts
        self._logs = logs
        self._artifacts = artifacts
        self._trees = trees
        self._boot_id = ""
        self._turn: int | None = None

    async def register(self, identity: WorkerIdentity, spooled: Sequence[Claim]) -> Registration:
        self._boot_id = identity.boot_id
        if self._turn is None:
            self._turn = await self._attempts.take_turn()
        return await self._attempts.register(identity, spooled, turn=self._turn)

    async def claim(self, worker_id: str, free_slots: int, wait: timedelta) -> list[Claim]:
        await self._admit(worker_id)
        claims = await self._attempts.claim(worker_id, free_slots, wait)
        if claims:
            try:
                await self._admit(worker_id)
            except ReactorcideError:
                # Another process has taken its place while it waited; that one shall not wait for these.
                await self._attempts.give_back(claims)
                raise
        return claims

    async def start(self, claim: Claim) -> StartedAttempt:
        await self._admit(claim.worker_id)
        return await self._attempts.start(claim)

    async def heartbeat(
        self, worker_id: str, held: Sequence[Claim], report: WorkerReport
    ) -> list[HeartbeatOrder]:
        await self._admit(worker_id)
        return await self._attempts.heartbeat(worker_id, held, report)

    async def wait_for_orders(self, worker_id: str, timeout: timedelta) -> bool:
        await self._admit(worker_id)
        return await self._attempts.wait_for_orders(worker_id, timeout)

    async def append_log(
        self, claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece]
    ) -> AppendedLog:
        await self._admit(claim.worker_id)
        length = await self._logs.append(claim, offset, data, pieces)
        return AppendedLog(length, self._logs.pause_of(claim))

    async def finish(self, claim: Claim, outcome: AttemptOutcome) -> None:
        await self._admit(claim.worker_id)
        await self._attempts.finish(claim, outcome)

    async def put_artifact(self, claim: Claim, sha256: str, size_bytes: int, file: Path) -> None:
        await self._admit(claim.worker_id)
        await self._artifacts.put(claim, sha256, size_bytes, read_pieces(file))

    async def seal_artifacts(self, claim: Claim, artifacts: Sequence[Artifact]) -> list[str]:
        await self._admit(claim.worker_id)
        return await self._artifacts.seal(claim, artifacts)

    async def fetch_blobs(self, claim: Claim, blobs: Sequence[str], take: Callable[[bytes], None]) -> None:
        await self._admit(claim.worker_id)
        pieces = await self._trees.fetch(claim, blobs)
        while await asyncio.to_thread(_hand_over, pieces, take):
            pass

    async def release(self, claim: Claim) -> None:
        await self._admit(claim.worker_id)
        await self._attempts.release(claim)

    async def deregister(self, worker_id: str) -> None:
        await self._attempts.deregister(worker_id, self._boot_id)

    async def _admit(self, worker_id: str) -> None:
        await self._attempts.admit(worker_id, self._boot_id, None)


def _hand_over(pieces: Iterator[bytes], take: Callable[[bytes], None]) -> bool:
    """Hand the next piece over; False: there is none."""
    piece = next(pieces, b"")
    take(piece)
    return bool(piece)
