"""How a call of a Corndogs service may fail, by what its caller does next."""

from reactorcide.domain.errors import ReactorcideError, Unavailable


class QueueUnavailable(Unavailable):
    """The service did not do what was asked, for a reason that may pass."""

    def __init__(self, detail: str) -> None:
        super().__init__("queue")
        self.detail = detail


class Unreachable(QueueUnavailable):
    """No member of the service could be asked; nothing has happened."""


class OutcomeUnknown(QueueUnavailable):
    """The call was sent and its answer has not come: it may have happened, or may still happen."""


class CallRefused(QueueUnavailable):
    """The service answered that it failed to do it.

    It gives one status to a bad request and to trouble of its own, and its texts are not to be read, so
    every such answer counts as trouble that may pass.
    """


class UnknownOperation(ReactorcideError):
    """The service is older than this call."""

    code = "unknown_operation"


class WrongService(QueueUnavailable):
    """What listens at the address is no Corndogs, or one of a time whose wire is not spoken here.

    At the start of the program that is a mistake in its settings. Later somebody may be about to mend it.
    """


class SpeaksGrpc(WrongService):
    """What listens there speaks HTTP/2, as the gRPC releases of Corndogs do, and another wire was tried."""
