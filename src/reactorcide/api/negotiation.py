"""Reading the headers by which a client chooses form and part of an answer."""

import re
from collections.abc import Sequence

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


def choose_type(accept: str | None, offered: Sequence[str]) -> str:
    """Return which of ``offered`` a client likes best; the first if it does not say or wants none."""
    best, best_weight = offered[0], 0.0
    for entry in (accept or "").split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = _weight(parameters)
        if weight > best_weight:
            for candidate in offered:
                if kind in (candidate, candidate.split("/")[0] + "/*", "*/*"):
                    best, best_weight = candidate, weight
                    break
    return best


def read_range(header: str | None, length: int) -> tuple[int, int] | None:
    """Return the first byte and the one behind the last that a Range header asks for.

    None: it asks for nothing that we serve in parts. First not before end: beyond the ``length``.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        return max(length - int(found[2]), 0), length
    first = int(found[1])
    end = min(int(found[2]) + 1, length) if found[2] else length
    if found[2] and int(found[2]) < first:
        return None
    return first, end


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if re.fullmatch(r"[01](\.\d{0,3})?", value.strip()) else 0.0
    return 1.0
