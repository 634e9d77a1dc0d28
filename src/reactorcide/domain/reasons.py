"""Why a job ended: a closed list, and whose fault each reason is."""

from enum import StrEnum


class Fault(StrEnum):
    """Who can do something about it."""

    NONE = "none"
    USER = "user"
    INFRA = "infra"
    POLICY = "policy"


class Reason(StrEnum):
    """The reason kept with every end of a job. Retry, notifications and clients read this, never a text."""

    OK = "ok"
    EXIT_NONZERO = "exit_nonzero"
    SIGNALLED = "signalled"
    OOM_KILLED = "oom_killed"
    TIMEOUT_RUN = "timeout_run"
    TIMEOUT_SILENT = "timeout_silent"
    OUTPUT_LIMIT = "output_limit"
    ENV_FILE_INVALID = "env_file_invalid"
    CANCELLED_USER = "cancelled_user"
    TIMEOUT_QUEUE = "timeout_queue"
    WORKER_LOST = "worker_lost"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    SANDBOX_DIED = "sandbox_died"
    IMAGE_PULL_FAILED = "image_pull_failed"
    SOURCE_FAILED = "source_failed"
    WORKER_DISK = "worker_disk"
    LOG_LOST = "log_lost"
    INTERNAL = "internal"
    SOURCE_DENIED = "source_denied"
    POLICY_DENIED = "policy_denied"


_FAULTS: dict[Fault, frozenset[Reason]] = {
    Fault.NONE: frozenset({Reason.OK, Reason.CANCELLED_USER}),
    Fault.USER: frozenset(
        {
            Reason.EXIT_NONZERO,
            Reason.SIGNALLED,
            Reason.OOM_KILLED,
            Reason.TIMEOUT_RUN,
            Reason.TIMEOUT_SILENT,
            Reason.OUTPUT_LIMIT,
            Reason.ENV_FILE_INVALID,
        }
    ),
    Fault.INFRA: frozenset(
        {
            Reason.TIMEOUT_QUEUE,
            Reason.WORKER_LOST,
            Reason.SANDBOX_UNAVAILABLE,
            Reason.SANDBOX_DIED,
            Reason.IMAGE_PULL_FAILED,
            Reason.SOURCE_FAILED,
            Reason.WORKER_DISK,
            Reason.LOG_LOST,
            Reason.INTERNAL,
        }
    ),
    Fault.POLICY: frozenset({Reason.SOURCE_DENIED, Reason.POLICY_DENIED}),
}


def usual_fault(reason: Reason) -> Fault:
    """Return whose fault ``reason`` is, unless the evidence says otherwise; see `possible_faults`."""
    return next(fault for fault, reasons in _FAULTS.items() if reason in reasons)


def possible_faults(reason: Reason) -> frozenset[Fault]:
    """Return whose fault ``reason`` may be.

    `source_failed` is the user's when the remote answered that the ref or repository does not
    exist; who has that evidence says so beside the reason.
    """
    evident = {Fault.USER} if reason is Reason.SOURCE_FAILED else set()
    return frozenset({usual_fault(reason), *evident})
