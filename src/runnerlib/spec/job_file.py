"""Job files: a job in JSON or YAML 1.2, the same for a coordinator and for this machine.

A file uses the short names (`command`, `image`, `environment`, `source: {…}`), the API's own field names,
or both. What the host or the coordinator allows besides is theirs to say.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache

from runnerlib.spec import rules
from runnerlib.spec.document import MAX_BYTES, DocumentRefused, load_document
from runnerlib.spec.frozen import Resources
from runnerlib.spec.job_file_schema import FIELDS, Schema, find_faults, job_file_schema

__all__ = ["MAX_BYTES", "JobFault", "JobFile", "JobFileRefused", "parse_job_file"]

_MOST_SHOWN = 200
_TEXT_MAPS = ("job_env_vars", "job_secrets", "labels")


@dataclass(frozen=True)
class JobFault:
    """One thing that is wrong with a job file. ``field`` is empty where it is the file as a whole."""

    field: str
    message: str
    suggestion: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        name = f"{self.field[:_MOST_SHOWN]}: " if self.field else ""
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        # A key is what somebody wrote: neither a book nor orders to a terminal.
        return "".join(c if c.isprintable() else "?" for c in f"{place}{name}{self.message}{hint}")


class JobFileRefused(Exception):
    """A job file cannot be used; ``faults`` are all that is wrong with it."""

    def __init__(self, faults: tuple[JobFault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """What a job file says, by the API's names of the fields; None is unset."""

    name: str | None = None
    description: str | None = None
    job_command: str | None = None
    runner_image: str | None = None
    job_env_vars: Mapping[str, str] | None = field(default=None, repr=False)
    job_secrets: Mapping[str, str | None] | None = field(default=None, repr=False)
    """None as a value: it is to be taken from the variable of this name in the caller's environment."""
    job_env_file: str | None = None
    timeout_seconds: int | None = None
    queue_timeout_seconds: int | None = None
    silence_timeout_seconds: int | None = None
    source_type: str | None = None
    """``git``, ``copy`` or ``none``."""
    git_url: str | None = None
    git_ref: str | None = None
    source_path: str | None = None
    code_dir: str | None = None
    job_dir: str | None = None
    artifacts: tuple[str, ...] | None = None
    resources: Resources | None = None
    network: str | None = None
    plugins: tuple[str, ...] | None = None
    queue_name: str | None = None
    priority: int | None = None
    retry_on_lost: int | None = None
    labels: Mapping[str, str] | None = None

    def as_submission(self) -> dict[str, object]:
        """Return the body of a submission, unset fields left out.

        Without `plugins`: a worker uses its operator's. Every secret must have its value.
        """
        body: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None or entry.name == "plugins":
                continue
            if isinstance(value, Resources):
                limits = {name: getattr(value, name) for name in ("cpu", "memory_mb", "pids")}
                value = {name: limit for name, limit in limits.items() if limit is not None}
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            body[entry.name] = value
        return body

    def missing_secrets(self) -> tuple[str, ...]:
        """Return the names of secrets whose value the file leaves to the caller's environment."""
        return tuple(name for name, value in (self.job_secrets or {}).items() if value is None)


def parse_job_file(data: bytes, lines: dict[str, int] | None = None) -> JobFile:
    """Return the job written in ``data``.

    Args:
        lines: takes the line, from 1, of every key, by its path in the file; of JSON there are none.

    Raises:
        JobFileRefused: with every fault.
    """
    lines = {} if lines is None else lines
    try:
        told = load_document(data, lines)
    except DocumentRefused as error:
        raise JobFileRefused((JobFault("", str(error)),)) from error
    if not isinstance(told, dict):
        raise JobFileRefused((JobFault("", "must be a mapping with at least 'command'"),))
    found = [
        JobFault(place, message, better, lines.get(place))
        for place, message, better in find_faults(_schema(), told)
    ]
    refused = {fault.field for fault in found}
    values: dict[str, object] = {}
    for key, value in _flatten(told):
        if value is None or any(place == key or place.startswith(f"{key}.") for place in refused):
            continue
        name = FIELDS[key]
        if name in values:
            found.append(JobFault(key, f"says again what {name} says", None, lines.get(key)))
        found += [JobFault(key + place, text, None, lines.get(key)) for place, text in _judge(name, value)]
        values[name] = _convert(name, value)
    if found:
        raise JobFileRefused(tuple(found))
    return JobFile(**values)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _schema() -> Schema:
    return job_file_schema()


def _flatten(told: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return known keys and their values, those of the source under ``source.…``."""
    entries: list[tuple[str, object]] = []
    for key, value in told.items():
        if key == "source" and isinstance(value, dict):
            entries += [(f"source.{name}", entry) for name, entry in value.items()]
        else:
            entries.append((key, value))
    return [(key, value) for key, value in entries if key in FIELDS]


_RULES: dict[str, Callable[[str], str | None]] = {
    "name": rules.check_name,
    "job_command": rules.check_command,
    "git_ref": rules.check_git_ref,
    "git_url": lambda url: rules.split_git_url(url)[3],
    "code_dir": rules.check_job_path,
    "job_dir": rules.check_job_path,
    "job_env_file": rules.check_env_file_path,
}
"""What a schema cannot say of a text."""


def _judge(field: str, value: object) -> list[tuple[str, str]]:
    """Return what is wrong with a value of the right shape: where in it, and what."""
    if field in _RULES and isinstance(value, str):
        fault = _RULES[field](value)
        return [("", fault)] if fault else []
    if field == "artifacts" and isinstance(value, list):
        told = [(f".{index}", rules.check_artifact_glob(glob)) for index, glob in enumerate(value)]
        return [(place, fault) for place, fault in told if fault]
    if field == "labels" and isinstance(value, dict):
        told = [(f".{key}", rules.check_label(key, _as_text(entry) or "")) for key, entry in value.items()]
        return [(place, fault) for place, fault in told if fault]
    if field in ("job_env_vars", "job_secrets") and isinstance(value, dict):
        return _judge_variables(value)
    return []


def _judge_variables(variables: Mapping[str, object]) -> list[tuple[str, str]]:
    texts = {name: _as_text(value) or "" for name, value in variables.items()}
    size = sum(len((name + text).encode(errors="surrogateescape")) for name, text in texts.items())
    if size > rules.MAX_ENVIRONMENT_BYTES:
        return [("", f"at most {rules.MAX_ENVIRONMENT_BYTES} bytes in all")]
    return []


def _convert(field: str, value: object) -> object:
    if field in _TEXT_MAPS and isinstance(value, dict):
        return {name: _as_text(entry) for name, entry in value.items()}
    if field == "source_type" and value == "local":
        return "copy"
    if field == "resources" and isinstance(value, dict):
        whole = {name: int(number) for name, number in value.items() if name != "cpu"}
        return Resources(cpu=value.get("cpu"), **whole)
    if isinstance(value, list):
        return tuple(value)
    return int(value) if isinstance(value, float) else value


def _as_text(value: object) -> str | None:
    """Return a number or boolean as the text that one would type."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
