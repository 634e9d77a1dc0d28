"""A Corndogs service over CSIL-RPC: one connection to the member that leads, found again when it is lost.

A call that certainly has not happened, since no member could be asked or one said that it does not lead,
is made again with another member. One that may have happened is made again only if it reads.
"""

import asyncio
import random
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from reactorcide.domain.retry import retry_delay
from reactorcide.queue.corndogs import csil, guards
from reactorcide.queue.corndogs.connection import Connection
from reactorcide.queue.corndogs.csil import Malformed, Reply
from reactorcide.queue.corndogs.errors import (
    CallRefused,
    OutcomeUnknown,
    UnknownOperation,
    Unreachable,
)
from reactorcide.queue.corndogs.messages import (
    KEEP,
    NOBODY,
    Delivery,
    NewTask,
    Override,
    StateCounts,
    Task,
    TaskUpdate,
)

T = TypeVar("T")

_UNKNOWN_OPERATION = 2
_MISSING_FIELD = 'missing field "payload"'
_NOT_LEADER = re.compile(r"not-leader leader=(\S*)")
_MAX_MOVES = 6
"""From member to member, for one call."""
_ELECTION_PAUSE = timedelta(seconds=0.3)
"""A service without a leader is asked again after this, doubling: an election takes about 2 s."""
_RETRY_BASE = timedelta(seconds=0.1)
_RETRY_CEILING = timedelta(seconds=2)

log = structlog.get_logger()


