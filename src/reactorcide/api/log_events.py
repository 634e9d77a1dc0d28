"""A log as Server-Sent Events: the id of each is the place from which to go on after it.

That is the byte offset in the log of the first attempt, and `attempt:offset` in that of a later one, so that
who comes back never goes on in the middle of another attempt's log. The event `attempt` tells of a new one.

The data of an event is a JSON string, a run of the log's text; joined, they are the log to the byte: a
byte that is no UTF-8 comes as the lone surrogate U+DC00 + byte (Python's `surrogateescape`), and carriage
returns, which would end a line of this format, come escaped.
"""

import asyncio
import codecs
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
import structlog
from starlette.requests import Request

from reactorcide.api.answers import show_end
from reactorcide.domain.errors import Gone, InputFault, InvalidInput, NotFound, Unavailable
from reactorcide.services.log_reading import LogAttempt, LogChunk, LogEnded, LogNews, LogPlace, LogReader

RECONNECT_MILLISECONDS = 1_000
EVENT_ID = r"(?:([1-9][0-9]?):)?([0-9]{1,15})"
_EVENT_ID = re.compile(EVENT_ID)

log = structlog.get_logger()


def read_last_event_id(request: Request) -> LogPlace | None:
    """Return the place after the last event a client got.

    Raises:
        InvalidInput: it is none of ours.
    """
    text = request.headers.get("last-event-id", "")
    if not text:
        return None
    found = _EVENT_ID.fullmatch(text)
    if not found:
        raise InvalidInput([InputFault("header Last-Event-ID", "must be the id of an event of this log")])
    return LogPlace(int(found[1] or 1), int(found[2]))


async def follow_log(
    reader: LogReader, job_id: str, start: LogPlace, stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield the log of a job from ``start`` on, to its end, until ``stopping`` or until it cannot be read.

    Only the first of these ends with an `end` event; after the others the client comes back by itself.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n: following\n\n".encode()
    text = _TextRun()
    try:
        async with aclosing(_until_stopping(reader.follow(job_id, start), stopping)) as news:
            async for item in news:
                if isinstance(item, LogChunk):
                    if event := text.feed(item):
                        yield event
                elif isinstance(item, LogAttempt):
                    yield text.close() + _attempt_event(item.attempt)
                elif isinstance(item, LogEnded):
                    yield (
                        text.close()
                        + b"event: end\ndata: "
                        + msgspec.json.encode(show_end(item.job))
                        + b"\n\n"
                    )
                    return
                else:
                    yield b": idle\n\n"
    except (Unavailable, NotFound, Gone) as error:
        # The answer has begun, so that only its end can tell.
        log.info("log_stream.broken_off", job_id=job_id, reason=error.code)


class _TextRun:
    """Turns chunks into events, holding back what may be half a character."""

    def __init__(self) -> None:
        self._end = LogPlace()
        self._decoder = _new_decoder()

    def feed(self, chunk: LogChunk) -> bytes:
        """Return the event of the characters that are whole now; empty if none is."""
        self._end = LogPlace(chunk.attempt, chunk.offset + len(chunk.data))
        text = self._decoder.decode(chunk.data)
        held = len(self._decoder.getstate()[0])
        return _event(text, LogPlace(chunk.attempt, self._end.offset - held)) if text else b""

    def close(self) -> bytes:
        """Return the event of what was held back: the log ends, or goes on with another attempt's."""
        text = self._decoder.decode(b"", final=True)
        self._decoder = _new_decoder()
        return _event(text, self._end) if text else b""


def _new_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("surrogateescape")


def _event(text: str, end: LogPlace) -> bytes:
    try:
        data = json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = json.dumps(text).encode()
    return b"id: %b\ndata: %b\n\n" % (_event_id(end), data)


def _attempt_event(attempt: int) -> bytes:
    place = _event_id(LogPlace(attempt, 0))
    return b"event: attempt\nid: %b\ndata: %b\n\n" % (place, msgspec.json.encode({"attempt": attempt}))


def _event_id(place: LogPlace) -> bytes:
    return b"%d" % place.offset if place.attempt == 1 else b"%d:%d" % (place.attempt, place.offset)


async def _until_stopping(news: AsyncIterator[LogNews], stopping: asyncio.Event) -> AsyncGenerator[LogNews]:
    stop = asyncio.create_task(stopping.wait())
    step: asyncio.Task[LogNews | None] | None = None
    try:
        while True:
            step = asyncio.create_task(_next(news))
            await asyncio.wait({step, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done() or (item := step.result()) is None:
                return
            yield item
    finally:
        stop.cancel()
        if step is not None and not step.done():
            step.cancel()
            await asyncio.wait({step})
        if isinstance(news, AsyncGenerator):
            await news.aclose()


async def _next(news: AsyncIterator[LogNews]) -> LogNews | None:
    return await anext(news, None)
