"""Errors as `application/problem+json` (RFC 9457): the one form of every answer that is no success."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
import structlog
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from reactorcide import protocol
from reactorcide.api.rate_limits import RateLimited
from reactorcide.domain.errors import (
    ClaimLost,
    Conflict,
    Forbidden,
    Gone,
    IdempotencyMismatch,
    InputFault,
    InvalidInput,
    LogMismatch,
    NotFound,
    OffsetGap,
    ReactorcideError,
    Superseded,
    TooLarge,
    Unauthorized,
    Unavailable,
)

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
MAX_LISTED_FAULTS = 100
"""A body of a million wrong fields is answered by the first of them."""

_STATUSES: dict[type[ReactorcideError], int] = {
    InvalidInput: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    ClaimLost: 409,
    LogMismatch: 409,
    Superseded: 409,
    Gone: 410,
    TooLarge: 413,
    OffsetGap: 416,
    IdempotencyMismatch: 422,
    RateLimited: 429,
    Unavailable: 503,
}
_CAUSES: dict[type[ReactorcideError], str] = {
    ClaimLost: protocol.CLAIM_LOST,
    LogMismatch: protocol.LOG_MISMATCH,
    Superseded: protocol.SUPERSEDED,
    OffsetGap: protocol.OFFSET_GAP,
}
_CODES = {
    400: "invalid_input",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    410: "gone",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "idempotency_mismatch",
    429: "rate_limited",
    431: "headers_too_large",
    500: "internal_error",
    503: "service_unavailable",
}
_MESSAGES = {
    404: "there is nothing at this address",
    405: "this address does not know this method",
    500: "something went wrong on our side; the log tells more under this request id",
}

log = structlog.get_logger()


def problem(
    status: int,
    message: str,
    *,
    instance: str | None = None,
    request_id: str | None = None,
    faults: Sequence[InputFault] = (),
    job_status: str | None = None,
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer for an error of ``status``; `error` follows from it.

    Args:
        extra: further members that a program acts on.
    """
    code = _CODES.get(status, "invalid_input" if status < 500 else "internal_error")
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        # RFC 9457 keeps this name for the number; what a job's is goes under `job_status` as well.
        "status": status,
        "detail": message,
        "error": code,
        "message": message,
    }
    if instance is not None:
        body["instance"] = instance
    if request_id is not None:
        body["request_id"] = request_id
    if faults:
        body["errors"] = [{"pointer": f.pointer, "detail": f.detail} for f in faults[:MAX_LISTED_FAULTS]]
    if job_status is not None:
        body["job_status"] = job_status
    body |= extra or {}
    # Lone surrogates of a refused input are shown as question marks.
    return Response(_encode(body), status, headers=headers, media_type=PROBLEM_TYPE)


def problem_for(request: Request, error: ReactorcideError) -> Response:
    """Return the answer for an error of the product."""
    status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)
    if status == 500:
        return unexpected(request, error)
    faults: Sequence[InputFault] = ()
    message, job_status, headers = str(error), None, {}
    if isinstance(error, InvalidInput):
        faults = error.faults
        message = _sum_up(faults)
    elif isinstance(error, Conflict):
        job_status = error.status.value if error.status is not None else None
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        log.warning("request.unavailable", part=error.part)
    return problem(
        status,
        message,
        instance=request.url.path,
        request_id=request_id_of(request),
        faults=faults,
        job_status=job_status,
        extra=_facts_for_workers(error),
        headers=headers,
    )


def _facts_for_workers(error: ReactorcideError) -> dict[str, object]:
    """Return what a worker acts on: the cause of a refusal, and the length of a log."""
    if isinstance(error, NotFound) and error.kind == "worker":
        return {"cause": protocol.WORKER_UNKNOWN}
    facts: dict[str, object] = {"cause": _CAUSES[type(error)]} if type(error) in _CAUSES else {}
    if isinstance(error, OffsetGap):
        facts["length"] = error.length
    return facts


def unexpected(request: Request, error: Exception) -> Response:
    """Log a bug whole and answer it without any detail."""
    log.error("request.failed", exc_info=error)
    return problem(500, _MESSAGES[500], instance=request.url.path, request_id=request_id_of(request))


def request_id_of(request: Request) -> str | None:
    """Return the id under which the request is logged."""
    found = getattr(request.state, "request_id", None)
    return found if isinstance(found, str) else None


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` in this form."""
    app.add_exception_handler(ReactorcideError, _on_product_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_product_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ReactorcideError):
        raise error
    return problem_for(request, error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = _MESSAGES.get(error.status_code) or error.detail
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed_methods(request)
    return problem(
        error.status_code,
        message,
        instance=request.url.path,
        request_id=request_id_of(request),
        headers=headers,
    )


def _allowed_methods(request: Request) -> str:
    """Return the methods of all routes of the address; the router tells those of one."""
    allowed: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path is not None and compile_path(route.path)[0].fullmatch(request.scope["path"]):
            allowed |= route.methods or set()
    if "GET" in allowed:
        allowed.add("HEAD")
    return ", ".join(sorted(allowed))


def _sum_up(faults: Sequence[InputFault]) -> str:
    shown = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:3])
    return shown if len(faults) <= 3 else f"{shown}; and {len(faults) - 3} more"


def _encode(body: Mapping[str, object]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(_without_surrogates(body))


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {str(_without_surrogates(key)): _without_surrogates(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(entry) for entry in value]
    return value
