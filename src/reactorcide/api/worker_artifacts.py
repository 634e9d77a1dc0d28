"""The routes by which workers on other hosts bring artifacts: contents one by one, and the list of all."""

import msgspec
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from reactorcide import protocol
from reactorcide.api import contract
from reactorcide.api.answers import json_answer
from reactorcide.api.auth import WorkerCaller
from reactorcide.api.inputs import read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.streamed_body import StreamedBody
from reactorcide.api.strict_json import read_body
from reactorcide.domain.errors import InputFault, InvalidInput

_QUERY = ("worker_id", "boot_id", "job_id", "attempt", "lease_id", "sha256", "size")

router = APIRouter(prefix=protocol.PATH, tags=["worker"])


@router.put(
    "/artifact",
    summary="Bring the content of artifacts",
    status_code=204,
    responses=contract.caller_errors(404, 408, 409, 413, 415) | {204: contract.answer("It is stored.")},
    openapi_extra=contract.bytes_body("application/octet-stream", "The content, as it is.")
    | contract.parameters(
        *(contract.query(name, "Of the attempt and its worker.", type="string") for name in _QUERY[:5]),
        contract.query("sha256", "Of the content, in hexadecimal.", type="string"),
        contract.query("size", "Of the content, in bytes.", type="integer", minimum=0),
    ),
)
async def put_artifact(request: Request, caller: WorkerCaller) -> Response:
    """Store what an attempt that has ended left behind. It is read as it comes and never held whole."""
    call = _read_call(request)
    services = parts_of(request).services
    await services.attempts.admit(call.worker_id, call.boot_id, caller)
    if request.headers.get("content-type") != "application/octet-stream":
        raise HTTPException(415, "the body must be sent as Content-Type: application/octet-stream")
    declared = request.headers.get("content-length")
    if declared is not None and declared != str(call.size):
        raise InvalidInput([InputFault("?size", "is not the length of the body")])
    body = StreamedBody(request)
    try:
        await services.artifacts.put(call.own_claim, call.sha256, call.size, iter(body))
    except ClientDisconnect:
        # Nobody reads the answer.
        raise HTTPException(400, "the body was cut off") from None
    finally:
        body.close()
    return Response(status_code=204)


@router.post(
    "/artifacts",
    summary="List the artifacts of an attempt",
    status_code=200,
    responses=contract.caller_errors(404, 408, 409, 413, 415)
    | {200: contract.answer("What is missing; if nothing is, they are listed.", protocol.SealAnswer)},
    openapi_extra=contract.bytes_body(
        protocol.LOG_TYPE, "A `SealCall` as msgpack, of at most 16 MiB: every artifact of the attempt."
    ),
)
async def seal_artifacts(request: Request, caller: WorkerCaller) -> Response:
    """Let these be the artifacts of the job, once the contents of all of them are stored."""
    read_query(request).close()
    body = await read_body(request, protocol.LOG_TYPE, protocol.MAX_SEAL_BODY_BYTES)
    try:
        call = msgspec.msgpack.decode(body, type=protocol.SealCall)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput([InputFault("", f"the body is not acceptable: {error}"[:500])]) from None
    services = parts_of(request).services
    await services.attempts.admit(call.worker_id, call.boot_id, caller)
    missing = await services.artifacts.seal(call.own_claim, [entry.told for entry in call.artifacts])
    return json_answer(protocol.SealAnswer(missing))


def _read_call(request: Request) -> protocol.ArtifactCall:
    query = read_query(request, *_QUERY)
    given = {name: query.text(name) for name in _QUERY}
    for name, value in given.items():
        if value is None:
            query.refuse(name, "is required")
    query.close()
    claim = {name: given.pop(name) for name in ("job_id", "attempt", "lease_id")}
    try:
        return msgspec.convert(given | {"claim": claim}, protocol.ArtifactCall, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput([InputFault("?", str(error)[:500])]) from None
