"""Following a live log: Server-Sent Events, resumed after every break where it was.

The id of each event is the place behind its bytes, attempt and offset, so that what was shown once is
never shown again and nothing between two connections is missed, whichever side went away.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from reactorcide.cli.client import ApiClient, Query
from reactorcide.cli.errors import AnswerNotUnderstood, ApiProblem, CoordinatorUnreachable
from reactorcide.cli.watch import Patience

_MAX_EVENT_BYTES = 32 * 1024 * 1024
_READ_PATIENCE = timedelta(seconds=5)
_RANGE_NOT_SATISFIABLE = 416
_STEADY_SECONDS = 5.0
"""A connection that lived so long was a good one, even if the job was silent."""


@dataclass(frozen=True)
class SentEvent:
    """One Server-Sent Event."""

    kind: str
    data: str
    event_id: str


class EventParser:
    """Reads Server-Sent Events from bytes, however they are cut into pieces (WHATWG HTML, 9.2.6)."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[str] = []
        self._size = 0
        self._kind = ""
        self._event_id = ""
        self._skips_newline = False

    def feed(self, data: bytes) -> Iterator[SentEvent]:
        """Yield every event that is whole by now."""
        if self._skips_newline and data:
            data = data.removeprefix(b"\n")
            self._skips_newline = False
        self._skips_newline = data.endswith(b"\r")
        head, *rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._pending += head
        if len(self._pending) + self._size > _MAX_EVENT_BYTES:
            raise AnswerNotUnderstood("an event of the log stream is too large")
        for begun in rest:
            event = self._take_line(self._pending.decode(errors="replace"))
            self._pending = bytearray(begun)
            if event is not None:
                yield event

    def _take_line(self, line: str) -> SentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
                self._size += len(value)
            case "event":
                self._kind = value
            case "id" if "\0" not in value:
                self._event_id = value
            case _:
                pass  # comments, `retry`, and fields yet to be invented
        return None

    def _dispatch(self) -> SentEvent | None:
        event = SentEvent(self._kind or "message", "\n".join(self._data), self._event_id)
        has_data = bool(self._data)
        self._data, self._kind, self._size = [], "", 0
        return event if has_data else None


@dataclass(frozen=True)
class LogPart:
    """The next bytes of a log; ``end`` is the offset behind them."""

    data: bytes
    end: int


@dataclass(frozen=True)
class NewAttempt:
    """From here on it is the log of this attempt, from its start."""

    attempt: int


def follow_log(
    client: ApiClient, job_id: str, *, query: Query = (), patience: Patience | None = None
) -> Iterator[LogPart | NewAttempt]:
    """Yield a log's bytes in order, each once, until the job has ended and all is given.

    The data of an event is a JSON string; a byte that is no UTF-8 is a lone surrogate in it. If the job is
    run again meanwhile, that is told, and the new attempt's log follows from its start.
    ``query`` says where to begin and counts for the first connection only.

    Raises:
        ApiProblem: there is no such job, or it is not the caller's.
        CoordinatorUnreachable: patience came to its end.
    """
    patience = patience or Patience()
    last_id: str | None = None
    while True:
        resume = {} if last_id is None else {"Last-Event-ID": last_id}
        try:
            with client.open_log(
                job_id,
                query=query if last_id is None else (),
                accept="text/event-stream",
                headers=resume,
            ) as response:
                parser, opened = EventParser(), time.monotonic()
                for data in response.iter_bytes():
                    if time.monotonic() - opened > _STEADY_SECONDS:
                        patience.regain()
                    for event in parser.feed(data):
                        if event.kind == "end":
                            return
                        part = _read_attempt(event) if event.kind == "attempt" else _read_part(event)
                        patience.regain()
                        last_id = event.event_id
                        yield part
            patience.spend(
                CoordinatorUnreachable("the coordinator ended the log stream before the job ended")
            )
        except CoordinatorUnreachable as error:
            patience.spend(error)


def _read_part(event: SentEvent) -> LogPart:
    attempt, _, offset = event.event_id.rpartition(":")
    if not offset.isdecimal() or not (attempt.isdecimal() or not attempt):
        raise AnswerNotUnderstood("an event of the log stream has no offset for its id")
    return LogPart(_event_bytes(event.data), int(offset))


def _read_attempt(event: SentEvent) -> NewAttempt:
    told = _read_json(event.data)
    attempt = told.get("attempt") if isinstance(told, dict) else None
    if not isinstance(attempt, int) or not event.event_id:
        raise AnswerNotUnderstood("an event of the log stream does not say which attempt begins")
    return NewAttempt(attempt)


def _event_bytes(text: str) -> bytes:
    told = _read_json(text)
    if not isinstance(told, str):
        raise AnswerNotUnderstood("an event of the log stream is not a JSON string")
    return told.encode(errors="surrogateescape")


def _read_json(text: str) -> object:
    try:
        told: object = json.loads(text)
    except ValueError as error:
        raise AnswerNotUnderstood("an event of the log stream is not JSON") from error
    return told


def read_log(client: ApiClient, job_id: str, query: Query = ()) -> Iterator[bytes]:
    """Yield a log's bytes as they are stored now; a broken connection is taken up where it broke.

    Raises:
        CoordinatorUnreachable: it broke and what was asked for cannot be resumed, or patience ended.
    """
    patience, position = Patience(_READ_PATIENCE), 0
    while True:
        headers = {"Range": f"bytes={position}-"} if position else {}
        try:
            with client.open_log(job_id, query=query, headers=headers) as response:
                for data in response.iter_bytes():
                    position += len(data)
                    patience.regain()
                    yield data
                return
        except CoordinatorUnreachable as error:
            if position and query:
                raise
            patience.spend(error)
        except ApiProblem as problem:
            if position and problem.status == _RANGE_NOT_SATISFIABLE:
                return
            raise
