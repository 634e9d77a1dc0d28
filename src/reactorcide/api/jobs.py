"""The routes of jobs: submit, list, read, cancel, delete, events."""

import hashlib
import re
from datetime import datetime, timedelta
from urllib.parse import urlencode

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import answers, contract
from reactorcide.api.auth import Caller
from reactorcide.api.inputs import Query, faults_of, read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import EventListBody, JobBody, JobListBody, SubmitJobBody
from reactorcide.api.strict_json import canonical_json, read_json
from reactorcide.api.waiting import until_stopping
from reactorcide.domain.errors import InputFault, InvalidInput, NotFound
from reactorcide.domain.ids import is_id
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import JobRequest, check_queue_name, freeze_request
from reactorcide.services.jobs import IdempotencyKey, JobFilter, JobPage

MAX_WAIT_SECONDS = 60
MAX_OFFSET = 2**31 - 1
_SOURCE_TYPES = ("git", "copy", "none", "tree")
_SOURCE_FIELDS = ("git_url", "git_ref", "source_path", "source_tree", "source_commit", "source_changes")
_STATUSES = tuple(status.value for status in JobStatus)
_ETAG = re.compile(r'"(\d{1,9})-[0-9a-f]{16}"')

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=201,
    summary="Submit a job",
    responses=contract.caller_errors(408, 409, 413, 415, 422)
    | {201: contract.answer("The job, committed.", JobBody, Location="The job's address.")},
    openapi_extra=contract.body_of(SubmitJobBody)
    | contract.parameters(
        contract.header(
            "Idempotency-Key",
            "1 to 255 visible ASCII characters; for 24 hours the same key gives the same job.",
            type="string",
            pattern="^[!-~]{1,255}$",
        )
    ),
)
async def submit_job(request: Request, caller: Caller) -> Response:
    """Make a job. Every fault of the body is told at once, and nothing is made."""
    parts = parts_of(request)
    read_query(request).close()
    key_text = _idempotency_key(request)
    body = await read_json(request)
    wanted = _read_submission(request, body)
    key = None
    if key_text is not None:
        key = IdempotencyKey(key_text, hashlib.sha256(canonical_json(body)).digest())
    submission = await parts.services.jobs.submit(caller, wanted, key)
    job = submission.job
    if not submission.replayed:
        parts.services.metrics.job_submitted(job.spec.queue_name, job.spec.source_type)
    headers = {"Location": f"/api/v1/jobs/{job.job_id}"}
    if submission.replayed:
        headers["Idempotency-Replayed"] = "true"
    return answers.json_answer(answers.show_job(job), 201, headers)


_FILTERS = (
    contract.query("limit", "Jobs on a page.", type="integer", minimum=1, maximum=100, default=20),
    contract.query("offset", "Jobs to pass over.", type="integer", minimum=0, maximum=MAX_OFFSET),
    contract.query("cursor", "`next_cursor` of the page before; excludes `offset`.", type="string"),
    contract.query("status", "May come several times.", type="array", items={"enum": list(_STATUSES)}),
    contract.query(
        "queue_name", "May come several times.", type="array", items={"type": "string", "maxLength": 63}
    ),
    contract.query(
        "source_type", "May come several times.", type="array", items={"enum": list(_SOURCE_TYPES)}
    ),
    contract.query("user_id", "Of this user; admins only, or one's own.", type="string", format="uuid"),
    contract.query("name", "Of exactly this name.", type="string", minLength=1, maxLength=255),
    contract.query(
        "label",
        "`key:value`; may come several times, and all must fit.",
        type="array",
        items={"type": "string", "pattern": "^[^:]+:"},
    ),
    contract.query("created_after", "RFC 3339.", type="string", format="date-time"),
    contract.query("created_before", "RFC 3339.", type="string", format="date-time"),
)


@router.get(
    "",
    summary="List jobs",
    responses=contract.caller_errors()
    | {200: contract.answer("A page, newest first.", JobListBody, Link='`rel="next"`, if there is more.')},
    openapi_extra=contract.parameters(*_FILTERS),
)
async def list_jobs(request: Request, caller: Caller) -> Response:
    """Return a page of one's own jobs; an admin's list holds everybody's."""
    query = read_query(
        request,
        *("limit", "offset", "cursor", "user_id", "name", "created_after", "created_before"),
        many=("status", "queue_name", "source_type", "label"),
    )
    limit = query.integer("limit", 1, 100) or 20
    offset = query.integer("offset", 0, MAX_OFFSET) or 0
    cursor = query.text("cursor")
    if cursor is not None and query.has("offset"):
        query.refuse("cursor", "goes without offset")
    wanted = _read_filter(query)
    query.close()
    jobs = parts_of(request).services.jobs
    page = (
        await jobs.list_after(caller, wanted, limit=limit, cursor=cursor)
        if cursor is not None
        else await jobs.list_page(caller, wanted, limit=limit, offset=offset)
    )
    return _show_page(request, page, limit, offset)


@router.get(
    "/{job_id}",
    summary="Read a job",
    responses=contract.caller_errors(404)
    | {200: contract.answer("The job.", JobBody, ETag="Changes with the answer.")}
    | {304: {"description": "The answer that `If-None-Match` names still holds."}},
    openapi_extra=contract.parameters(
        contract.query(
            "wait",
            "Seconds to wait for a change: since the answer that `If-None-Match` names, else since now.",
            type="integer",
            minimum=0,
            maximum=MAX_WAIT_SECONDS,
        ),
        contract.header("If-None-Match", "The `ETag` of an earlier answer.", type="string"),
    ),
)
async def read_job(request: Request, caller: Caller, job_id: str) -> Response:
    """Return a job, with ``wait`` as soon as it changes."""
    query = read_query(request, "wait")
    seconds = query.integer("wait", 0, MAX_WAIT_SECONDS)
    query.close()
    services = parts_of(request).services
    known = request.headers.get("if-none-match", "")
    job = await services.jobs.get(caller, check_job_id(job_id))
    if seconds and not job.status.is_final:
        mark = _ETAG.search(known)
        version = int(mark[1]) if mark else job.version
        change = services.jobs.wait_for_change(caller, job_id, version, timedelta(seconds=seconds))
        job = await until_stopping(services.stopping, change) or job
    body = answers.json_answer(answers.show_job(job, waiting=await services.jobs.waiting_reason(job)))
    etag = f'"{job.version}-{hashlib.sha256(bytes(body.body)).hexdigest()[:16]}"'
    if known == "*" or etag in [mark.strip().removeprefix("W/") for mark in known.split(",")]:
        return Response(status_code=304, headers={"ETag": etag})
    body.headers["ETag"] = etag
    return body


async def cancel_job(request: Request, caller: Caller, job_id: str) -> Response:
    """Ask for the end of a job. Repeating it is no fault; a job that ended otherwise is a conflict."""
    query = read_query(request, "force")
    force = query.truth("force")
    query.close()
    job = await parts_of(request).services.jobs.cancel(caller, check_job_id(job_id), force=force)
    return answers.json_answer(answers.show_job(job))


for _method in ("PUT", "POST"):
    router.add_api_route(
        "/{job_id}/cancel",
        cancel_job,
        methods=[_method],
        operation_id=f"cancel_job_{_method.lower()}",
        summary="Cancel a job",
        responses=contract.caller_errors(404, 409)
        | {200: contract.answer("The job; it may still run for a moment.", JobBody)},
        openapi_extra=contract.parameters(
            contract.query("force", "Kill it at once, without grace.", type="boolean")
        ),
    )


@router.post(
    "/{job_id}/retry",
    status_code=201,
    summary="Run a job again",
    responses=contract.caller_errors(404, 409)
    | {201: contract.answer("The new job.", JobBody, Location="Its address.")},
)
async def retry_job(request: Request, caller: Caller, job_id: str) -> Response:
    """Make a new job of the same frozen spec; `retry_of` names the old one."""
    read_query(request).close()
    services = parts_of(request).services
    job = await services.jobs.retry(caller, check_job_id(job_id))
    services.metrics.job_submitted(job.spec.queue_name, job.spec.source_type)
    return answers.json_answer(answers.show_job(job), 201, {"Location": f"/api/v1/jobs/{job.job_id}"})


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Delete a job",
    responses=contract.caller_errors(404, 409) | {204: contract.answer("Gone, soon its log too.")},
)
async def delete_job(request: Request, caller: Caller, job_id: str) -> Response:
    """Delete a job that has ended, with its log. For admins only."""
    read_query(request).close()
    await parts_of(request).services.jobs.delete(caller, check_job_id(job_id))
    return Response(status_code=204)


@router.get(
    "/{job_id}/events",
    summary="List a job's transitions",
    responses=contract.caller_errors(404) | {200: contract.answer("Oldest first.", EventListBody)},
)
async def list_events(request: Request, caller: Caller, job_id: str) -> Response:
    """Return every transition of a job."""
    read_query(request).close()
    events = await parts_of(request).services.jobs.events(caller, check_job_id(job_id))
    return answers.json_answer(answers.show_events(events))


def check_job_id(text: str) -> str:
    """Return the id in a path.

    Raises:
        NotFound: it is not written as one, so there is no such job.
    """
    if not is_id(text):
        raise NotFound("job", text[:64])
    return text


def _idempotency_key(request: Request) -> str | None:
    found = request.headers.getlist("idempotency-key")
    if len(found) > 1:
        raise InvalidInput([InputFault("header Idempotency-Key", "must come once")])
    if found and not re.fullmatch(r"[!-~]{1,255}", found[0]):
        raise InvalidInput(
            [InputFault("header Idempotency-Key", "must be 1 to 255 visible ASCII characters")]
        )
    return found[0] if found else None


def _read_submission(request: Request, body: object) -> JobRequest:
    """Return the submission; faults of type and faults of value are told together."""
    try:
        return SubmitJobBody.model_validate(body).request()
    except ValidationError as error:
        faults = faults_of(error, SubmitJobBody)
    if isinstance(body, dict):
        faults += _faults_of_the_rest(request, body, {fault.pointer.split("/")[1] for fault in faults})
    raise InvalidInput(faults)


def _faults_of_the_rest(request: Request, body: dict[str, object], faulty: set[str]) -> list[InputFault]:
    """Return the domain's faults of the fields that are well formed."""
    sound = {name: value for name, value in body.items() if name not in faulty}
    stand_ins = {"name": "x", "source_type": "none", "job_command": "x"}
    if "source_type" in faulty:
        sound = {name: value for name, value in sound.items() if name not in _SOURCE_FIELDS}
    try:
        freeze_request(
            SubmitJobBody.model_validate(stand_ins | sound).request(), parts_of(request).settings.policy
        )
    except InvalidInput as refused:
        return [fault for fault in refused.faults if fault.pointer.split("/")[1] not in faulty]
    return []


def _read_filter(query: Query) -> JobFilter:
    for parameter, choices in (("status", _STATUSES), ("source_type", _SOURCE_TYPES)):
        for value in query.all(parameter):
            if value not in choices:
                query.refuse(parameter, f"must be one of {', '.join(choices)}")
    for value in query.all("queue_name"):
        if fault := check_queue_name(value):
            query.refuse("queue_name", fault)
    labels = [label.partition(":") for label in query.all("label")]
    if any(not key or not colon for key, colon, _ in labels):
        query.refuse("label", "must be written key:value")
    name, user_id = query.text("name"), query.text("user_id")
    if name is not None and not 1 <= len(name) <= 255:
        query.refuse("name", "must be 1 to 255 characters")
    if user_id is not None and not is_id(user_id):
        query.refuse("user_id", "must be a lower-case UUID")
    return JobFilter(
        statuses=tuple(dict.fromkeys(query.all("status"))),
        queue_names=tuple(dict.fromkeys(query.all("queue_name"))),
        source_types=tuple(dict.fromkeys(query.all("source_type"))),
        user_id=user_id,
        name=name,
        labels=tuple((key, value) for key, _, value in labels),
        created_after=_time(query, "created_after"),
        created_before=_time(query, "created_before"),
    )


def _time(query: Query, name: str) -> datetime | None:
    text = query.text(name)
    if text is None:
        return None
    try:
        # An unescaped "+" of a query string arrives as a blank.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        query.refuse(name, "must be an RFC 3339 time with its zone, as in 2030-01-31T12:00:00Z")
    return moment


def _show_page(request: Request, page: JobPage, limit: int, offset: int) -> Response:
    shown: answers.JsonObject = {"jobs": [answers.show_job(job) for job in page.jobs]}
    if page.total is not None:
        shown["total"] = page.total
    shown["limit"] = limit
    if page.total is not None:
        shown["offset"] = offset
    headers = {}
    if page.next_cursor is not None:
        shown["next_cursor"] = page.next_cursor
        kept = [item for item in request.query_params.multi_items() if item[0] not in ("offset", "cursor")]
        address = urlencode([*kept, ("cursor", page.next_cursor)])
        headers["Link"] = f'</api/v1/jobs?{address}>; rel="next"'
    return answers.json_answer(shown, headers=headers)
