"""What the coordinator answers of retention and removals, as typed values."""

from dataclasses import dataclass, field
from datetime import datetime

from reactorcide.cli.answers import JsonObject


@dataclass(frozen=True)
class RuleEffectAnswer:
    """What a rule removed, or would remove; ``more``: there is more than was counted."""

    rule: str
    count: int
    size_bytes: int
    oldest: datetime | None = None
    newest: datetime | None = None
    more: bool = False


@dataclass(frozen=True)
class RetentionRound:
    """A round of removing, or a search for orphans; with ``dry_run`` it only told."""

    kind: str
    ended_at: datetime
    removed: list[RuleEffectAnswer]
    dry_run: bool = False


@dataclass(frozen=True)
class RetentionAnswer:
    """The rules in force, and what came of them."""

    rules: JsonObject
    interval_seconds: float
    rounds: list[RetentionRound]
    dry_run: bool = False
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class RetentionPreview:
    """What each rule would remove now."""

    rules: list[RuleEffectAnswer]
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class RemovalAnswer:
    """One entry of the record of removals."""

    removal_id: int
    removed_at: datetime
    what: str
    why: str
    actor: str
    size_bytes: int
    job_id: str | None = None
    attempt: int | None = None
    job_name: str | None = None
    user_id: str | None = None
    objects: int | None = None
    object_key: str | None = None
    raw: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class RemovalList:
    """One page of removals, newest first."""

    removals: list[RemovalAnswer]
    next_cursor: str | None = None
    raw: JsonObject = field(default_factory=dict)
