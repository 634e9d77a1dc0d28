"""Who calls: from the Authorization header, and from nowhere else, to a `Principal`."""

import re
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from reactorcide.api.parts import parts_of
from reactorcide.domain.accounts import MAX_TOKEN_LENGTH, Principal, TokenKind
from reactorcide.domain.errors import Forbidden, Unauthorized

MISSING = "Missing Authorization header"
MALFORMED = "Invalid Authorization header format. Use: Bearer <token>"
INVALID = "Invalid or expired token"

_TOKEN = re.compile(r"[!-~]+")


def read_token(request: Request) -> str:
    """Return the text of the bearer token.

    Raises:
        Unauthorized: there is no such header, or it is not of the one form we accept.
    """
    found = request.headers.getlist("authorization")
    if not found:
        raise Unauthorized(MISSING)
    scheme, _, token = found[0].partition(" ")
    token = token.strip(" ")
    if len(found) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthorized(MALFORMED)
    if not _TOKEN.fullmatch(token):
        raise Unauthorized(MALFORMED)
    if len(token) > MAX_TOKEN_LENGTH:
        raise Unauthorized(INVALID)
    return token


async def authenticate(request: Request, *, urgent: bool = False) -> Principal:
    """Return who calls, whatever kind of token it is.

    ``urgent``: looked up on the database's reserved share, as for calls that must pass when it is busy.

    Raises:
        Unauthorized, Unavailable.
        RateLimited: too many wrong tokens came from there of late.
    """
    services = parts_of(request).services
    token = read_token(request)
    host = request.client.host if request.client is not None else ""
    services.failures.check(host, token)
    try:
        caller = await services.accounts.authenticate(token, urgent=urgent)
    except Unauthorized:
        services.failures.note_failure(host)
        raise
    services.failures.note_success(token)
    request.state.user_id = caller.user_id
    return caller


async def authenticate_user(request: Request) -> Principal:
    """Return who calls with a user's token.

    Raises:
        Unauthorized, Unavailable.
        Forbidden: it is a worker's token.
    """
    caller = await authenticate(request)
    if caller.kind is not TokenKind.USER:
        raise Forbidden("a worker's token opens only the worker's routes")
    return caller


async def authenticate_worker(request: Request) -> Principal:
    """Return whose worker calls.

    Raises:
        Unauthorized, Unavailable.
        Forbidden: it is a user's token.
    """
    # A heartbeat that must wait behind a crowd of users may cost a lease.
    caller = await authenticate(request, urgent=True)
    if caller.kind is not TokenKind.WORKER:
        raise Forbidden("the worker's routes open to a worker's token only")
    return caller


async def authenticate_admin(request: Request) -> Principal:
    """Return the admin who calls.

    Raises:
        Unauthorized, Unavailable.
        Forbidden: the caller is none.
    """
    caller = await authenticate_user(request)
    if not caller.is_admin:
        raise Forbidden("admins only")
    return caller


Caller = Annotated[Principal, Depends(authenticate_user)]
Admin = Annotated[Principal, Depends(authenticate_admin)]
WorkerCaller = Annotated[Principal, Depends(authenticate_worker)]
