"""The route that tells why: what a job does, or why it ended, in a sentence and in facts."""

from datetime import datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reactorcide.api import answers, contract
from reactorcide.api.auth import Caller
from reactorcide.api.inputs import read_query
from reactorcide.api.jobs import check_job_id
from reactorcide.api.parts import parts_of
from reactorcide.api.schemas import Answer, optional
from reactorcide.domain.explanations import position_of
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import Desired, JobStatus
from reactorcide.services.explaining import Explanation, JobSight

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])


class ExplanationBody(Answer):
    """What a job does or why it ended: `why` for people, and what it was made from. Times are of now."""

    class Waiting(Answer):
        """What a job that has not started sees of its queue."""

        seconds: float
        position: str
        is_claimed: bool
        times_out_in_seconds: float
        live_workers: int
        draining_workers: int
        full_workers: int
        slots: int
        busy_slots: int
        retry_in_seconds: float = optional()
        last_worker: str = optional()
        last_worker_seen_seconds: float = optional()

    class Cancel(Answer):
        """That the job's end was asked for."""

        is_forced: bool
        by: str = optional()
        asked_seconds: float = optional()

    class Log(Answer):
        """How much of the log has come; without a promise, its worker has not told how long it will be."""

        size_bytes: int
        is_sealed: bool
        promised_bytes: int = optional()

    job_id: str
    status: JobStatus
    why: str
    queue_name: str
    attempt: int
    runs: int
    max_runs: int
    worker: str = optional()
    reason: Reason = optional()
    fault: Fault = optional()
    message: str = optional()
    exit_code: int = optional()
    signal: int = optional()
    completed_at: datetime = optional()
    seconds: float = optional()
    heartbeat_seconds: float = optional()
    given_up_in_seconds: float = optional()
    deadline_in_seconds: float = optional()
    waiting: Waiting = optional()
    cancel: Cancel = optional()
    log: Log = optional()


@router.get(
    "/{job_id}/why",
    summary="Explain a job",
    responses=contract.caller_errors(404)
    | {200: contract.answer("The sentence and its facts.", ExplanationBody)},
)
async def explain_job(request: Request, caller: Caller, job_id: str) -> Response:
    """Return what a job does, what it waits for, or why it ended, as of now."""
    read_query(request).close()
    told = await parts_of(request).services.explainer.explain(caller, check_job_id(job_id))
    return answers.json_answer(_show(told))


def _show(told: Explanation) -> answers.JsonObject:
    sight = told.sight
    shown: answers.JsonObject = {
        "job_id": sight.job_id,
        "status": sight.status.value,
        "why": told.why,
        "queue_name": sight.queue_name,
        "attempt": sight.attempt,
        "runs": sight.runs,
        "max_runs": sight.max_runs,
    }
    answers.put_set(
        shown,
        worker=sight.newest.worker if sight.newest else None,
        reason=sight.reason,
        fault=sight.fault,
        message=sight.message,
        exit_code=sight.exit_code,
        signal=sight.signal,
        completed_at=sight.completed_at,
        seconds=_seconds(sight.running_seconds),
        heartbeat_seconds=_seconds(told.renewed_seconds),
        given_up_in_seconds=_seconds(told.given_up_seconds),
        deadline_in_seconds=None if sight.status.is_final else _seconds(sight.deadline_seconds),
        waiting=_show_waiting(sight),
        cancel=_show_wish(sight),
        log=_show_log(sight),
    )
    return shown


def _show_waiting(sight: JobSight) -> answers.JsonObject | None:
    queue = sight.queue
    if queue is None:
        return None
    shown: answers.JsonObject = {
        "seconds": _seconds(sight.waiting_seconds),
        "position": position_of(queue),
        "is_claimed": sight.is_claimed,
        "times_out_in_seconds": _seconds(sight.queue_deadline_seconds),
        "live_workers": queue.live_workers,
        "draining_workers": queue.draining_workers,
        "full_workers": queue.full_workers,
        "slots": queue.slots,
        "busy_slots": queue.busy_slots,
    }
    answers.put_set(
        shown,
        retry_in_seconds=_seconds(sight.rest_seconds) if sight.rest_seconds > 0 else None,
        last_worker=queue.last_worker,
        last_worker_seen_seconds=_seconds(queue.last_seen_seconds),
    )
    return shown


def _show_wish(sight: JobSight) -> answers.JsonObject | None:
    if sight.desired == Desired.RUN:
        return None
    shown: answers.JsonObject = {"is_forced": sight.desired >= Desired.KILL}
    answers.put_set(shown, by=sight.desired_by, asked_seconds=_seconds(sight.desired_seconds))
    return shown


def _show_log(sight: JobSight) -> answers.JsonObject | None:
    newest = sight.newest
    if newest is None or not newest.is_started:
        return None
    shown: answers.JsonObject = {"size_bytes": newest.log_length, "is_sealed": newest.is_log_sealed}
    answers.put_set(shown, promised_bytes=newest.promised_log_length)
    return shown


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
