"""A Corndogs server for tests that speaks gRPC v1alpha1, on the store of the other wire's server.

As a process of its own: ``python tests/fakes/corndogs_grpc.py --port N``. It prints a line when it listens.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.corndogs_store import CorndogsStore, StoredTask
from reactorcide.queue.corndogs.grpc_messages import METHODS, SERVICE, message_class


class CorndogsGrpcServer:
    """A server in the event loop of who enters it; may be stopped and started again on its port.

    Faults: methods that are ``unknown``; by method, the status by which the next call is to ``fail``, with
    nothing done; how many calls ``lose_replies``, done and answered by a status that tells nothing;
    ``delay_seconds`` before every call is done; and ``is_silent``, calls are not answered.
    """

    def __init__(self, *, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.port = port
        self.store = CorndogsStore()
        self.calls: Counter[str] = Counter()
        self.authorizations: set[str | None] = set()
        self.unknown: tuple[str, ...] = ()
        self.fail: dict[str, grpc.StatusCode] = {}
        self.lose_replies: dict[str, int] = {}
        self.delay_seconds = 0.0
        self.is_silent = False
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, as a setting."""
        return f"{'grpcs' if self._credentials else 'grpc'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(name),
                request_deserializer=message_class(f"{name}Request").FromString,
                response_serializer=message_class(f"{name}Response").SerializeToString,
            )
            for name in METHODS
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        where = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(where)
        else:
            self.port = self._server.add_secure_port(where, self._credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Cut every connection and listen no more."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def _handler(self, name: str) -> Callable[[Any, Any], Awaitable[Any]]:
        do = getattr(self, f"_do_{name}")

        async def handle(request: Any, context: Any) -> Any:
            self.calls[name] += 1
            self.authorizations.add(dict(context.invocation_metadata()).get("authorization"))
            if self.is_silent:
                await asyncio.Event().wait()
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if name in self.unknown:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {name}")
            if (status := self.fail.pop(name, None)) is not None:
                await context.abort(status, "scripted failure")
            answer = do(request, message_class(f"{name}Response")())
            if self.lose_replies.get(name, 0) > 0:
                self.lose_replies[name] -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
            return answer

        return handle

    def _do_SubmitTask(self, asked: Any, answer: Any) -> Any:  # noqa: N802 - the wire's name
        task = self.store.submit(
            asked.queue,
            asked.current_state,
            asked.auto_target_state,
            asked.timeout,
            asked.payload,
            asked.priority,
        )
        return _put(answer, task)

    def _do_GetTaskStateByID(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        return _put(answer, self.store.find(asked.uuid))

    def _do_GetNextTask(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        task = self.store.claim(
            [asked.queue],
            asked.current_state,
            asked.override_timeout,
            asked.override_current_state,
            asked.override_auto_target_state,
        )
        return _put(answer, task)

    def _do_UpdateTask(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        task = self.store.update(
            asked.uuid,
            asked.new_state,
            asked.auto_target_state,
            asked.timeout,
            asked.priority,
            asked.payload or None,
        )
        return _put(answer, task)

    def _do_CompleteTask(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        return _put(answer, self.store.complete(asked.uuid))

    def _do_CancelTask(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        return _put(answer, self.store.cancel(asked.uuid))

    def _do_CleanUpTimedOut(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        answer.timed_out = self.store.sweep(asked.at_time, asked.queue)
        return answer

    def _do_GetQueues(self, _: Any, answer: Any) -> Any:  # noqa: N802
        answer.queues.extend(self.store.count_all_states())
        answer.total_task_count = len(self.store.live)
        return answer

    def _do_GetQueueTaskCounts(self, _: Any, answer: Any) -> Any:  # noqa: N802
        for queue, states in self.store.count_all_states().items():
            answer.queue_counts[queue] = sum(states.values())
        answer.total_task_count = len(self.store.live)
        return answer

    def _do_GetTaskStateCounts(self, asked: Any, answer: Any) -> Any:  # noqa: N802
        return _count(answer, asked.queue, self.store.count_states(asked.queue))

    def _do_GetQueueAndStateCounts(self, _: Any, answer: Any) -> Any:  # noqa: N802
        for queue, states in self.store.count_all_states().items():
            _count(answer.queue_and_state_counts[queue], queue, states)
        return answer


def _put(answer: Any, task: StoredTask | None) -> Any:
    if task is not None:
        for name, value in vars(task).items():
            setattr(answer.task, name, value)
    return answer


def _count(answer: Any, queue: str, states: dict[str, int]) -> Any:
    answer.queue, answer.count = queue, sum(states.values())
    answer.state_counts.update(states)
    return answer


async def _run(port: int) -> None:
    async with CorndogsGrpcServer(port=port) as server:
        print(server.address, flush=True)  # noqa: T201 - it is what a process has to say
        await asyncio.Event().wait()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser()
    _parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(_parser.parse_args().port))
