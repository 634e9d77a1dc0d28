"""The routes of users, and of oneself."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import answers, contract
from reactorcide.api.auth import Admin, Caller
from reactorcide.api.inputs import read_input, read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import CreateUserBody, MeBody, UpdateUserBody, UserBody, UserListBody
from reactorcide.api.strict_json import read_json
from reactorcide.domain.errors import NotFound
from reactorcide.domain.ids import is_id
from reactorcide.services.accounts import UserChanges

router = APIRouter(prefix="/api/v1", tags=["users"])


@router.post(
    "/users",
    status_code=201,
    summary="Make a user",
    responses=contract.caller_errors(408, 409, 413, 415) | {201: contract.answer("The user.", UserBody)},
    openapi_extra=contract.body_of(CreateUserBody),
)
async def create_user(request: Request, caller: Admin) -> Response:
    """Make a user. For admins only."""
    read_query(request).close()
    body = read_input(CreateUserBody, await read_json(request))
    user = await parts_of(request).services.accounts.create_user(
        caller, username=body.username, email=body.email, roles=body.roles, enabled=body.enabled
    )
    return answers.json_answer(answers.show_user(user), 201)


@router.get(
    "/users",
    summary="List users",
    responses=contract.caller_errors() | {200: contract.answer("Every user, oldest first.", UserListBody)},
)
async def list_users(request: Request, caller: Admin) -> Response:
    """Return every user. For admins only."""
    read_query(request).close()
    users = await parts_of(request).services.accounts.list_users(caller)
    return answers.json_answer({"users": [answers.show_user(user) for user in users], "total": len(users)})


@router.patch(
    "/users/{user_id}",
    summary="Change a user",
    responses=contract.caller_errors(404, 408, 409, 413, 415) | {200: contract.answer("The user.", UserBody)},
    openapi_extra=contract.body_of(UpdateUserBody),
)
async def update_user(request: Request, caller: Admin, user_id: str) -> Response:
    """Change a user. A disabled user's tokens open nothing from then on. For admins only."""
    read_query(request).close()
    if not is_id(user_id):
        raise NotFound("user", user_id[:64])
    body = read_input(UpdateUserBody, await read_json(request))
    changes = UserChanges(**body.given())
    user = await parts_of(request).services.accounts.update_user(caller, user_id, changes)
    return answers.json_answer(answers.show_user(user))


@router.get(
    "/me",
    summary="Who am I",
    responses=contract.caller_errors(404) | {200: contract.answer("The caller.", MeBody)},
)
async def read_me(request: Request, caller: Caller) -> Response:
    """Return whose token this is and what it opens."""
    read_query(request).close()
    user = await parts_of(request).services.accounts.get_user(caller.user_id)
    return answers.json_answer(answers.show_caller(user, caller))
