"""How an attempt may be said to have ended."""

import re
from dataclasses import replace

from reactorcide.domain.errors import InputFault, InvalidInput
from reactorcide.domain.jobs import AttemptOutcome
from reactorcide.domain.reasons import Reason, possible_faults
from reactorcide.domain.status import JobStatus

MAX_MESSAGE_CHARACTERS = 4_096
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_image_digest(text: str) -> bool:
    """Tell whether ``text`` is the digest of an image."""
    return _DIGEST.fullmatch(text) is not None


def check_outcome(outcome: AttemptOutcome) -> AttemptOutcome:
    """Return an outcome that does not contradict itself, its message within bounds.

    Raises:
        InvalidInput: with every contradiction.
    """
    faults = []
    if not outcome.status.is_final:
        faults.append(InputFault("/status", "must be final"))
    if (outcome.status is JobStatus.COMPLETED) != (outcome.reason is Reason.OK):
        faults.append(InputFault("/reason", "ok goes with completed, and with nothing else"))
    if outcome.status is JobStatus.COMPLETED and outcome.exit_code != 0:
        faults.append(InputFault("/exit_code", "a completed job has exit code 0"))
    possible = possible_faults(outcome.reason)
    if outcome.fault not in possible:
        faults.append(InputFault("/fault", f"of {outcome.reason} it is {' or '.join(sorted(possible))}"))
    if outcome.log_length < 0 or len(outcome.log_sha256) != 32:
        faults.append(InputFault("/log_sha256", "must be the 32 bytes of a log of 0 bytes or more"))
    if outcome.image_digest is not None and not is_image_digest(outcome.image_digest):
        faults.append(InputFault("/image_digest", "must be sha256: and 64 hexadecimal digits"))
    if faults:
        raise InvalidInput(faults)
    if outcome.message is None:
        return outcome
    return replace(outcome, message=outcome.message.replace("\0", "")[:MAX_MESSAGE_CHARACTERS])
