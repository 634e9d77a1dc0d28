"""Errors of the product: one class for each thing a caller may do differently, carrying its facts."""

from dataclasses import dataclass
from typing import ClassVar

from reactorcide.domain.status import JobStatus


class ReactorcideError(Exception):
    """Any error of the product. ``code`` is the `error` of a problem+json answer."""

    code: ClassVar[str] = "internal_error"


@dataclass(frozen=True)
class InputFault:
    """One thing wrong with an input: where (a JSON pointer, `?name` of a query, `header name`) and what."""

    pointer: str
    detail: str


class InvalidInput(ReactorcideError):
    """The input was refused; nothing was created. Carries every fault, not the first."""

    code = "invalid_input"

    def __init__(self, faults: list[InputFault]) -> None:
        super().__init__("; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults))
        self.faults = tuple(faults)


class Unauthorized(ReactorcideError):
    """No valid credential came with the request."""

    code = "unauthorized"


class Forbidden(ReactorcideError):
    """The object is known, and not the caller's to do this with."""

    code = "forbidden"


class NotFound(ReactorcideError):
    """There is no such object for this caller."""

    code = "not_found"

    def __init__(self, kind: str, object_id: str) -> None:
        super().__init__(f"no such {kind}")
        self.kind = kind
        self.object_id = object_id


class Gone(ReactorcideError):
    """It was there once, and is kept no longer; the text says since when and why."""

    code = "gone"


class Conflict(ReactorcideError):
    """Not possible in the present state of the object."""

    code = "conflict"

    def __init__(self, detail: str, status: JobStatus | None = None) -> None:
        super().__init__(detail)
        self.status = status
        """The job's present status, where the object is a job."""


class IdempotencyMismatch(ReactorcideError):
    """The same idempotency key came with another body."""

    code = "idempotency_mismatch"


class TooLarge(ReactorcideError):
    """What was sent passes a limit of size."""

    code = "too_large"


class Unavailable(ReactorcideError):
    """A part we depend on is out of reach for now; the same call may succeed later."""

    code = "service_unavailable"

    def __init__(self, part: str) -> None:
        super().__init__(f"the {part} cannot be reached")
        self.part = part


class ClaimLost(ReactorcideError):
    """The attempt is no longer this worker's: stop the job and send nothing more for it."""

    code = "conflict"

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of job {job_id} is not held by this lease")
        self.job_id = job_id
        self.attempt = attempt


class Superseded(ReactorcideError):
    """A newer process has registered under this worker's name: this one must stop."""

    code = "conflict"

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"another process has taken over as worker {worker_id}")
        self.worker_id = worker_id


class OffsetGap(ReactorcideError):
    """A log append starts behind the end of what is stored: send again from ``length``."""

    code = "offset_gap"

    def __init__(self, length: int) -> None:
        super().__init__(f"the log is {length} bytes long")
        self.length = length


class LogMismatch(ReactorcideError):
    """Log bytes differ from those already stored at the same place, or from the promised digest."""

    code = "log_mismatch"


class Misconfigured(ReactorcideError):
    """The operator must change something before the program can run; the text says what."""

    code = "configuration"
