"""New ids, from this host's clock and randomness."""

import secrets
import time

from reactorcide.domain.ids import make_id


def new_id() -> str:
    """Return a new id."""
    return make_id(time.time_ns() // 1_000_000, secrets.randbits(74))
