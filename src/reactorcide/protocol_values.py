"""What the calls of the worker protocol are made of: bounds of size, and how a claim is named."""

from typing import Annotated

import msgspec
from msgspec import Meta

from reactorcide.domain.jobs import Claim
from reactorcide.domain.outcomes import MAX_MESSAGE_CHARACTERS

MAX_WAIT_SECONDS = 60.0
MAX_CLAIMS = 5_000
"""Named in one call, held or spooled."""

# These are bounds of size; what makes an id, a name or an outcome is the services' to say.
Id = Annotated[str, Meta(max_length=64)]
Word = Annotated[str, Meta(min_length=1, max_length=128)]
QueueName = Annotated[str, Meta(min_length=1, max_length=63)]
Text = Annotated[str, Meta(max_length=MAX_MESSAGE_CHARACTERS)]
Size = Annotated[int, Meta(ge=0, lt=2**62)]
Small = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
Wait = Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a worker sends."""


class Answer(msgspec.Struct, frozen=True):
    """What a coordinator answers."""


class ClaimBody(Request, frozen=True):
    """A claim in the mouth of its worker, whose id is told once for the whole call."""

    job_id: Id
    attempt: Size
    lease_id: Id

    @classmethod
    def of(cls, claim: Claim) -> "ClaimBody":
        return cls(claim.job_id, claim.attempt, claim.lease_id)

    def by(self, worker_id: str) -> Claim:
        """Return the claim as one of this worker."""
        return Claim(self.job_id, self.attempt, self.lease_id, worker_id)


Claims = Annotated[list[ClaimBody], Meta(max_length=MAX_CLAIMS)]
