"""From addresses to a client: which wire is spoken there is said by the scheme, or found out."""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import structlog

from reactorcide.domain.errors import Misconfigured
from reactorcide.queue.corndogs.client import Address, CsilClient, parse_address
from reactorcide.queue.corndogs.errors import SpeaksGrpc
from reactorcide.queue.corndogs.messages import (
    KEEP,
    CorndogsClient,
    Delivery,
    NewTask,
    Override,
    StateCounts,
    Task,
    TaskUpdate,
)

DEFAULT_PORT = 5080

log = structlog.get_logger()


def open_client(
    seeds: Sequence[str], *, api_key: str | None, ca_file: Path | None, call_timeout: timedelta
) -> CorndogsClient:
    """Return a client of the service at ``seeds``, addresses of one scheme; nothing is connected yet.

    Args:
        ca_file: certificates (PEM) to trust instead of the system's.

    Raises:
        Misconfigured: the file is not sound, or a package is missing that the scheme needs.
    """
    scheme = seeds[0].rpartition("://")[0]
    addresses = [_address_of(seed) for seed in seeds]
    tls = _tls_context(ca_file) if scheme in ("tls", "grpcs") else None

    def speak_csil() -> CorndogsClient:
        return CsilClient(addresses, auth=api_key, tls=tls, call_timeout=call_timeout)

    def speak_grpc() -> CorndogsClient:
        try:
            from reactorcide.queue.corndogs.grpc_client import GrpcClient
            from reactorcide.queue.corndogs.grpc_connection import tls_credentials
        except ImportError as error:
            raise Misconfigured(
                "the Corndogs at CORNDOGS_BASE_URL speaks gRPC, and a package for that is not installed:"
                " pip install 'reactorcide[corndogs-grpc]'"
            ) from error
        return GrpcClient(
            list(map(str, addresses)),
            api_key=api_key,
            credentials=tls_credentials(ca_file) if tls is not None else None,
            call_timeout=call_timeout,
        )

    if scheme in ("tcp", "tls"):
        return speak_csil()
    if scheme in ("grpc", "grpcs"):
        return speak_grpc()
    return ProbingClient(speak_csil, speak_grpc)


def _address_of(seed: str) -> Address:
    address = parse_address(seed, default_port=DEFAULT_PORT)
    if address is None:
        raise Misconfigured(f"CORNDOGS_BASE_URL: {seed!r} is no address")
    return address


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"CORNDOGS_CA_FILE: {ca_file} holds no certificates: {error}") from error


class ProbingClient:
    """A `CorndogsClient` that finds out at its first call which wire is spoken, and keeps to it."""

    def __init__(
        self, speak_csil: Callable[[], CorndogsClient], speak_grpc: Callable[[], CorndogsClient]
    ) -> None:
        self._probe = speak_csil()
        self._speak_grpc = speak_grpc
        self._chosen: CorndogsClient | None = None
        self._choosing = asyncio.Lock()

    async def submit_task(self, task: NewTask) -> Task:
        """See `CorndogsClient`."""
        return await (await self._choose()).submit_task(task)

    async def find_task(self, uuid: str, queue: str) -> Task | None:
        """See `CorndogsClient`."""
        return await (await self._choose()).find_task(uuid, queue)

    async def claim_task(
        self, queues: Sequence[str], state: str, override: Override = KEEP
    ) -> Delivery | None:
        """See `CorndogsClient`."""
        return await (await self._choose()).claim_task(queues, state, override)

    async def has_groups(self) -> bool:
        """See `CorndogsClient`."""
        return await (await self._choose()).has_groups()

    async def update_task(self, update: TaskUpdate) -> Task | None:
        """See `CorndogsClient`."""
        return await (await self._choose()).update_task(update)

    async def complete_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """See `CorndogsClient`."""
        return await (await self._choose()).complete_task(uuid, queue, state)

    async def cancel_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """See `CorndogsClient`."""
        return await (await self._choose()).cancel_task(uuid, queue, state)

    async def sweep(self, queue: str, at_time: int) -> int:
        """See `CorndogsClient`."""
        return await (await self._choose()).sweep(queue, at_time)

    async def list_queues(self) -> list[str]:
        """See `CorndogsClient`."""
        return await (await self._choose()).list_queues()

    async def count_by_queue(self) -> Mapping[str, int]:
        """See `CorndogsClient`."""
        return await (await self._choose()).count_by_queue()

    async def count_states(self, queue: str) -> StateCounts:
        """See `CorndogsClient`."""
        return await (await self._choose()).count_states(queue)

    async def count_all_states(self) -> Mapping[str, StateCounts]:
        """See `CorndogsClient`."""
        return await (await self._choose()).count_all_states()

    async def ping(self) -> None:
        """See `CorndogsClient`."""
        await (await self._choose()).ping()

    async def close(self) -> None:
        """See `CorndogsClient`."""
        await self._probe.close()
        if self._chosen is not None:
            await self._chosen.close()

    async def _choose(self) -> CorndogsClient:
        if self._chosen is None:
            async with self._choosing:
                if self._chosen is None:
                    self._chosen = await self._find_out()
        return self._chosen

    async def _find_out(self) -> CorndogsClient:
        try:
            await self._probe.ping()
        except SpeaksGrpc:
            log.info("corndogs.wire_found", wire="gRPC")
            return self._speak_grpc()
        log.info("corndogs.wire_found", wire="CSIL-RPC")
        return self._probe
