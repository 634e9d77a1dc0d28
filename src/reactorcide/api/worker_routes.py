"""The routes of workers on other hosts: the calls of their gateway port, and nothing besides.

A worker's token opens them and nothing else does. Every call but the first names the worker and the process
that speaks for it, and is admitted before anything else happens; a claim is always read as one of the
worker that was admitted, so nobody acts with another one's lease.
"""

import re
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide import protocol
from reactorcide.api import contract
from reactorcide.api.answers import json_answer
from reactorcide.api.auth import WorkerCaller
from reactorcide.api.inputs import read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.strict_json import read_body, read_json
from reactorcide.api.waiting import until_unwanted
from reactorcide.domain.accounts import Principal
from reactorcide.domain.errors import InputFault, InvalidInput, ReactorcideError
from reactorcide.domain.jobs import LogPiece, StartedAttempt
from reactorcide.protocol_values import ClaimBody
from reactorcide.protocol_values import Request as CallBody

C = TypeVar("C", bound=CallBody)
W = TypeVar("W", bound=protocol.WorkerCall)

_PLACE = re.compile(r"(?P<what>.*) - at `\$(?P<path>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")

log = structlog.get_logger()
router = APIRouter(prefix=protocol.PATH, tags=["worker"])


def _documented(body: type[CallBody], meaning: str, answer: Any = None) -> dict[str, Any]:
    """Return what the schema tells of a route."""
    statuses = {protocol.TurnBody: (408, 413, 415), protocol.RegisterBody: (408, 409, 413, 415)}.get(
        body, (404, 408, 409, 413, 415)
    )
    status = 200 if answer is not None else 204
    responses = contract.caller_errors(*statuses) | {status: contract.answer(meaning, answer)}
    return {"status_code": status, "responses": responses, "openapi_extra": contract.body_of(body)}


@router.post(
    "/turn",
    summary="Take a turn",
    **_documented(protocol.TurnBody, "The turn of a process that has just begun.", protocol.TurnAnswer),
)
async def take_turn(request: Request, caller: WorkerCaller) -> Response:  # noqa: ARG001 - any worker may
    """Tell a process its place among those that will register under one name, in the order they began."""
    read_query(request).close()
    _convert(await read_json(request), protocol.TurnBody)
    return json_answer(protocol.TurnAnswer(await parts_of(request).services.attempts.take_turn()))


@router.post(
    "/register",
    summary="Register a worker process",
    **_documented(protocol.RegisterBody, "Who the worker is now.", protocol.RegisterAnswer),
)
async def register_worker(request: Request, caller: WorkerCaller) -> Response:
    """Take a worker process up; what an earlier one of its name holds, and has not spooled, is lost."""
    read_query(request).close()
    body = _convert(await read_json(request), protocol.RegisterBody)
    spoken = _choose_protocol(body)
    # The id in a spool may be another one; the name, and so the worker, is the same.
    spooled = [claim.by("") for claim in body.spooled]
    attempts = parts_of(request).services.attempts
    registration = await attempts.register(body.identity, spooled, turn=body.turn, caller=caller)
    return json_answer(protocol.RegisterAnswer(spoken, registration))


@router.post(
    "/claim",
    summary="Claim jobs",
    **_documented(protocol.ClaimCall, "At most as many as were asked for.", protocol.ClaimAnswer),
)
async def claim_jobs(request: Request, caller: WorkerCaller) -> Response:
    """Hand out jobs of the worker's queues, waiting for the first of them."""
    call = await admitted(request, caller, protocol.ClaimCall)
    attempts = parts_of(request).services.attempts
    wait = timedelta(seconds=call.wait_seconds)
    claims, is_gone = await until_unwanted(
        request, request.app.state.stopping, attempts.claim(call.worker_id, call.free_slots, wait)
    )
    claims = claims or []
    if claims and is_gone:
        await attempts.give_back(claims)
        claims = []
    elif claims:
        try:
            await attempts.admit(call.worker_id, call.boot_id, caller)
        except ReactorcideError:
            # Another process has taken its place while it waited; that one shall not wait for these.
            await attempts.give_back(claims)
            raise
    return json_answer(protocol.ClaimAnswer([ClaimBody.of(claim) for claim in claims]))


@router.post(
    "/start",
    summary="Start an attempt",
    **_documented(protocol.AttemptCall, "The frozen job, with its secrets.", StartedAttempt),
)
async def start_attempt(request: Request, caller: WorkerCaller) -> Response:
    """Begin the attempt. This is the one answer that carries the secrets of a job."""
    call = await admitted(request, caller, protocol.AttemptCall)
    return json_answer(await parts_of(request).services.attempts.start(call.own_claim))


@router.post(
    "/heartbeat",
    summary="Renew leases",
    **_documented(protocol.HeartbeatCall, "One order for each attempt.", protocol.HeartbeatAnswer),
)
async def renew_leases(request: Request, caller: WorkerCaller) -> Response:
    """Renew the leases of all attempts that the worker holds, and tell what to do with each."""
    call = await admitted(request, caller, protocol.HeartbeatCall)
    held = [claim.by(call.worker_id) for claim in call.held]
    orders = await parts_of(request).services.attempts.heartbeat(call.worker_id, held, call.report.told)
    return json_answer(protocol.HeartbeatAnswer([protocol.OrderEntry.of(order) for order in orders]))


