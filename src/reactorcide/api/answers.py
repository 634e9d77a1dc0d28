"""From the product's values to the JSON that goes out: unset fields are left out, nothing is null."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from reactorcide.domain.accounts import ApiToken, Principal, User
from reactorcide.domain.jobs import REDACTED, AttemptLimits, Job, JobEvent
from reactorcide.services.accounts import MintedToken
from reactorcide.services.overview import QueueOverview, TicketCount, WorkerOverview
from runnerlib.spec.rules import is_credential_name

JsonObject = dict[str, Any]


def json_answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``body`` as JSON."""
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/json")


def spell_time(moment: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC, with `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def show_job(job: Job, *, waiting: str | None = None) -> JsonObject:
    """Return a job."""
    spec = job.spec
    resources = {
        name: value
        for name, value in (
            ("cpu", spec.resources.cpu),
            ("memory_mb", spec.resources.memory_mb),
            ("pids", spec.resources.pids),
        )
        if value is not None
    }
    shown: JsonObject = {
        "job_id": job.job_id,
        "user_id": job.user_id,
        "name": spec.name,
        "description": spec.description,
        "status": job.status.value,
        "source_type": spec.source_type,
        "code_dir": spec.code_dir,
        "job_dir": spec.job_dir,
        "job_command": spec.job_command,
        "runner_image": spec.runner_image,
        "queue_name": spec.queue_name,
        "created_at": spell_time(job.created_at),
        "updated_at": spell_time(job.updated_at),
        "timeout_seconds": spec.timeout_seconds,
        "queue_timeout_seconds": spec.queue_timeout_seconds,
        "priority": spec.priority,
        "retry_on_lost": spec.retry_on_lost,
        "network": spec.network,
    }
    if spec.artifacts != ("**",):
        shown["artifacts"] = list(spec.artifacts)
    put_set(
        shown,
        git_url=spec.git_url,
        git_ref=spec.git_ref,
        source_path=spec.source_path,
        source_tree=spec.source_tree,
        source_commit=spec.source_commit,
        source_changes=spec.source_changes,
        job_env_vars=_shown_variables(job) or None,
        job_secrets=dict.fromkeys(spec.job_secrets, REDACTED) or None,
        job_env_file=spec.job_env_file,
        silence_timeout_seconds=spec.silence_timeout_seconds,
        resources=resources or None,
        labels=spec.labels or None,
        queued_at=job.queued_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        attempt=job.attempt or None,
        exit_code=job.exit_code,
        signal=job.signal,
        reason=job.reason,
        fault=job.fault,
        message=job.message,
        cancel_requested=job.cancel_requested or None,
        resolved_sha=job.resolved_sha,
        worker=job.worker,
        corndogs_task_id=job.corndogs_task_id,
        retry_of=job.retry_of,
        logs_object_key=job.logs_object_key,
        artifacts_object_key=job.artifacts_object_key,
        log_size=job.log_size,
        log_removed_at=job.log_loss.at if job.log_loss else None,
        log_removed_why=job.log_loss.why if job.log_loss else None,
        artifacts_removed_at=job.artifacts_loss.at if job.artifacts_loss else None,
        artifacts_removed_why=job.artifacts_loss.why if job.artifacts_loss else None,
        isolation=job.isolation,
        image_digest=job.image_digest,
        limits=_set_of(job.limits) if job.limits else None,
        waiting=waiting,
    )
    return shown


def _set_of(limits: AttemptLimits) -> JsonObject:
    return {name: value for name, value in asdict(limits).items() if value is not None}


def _shown_variables(job: Job) -> dict[str, str]:
    """Return the variables as they were sent, those named like a credential hidden."""
    hidden = {name: REDACTED for name in job.spec.job_secrets if is_credential_name(name)}
    return job.spec.job_env_vars | hidden


def show_events(events: Sequence[JobEvent]) -> JsonObject:
    """Return the transitions of a job."""
    shown = []
    for event in events:
        entry: JsonObject = {"seq": event.seq, "at": spell_time(event.at)}
        put_set(entry, **{"from": event.from_status})
        entry |= {"to": event.to_status.value, "attempt": event.attempt, "actor": event.actor}
        put_set(entry, reason=event.reason)
        shown.append(entry)
    return {"events": shown}


def show_end(job: Job) -> JsonObject:
    """Return how a job ended, as the last event of its log tells it."""
    shown: JsonObject = {"status": job.status.value}
    put_set(shown, exit_code=job.exit_code, reason=job.reason)
    return shown


def show_token(token: ApiToken) -> JsonObject:
    """Return a token, without its text, which nobody has."""
    shown: JsonObject = {
        "token_id": token.token_id,
        "name": token.name,
        "kind": token.kind.value,
        "user_id": token.user_id,
        "created_at": spell_time(token.created_at),
        "updated_at": spell_time(token.updated_at),
        "is_active": token.is_active,
    }
    put_set(shown, expires_at=token.expires_at, last_used_at=token.last_used_at)
    return shown


def show_minted_token(minted: MintedToken) -> JsonObject:
    """Return a new token with its text."""
    shown = show_token(minted.token) | {"token": minted.text}
    return {name: value for name, value in shown.items() if name not in ("updated_at", "is_active")}


def show_user(user: User) -> JsonObject:
    """Return a user."""
    shown: JsonObject = {"user_id": user.user_id, "username": user.username}
    put_set(shown, email=user.email)
    return shown | {
        "roles": sorted(role.value for role in user.roles),
        "enabled": user.enabled,
        "created_at": spell_time(user.created_at),
        "updated_at": spell_time(user.updated_at),
    }


def show_caller(user: User, caller: Principal) -> JsonObject:
    """Return who calls, and what the token opens."""
    return show_user(user) | {
        "token_id": caller.token_id,
        "kind": caller.kind.value,
        "is_admin": caller.is_admin,
    }


def show_queue(queue: QueueOverview, tickets: TicketCount | None) -> JsonObject:
    """Return a queue, with what an external queue holds of it, if there is one and it is known."""
    shown: JsonObject = {
        "name": queue.name,
        "ready": queue.ready,
        "running": queue.running,
        "live_workers": queue.live_workers,
        "draining_workers": queue.draining_workers,
        "full_workers": queue.full_workers,
    }
    put_set(shown, oldest_wait_seconds=queue.oldest_wait_seconds)
    if tickets is not None:
        shown["tickets"] = {"ready": tickets.ready, "drawn": tickets.drawn}
    return shown


def show_worker(worker: WorkerOverview) -> JsonObject:
    """Return a worker."""
    return {
        "worker_id": worker.worker_id,
        "name": worker.name,
        "queues": list(worker.queues),
        "slots": worker.slots,
        "running": worker.running,
        "last_seen_at": spell_time(worker.last_seen_at),
        "version": worker.version,
        "isolation": worker.isolation,
        "draining": worker.draining,
        "disk_full": worker.disk_full,
        "spooled": worker.spooled,
        "spool_bytes": worker.spool_bytes,
        "is_live": worker.is_live,
    }


def put_set(shown: JsonObject, **values: object) -> None:
    """Add what is set."""
    for name, value in values.items():
        if value is not None:
            shown[name] = spell_time(value) if isinstance(value, datetime) else value
