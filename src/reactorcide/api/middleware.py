"""What goes around every request, as plain ASGI: bounds, its id, safe headers, its line in the log."""

import re
import secrets
import time
from collections.abc import Sequence

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reactorcide import protocol
from reactorcide.api.problems import problem, unexpected
from reactorcide.observability.metrics import Metrics

MAX_HEADER_BYTES = 32 * 1024
UNMATCHED = "(none)"
IS_HEAD = "reactorcide.is_head"
"""In the scope of a HEAD request, which is served as the GET it asks about."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_DEFAULT_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

log = structlog.get_logger()


class Surroundings:
    """Around every request: an id, a bound on its head, safe headers, and its line in log and metrics."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, method = time.perf_counter(), str(scope["method"])
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        if method == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}
        status = 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_safe_headers(message.get("headers", ()), request_id)}
            await send(message)

        try:
            if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADER_BYTES:
                told = problem(
                    431, f"the headers must be at most {MAX_HEADER_BYTES} bytes", request_id=request_id
                )
                await told(scope, receive, send_safely)
            else:
                with structlog.contextvars.bound_contextvars(request_id=request_id):
                    await self._app(scope, receive, send_safely)
        finally:
            self._tell(scope, method, status, time.perf_counter() - begun)

    def _tell(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        name = method if method in _METHODS else "OTHER"
        self._metrics.request_answered(name, route, status, seconds)
        # Workers call all the time; what that changes is logged by the services.
        is_quiet = method in ("GET", "HEAD", "OPTIONS") or route.startswith(protocol.PATH)
        level = log.debug if is_quiet and status < 500 else log.info
        level(
            "request.answered",
            method=name,
            route=route,
            status=status,
            seconds=round(seconds, 6),
            request_id=scope["state"]["request_id"],
            user_id=scope["state"].get("user_id"),
        )


class LastResort:
    """Turns what nobody foresaw into an answer without detail, and one line in the log with all of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except Exception as error:
            if has_begun:
                # The server cuts the connection, so that the client sees that there should be more.
                log.warning("answer.broken_off", exc_info=error)
                return
            await unexpected(Request(scope), error)(scope, receive, send)


class CrossOrigin:
    """Lets pages of the listed origins call the API. Never with credentials: a page sends its token."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._origins:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        allowed = [(b"vary", b"Origin")]
        if origin in self._origins:
            allowed.append((b"access-control-allow-origin", origin))
            allowed.append(
                (b"access-control-expose-headers", b"Location, ETag, Link, X-Request-Id, Retry-After")
            )
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                allowed.append((b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"))
                allowed.append(
                    (
                        b"access-control-allow-headers",
                        b"Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range",
                    )
                )
                allowed.append((b"access-control-max-age", b"600"))
                await send({"type": "http.response.start", "status": 204, "headers": allowed})
                await send({"type": "http.response.body", "body": b""})
                return

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *allowed]}
            await send(message)

        await self._app(scope, receive, send_allowed)


def _request_id(scope: Scope) -> str:
    """Return the caller's own id of the request if it is sane, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return text
    return secrets.token_hex(8)


def _with_safe_headers(headers: Sequence[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    added = [header for header in _DEFAULT_HEADERS if header[0] not in present]
    return [*headers, *_SAFE_HEADERS, *added, (b"x-request-id", request_id.encode())]
