"""Job files: a job in JSON or YAML 1.2, as the body of a submission.

A file uses the short names (`command`, `image`, `environment`, `source: {…}`), the API's own field names,
or both. What a value must be like is the coordinator's to say; here only the shape is checked, so that
every fault has its place in the file.
"""

import difflib
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from reactorcide.cli.errors import CommandFailed
from reactorcide.cli.yaml12 import MAX_BYTES, YamlRefused, load_yaml
from reactorcide.domain.submission import JobRequest

API_FIELDS = frozenset(entry.name for entry in fields(JobRequest))
_SHORT_NAMES = {
    "command": "job_command",
    "environment": "job_env_vars",
    "secrets": "job_secrets",
    "image": "runner_image",
    "timeout": "timeout_seconds",
    "queue": "queue_name",
    "env_file": "job_env_file",
}
_SOURCE_NAMES = {"type": "source_type", "url": "git_url", "ref": "git_ref", "path": "source_path"}
_SOURCE_TYPES = {"local": "copy"}
_TEXT_MAPS = ("job_env_vars", "job_secrets", "labels")

JobBody = dict[str, object]
"""A submission's body: the API's field names, unset fields left out. `infer_source_type` ends it."""


class JobFileRefused(CommandFailed):
    """A job file cannot be submitted; names every fault."""

    def __init__(self, path: str, faults: list[str]) -> None:
        listed = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"the job file {path} is refused:{listed}")
        self.faults = tuple(faults)


def read_job_file(path: str) -> JobBody:
    """Return the submission in the file at ``path``; `-` is stdin.

    Raises:
        JobFileRefused: with every fault of the file.
    """
    try:
        data = _read(path)
    except OSError as error:
        raise JobFileRefused(path, [f"cannot be read: {error.strerror}"]) from error
    return parse_job(data, path)


def parse_job(data: bytes, path: str = "job") -> JobBody:
    """Return the submission written in ``data``.

    Raises:
        JobFileRefused: with every fault.
    """
    try:
        told = load_yaml(data)
    except YamlRefused as error:
        raise JobFileRefused(path, [str(error)]) from error
    if not isinstance(told, dict):
        raise JobFileRefused(path, ["must be a mapping with at least 'name' and 'command'"])
    body: JobBody = {}
    faults: list[str] = []
    for name, value in told.items():
        if value is None:
            continue
        if name == "source":
            _take_source(value, body, faults)
        elif (field := _SHORT_NAMES.get(name, name)) in API_FIELDS:
            _put(body, field, value, name, faults)
        else:
            faults.append(_unknown(name, {*_SHORT_NAMES, *API_FIELDS, "source"}))
    for name in _TEXT_MAPS:
        if name in body:
            body[name] = _as_text_map(body[name], name, faults)
    if faults:
        raise JobFileRefused(path, faults)
    return body


def infer_source_type(body: JobBody) -> None:
    """Fill in the kind of source from what is said of it."""
    if "source_type" not in body:
        body["source_type"] = "git" if "git_url" in body else "copy" if "source_path" in body else "none"


def _take_source(value: object, body: JobBody, faults: list[str]) -> None:
    if not isinstance(value, dict):
        faults.append("source: must be a mapping of type, url, ref and path")
        return
    for name, entry in value.items():
        if entry is None:
            continue
        if name not in _SOURCE_NAMES:
            faults.append(_unknown(name, _SOURCE_NAMES, within="source."))
            continue
        if name == "type" and isinstance(entry, str):
            entry = _SOURCE_TYPES.get(entry, entry)  # noqa: PLW2901 - the same type by its other name
        _put(body, _SOURCE_NAMES[name], entry, f"source.{name}", faults)


def _put(body: JobBody, field: str, value: object, name: str, faults: list[str]) -> None:
    if field in body:
        faults.append(f"{name}: says again what {field} says")
    body[field] = value


def _as_text_map(value: object, field: str, faults: list[str]) -> object:
    """Return a map whose values are text; a number or boolean counts as the text one would type."""
    if not isinstance(value, dict):
        faults.append(f"{field}: must be a mapping of names to text")
        return value
    texts = {}
    for name, entry in value.items():
        match entry:
            case str():
                texts[name] = entry
            case bool():
                texts[name] = "true" if entry else "false"
            case int():
                texts[name] = str(entry)
            case _:
                faults.append(f"{field}.{name}: must be text: write it in quotes")
    return texts


def _unknown(name: str, known: Iterable[str], *, within: str = "") -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"{within}{name}: unknown key" + (f"; did you mean {within}{close[0]}?" if close else "")


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(path).open("rb") as file:
        return file.read(MAX_BYTES + 1)
