"""A log as Server-Sent Events: the id of each is the byte offset from which to go on after it.

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
from typing import TypeAlias

import msgspec
import structlog
from starlette.requests import Request

from reactorcide.api.answers import show_end
from reactorcide.domain.errors import InputFault, InvalidInput, NotFound, Unavailable
from reactorcide.services.log_reading import LogChunk, LogEnded, LogIdle, LogReader

RECONNECT_MILLISECONDS = 1_000
_OFFSET = re.compile(r"[0-9]{1,15}")

log = structlog.get_logger()

LogNews: TypeAlias = LogChunk | LogIdle | LogEnded


def read_last_event_id(request: Request) -> int | None:
    """Return the offset of the last event a client got.

    Raises:
        InvalidInput: it is none of ours.
    """
    text = request.headers.get("last-event-id", "")
    if not text:
        return None
    if not _OFFSET.fullmatch(text):
        raise InvalidInput([InputFault("header Last-Event-ID", "must be the id of an event of this log")])
    return int(text)


async def follow_log(
    reader: LogReader, job_id: str, offset: int, stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield the log of a job from ``offset`` on, to its end, until ``stopping`` or until it cannot be read.

    Only the first of these ends with an `end` event; after the others the client comes back by itself.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n: following\n\n".encode()
    text = _TextRun(offset)
    try:
        async with aclosing(_until_stopping(reader.follow(job_id, offset), stopping)) as news:
            async for item in news:
                if isinstance(item, LogChunk):
                    if event := text.feed(item):
                        yield event
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
    except (Unavailable, NotFound) as error:
        # The answer has begun, so that only its end can tell.
        log.info("log_stream.broken_off", job_id=job_id, reason=error.code)


class _TextRun:
    """Turns chunks into events, holding back what may be half a character."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._decoder = _new_decoder()

    def feed(self, chunk: LogChunk) -> bytes:
        """Return the event of the characters that are whole now; empty if none is."""
        if chunk.offset != self._offset:
            # The log goes on elsewhere: what was held back is not continued.
            self._offset, self._decoder = chunk.offset, _new_decoder()
        self._offset += len(chunk.data)
        text = self._decoder.decode(chunk.data)
        held = len(self._decoder.getstate()[0])
        return _event(text, self._offset - held) if text else b""

    def close(self) -> bytes:
        """Return the event of what was held back."""
        text = self._decoder.decode(b"", final=True)
        return _event(text, self._offset) if text else b""


def _new_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("surrogateescape")


def _event(text: str, offset: int) -> bytes:
    try:
        data = json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = json.dumps(text).encode()
    return b"id: %d\ndata: %b\n\n" % (offset, data)


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
