"""Whether the API lives, is ready, and what it measures."""

import asyncio

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import answers, contract
from reactorcide.api.auth import authenticate, authenticate_admin
from reactorcide.api.inputs import read_query
from reactorcide.api.parts import ApiServices, Probe, parts_of
from reactorcide.api.problems import RETRY_AFTER_SECONDS
from reactorcide.api.schemas import AliveBody, HealthBody, ReadyBody
from reactorcide.domain.accounts import Principal, Role, TokenKind
from reactorcide.domain.errors import ReactorcideError, Unauthorized, Unavailable
from reactorcide.observability.metrics import CONTENT_TYPE

PROBE_SECONDS = 1.8
"""A part that does not answer by then is not there; the answer must come within two seconds."""

log = structlog.get_logger()
router = APIRouter(tags=["health"])

# Who reads queues and workers for a scrape; the route has checked who asks.
_SCRAPER = Principal("system:metrics", "system:metrics", TokenKind.USER, frozenset({Role.ADMIN}))
_AWAY = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_METRICS: contract.Responses = {
    200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


async def read_health(request: Request) -> Response:
    """Tell whether the API works, and what it thinks of the token that was sent, if one was."""
    services = parts_of(request).services
    verification: answers.JsonObject = {"verified": False, "user_authenticated": False}
    try:
        if "authorization" in request.headers:
            caller = await authenticate(request)
            verification = {"verified": True, "user_authenticated": True, "user_id": caller.user_id}
        else:
            await asyncio.wait_for(services.probes["database"](), PROBE_SECONDS)
    except Unauthorized:
        pass
    except (Unavailable, TimeoutError):
        return answers.json_answer({"status": "UNAVAILABLE", "verification": verification}, 503, _AWAY)
    return answers.json_answer({"status": "OK", "verification": verification})


for _path in ("/api/v1/health", "/api/health"):
    router.add_api_route(
        _path,
        read_health,
        methods=["GET"],
        operation_id="read_health" if "v1" in _path else "read_health_unversioned",
        summary="Health",
        responses=contract.errors(429)
        | {200: contract.answer("All is well.", HealthBody)}
        | {503: contract.answer("The database is out of reach.", HealthBody)},
    )


@router.get(
    "/healthz",
    summary="Alive",
    responses=contract.errors() | {200: contract.answer("The process answers.", AliveBody)},
)
async def read_alive() -> Response:
    """Tell that the process answers, whatever it depends on."""
    return answers.json_answer({"status": "alive"})


@router.get(
    "/readyz",
    summary="Ready",
    responses=contract.errors()
    | {200: contract.answer("Everything it depends on is there.", ReadyBody)}
    | {503: contract.answer("Something is not; `checks` names it.", ReadyBody)},
)
async def read_ready(request: Request) -> Response:
    """Tell whether the API can serve, and of each part whether it is there."""
    services = parts_of(request).services
    checks = await _check_all(services)
    if services.stopping.is_set():
        checks["server"] = "stopping"
    is_ready = all(verdict == "ok" for verdict in checks.values())
    body = {"status": "ready" if is_ready else "unavailable", "checks": checks}
    return answers.json_answer(body, 200 if is_ready else 503, {} if is_ready else _AWAY)


async def read_metrics(request: Request) -> Response:
    """Return what this process measures, and the state of queues and workers now."""
    parts = parts_of(request)
    if not parts.settings.metrics_public:
        await authenticate_admin(request)
    read_query(request).close()
    services = parts.services
    try:
        queues = await services.overview.queues(_SCRAPER)
        workers = await services.overview.workers(_SCRAPER)
        outbox = await services.overview.outbox(_SCRAPER)
    except Unavailable as error:
        # What was counted is worth most when something is down.
        log.warning("metrics.incomplete", part=error.part)
        queues, workers, outbox = [], [], None
    text = services.metrics.render(queues, workers, outbox)
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


for _path in ("/metrics", "/api/v1/metrics"):
    router.add_api_route(
        _path,
        read_metrics,
        methods=["GET"],
        operation_id="read_metrics" if "v1" in _path else "read_metrics_unversioned",
        summary="Metrics",
        responses=contract.caller_errors() | _METRICS,
        description="For admins only, unless the operator made it public.",
    )


async def _check_all(services: ApiServices) -> dict[str, str]:
    verdicts = await asyncio.gather(*(_check(probe) for probe in services.probes.values()))
    return dict(zip(services.probes, verdicts, strict=True))


async def _check(probe: Probe) -> str:
    try:
        await asyncio.wait_for(probe(), PROBE_SECONDS)
    except TimeoutError:
        return "does not answer"
    except ReactorcideError as error:
        return str(error)
    return "ok"
