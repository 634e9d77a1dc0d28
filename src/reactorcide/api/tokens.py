"""The routes of tokens."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import answers, contract
from reactorcide.api.auth import Admin, Caller
from reactorcide.api.inputs import read_input, read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import CreateTokenBody, MintedTokenBody, TokenListBody
from reactorcide.api.strict_json import read_json
from reactorcide.domain.accounts import TokenKind
from reactorcide.domain.errors import NotFound
from reactorcide.domain.ids import is_id

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


@router.post(
    "",
    status_code=201,
    summary="Make a token",
    responses=contract.caller_errors(404, 408, 413, 415)
    | {201: contract.answer("The token; its text is shown only here.", MintedTokenBody)},
    openapi_extra=contract.body_of(CreateTokenBody),
)
async def create_token(request: Request, caller: Admin) -> Response:
    """Make a token for oneself or, with `user_id`, for another. For admins only."""
    read_query(request).close()
    body = read_input(CreateTokenBody, await read_json(request))
    minted = await parts_of(request).services.accounts.mint_token(
        caller, name=body.name, expires_at=body.expires_at, user_id=body.user_id, kind=TokenKind(body.kind)
    )
    return answers.json_answer(answers.show_minted_token(minted), 201)


@router.get(
    "",
    summary="List tokens",
    responses=contract.caller_errors(404)
    | {200: contract.answer("Without their texts, which nobody keeps.", TokenListBody)},
    openapi_extra=contract.parameters(
        contract.query("user_id", "Of this user; admins only, or one's own.", type="string", format="uuid")
    ),
)
async def list_tokens(request: Request, caller: Caller) -> Response:
    """Return one's own tokens or, for an admin, those of a user."""
    query = read_query(request, "user_id")
    user_id = query.text("user_id")
    if user_id is not None and not is_id(user_id):
        query.refuse("user_id", "must be a lower-case UUID")
    query.close()
    tokens = await parts_of(request).services.accounts.list_tokens(caller, user_id)
    return answers.json_answer(
        {"tokens": [answers.show_token(token) for token in tokens], "total": len(tokens)}
    )


@router.delete(
    "/{token_id}",
    status_code=204,
    summary="Revoke a token",
    responses=contract.caller_errors(404) | {204: contract.answer("It opens nothing any more.")},
)
async def revoke_token(request: Request, caller: Caller, token_id: str) -> Response:
    """Revoke a token. To a non-admin, another's token and none look alike."""
    read_query(request).close()
    if not is_id(token_id):
        raise NotFound("token", token_id[:64])
    await parts_of(request).services.accounts.revoke_token(caller, token_id)
    return Response(status_code=204)
