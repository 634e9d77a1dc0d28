"""The ways in which a job's source may not come to be there."""


class SourceError(Exception):
    """The source of a job is not there; the text is for the job's owner and holds no credential."""


class SourceDenied(SourceError):
    """The host does not allow this source."""


class SourceFailed(SourceError):
    """The source could not be brought.

    ``is_users_fault``: there is evidence that asking again will not help, e.g. the remote answered
    that the ref does not exist.
    """

    def __init__(self, text: str, *, is_users_fault: bool = False) -> None:
        super().__init__(text)
        self.is_users_fault = is_users_fault


class SourceStopped(SourceError):
    """The runner was told to stop while the source was being brought."""
