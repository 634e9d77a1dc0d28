"""When to try again."""

from datetime import timedelta


def retry_delay(attempt: int, *, base: timedelta, ceiling: timedelta) -> timedelta:
    """Return how long to wait before the next attempt.

    Doubles from ``base`` with each attempt and never passes ``ceiling``.
    No jitter: the caller adds it, so that this stays a function of its inputs.

    Args:
        attempt: the attempt that just failed, counted from 1.

    Raises:
        ValueError: ``attempt`` is below 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt {attempt} is below 1")
    # The exponent is bounded, so that a high attempt cannot overflow a timedelta.
    doubled = base * (1 << min(attempt - 1, 30))
    return min(doubled, ceiling)
