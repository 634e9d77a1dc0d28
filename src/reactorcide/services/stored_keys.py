"""To whom an object of ours belongs, as its key says; and which keys are none of ours.

Only what has one of these shapes is ever taken for an orphan: whatever else lies in the store is not ours.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ATTEMPT = "[1-9][0-9]{0,3}"
_JOB_KEY = re.compile(
    rf"(?P<sealed>logs)/({_ID})/({_ATTEMPT})\.(?:log|index)"
    rf"|(?P<chunk>logs)/({_ID})/({_ATTEMPT})/[0-9]{{8,}}/[0-9]{{16,}}-[0-9]{{16,}}"
    rf"|(?P<artifact>artifacts)/({_ID})/({_ATTEMPT})/(?:[0-9a-f]{{64}}|manifest\.json)"
)
_TREE_KEY = re.compile(rf"trees/({_ID})/blobs/([0-9a-f]{{2}})/\2[0-9a-f]{{62}}\.([1-9][0-9]{{0,17}})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Role = Literal["sealed", "chunk", "artifact"]


@dataclass(frozen=True)
class JobKey:
    """An object of an attempt: its sealed log or index, a chunk of the log, or one of the artifacts."""

    job_id: str
    attempt: int
    role: Role


@dataclass(frozen=True)
class TreeKey:
    """A content of a user's trees."""

    user_id: str
    blob_id: int


def read_job_key(key: str) -> JobKey | None:
    """Return what a key says; None: it is none of a job."""
    found = _JOB_KEY.fullmatch(key)
    if found is None:
        return None
    job_id, attempt = (part for part in found.groups() if part not in (None, "logs", "artifacts"))
    roles: tuple[Role, ...] = ("sealed", "chunk", "artifact")
    return JobKey(job_id, int(attempt), next(role for role in roles if found[role]))


def read_tree_key(key: str) -> TreeKey | None:
    """Return what a key says; None: it is none of a tree."""
    found = _TREE_KEY.fullmatch(key)
    return TreeKey(found[1], int(found[3])) if found else None


def created_at(job_id: str) -> datetime:
    """Return when an id was made, as its first 48 bits say; of an id of another kind, some time."""
    milliseconds = int(job_id[:8] + job_id[9:13], 16)
    latest = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
    return _EPOCH + timedelta(milliseconds=min(milliseconds, latest))
