"""`retention` and `removals`: what is kept how long, and what was removed when and why."""

from datetime import UTC, datetime
from typing import cast

import click

from reactorcide.cli import render
from reactorcide.cli.answers import JsonObject
from reactorcide.cli.options import ID, ClientOptions, json_option
from reactorcide.cli.retention_answers import RemovalAnswer, RemovalList, RetentionAnswer, RuleEffectAnswer
from reactorcide.domain.spelling import spell_duration

_PAGE = 100
_RULES = (
    ("jobs", "job_seconds", None),
    ("logs", "log_seconds", "log_bytes"),
    ("artifacts", "artifact_seconds", "artifact_bytes"),
)
_WORDS = {
    "jobs_by_age": "jobs, by age",
    "logs_by_age": "logs, by age",
    "logs_by_bytes": "logs, for want of room",
    "artifacts_by_age": "artifacts, by age",
    "artifacts_by_bytes": "artifacts, for want of room",
    "orphan_objects": "objects without a job",
    "lost_logs": "lost logs",
    "lost_artifacts": "lost artifacts",
}


@click.command()
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Say what would be removed now; change nothing.")
@json_option
@click.pass_obj
def retention(options: ClientOptions, is_dry_run: bool, as_json: bool) -> None:
    """Show what is kept how long, and what the last rounds removed (admins).

    The rules are settings of the coordinator: JOB_RETENTION and those beside it.
    """
    with options.connect() as client:
        if is_dry_run:
            preview = client.preview_retention()
            if as_json:
                render.write_json(preview.raw)
            else:
                _write_effects(preview.rules, empty="no rule is in force: everything is kept")
            return
        told = client.read_retention()
    if as_json:
        render.write_json(told.raw)
        return
    _write_rules(told)
    rows = [
        (
            render.show_time(entry.ended_at),
            _WORDS.get(effect.rule, effect.rule),
            str(effect.count),
            render.show_size(effect.size_bytes),
            "would have" if entry.dry_run else "",
        )
        for entry in told.rounds
        for effect in entry.removed
    ]
    columns = ("ROUND", "REMOVED", "COUNT", "SIZE", "DRY RUN")
    untold = () if any(entry.dry_run for entry in told.rounds) else ("DRY RUN",)
    render.write_table(
        *render.drop_columns(columns, rows, untold), empty="the last rounds found nothing to remove"
    )


@click.command()
@click.option("--job", "job_id", type=ID, metavar="ID", help="Of this job only.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N")
@json_option
@click.pass_obj
def removals(options: ClientOptions, job_id: str | None, limit: int, as_json: bool) -> None:
    """List what was removed, by whom and why, newest first (admins)."""
    found: list[RemovalAnswer] = []
    query = [("job_id", job_id)] if job_id else []
    page: RemovalList | None = None
    with options.connect() as client:
        while page is None or (page.next_cursor and len(found) < limit):
            asked = [*query, ("limit", str(min(limit - len(found), _PAGE)))]
            if page is not None and page.next_cursor:
                asked.append(("cursor", page.next_cursor))
            page = client.list_removals(asked)
            found += page.removals
    if as_json:
        render.write_json(page.raw | {"removals": [entry.raw for entry in found]})
        return
    rows = [
        (
            render.show_time(entry.removed_at),
            _spell_what(entry),
            entry.why,
            render.show_size(entry.size_bytes),
            entry.job_id or entry.object_key or "",
            entry.job_name or "",
            entry.actor,
        )
        for entry in found
    ]
    render.write_table(
        ("REMOVED", "WHAT", "WHY", "SIZE", "ID", "NAME", "BY"),
        rows,
        empty="nothing was removed",
        optional=("NAME", "BY", "SIZE"),
    )
    if page.next_cursor:
        render.say("there are more; --limit N shows them")


def _write_rules(told: RetentionAnswer) -> None:
    fields = [(name, _spell_rule(told.rules, age, size)) for name, age, size in _RULES]
    fields.append(("removals", _spell_rule(told.rules, "removal_seconds", None)))
    fields.append(("rounds", f"every {spell_duration(told.interval_seconds)}"))
    last = max((entry.ended_at for entry in told.rounds), default=None)
    if last is not None:
        ago = spell_duration((datetime.now(UTC) - last).total_seconds())
        fields.append(("last round", f"{ago} ago"))
    if told.dry_run:
        fields.append(("dry run", "yes: rounds only tell what they would remove"))
    render.write_fields(fields)


def _spell_rule(rules: JsonObject, age: str, size: str | None) -> str:
    parts = []
    if rules.get(age) is not None:
        parts.append(f"kept for {spell_duration(cast(int, rules[age]))}")
    if size is not None and rules.get(size) is not None:
        parts.append(f"kept up to {render.show_size(cast(int, rules[size]))} in all")
    if not parts:
        return "kept" if age == "job_seconds" else "kept with their job"
    return ", ".join(parts)


def _write_effects(effects: list[RuleEffectAnswer], *, empty: str) -> None:
    rows = [
        (
            _WORDS.get(effect.rule, effect.rule),
            f"{effect.count}+" if effect.more else str(effect.count),
            render.show_size(effect.size_bytes),
            render.show_time(effect.oldest),
            render.show_time(effect.newest),
        )
        for effect in effects
    ]
    render.write_table(("WOULD GO", "COUNT", "SIZE", "OLDEST", "NEWEST"), rows, empty=empty)


def _spell_what(entry: RemovalAnswer) -> str:
    if entry.what == "objects":
        return f"{entry.objects or 0} objects"
    return f"{entry.what} (attempt {entry.attempt})" if entry.attempt and entry.attempt > 1 else entry.what
