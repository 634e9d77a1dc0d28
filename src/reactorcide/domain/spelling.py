"""Durations, sizes, times and signals as people say them, for sentences."""

import signal
from datetime import UTC, datetime

_LONGEST_MESSAGE = 400


def spell_duration(seconds: float) -> str:
    """Return a duration as people say it, in at most two units, rounded down."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    limits = ((7_200, 60, "min", 1, "s"), (172_800, 3_600, "h", 60, "min"))
    last = (0, 86_400, "d", 3_600, "h")
    _, size, large, part, small = next((units for units in limits if whole < units[0]), last)
    rest = whole % size // part
    return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")


def spell_run(seconds: float) -> str:
    """Return how long something ran, which may be very short."""
    return f"{max(0.0, seconds):.1f} s" if seconds < 10 else spell_duration(seconds)


def spell_size(size_bytes: int) -> str:
    """Return a number of bytes as people say it."""
    if size_bytes < 1_000:
        return f"{size_bytes} bytes"
    size = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1_000
        if size < 1_000 or unit == "GB":
            return f"{size:.1f} {unit}"
    raise AssertionError("the last unit takes all")


def spell_signal(number: int | None) -> str:
    """Return a signal with its name, where it has one."""
    if number is None:
        return "a signal"
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def spell_time(moment: datetime) -> str:
    """Return an aware time as RFC 3339, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def first_line(message: str) -> str:
    """Return what a message begins with, as a part of a sentence."""
    line = message.strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"
