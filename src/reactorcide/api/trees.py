"""Uploading a tree of files: ask what is missing, bring that, then name the tree by its manifest.

Everything here belongs to the caller: nobody can see, use or have another user's contents by their digests.
"""

from fastapi import APIRouter
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from reactorcide.api import contract
from reactorcide.api.answers import JsonObject, json_answer
from reactorcide.api.auth import Caller
from reactorcide.api.inputs import Input, read_input, read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import Answer
from reactorcide.api.streamed_body import StreamedBody
from reactorcide.api.strict_json import check_content_type, read_json
from reactorcide.domain.errors import InputFault, InvalidInput, TooLarge
from reactorcide.domain.trees import MAX_ASKED_BLOBS, MAX_PACK_BYTES, MAX_PACKED_BLOBS, Blob, Tree, unpack
from runnerlib.spec.trees import MAX_MANIFEST_BYTES, MAX_TREE_ENTRIES

BYTES = "application/octet-stream"

router = APIRouter(prefix="/api/v1/trees", tags=["trees"])


class AskMissingBody(Input):
    """Contents of a tree, by their SHA-256 in hexadecimal."""

    blobs: list[str] = Field(json_schema_extra={"maxItems": MAX_ASKED_BLOBS})


class MissingBody(Answer):
    """What has still to be brought, and how large a tree may be."""

    class Limits(Answer):
        """Of one tree."""

        tree_bytes: int
        entries: int
        pack_bytes: int
        pack_blobs: int

    missing: list[str]
    limits: Limits


class StoredBody(Answer):
    """How many contents were not there before."""

    stored: int


class TreeBody(Answer):
    """A tree that a job may run on, as `source_tree`."""

    sha256: str
    entries: int
    size: int


@router.post(
    "/missing",
    summary="Ask which contents are missing",
    responses=contract.caller_errors(408, 413, 415)
    | {200: contract.answer("Those that are to be brought.", MissingBody)},
    openapi_extra=contract.body_of(AskMissingBody),
)
async def ask_missing(request: Request, caller: Caller) -> Response:
    """Tell which contents the caller has not uploaded. The others are kept for a day, or longer."""
    read_query(request).close()
    blobs = read_input(AskMissingBody, await read_json(request)).blobs
    if len(blobs) > MAX_ASKED_BLOBS:
        raise InvalidInput([InputFault("/blobs", f"at most {MAX_ASKED_BLOBS} in one request")])
    service = parts_of(request).services.trees
    limits = {
        "tree_bytes": service.limits.tree_bytes,
        "entries": MAX_TREE_ENTRIES,
        "pack_bytes": MAX_PACK_BYTES,
        "pack_blobs": MAX_PACKED_BLOBS,
    }
    return json_answer({"missing": await service.list_missing(caller.user_id, blobs), "limits": limits})


@router.post(
    "/blobs",
    summary="Bring many small contents",
    responses=contract.caller_errors(408, 413, 415)
    | {200: contract.answer("They are stored, all of them.", StoredBody)},
    openapi_extra=contract.bytes_body(
        BYTES,
        f"Contents behind one another, each after 32 bytes of SHA-256 and 8 of length (big-endian);"
        f" at most {MAX_PACKED_BLOBS} of them, and {MAX_PACK_BYTES} bytes in all.",
    ),
)
async def put_blobs(request: Request, caller: Caller) -> Response:
    """Store contents that come packed. Those that are there already do no harm."""
    read_query(request).close()
    check_content_type(request, BYTES)
    contents = unpack(await StreamedBody(request).read_whole(MAX_PACK_BYTES))
    stored = await parts_of(request).services.trees.put_many(caller.user_id, contents)
    return json_answer({"stored": stored})


@router.put(
    "/blobs/{sha256}",
    summary="Bring one content",
    status_code=204,
    responses=contract.caller_errors(408, 413, 415) | {204: contract.answer("It is stored.")},
    openapi_extra=contract.bytes_body(BYTES, "The content, as it is; its length must be announced."),
)
async def put_blob(request: Request, caller: Caller, sha256: str) -> Response:
    """Store a content of any size. It is read as it comes and never held whole."""
    read_query(request).close()
    check_content_type(request, BYTES)
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdecimal() or len(length) > 18:
        raise InvalidInput([InputFault("header Content-Length", "must tell the size of the content")])
    body = StreamedBody(request)
    try:
        await parts_of(request).services.trees.put(caller.user_id, Blob(sha256, int(length)), iter(body))
    except ClientDisconnect:
        # Nobody reads the answer.
        raise HTTPException(400, "the body was cut off") from None
    finally:
        body.close()
    return Response(status_code=204)


@router.put(
    "/{sha256}",
    summary="Name a tree",
    responses=contract.caller_errors(408, 409, 413, 415)
    | {200: contract.answer("The tree, for a job's `source_tree`.", TreeBody)},
    openapi_extra=contract.bytes_body(
        "application/json",
        "The manifest, in its canonical spelling (docs/dirty-trees.md); its SHA-256 is the address.",
    ),
)
async def put_tree(request: Request, caller: Caller, sha256: str) -> Response:
    """Enter a tree whose contents have come; 409 names some of those that have not."""
    read_query(request).close()
    check_content_type(request, "application/json")
    manifest = await _read_manifest(request)
    return json_answer(_show(await parts_of(request).services.trees.enter(caller.user_id, sha256, manifest)))


@router.get(
    "/{sha256}",
    summary="Look for a tree",
    responses=contract.caller_errors(404) | {200: contract.answer("It is there, and whole.", TreeBody)},
)
async def read_tree(request: Request, caller: Caller, sha256: str) -> Response:
    """Return one of the caller's trees, which counts as used by it."""
    read_query(request).close()
    return json_answer(_show(await parts_of(request).services.trees.find(caller.user_id, sha256)))


async def _read_manifest(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_MANIFEST_BYTES:
        raise TooLarge(f"the body must be at most {MAX_MANIFEST_BYTES} bytes")
    return await StreamedBody(request).read_whole(MAX_MANIFEST_BYTES)


def _show(tree: Tree) -> JsonObject:
    return {"sha256": tree.sha256, "entries": tree.entries, "size": tree.size_bytes}
