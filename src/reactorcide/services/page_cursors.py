"""The cursor of a list: a place in it, as text that clients hand back and never look into."""

import base64
import binascii
import uuid
from datetime import UTC, datetime, timedelta

from reactorcide.domain.errors import InputFault, InvalidInput
from reactorcide.store.job_lists import PageKey

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MICROSECONDS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def encode_cursor(key: PageKey) -> str:
    """Return the cursor of the page that begins after ``key``."""
    microseconds = (key.created_at - _EPOCH) // timedelta(microseconds=1)
    place = microseconds.to_bytes(8, "big") + uuid.UUID(key.job_id).bytes
    return base64.urlsafe_b64encode(place).decode()


def decode_cursor(cursor: str) -> PageKey:
    """Return the place that ``cursor`` stands for.

    Raises:
        InvalidInput: it is not one of ours.
    """
    try:
        place = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        place = b""
    microseconds = int.from_bytes(place[:8], "big")
    if len(place) != 24 or microseconds > _LATEST_MICROSECONDS:
        raise InvalidInput([InputFault("?cursor", "is not a next_cursor of an earlier page")])
    return PageKey(_EPOCH + timedelta(microseconds=microseconds), str(uuid.UUID(bytes=place[8:])))
