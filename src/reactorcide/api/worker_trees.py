"""The route by which workers on other hosts get what their attempts need of uploaded trees."""

from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from reactorcide import protocol
from reactorcide.api import contract
from reactorcide.api.auth import WorkerCaller
from reactorcide.api.parts import parts_of
from reactorcide.api.worker_routes import admitted

router = APIRouter(prefix=protocol.PATH, tags=["worker"])


@router.post(
    "/tree",
    summary="Fetch contents of a tree",
    responses=contract.caller_errors(404, 408, 409, 413, 415)
    | {200: {"description": "A pack of them.", "content": {"application/octet-stream": {}}}},
    openapi_extra=contract.body_of(protocol.TreeCall),
)
async def fetch_tree(request: Request, caller: WorkerCaller) -> Response:
    """Send contents of the tree that the job of a running attempt has for its source, and of no other."""
    call = await admitted(request, caller, protocol.TreeCall)
    pieces = iterate_in_threadpool(await parts_of(request).services.trees.fetch(call.own_claim, call.blobs))
    # What fails before the first of them is still a proper error.
    first = await anext(pieces, b"")
    return StreamingResponse(_after(first, pieces), media_type="application/octet-stream")


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece
