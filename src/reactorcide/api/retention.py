"""The routes of what is kept and what was removed: rules, rounds, a preview, and the record. For admins."""

from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import contract
from reactorcide.api.answers import JsonObject, json_answer, put_set, spell_time
from reactorcide.api.auth import Admin
from reactorcide.api.inputs import read_query
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import Answer, optional
from reactorcide.domain.ids import is_id
from reactorcide.domain.removals import Removal
from reactorcide.services.retention import Retention, RetentionRules, Round, RuleEffect

router = APIRouter(prefix="/api/v1", tags=["retention"])


class RuleEffectBody(Answer):
    """What a rule removed, or would remove."""

    rule: str
    count: int
    size_bytes: int
    oldest: datetime = optional(description="The earliest end of a job among them.")
    newest: datetime = optional()
    more: bool = optional(description="There are more than were counted.")


class RetentionBody(Answer):
    """The rules in force, and what came of them. A rule that is left out keeps everything."""

    class Rules(Answer):
        """Times in seconds from a job's end."""

        job_seconds: int = optional()
        log_seconds: int = optional()
        log_bytes: int = optional()
        artifact_seconds: int = optional()
        artifact_bytes: int = optional()
        removal_seconds: int
        """How long the record of removals itself is kept."""

    class Round(Answer):
        """A round of removing, or a search for orphans; with `dry_run` it only told."""

        kind: Literal["retention", "orphans"]
        started_at: datetime
        ended_at: datetime
        dry_run: bool
        removed: list[RuleEffectBody]

    rules: Rules
    dry_run: bool
    interval_seconds: float
    rounds: list[Round]


class RetentionPreviewBody(Answer):
    """What each rule would remove now, each by itself."""

    rules: list[RuleEffectBody]


class RemovalListBody(Answer):
    """A page of the record of removals, newest first."""

    class Removal(Answer):
        """A job, log, artifacts or objects that were removed or lost."""

        removal_id: int
        removed_at: datetime
        what: Literal["job", "log", "artifacts", "objects"]
        why: Literal["asked", "age", "bytes", "orphan", "lost"]
        actor: str
        size_bytes: int
        job_id: str = optional()
        attempt: int = optional()
        job_name: str = optional()
        user_id: str = optional(description="Whose it was.")
        objects: int = optional()
        object_key: str = optional(description="The first of them.")

    removals: list[Removal]
    limit: int
    next_cursor: str = optional()


MODELS = (RuleEffectBody, RetentionBody, RetentionPreviewBody, RemovalListBody)


@router.get(
    "/retention",
    summary="Read the rules of retention",
    responses=contract.caller_errors() | {200: contract.answer("Rules and last rounds.", RetentionBody)},
)
async def read_retention(request: Request, caller: Admin) -> Response:
    """Return the rules of this coordinator, and what the last rounds of all of them did."""
    read_query(request).close()
    service = _service(request)
    rounds = await service.rounds(caller)
    return json_answer(
        {
            "rules": _show_rules(service.rules),
            "dry_run": service.rules.is_dry_run,
            "interval_seconds": service.rules.interval.total_seconds(),
            "rounds": [_show_round(entry) for entry in rounds],
        }
    )


@router.get(
    "/retention/preview",
    summary="Tell what retention would remove",
    responses=contract.caller_errors()
    | {200: contract.answer("By rule; nothing was changed.", RetentionPreviewBody)},
)
async def preview_retention(request: Request, caller: Admin) -> Response:
    """Count what each rule in force would remove now. Takes some seconds where that is very much."""
    read_query(request).close()
    effects = await _service(request).preview(caller)
    return json_answer({"rules": [_show_effect(effect) for effect in effects]})


@router.get(
    "/removals",
    summary="List removals",
    responses=contract.caller_errors()
    | {200: contract.answer("A page.", RemovalListBody, Link='`rel="next"`, if there is more.')},
    openapi_extra=contract.parameters(
        contract.query("limit", "Entries on a page.", type="integer", minimum=1, maximum=100, default=20),
        contract.query("cursor", "`next_cursor` of the page before.", type="string"),
        contract.query("job_id", "Of this job.", type="string", format="uuid"),
    ),
)
async def list_removals(request: Request, caller: Admin) -> Response:
    """Return a page of the record of what was removed, newest first."""
    query = read_query(request, "limit", "cursor", "job_id")
    limit = query.integer("limit", 1, 100) or 20
    cursor, job_id = query.text("cursor"), query.text("job_id")
    if job_id is not None and not is_id(job_id):
        query.refuse("job_id", "must be a lower-case UUID")
    query.close()
    page = await _service(request).list_removals(caller, limit=limit, cursor=cursor, job_id=job_id)
    shown: JsonObject = {"removals": [_show_removal(entry) for entry in page.removals], "limit": limit}
    headers = {}
    if page.next_cursor is not None:
        shown["next_cursor"] = page.next_cursor
        kept = [item for item in request.query_params.multi_items() if item[0] != "cursor"]
        address = urlencode([*kept, ("cursor", page.next_cursor)])
        headers["Link"] = f'</api/v1/removals?{address}>; rel="next"'
    return json_answer(shown, headers=headers)


def _service(request: Request) -> Retention:
    return parts_of(request).services.retention


def _show_rules(rules: RetentionRules) -> JsonObject:
    shown: JsonObject = {}
    put_set(
        shown,
        job_seconds=_seconds(rules.jobs),
        log_seconds=_seconds(rules.logs),
        log_bytes=rules.log_bytes,
        artifact_seconds=_seconds(rules.artifacts),
        artifact_bytes=rules.artifact_bytes,
        removal_seconds=_seconds(rules.removals),
    )
    return shown


def _show_round(told: Round) -> JsonObject:
    return {
        "kind": told.kind,
        "started_at": spell_time(told.started_at),
        "ended_at": spell_time(told.ended_at),
        "dry_run": told.is_dry_run,
        "removed": [_show_effect(effect) for effect in told.removed],
    }


def _show_effect(effect: RuleEffect) -> JsonObject:
    shown: JsonObject = {"rule": effect.rule, "count": effect.count, "size_bytes": effect.size_bytes}
    put_set(shown, oldest=effect.oldest, newest=effect.newest, more=effect.more or None)
    return shown


def _show_removal(entry: Removal) -> JsonObject:
    shown: JsonObject = {
        "removal_id": entry.removal_id,
        "removed_at": spell_time(entry.removed_at),
        "what": entry.what.value,
        "why": entry.why.value,
        "actor": entry.actor,
        "size_bytes": entry.size_bytes,
    }
    put_set(
        shown,
        job_id=entry.job_id,
        attempt=entry.attempt,
        job_name=entry.job_name,
        user_id=entry.user_id,
        objects=entry.objects,
        object_key=entry.object_key,
    )
    return shown


def _seconds(time: timedelta | None) -> int | None:
    return None if time is None else round(time.total_seconds())
