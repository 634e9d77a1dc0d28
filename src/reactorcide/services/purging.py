"""Deleting objects that no row counts on any more, as an entry of the outbox owes it."""

from collections.abc import Mapping
from typing import Any

from reactorcide.objects.port import ObjectStore
from reactorcide.services import log_chunks


def artifact_folder(job_id: str) -> str:
    """Return the prefix of everything kept of a job's artifacts."""
    return f"artifacts/{job_id}/"


def delete_owed(objects: ObjectStore, payload: Mapping[str, Any]) -> None:
    """Delete what a payload of `outbox.PURGE_OBJECTS` names. To do it twice is harmless.

    Raises:
        StoreUnavailable: some of it may be left.
    """
    for folder in _folders_of(payload):
        delete_folder(objects, folder)
    if keys := payload.get("keys"):
        objects.delete_many(keys)


def delete_folder(objects: ObjectStore, folder: str) -> None:
    """Delete every object whose key begins with ``folder``. Raises StoreUnavailable."""
    objects.delete_many(info.key for info in objects.list(folder))


def _folders_of(payload: Mapping[str, Any]) -> list[str]:
    if "job_id" not in payload:
        return list(payload["folders"])
    job_id, attempt = str(payload["job_id"]), payload.get("attempt")
    if attempt is not None:
        return [log_chunks.chunk_folder(job_id, int(attempt))]
    return [log_chunks.job_folder(job_id), artifact_folder(job_id)]
