"""The routes of queues and workers, as people see them."""

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import answers, contract
from reactorcide.api.auth import Admin, Caller
from reactorcide.api.inputs import read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import QueueListBody, WorkerListBody
from reactorcide.domain.errors import Unavailable
from reactorcide.services.overview import TicketCount

router = APIRouter(prefix="/api/v1", tags=["workers"])


@router.get(
    "/queues",
    summary="List queues",
    responses=contract.caller_errors()
    | {200: contract.answer("Every queue with jobs or workers.", QueueListBody)},
)
async def list_queues(request: Request, caller: Caller) -> Response:
    """Return what waits and runs in each queue, and how many live workers it has."""
    read_query(request).close()
    overview = parts_of(request).services.overview
    queues = await overview.queues(caller)
    shown: answers.JsonObject = {}
    tickets: Mapping[str, TicketCount] = {}
    try:
        counted = await overview.tickets([queue.name for queue in queues])
    except Unavailable:
        shown["queue_service"] = "unreachable"
    else:
        if counted is not None:
            shown["queue_service"], tickets = "ok", counted
    shown["queues"] = [answers.show_queue(queue, tickets.get(queue.name)) for queue in queues]
    return answers.json_answer(shown)


@router.get(
    "/workers",
    summary="List workers",
    responses=contract.caller_errors() | {200: contract.answer("Every worker.", WorkerListBody)},
)
async def list_workers(request: Request, caller: Admin) -> Response:
    """Return the workers. For admins only."""
    read_query(request).close()
    workers = await parts_of(request).services.overview.workers(caller)
    return answers.json_answer({"workers": [answers.show_worker(worker) for worker in workers]})
