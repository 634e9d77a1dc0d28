"""How a command fails: exit codes, and errors that carry what to tell the person at the keyboard."""

from enum import IntEnum

from reactorcide.domain.errors import InputFault


class ExitCode(IntEnum):
    """What the program itself exits with; any other code is a job's own."""

    OK = 0
    JOB_FAILED = 1
    """A job failed and left no exit code of its own."""
    USAGE = 2
    TROUBLE = 69
    """The program could not do its part: no coordinator, a refused request, an unreadable file."""
    JOB_LOST = 75
    JOB_TIMED_OUT = 124
    HOST_TROUBLE = 125
    """This machine could not do its part in a job that it was to run."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandFailed(Exception):
    """A command cannot go on. ``hint`` says what to do about it."""

    exit_code = ExitCode.TROUBLE

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CoordinatorUnreachable(CommandFailed):
    """Nothing answers at the coordinator's URL, or only "not now"."""


class StoreUnreachable(CommandFailed):
    """The object store that the coordinator points to does not answer, or only "not now"."""


class AnswerNotUnderstood(CommandFailed):
    """What answered does not speak as a coordinator of this version does."""


class ApiProblem(CommandFailed):
    """The coordinator refused a request: its status, code, text and every fault it found."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        faults: tuple[InputFault, ...] = (),
        *,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
        self.faults = faults
