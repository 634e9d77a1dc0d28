"""What keeps a job apart and within bounds, by the names that reports and settings use for it."""

import msgspec

MEASURES = {
    "user": "jobs have a host user that is not the worker's",
    "files": "nothing of the host's files but what is listed",
    "processes": "how many there may be",
    "memory": "how much may be used",
    "cpu": "each job its fair share of the processors, and no more than it asks for",
    "disk": "how large the workspace may grow",
    "network": "none for jobs that ask for none",
    "loopback": "the host's own services, out of reach of jobs that have a network",
    "abstract sockets": "the host's Unix sockets without a file, out of reach",
    "system calls": "those that have been ways out, refused",
    "secrets in memory": "out of reach of programs that other users or the worker's run, and of core files",
}
"""Each with what it is about."""


class Measure(msgspec.Struct, frozen=True):
    """One of `MEASURES` on one host."""

    name: str
    by: str
    """What sees to it; ``nothing`` if nothing does."""
    is_enforced: bool
    """It cannot be passed at all: what is only looked at now and then can be, for a moment."""
    remedy: str | None = None
    """What an operator can do where it is not enforced."""

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in MEASURES:
            raise ValueError(f"{self.name!r} is none of {', '.join(MEASURES)}")


def parse_measures(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas, in whatever case.

    Raises:
        ValueError: one is none of `MEASURES`; the text says which there are.
    """
    names = tuple(name for part in text.lower().split(",") if (name := " ".join(part.split())))
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"{name!r} is none of {', '.join(MEASURES)}")
    return names


def unmet(required: tuple[str, ...], measures: tuple[Measure, ...]) -> list[str]:
    """Return which of the required measures are not enforced; a name that nobody knows never is."""
    enforced = {measure.name for measure in measures if measure.is_enforced}
    return [name for name in required if name not in enforced]
