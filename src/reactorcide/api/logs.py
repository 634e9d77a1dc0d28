"""The log of a job: as bytes with ranges, as lines, as JSON, or followed as it grows."""

from collections.abc import AsyncIterator
from typing import Literal, cast

import msgspec
from fastapi import APIRouter
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from reactorcide.api import answers, contract
from reactorcide.api.auth import Caller
from reactorcide.api.inputs import read_query
from reactorcide.api.jobs import check_job_id
from reactorcide.api.log_events import EVENT_ID, follow_log, read_last_event_id
from reactorcide.api.middleware import IS_HEAD
from reactorcide.api.negotiation import choose_type, read_range
from reactorcide.api.parts import parts_of
from reactorcide.api.problems import problem, request_id_of
from reactorcide.api.schemas import LogLineBody
from reactorcide.domain.errors import NotFound
from reactorcide.domain.removals import RemovedThing
from reactorcide.services.log_reading import LogLine, LogPlace, LogReader, StoredLog

MAX_TAIL_LINES = 1_000_000
TEXT = "text/plain; charset=utf-8"
_FORMS = ("text/plain", "application/json", "text/event-stream")
_STREAMS = ("stdout", "stderr", "combined")
_JSON_PIECE_BYTES = 64 * 1024
Stream = Literal["stdout", "stderr", "combined"]

router = APIRouter(prefix="/api/v1/jobs", tags=["logs"])

_LOG = {
    "description": "The log; bytes as the job wrote them, secrets masked.",
    "headers": {"Accept-Ranges": {"schema": {"type": "string"}}},
    "content": {
        "text/plain": {"schema": {"type": "string"}},
        "application/json": {
            "schema": {"type": "array", "items": {"$ref": f"#/components/schemas/{LogLineBody.__name__}"}}
        },
        "text/event-stream": {"schema": {"type": "string"}},
    },
}


@router.get(
    "/{job_id}/logs",
    summary="Read or follow a job's log",
    responses=contract.caller_errors(404, 410, 416)
    | {200: _LOG, 206: {"description": "The bytes of `Range`.", "content": {"text/plain": {}}}},
    openapi_extra=contract.parameters(
        contract.query("tail", "The last lines only.", type="integer", minimum=0, maximum=MAX_TAIL_LINES),
        contract.query("stream", "Lines of one stream only.", type="string", enum=list(_STREAMS)),
        contract.query("timestamps", "Begin each line with when it came.", type="boolean"),
        contract.query(
            "attempt", "Of this attempt instead of the last.", type="integer", minimum=1, maximum=50
        ),
        contract.header("Range", "One range of bytes, for `text/plain`.", type="string"),
        contract.header(
            "Last-Event-ID", "Follow on after the event of this id.", type="string", pattern=f"^{EVENT_ID}$"
        ),
    ),
)
async def read_log(request: Request, caller: Caller, job_id: str) -> Response:
    """Return the log in the form that `Accept` asks for; `text/event-stream` follows it to the job's end."""
    query = read_query(request, "tail", "stream", "timestamps", "attempt")
    tail = query.integer("tail", 0, MAX_TAIL_LINES)
    stream = cast(Stream, query.one_of("stream", _STREAMS) or "combined")
    timestamps = query.truth("timestamps")
    attempt = query.integer("attempt", 1, 50)
    form = choose_type(request.headers.get("accept"), _FORMS)
    if form == "text/event-stream":
        for name in ("stream", "timestamps", "attempt"):
            if query.has(name):
                query.refuse(name, "does not go with Accept: text/event-stream")
    query.close()
    services = parts_of(request).services
    job = await services.jobs.get(caller, check_job_id(job_id))
    if attempt is not None and attempt > job.attempt:
        # Never run is not the same as said nothing.
        raise NotFound("attempt", str(attempt))
    if form == "text/event-stream":
        start = read_last_event_id(request)
        if start is None and tail is not None:
            log = await services.logs.find(job_id)
            start = LogPlace(log.attempt, await services.logs.tail_start(log, tail))
        if job.log_loss is not None:
            # A proper error, and no stream that breaks off.
            raise job.log_loss.error(RemovedThing.LOG)
        events = follow_log(services.logs, job_id, start or LogPlace(), services.stopping)
        return await _stream(request, events, "text/event-stream")
    log = await services.logs.find(job_id, attempt)
    if form == "application/json" or stream != "combined" or timestamps:
        lines = _last_lines(services.logs, log, stream, tail)
        if form == "application/json":
            return await _stream(request, _as_json(lines), form)
        return await _stream(request, _as_text(lines, timestamps=timestamps), TEXT)
    return await _bytes(request, services.logs, log, tail)


async def _bytes(request: Request, reader: LogReader, log: StoredLog, tail: int | None) -> Response:
    start, end, status = 0, log.length, 200
    if tail is not None:
        start = await reader.tail_start(log, tail)
    elif (wanted := read_range(request.headers.get("range"), log.length)) is not None:
        start, end = wanted
        if start >= end:
            return problem(
                416,
                f"the log is {log.length} bytes long",
                instance=request.url.path,
                request_id=request_id_of(request),
                headers={"Content-Range": f"bytes */{log.length}"},
            )
        status = 206
    pieces = reader.read(log, start, end - start)
    response = await _stream(request, pieces, TEXT, status)
    response.headers["Content-Length"] = str(end - start)
    response.headers["Accept-Ranges"] = "bytes"
    if status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{log.length}"
    return response


async def _stream(
    request: Request, pieces: AsyncIterator[bytes], media_type: str, status: int = 200
) -> Response:
    """Answer with ``pieces``; what fails before the first of them is still a proper error."""
    headers = {"Vary": "Accept"}
    if request.scope.get(IS_HEAD):
        response = Response(None, status, headers)
        response.raw_headers = [entry for entry in response.raw_headers if entry[0] != b"content-length"]
        MutableHeaders(raw=response.raw_headers)["Content-Type"] = media_type
        return response
    first = b""
    if media_type != "text/event-stream":
        first = await anext(pieces, b"")
    return StreamingResponse(_after(first, pieces), status, headers, media_type)


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in pieces:
        yield piece


async def _last_lines(
    reader: LogReader, log: StoredLog, stream: Stream, tail: int | None
) -> AsyncIterator[LogLine]:
    """Yield the lines, or the last ``tail`` of them; counted first, so that none need be kept."""
    skipped = 0
    if tail is not None:
        count = 0
        async for _ in reader.lines(log, stream=stream):
            count += 1
        skipped = max(count - tail, 0)
    async for line in reader.lines(log, stream=stream):
        if skipped:
            skipped -= 1
        else:
            yield line


async def _as_text(lines: AsyncIterator[LogLine], *, timestamps: bool) -> AsyncIterator[bytes]:
    async for line in lines:
        text = line.data.removesuffix(b"\n") + b"\n"
        yield f"{answers.spell_time(line.at)} ".encode() + text if timestamps else text


async def _as_json(lines: AsyncIterator[LogLine]) -> AsyncIterator[bytes]:
    """Yield a JSON array, in pieces of some size; bytes that are no UTF-8 are replaced."""
    piece, separator = bytearray(b"["), b""
    async for line in lines:
        piece += separator
        piece += msgspec.json.encode(
            {
                "timestamp": answers.spell_time(line.at),
                "stream": line.stream,
                "message": line.data.removesuffix(b"\n").decode("utf-8", "replace"),
            }
        )
        separator = b","
        if len(piece) >= _JSON_PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b"]"