@dataclass(frozen=True)
class Address:
    """Where a member of a service listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if ":" not in self.host else f"[{self.host}]:{self.port}"


class CsilClient:
    """A `CorndogsClient` over CSIL-RPC.

    Args:
        seeds: members of the service, at least one; it may name others when it redirects.
        auth: put into every envelope.
        call_timeout: bounds connecting, and bounds a call from its sending.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        *,
        auth: str | None = None,
        tls: ssl.SSLContext | None = None,
        call_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self._seeds = list(seeds)
        self._auth = auth
        self._tls = tls
        self._timeout = call_timeout
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._next: Address | None = None
        self._failures = 0
        self._not_before = self._failed_at = 0.0
        self._failure: str | None = None
        self._has_groups: bool | None = None
        self._keeps_payload: bool | None = None
        self._is_closed = False

    async def submit_task(self, task: NewTask) -> Task:
        """See `CorndogsClient`."""
        guards.check_new_task(task)
        submitted = await self._call("SubmitTask", csil.encode_submit(task), csil.decode_task)
        if submitted is None:
            raise OutcomeUnknown("SubmitTask was answered without a task")
        return submitted

    async def find_task(self, uuid: str, queue: str) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_uuid(uuid)
        message = csil.encode_find(uuid, queue)
        return await self._call("GetTaskStateByID", message, csil.decode_task, reads=True)

    async def claim_task(
        self, queues: Sequence[str], state: str, override: Override = KEEP
    ) -> Delivery | None:
        """See `CorndogsClient`."""
        guards.check_claim(queues, state, override)
        if len(queues) == 1:
            message = csil.encode_claim(queues[0], state, override)
            return await self._call("GetNextTask", message, csil.decode_delivery)
        message = csil.encode_claim(queues, state, override)
        return await self._call("GetNextTaskGroup", message, csil.decode_delivery)

    async def has_groups(self) -> bool:
        """See `CorndogsClient`."""
        if self._has_groups is None:
            # Fails at its body, before anything is done, where the call is known.
            try:
                await self._call("GetNextTaskGroup", csil.EMPTY, csil.decode_delivery)
            except UnknownOperation:
                self._has_groups = False
            except CallRefused:
                self._has_groups = True
            else:
                self._has_groups = True
        return self._has_groups

    async def update_task(self, update: TaskUpdate) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_update(update)
        if update.payload is None and not await self._is_payload_optional():
            # Where it must be there, an empty one keeps what there was.
            message = csil.encode_update(update, payload=b"")
        else:
            message = csil.encode_update(update, payload=update.payload)
        return await self._call("UpdateTask", message, csil.decode_task)

    async def complete_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_uuid(uuid)
        return await self._call("CompleteTask", csil.encode_end(uuid, queue, state), csil.decode_task)

    async def cancel_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_uuid(uuid)
        return await self._call("CancelTask", csil.encode_end(uuid, queue, state), csil.decode_task)

    async def sweep(self, queue: str, at_time: int) -> int:
        """See `CorndogsClient`."""
        guards.check_queues([queue])
        return await self._call("CleanUpTimedOut", csil.encode_sweep(queue, at_time), csil.decode_swept)

    async def list_queues(self) -> list[str]:
        """See `CorndogsClient`."""
        return await self._call("GetQueues", csil.EMPTY, csil.decode_queues, reads=True)

    async def count_by_queue(self) -> Mapping[str, int]:
        """See `CorndogsClient`."""
        return await self._call("GetQueueTaskCounts", csil.EMPTY, csil.decode_queue_counts, reads=True)

    async def count_states(self, queue: str) -> StateCounts:
        """See `CorndogsClient`."""
        guards.check_queues([queue])
        message = csil.encode_queue(queue)
        return await self._call("GetTaskStateCounts", message, csil.decode_states, reads=True)

    async def count_all_states(self) -> Mapping[str, StateCounts]:
        """See `CorndogsClient`."""
        return await self._call("GetQueueAndStateCounts", csil.EMPTY, csil.decode_all_states, reads=True)

    async def ping(self) -> None:
        """See `CorndogsClient`."""
        await self._call(csil.PING, b"", lambda message: message, reads=True)

    async def close(self) -> None:
        """See `CorndogsClient`."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()

    async def _is_payload_optional(self) -> bool:
        """Tell whether an update may leave the payload out; a task that is nobody's tells it harmlessly."""
        if self._keeps_payload is None:
            nothing = TaskUpdate(NOBODY, "probe", "probe", "probe", timeout=0, priority=0)
            try:
                await self._call("UpdateTask", csil.encode_update(nothing, payload=None), csil.decode_task)
            except CallRefused as refusal:
                if _MISSING_FIELD not in refusal.detail:
                    raise
                self._keeps_payload = False
            else:
                self._keeps_payload = True
        return self._keeps_payload

    async def _call(
        self, operation: str, message: bytes, decode: Callable[[bytes], T], *, reads: bool = False
    ) -> T:
        """Make a call, with the member that can do it, and return what it answers."""
        for move in range(_MAX_MOVES):
            is_last = move == _MAX_MOVES - 1
            connection = await self._connect()
            try:
                reply = await connection.call(operation, message, timeout=self._timeout, auth=self._auth)
            except Unreachable:
                if is_last or self._is_closed:
                    raise
                continue
            except OutcomeUnknown:
                # Once more, since a connection that had died in silence is found out so.
                if not reads or move > 0 or self._is_closed:
                    raise
                continue
            if reply.status == 0:
                return _decode(operation, reply, decode)
            redirect = _NOT_LEADER.search(reply.error)
            if redirect is None:
                raise _refusal(operation, reply)
            if is_last:
                break
            await self._move(connection, redirect[1], move)
        raise Unreachable("no member of the service leads it")

    async def _connect(self) -> Connection:
        """Return the open connection, or a new one to the first member that can be reached.

        Raises:
            Unreachable: none can be, or the last try was a moment ago.
        """
        if self._connection is not None and self._connection.is_open:
            return self._connection
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        async with self._connecting:
            if self._connection is not None and self._connection.is_open:
                return self._connection
            if self._is_closed:
                raise Unreachable("the client was closed")
            if self._failure is not None and self._failed_at > asked_at:
                # Who waited while somebody else tried fails with them, and not after a try of its own.
                raise Unreachable(self._failure)
            if loop.time() < self._not_before:
                await asyncio.sleep(self._not_before - loop.time())
            if self._connection is not None:
                # The member that was lost, gone silent or something else comes last.
                self._seeds = self._seeds[1:] + self._seeds[:1]
                self._connection = None
            return await self._connect_to_any()

    async def _connect_to_any(self) -> Connection:
        wanted = [self._next] if self._next is not None else []
        failures: list[Unreachable] = []
        for address in (*wanted, *self._seeds):
            try:
                connection = await Connection.open(
                    address.host, address.port, timeout=self._timeout, tls=self._tls
                )
            except Unreachable as error:
                failures.append(error)
                continue
            if address in self._seeds:
                # The members before it were out of reach; they come last the next time.
                place = self._seeds.index(address)
                self._seeds = self._seeds[place:] + self._seeds[:place]
            self._connection, self._next, self._failures = connection, None, 0
            self._has_groups = self._keeps_payload = None
            return connection
        self._next = None
        self._failures += 1
        delay = retry_delay(self._failures, base=_RETRY_BASE, ceiling=_RETRY_CEILING)
        pause = delay.total_seconds() * random.uniform(0.5, 1.0)
        self._not_before = asyncio.get_running_loop().time() + pause
        self._failed_at = asyncio.get_running_loop().time()
        self._failure = "; ".join(error.detail for error in failures)
        raise Unreachable(self._failure)

    async def _move(self, connection: Connection, leader: str, move: int) -> None:
        """Turn to the member that leads, or to the next one if nobody knows which does."""
        address = parse_address(leader, default_port=self._seeds[0].port) if leader else None
        log.info("corndogs.redirected", leader=leader or None)
        if address is None or move > 0:
            # Nobody leads yet, or whom the others name is gone.
            pause = retry_delay(move + 1, base=_ELECTION_PAUSE, ceiling=_RETRY_CEILING)
            await asyncio.sleep(pause.total_seconds())
        if self._connection is connection:
            self._next = address
            self._seeds = self._seeds[1:] + self._seeds[:1]
            self._connection = None
            connection.retire()


def parse_address(text: str, *, default_port: int) -> Address | None:
    """Return the address of ``host[:port]``, with or without a scheme before it. None: it is none."""
    rest = text.rpartition("://")[2].rstrip("/")
    host, _, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    if not host:
        host, port = port, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536)):
        return None
    return Address(host, int(port) if port else default_port)


def _decode(operation: str, reply: Reply, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(reply.message)
    except Malformed as error:
        raise OutcomeUnknown(f"the answer of {operation} cannot be read: {error}") from error


def _refusal(operation: str, reply: Reply) -> Exception:
    if reply.status == _UNKNOWN_OPERATION:
        return UnknownOperation(f"{operation}: {reply.error}")
    return CallRefused(f"{operation}: {reply.error or f'status {reply.status}'}")
