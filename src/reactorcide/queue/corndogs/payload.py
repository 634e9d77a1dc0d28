"""What a ticket says: enough for a person who looks at the queue, and of it we read the job's id alone.

Never an environment value and never a secret: whoever reaches the service can read it.
"""

from typing import Any

import msgspec

from reactorcide.domain.ids import is_id
from reactorcide.store.tickets import DueTicket


class _Named(msgspec.Struct):
    """The part of a ticket that is read."""

    job_id: str


def write_payload(due: DueTicket) -> bytes:
    """Return the payload of a job's ticket, as JSON."""
    source = {"type": due.source_type, "url": due.git_url, "ref": due.git_ref, "source_path": due.source_path}
    content: dict[str, Any] = {
        "job_id": due.job_id,
        "job_type": "run",
        "attempt": due.attempt,
        "config": {
            "image": due.runner_image,
            "command": due.job_command,
            "working_dir": due.job_dir,
            "timeout": due.timeout_seconds,
            "code_dir": due.code_dir,
            "job_dir": due.job_dir,
        },
        "source": {name: value for name, value in source.items() if value is not None},
        "metadata": {
            "user_id": due.user_id,
            "submitted_at": due.created_at,
            "name": due.name,
            "description": due.description,
        },
    }
    return msgspec.json.encode(content)


def read_job_id(payload: bytes) -> str | None:
    """Return the id of the job that a ticket names. None: it is no ticket of ours."""
    try:
        job_id = msgspec.json.decode(payload, type=_Named).job_id
    except msgspec.DecodeError:
        return None
    return job_id if is_id(job_id) else None