@router.post(
    "/orders",
    summary="Wait for orders",
    **_documented(protocol.OrdersCall, "Whether a heartbeat brings something new.", protocol.OrdersAnswer),
)
async def wait_for_orders(request: Request, caller: WorkerCaller) -> Response:
    """Wait until a heartbeat would bring something new, such as a cancel."""
    call = await admitted(request, caller, protocol.OrdersCall)
    waiting = parts_of(request).services.attempts.wait_for_orders(
        call.worker_id, timedelta(seconds=call.wait_seconds)
    )
    is_news, _ = await until_unwanted(request, request.app.state.stopping, waiting)
    return json_answer(protocol.OrdersAnswer(bool(is_news)))


@router.post(
    "/log",
    summary="Append to a log",
    status_code=200,
    responses=contract.caller_errors(404, 408, 409, 413, 415, 416)
    | {200: contract.answer("What is stored now is durable.", protocol.LogAnswer)},
    openapi_extra=contract.bytes_body(
        protocol.LOG_TYPE, "A `LogCall` as msgpack, of at most 2 MiB; its `data` is bytes, not base64."
    ),
)
async def append_log(request: Request, caller: WorkerCaller) -> Response:
    """Append bytes to the log of an attempt, by offset. What is stored already is compared."""
    read_query(request).close()
    body = await read_body(request, protocol.LOG_TYPE, protocol.MAX_LOG_BODY_BYTES)
    try:
        call = msgspec.msgpack.decode(body, type=protocol.LogCall)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error) from None
    services = parts_of(request).services
    await services.attempts.admit(call.worker_id, call.boot_id, caller)
    pieces = [LogPiece(piece.at_milliseconds, piece.stream, piece.length) for piece in call.pieces]
    length = await services.log_intake.append(call.own_claim, call.offset, call.data, pieces)
    pause = services.log_intake.pause_of(call.own_claim)
    return json_answer(protocol.LogAnswer(length, pause))


@router.post("/finish", summary="Finish an attempt", **_documented(protocol.FinishCall, "Written down."))
async def finish_attempt(request: Request, caller: WorkerCaller) -> Response:
    """Write down how the attempt ended. To repeat the same outcome succeeds."""
    call = await admitted(request, caller, protocol.FinishCall)
    try:
        await parts_of(request).services.attempts.finish(call.own_claim, call.outcome.told)
    except InvalidInput as error:
        raise InvalidInput([InputFault(f"/outcome{f.pointer}", f.detail) for f in error.faults]) from error
    return Response(status_code=204)


@router.post(
    "/release",
    summary="Give a claim back",
    **_documented(protocol.AttemptCall, "Given back, if it was held and not started."),
)
async def release_claim(request: Request, caller: WorkerCaller) -> Response:
    """Let another worker have what this one claimed and did not start."""
    call = await admitted(request, caller, protocol.AttemptCall)
    await parts_of(request).services.attempts.release(call.own_claim)
    return Response(status_code=204)


@router.post(
    "/deregister",
    summary="Say good-bye",
    **_documented(protocol.WorkerCall, "The worker takes nothing more."),
)
async def deregister_worker(request: Request, caller: WorkerCaller) -> Response:
    """Take leave of a worker process; its claims that were not started go back."""
    call = await admitted(request, caller, protocol.WorkerCall)
    await parts_of(request).services.attempts.deregister(call.worker_id, call.boot_id)
    return Response(status_code=204)


async def admitted(request: Request, caller: Principal, kind: type[W]) -> W:
    """Return the body of a call, from the process that is registered as its worker.

    Raises:
        InvalidInput, TooLarge, HTTPException: as `read_json`.
        NotFound, Forbidden, Superseded, Unavailable: as `AttemptService.admit`.
    """
    read_query(request).close()
    call = _convert(await read_json(request), kind)
    await parts_of(request).services.attempts.admit(call.worker_id, call.boot_id, caller)
    return call


def _convert(body: object, kind: type[C]) -> C:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> InvalidInput:
    """Return the fault that a decoder found, with its place as a JSON pointer."""
    found = _PLACE.fullmatch(str(error))
    if found is None:
        return InvalidInput([InputFault("", f"the body is not acceptable: {error}"[:500])])
    pointer = "".join(f"/{name or index}" for name, index in _STEP.findall(found["path"]))
    return InvalidInput([InputFault(pointer, found["what"][:500])])


def _choose_protocol(body: protocol.RegisterBody) -> int:
    oldest, newest = body.protocols
    chosen = min(newest, protocol.NEWEST)
    if chosen < max(oldest, protocol.OLDEST):
        ours = f"{protocol.OLDEST} to {protocol.NEWEST}"
        raise InvalidInput(
            [
                InputFault(
                    "/protocols",
                    f"this coordinator speaks versions {ours} of the worker protocol, the worker"
                    f" {oldest} to {newest}: bring the older of the two up to date",
                )
            ]
        )
    return chosen
