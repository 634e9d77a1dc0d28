"""The artifacts of a job: the list, all of them as a tar, and one by one with ranges.

What a job wrote is shown to nobody as if it were ours: always a download, of the type that its name tells,
never sniffed, and under a policy that lets it run nothing. Where the operator lets clients fetch from the
object store itself, a download is sent there by an address that needs no token and is good for minutes.
"""

import re
import tarfile
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from reactorcide.api import contract
from reactorcide.api.answers import JsonObject, json_answer, put_set
from reactorcide.api.auth import Caller
from reactorcide.api.inputs import read_query
from reactorcide.api.jobs import check_job_id
from reactorcide.api.middleware import IS_HEAD
from reactorcide.api.negotiation import choose_type, read_range
from reactorcide.api.parts import parts_of
from reactorcide.api.problems import problem, request_id_of
from reactorcide.api.schemas import Answer, optional
from reactorcide.domain.artifacts import Artifact
from reactorcide.services.artifacts import ArtifactService, StoredArtifacts

JSON, TAR = "application/json", "application/x-tar"
_BLOCK_BYTES = 512
_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
_UNPLAIN = re.compile(r"[^A-Za-z0-9 ._()+,=@~-]")

router = APIRouter(prefix="/api/v1/jobs", tags=["artifacts"])


class ArtifactListBody(Answer):
    """The artifacts of a job."""

    class Artifact(Answer):
        """A file, named by where it lay in the artifacts folder."""

        path: str
        size: int
        sha256: str
        content_type: str

    artifacts: list[Artifact]
    complete: bool
    """Whether nothing more will come: the job has ended and all that it left is here, or was."""
    removed_at: datetime = optional(description="They were there, and are kept no longer.")
    removed_why: Literal["age", "bytes", "lost"] = optional()


@router.get(
    "/{job_id}/artifacts",
    summary="List a job's artifacts, or have them all",
    responses=contract.caller_errors(404, 410)
    | {
        200: {
            "description": "The list; or, as a tar, the files.",
            "content": {
                JSON: {"schema": {"$ref": f"#/components/schemas/{ArtifactListBody.__name__}"}},
                TAR: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
    openapi_extra=contract.parameters(
        contract.query("format", "The form, whatever `Accept` says.", type="string", enum=["json", "tar"])
    ),
)
async def list_artifacts(request: Request, caller: Caller, job_id: str) -> Response:
    """Return the list in the order of the paths; as a tar if `format` or `Accept` asks for one."""
    query = read_query(request, "format")
    form = query.one_of("format", ("json", "tar"))
    query.close()
    services = parts_of(request).services
    job = await services.jobs.get(caller, check_job_id(job_id))
    found = await services.artifacts.find(job_id)
    wants_tar = (
        choose_type(request.headers.get("accept"), (JSON, TAR)) == TAR if form is None else form == "tar"
    )
    headers = {"Vary": "Accept"}
    if not wants_tar:
        listed = [_show(artifact) for artifact in found.artifacts]
        shown: JsonObject = {"artifacts": listed, "complete": found.is_complete}
        if found.loss is not None:
            put_set(shown, removed_at=found.loss.at, removed_why=found.loss.why)
        return json_answer(shown, headers=headers)
    found.check_kept()
    headers |= _download_headers(f"{job_id}-artifacts.tar")
    if request.scope.get(IS_HEAD):
        return Response(None, headers=headers, media_type=TAR)
    members = _tar(services.artifacts, found, job.completed_at or job.updated_at)
    return StreamingResponse(members, headers=headers, media_type=TAR)


@router.get(
    "/{job_id}/artifacts/{path:path}",
    summary="Download an artifact",
    responses=contract.caller_errors(404, 410, 416)
    | {
        200: {
            "description": "The file, always to be saved and never to be shown.",
            "headers": {
                name: {"schema": {"type": "string"}}
                for name in ("ETag", "Accept-Ranges", "Content-Disposition")
            },
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        206: {"description": "The bytes of `Range`.", "content": {"*/*": {}}},
        304: {"description": "The file is the one that `If-None-Match` names."},
        307: contract.answer(
            "The file is to be fetched elsewhere, without the token and within minutes; by ranges as well.",
            Location="An address that lets whoever has it read this one file.",
            Cache_Control="`no-store`: the address is a secret, and not for long.",
        ),
    },
    openapi_extra=contract.parameters(
        contract.header("Range", "One range of bytes.", type="string"),
        contract.header("If-Range", "Only if the file is still that of this ETag.", type="string"),
        contract.header("If-None-Match", "An ETag; 304 if the file is that one.", type="string"),
    ),
)
async def read_artifact(request: Request, caller: Caller, job_id: str, path: str) -> Response:
    """Return the content of one artifact. Its ETag is its SHA-256."""
    read_query(request).close()
    services = parts_of(request).services
    await services.jobs.get(caller, check_job_id(job_id))
    found = await services.artifacts.find(job_id)
    artifact = found.find(path)
    etag = f'"{artifact.sha256}"'
    headers = _download_headers(path.rpartition("/")[2]) | {"ETag": etag, "Accept-Ranges": "bytes"}
    if _names(request.headers.get("if-none-match"), etag):
        return Response(None, 304, headers)
    start, end, status = 0, artifact.size_bytes, 200
    wanted = read_range(request.headers.get("range"), artifact.size_bytes)
    if wanted is not None and request.headers.get("if-range", etag) == etag:
        start, end = wanted
        if start >= end:
            return _out_of_range(request, artifact)
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size_bytes}"
    headers["Content-Length"] = str(end - start)
    headers["Content-Type"] = artifact.content_type
    if request.scope.get(IS_HEAD) or start == end:
        return Response(None, status, headers)
    # The object store knows another ETag than ours, and would not go on where a client wants to.
    if "if-range" not in request.headers and (link := await services.artifacts.link(found, artifact)):
        return Response(None, 307, {"Location": link, "Cache-Control": "no-store"})
    pieces = services.artifacts.read(found, artifact, start, end - start)
    # What fails before the first of them is still a proper error.
    first = await anext(pieces, b"")
    return StreamingResponse(_after(first, pieces), status, headers)


def _show(artifact: Artifact) -> JsonObject:
    return {
        "path": artifact.path,
        "size": artifact.size_bytes,
        "sha256": artifact.sha256,
        "content_type": artifact.content_type,
    }


def _download_headers(name: str) -> dict[str, str]:
    """Return the headers of something to be saved, under a name that every client reads alike (RFC 6266)."""
    plain = _UNPLAIN.sub("_", name)
    return {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": _POLICY,
    }


def _names(header: str | None, etag: str) -> bool:
    entries = [entry.strip().removeprefix("W/") for entry in (header or "").split(",")]
    return etag in entries or "*" in entries


def _out_of_range(request: Request, artifact: Artifact) -> Response:
    return problem(
        416,
        f"the artifact is {artifact.size_bytes} bytes long",
        instance=request.url.path,
        request_id=request_id_of(request),
        headers={"Content-Range": f"bytes */{artifact.size_bytes}"},
    )


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def _tar(service: ArtifactService, found: StoredArtifacts, at: datetime) -> AsyncIterator[bytes]:
    """Yield a tar of plain files alone, which says nothing of users, modes or links."""
    for artifact in found.artifacts:
        member = tarfile.TarInfo(artifact.path)
        member.size = artifact.size_bytes
        member.mode = 0o644
        member.mtime = int(at.timestamp())
        yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
        async for piece in service.read(found, artifact):
            yield piece
        yield bytes(-artifact.size_bytes % _BLOCK_BYTES)
    yield bytes(2 * _BLOCK_BYTES)
