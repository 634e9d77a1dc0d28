"""A Corndogs service over gRPC (v1alpha1), as the releases before CSIL-RPC speak it.

A call is made again only if it reads; one that changes something is its caller's to judge.
"""

import asyncio
import random
import weakref
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc

from reactorcide.domain.retry import retry_delay
from reactorcide.queue.corndogs import guards
from reactorcide.queue.corndogs.errors import (
    OutcomeUnknown,
    QueueUnavailable,
    UnknownOperation,
    Unreachable,
    WrongService,
)
from reactorcide.queue.corndogs.grpc_connection import GrpcConnection
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

_RETRY_BASE = timedelta(seconds=0.1)
_RETRY_CEILING = timedelta(seconds=2)


class GrpcClient:
    """A `CorndogsClient` over gRPC.

    Args:
        targets: ``host:port`` of the members of the service; the next is tried when one is away.
        credentials: of TLS; None: none is spoken.
        call_timeout: bounds connecting, and bounds a call from its sending.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        call_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self._targets = list(targets)
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._credentials = credentials
        self._timeout = call_timeout
        self._connection: GrpcConnection | None = None
        self._made: weakref.WeakSet[GrpcConnection] = weakref.WeakSet()
        self._connecting = asyncio.Lock()
        self._failure: QueueUnavailable | None = None
        self._failures = 0
        self._not_before = 0.0
        self._is_closed = False

    async def submit_task(self, task: NewTask) -> Task:
        """See `CorndogsClient`."""
        guards.check_new_task(task)
        answer = await self._call(
            "SubmitTask",
            queue=task.queue,
            current_state=task.current_state,
            auto_target_state=task.auto_target_state,
            timeout=task.timeout,
            payload=task.payload,
            priority=task.priority,
        )
        submitted = _task_of(answer)
        if submitted is None:
            raise OutcomeUnknown("SubmitTask was answered without a task")
        return submitted

    async def find_task(self, uuid: str, queue: str) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_uuid(uuid)
        return _task_of(await self._call("GetTaskStateByID", reads=True, uuid=uuid, queue=queue))

    async def claim_task(
        self, queues: Sequence[str], state: str, override: Override = KEEP
    ) -> Delivery | None:
        """See `CorndogsClient`."""
        guards.check_claim(queues, state, override)
        if len(queues) > 1:
            raise UnknownOperation("no gRPC release of Corndogs claims from several queues")
        answer = await self._call(
            "GetNextTask",
            queue=queues[0],
            current_state=state,
            override_timeout=override.timeout,
            override_current_state=override.current_state,
            override_auto_target_state=override.auto_target_state,
        )
        task = _task_of(answer)
        return None if task is None else Delivery(task, answer.task.payload)

    async def has_groups(self) -> bool:
        """See `CorndogsClient`: no release on this wire has."""
        return False

    async def update_task(self, update: TaskUpdate) -> Task | None:
        """See `CorndogsClient`. On this wire an empty payload keeps what there was."""
        guards.check_update(update)
        answer = await self._call(
            "UpdateTask",
            uuid=update.uuid,
            queue=update.queue,
            auto_target_state=update.auto_target_state,
            timeout=update.timeout,
            new_state=update.new_state,
            payload=update.payload or b"",
            priority=update.priority,
        )
        return _task_of(answer)

    async def complete_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_uuid(uuid)
        return _task_of(await self._call("CompleteTask", uuid=uuid, queue=queue, current_state=state))

    async def cancel_task(self, uuid: str, queue: str, state: str) -> Task | None:
        """See `CorndogsClient`."""
        guards.check_uuid(uuid)
        return _task_of(await self._call("CancelTask", uuid=uuid, queue=queue, current_state=state))

    async def sweep(self, queue: str, at_time: int) -> int:
        """See `CorndogsClient`."""
        guards.check_queues([queue])
        return int((await self._call("CleanUpTimedOut", at_time=at_time, queue=queue)).timed_out)

    async def list_queues(self) -> list[str]:
        """See `CorndogsClient`."""
        return list((await self._call("GetQueues", reads=True)).queues)

    async def count_by_queue(self) -> Mapping[str, int]:
        """See `CorndogsClient`."""
        return dict((await self._call("GetQueueTaskCounts", reads=True)).queue_counts)

    async def count_states(self, queue: str) -> StateCounts:
        """See `CorndogsClient`."""
        guards.check_queues([queue])
        return _counts_of(await self._call("GetTaskStateCounts", reads=True, queue=queue))

    async def count_all_states(self) -> Mapping[str, StateCounts]:
        """See `CorndogsClient`."""
        answer = await self._call("GetQueueAndStateCounts", reads=True)
        return {name: _counts_of(counted) for name, counted in answer.queue_and_state_counts.items()}

    async def ping(self) -> None:
        """See `CorndogsClient`."""
        try:
            await self.find_task(NOBODY, "ping")
        except UnknownOperation as error:
            raise WrongService("a gRPC server that is no Corndogs, or one before 1.3.1") from error

    async def close(self) -> None:
        """See `CorndogsClient`."""
        self._is_closed = True
        for connection in list(self._made):
            await connection.close()

    async def _call(self, method: str, *, reads: bool = False, **fields: object) -> Any:
        """Make a call and return its answer."""
        while True:
            connection = await self._connect()
            try:
                return await connection.call(method, fields, timeout=self._timeout, metadata=self._metadata)
            except OutcomeUnknown:
                # Once more, since a connection that had died in silence is found out so.
                if not reads or self._is_closed:
                    raise
                reads = False

    async def _connect(self) -> GrpcConnection:
        """Return the connection that stands, or a new one to the first member that can be reached.

        Raises:
            Unreachable, WrongService: there is none.
        """
        if self._connection is not None and self._connection.is_open:
            return self._connection
        failures_before = self._failures
        async with self._connecting:
            if self._is_closed:
                raise Unreachable("the client was closed")
            if self._connection is not None and self._connection.is_open:
                return self._connection
            if self._failure is not None and self._failures > failures_before:
                # It was tried while this one waited: each by itself, many would wait for each other.
                raise type(self._failure)(self._failure.detail)
            pause = self._not_before - asyncio.get_running_loop().time()
            if pause > 0:
                await asyncio.sleep(pause)
            if self._connection is not None:
                await self._connection.retire()
            self._connection = await self._connect_to_any()
            return self._connection

    async def _connect_to_any(self) -> GrpcConnection:
        failed: list[QueueUnavailable] = []
        for _ in self._targets:
            if self._is_closed:
                raise Unreachable("the client was closed")
            connection = GrpcConnection(self._targets[0], credentials=self._credentials)
            self._made.add(connection)
            try:
                await connection.open(self._timeout)
            except QueueUnavailable as error:
                failed.append(error)
                self._targets.append(self._targets.pop(0))
                continue
            self._failures = 0
            return connection
        self._failures += 1
        delay = retry_delay(self._failures, base=_RETRY_BASE, ceiling=_RETRY_CEILING)
        pause = delay.total_seconds() * random.uniform(0.5, 1.0)
        self._not_before = asyncio.get_running_loop().time() + pause
        is_foreign = any(isinstance(error, WrongService) for error in failed)
        kind = WrongService if is_foreign else Unreachable
        self._failure = kind("; ".join(error.detail for error in failed))
        raise self._failure


def _task_of(answer: Any) -> Task | None:
    if not answer.HasField("task"):
        return None
    task = answer.task
    return Task(
        uuid=task.uuid,
        queue=task.queue,
        current_state=task.current_state,
        auto_target_state=task.auto_target_state,
        submit_time=task.submit_time,
        update_time=task.update_time,
        timeout=task.timeout,
        priority=task.priority,
    )


def _counts_of(counted: Any) -> StateCounts:
    return StateCounts(counted.queue, counted.count, dict(counted.state_counts))
