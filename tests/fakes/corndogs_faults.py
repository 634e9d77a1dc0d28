"""What a Corndogs server of the tests does wrong when it is told to."""

from dataclasses import dataclass, field


@dataclass
class Faults:
    """Of the server; counts go down by one with each time."""

    delay_seconds: float = 0.0
    """Before every call is done and answered."""
    delays: dict[str, float] = field(default_factory=dict)
    """The same in seconds by operation, in place of the other; so answers go out of order."""
    is_silent: bool = False
    """Calls are read, and neither done nor answered: half-open, as its clients see it."""
    lose_replies: dict[str, int] = field(default_factory=dict)
    """By operation: so many are done, and the connection is cut instead of an answer."""
    swallow_replies: dict[str, int] = field(default_factory=dict)
    """By operation: so many are done and never answered, and the connection goes on."""
    lose_calls: dict[str, int] = field(default_factory=dict)
    """By operation: of so many nothing is done, and the connection is cut."""
    refuse: dict[str, int] = field(default_factory=dict)
    """By operation: so many fail with status 6."""
    leader: str | None = None
    """This member does not lead, and names who does; empty: nobody is known."""
    copies: int = 1
    """So many claims get the same task."""
    cut_frames: int = 0
    """So many answers end in their middle, and the connection with them."""
    unknown: tuple[str, ...] = ()
    """Operations that it does not know."""


def is_used_up(counts: dict[str, int], operation: str) -> bool:
    """Tell whether a fault of these hits this call, and count it."""
    if counts.get(operation, 0) < 1:
        return False
    counts[operation] -= 1
    return True
