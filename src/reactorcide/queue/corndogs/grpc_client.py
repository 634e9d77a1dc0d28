"""A Corndogs service over gRPC (v1alpha1), as the releases before CSIL-RPC speak it.

Calls are never repeated by gRPC itself: a call that may have happened is its caller's to judge. One is sent
only on a connection that stands, so that a server which is away is told from one that went away.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from reactorcide.queue.corndogs import guards
from reactorcide.queue.corndogs.errors import (
    CallRefused,
    OutcomeUnknown,
    UnknownOperation,
    Unreachable,
    WrongService,
)
from reactorcide.queue.corndogs.grpc_messages import METHODS, SERVICE, message_class
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

_MAX_MESSAGE_BYTES = 17 * 1024 * 1024
_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Two clients of one process shall not share a connection that one of them closes.
    ("grpc.use_local_subchannel_pool", 1),
)
_SETTLED = frozenset(
    {
        grpc.ChannelConnectivity.READY,
        grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        grpc.ChannelConnectivity.SHUTDOWN,
    }
)
_UNKNOWN = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)


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
        self._seconds = call_timeout.total_seconds()
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}
        self._connecting = asyncio.Lock()
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
        return _task_of(await self._call("GetTaskStateByID", uuid=uuid, queue=queue))

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
        return list((await self._call("GetQueues")).queues)

    async def count_by_queue(self) -> Mapping[str, int]:
        """See `CorndogsClient`."""
        return dict((await self._call("GetQueueTaskCounts")).queue_counts)

    async def count_states(self, queue: str) -> StateCounts:
        """See `CorndogsClient`."""
        guards.check_queues([queue])
        return _counts_of(await self._call("GetTaskStateCounts", queue=queue))

    async def count_all_states(self) -> Mapping[str, StateCounts]:
        """See `CorndogsClient`."""
        answer = await self._call("GetQueueAndStateCounts")
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
        await self._leave()

    async def _call(self, method: str, **fields: object) -> Any:
        call = await self._connect(method)
        request = message_class(f"{method}Request")(**fields)
        try:
            return await call(request, timeout=self._seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _failure(method, error) from error
        except grpc.aio.UsageError as error:
            # Closed between the look at the connection and the call.
            raise Unreachable(str(error)) from error

    async def _connect(self, method: str) -> Any:
        """Return the call of a method on a connection that stands. Raises Unreachable."""
        if self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY:
            return self._calls[method]
        async with self._connecting:
            failed = []
            for _ in self._targets:
                if self._is_closed:
                    raise Unreachable("the client was closed")
                if await self._stands(self._channel or self._open()):
                    return self._calls[method]
                failed.append(self._targets[0])
                await self._leave()
                self._targets.append(self._targets.pop(0))
        raise Unreachable(f"no gRPC server answers at {', '.join(failed)}")

    async def _stands(self, channel: grpc.aio.Channel) -> bool:
        """Wait until the connection stands. False: it was refused, or takes too long."""
        try:
            async with asyncio.timeout(self._seconds):
                while (state := channel.get_state(try_to_connect=True)) not in _SETTLED:
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return state is grpc.ChannelConnectivity.READY

    def _open(self) -> grpc.aio.Channel:
        if self._credentials is not None:
            channel = grpc.aio.secure_channel(self._targets[0], self._credentials, options=_OPTIONS)
        else:
            channel = grpc.aio.insecure_channel(self._targets[0], options=_OPTIONS)
        self._channel = channel
        self._calls = {
            name: channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=message_class(f"{name}Request").SerializeToString,
                response_deserializer=message_class(f"{name}Response").FromString,
            )
            for name in METHODS
        }
        return channel

    async def _leave(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def tls_credentials(ca_file: Path | None) -> grpc.ChannelCredentials:
    """Return credentials that trust a file's certificates (PEM), or the system's.

    Raises:
        OSError: the file cannot be read.
    """
    return grpc.ssl_channel_credentials(ca_file.read_bytes() if ca_file is not None else None)


def _failure(method: str, error: grpc.aio.AioRpcError) -> Exception:
    text = f"{method}: {error.code().name}: {error.details()}"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return UnknownOperation(text)
    return OutcomeUnknown(text) if error.code() in _UNKNOWN else CallRefused(text)


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
