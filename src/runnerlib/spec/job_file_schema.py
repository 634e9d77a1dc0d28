"""What a job file may hold, as the JSON Schema that editors use; the reader judges files by it too.

Each key may be written by its short name or by the API's own field name; `FIELDS` joins them.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from runnerlib.spec import rules

SCHEMA_PATH = "/schemas/job-file.json"
"""Where a coordinator serves the schema."""

Schema = dict[str, Any]


def _range(name: str, kind: str = "integer") -> Schema:
    low, high = rules.RANGES[name]
    return {"type": kind, "minimum": low, "maximum": high}


_VARIABLE_NAMES: Schema = {
    "pattern": r"^(?!REACTORCIDE_)[A-Za-z_][A-Za-z0-9_]*$",
    "maxLength": 255,
    "$comment": "must be letters, digits and underscores, not starting with a digit or with REACTORCIDE_",
}
_JOB_DIRECTORY: Schema = {"type": "string", "pattern": "^/job(/.*)?$", "maxLength": 4096}
_FIELD_SCHEMAS: dict[str, Schema] = {
    "name": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "description": "What the job is called; without one, its command.",
        "examples": ["unit tests"],
    },
    "description": {"type": "string", "maxLength": 4096, "description": "What the job is for."},
    "job_command": {
        "type": "string",
        "minLength": 1,
        "maxLength": rules.MAX_COMMAND_BYTES,
        "description": "Run by /bin/sh -c, byte for byte.",
        "examples": ["make test"],
    },
    "runner_image": {
        "type": "string",
        "pattern": f"^{rules.IMAGE.pattern}$",
        "description": "Container image, where the executor uses one.",
        "examples": ["docker.io/library/python:3.13"],
    },
    "job_env_vars": {
        "type": "object",
        "maxProperties": rules.MAX_ENVIRONMENT_ENTRIES,
        "propertyNames": _VARIABLE_NAMES,
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
        "description": "Environment variables. Names that look like a credential's are secrets.",
        "examples": [{"LEVEL": "3"}],
    },
    "job_secrets": {
        "type": "object",
        "maxProperties": rules.MAX_ENVIRONMENT_ENTRIES,
        "propertyNames": _VARIABLE_NAMES,
        "additionalProperties": {"type": ["string", "integer", "boolean", "null"]},
        "description": "Secret variables, masked in the log. No value: taken from your own environment.",
        "examples": [{"API_TOKEN": None}],
    },
    "job_env_file": {
        "type": "string",
        "minLength": 1,
        "maxLength": 4096,
        "description": "A file of variables inside the source.",
        "examples": [".env.ci"],
    },
    "timeout_seconds": _range("timeout_seconds") | {"description": "Seconds it may run."},
    "queue_timeout_seconds": _range("queue_timeout_seconds") | {"description": "Seconds it may wait."},
    "silence_timeout_seconds": _range("silence_timeout_seconds")
    | {"description": "Seconds it may run without output."},
    "source_type": {
        "enum": ["git", "copy", "local", "none"],
        "description": "Follows from url or path if it is left out; local is another word for copy.",
    },
    "git_url": {
        "type": "string",
        "minLength": 1,
        "maxLength": 2048,
        "description": "Repository to check out.",
        "examples": ["https://example.org/project.git"],
    },
    "git_ref": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "description": "Branch, tag or commit; without one, the remote's HEAD.",
        "examples": ["main"],
    },
    "source_path": {
        "type": "string",
        "minLength": 1,
        "maxLength": 4096,
        "description": "Directory to copy: on the worker, or here when it is run here.",
    },
    "code_dir": _JOB_DIRECTORY | {"default": "/job/src", "description": "Where the source goes."},
    "job_dir": _JOB_DIRECTORY | {"description": "Where the command starts; without one, code_dir."},
    "artifacts": {
        "type": "array",
        "maxItems": rules.MAX_ARTIFACT_GLOBS,
        "items": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[^/]"},
        "default": ["**"],
        "description": "Patterns of files to keep, under $CI_ARTIFACTS_DIR.",
    },
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "cpu": _range("cpu", "number") | {"description": "Cores."},
            "memory_mb": _range("memory_mb") | {"description": "Memory in MiB."},
            "pids": _range("pids") | {"description": "Processes and threads."},
        },
        "description": "Limits; what is left out is the worker's default.",
    },
    "network": {"enum": ["default", "none"], "default": "default", "description": "Network of the job."},
    "plugins": {
        "type": "array",
        "maxItems": 100,
        "items": {"type": "string", "minLength": 1, "maxLength": 255},
        "description": "Only these of the operator's plugins; here only, a worker uses its own.",
    },
    "queue_name": {
        "type": "string",
        "pattern": f"^{rules.QUEUE_NAME.pattern}$",
        "description": "Queue to submit to.",
    },
    "priority": _range("priority") | {"default": 0, "description": "Higher goes first."},
    "retry_on_lost": _range("retry_on_lost")
    | {"default": 0, "description": "More runs if a worker is lost."},
    "labels": {
        "type": "object",
        "maxProperties": rules.MAX_LABELS,
        "propertyNames": {"pattern": f"^{rules.LABEL_KEY.pattern}$"},
        "additionalProperties": {"type": ["string", "integer", "boolean"], "maxLength": 255},
        "description": "Labels to find the job by.",
        "examples": [{"team": "build"}],
    },
}
_SHORT_NAMES = {
    "command": "job_command",
    "environment": "job_env_vars",
    "secrets": "job_secrets",
    "image": "runner_image",
    "timeout": "timeout_seconds",
    "silence_timeout": "silence_timeout_seconds",
    "queue_timeout": "queue_timeout_seconds",
    "queue": "queue_name",
    "env_file": "job_env_file",
}
_SOURCE_NAMES = {"type": "source_type", "url": "git_url", "ref": "git_ref", "path": "source_path"}
FIELDS: Mapping[str, str] = (
    {name: name for name in _FIELD_SCHEMAS}
    | _SHORT_NAMES
    | {f"source.{name}": field for name, field in _SOURCE_NAMES.items()}
)
"""The API's field for every key of a file."""


_TWINS = [(key, field) for key, field in FIELDS.items() if key != field]


def job_file_schema() -> Schema:
    """Return the JSON Schema (2020-12) of job files."""
    source = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _key(name, _FIELD_SCHEMAS[field]) for name, field in _SOURCE_NAMES.items()},
        "description": "Where the files come from.",
        "examples": [{"type": "git", "url": "https://example.org/project.git", "ref": "main"}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Reactorcide job file",
        "description": "A job, to be submitted to a coordinator or run on this machine.",
        "type": "object",
        "additionalProperties": False,
        "properties": {"$schema": {"title": "Schema", "type": "string", "description": "For editors."}}
        | {"source": _key("source", source)}
        | {name: _key(name, _FIELD_SCHEMAS[_SHORT_NAMES.get(name, name)]) for name in _key_order()},
        "allOf": [{"not": {"allOf": [_written(short), _written(field)]}} for short, field in _TWINS],
    }


def find_faults(schema: Schema, value: object, place: str = "") -> Iterator[tuple[str, str, str | None]]:
    """Yield what is wrong with ``value``: its place such as ``source.url``, what, and a better key.

    Reads as much of JSON Schema as `job_file_schema` uses, but for ``allOf``.
    """
    kinds = schema.get("type")
    if kinds is not None and not any(_is_a(value, kind) for kind in _as_list(kinds)):
        yield place, _say_kinds(_as_list(kinds)), None
    elif "anyOf" in schema:
        if value is not None:
            yield from find_faults(schema["anyOf"][0], value, place)
    elif "enum" in schema:
        if value not in schema["enum"]:
            listed = ", ".join(str(word) for word in schema["enum"] if word is not None)
            yield place, f"must be one of {listed}", None
    elif isinstance(value, dict):
        yield from _faults_of_map(schema, value, place)
    elif isinstance(value, list):
        if len(value) > schema.get("maxItems", math.inf):
            yield place, f"must have at most {schema['maxItems']} entries", None
        for index, entry in enumerate(value):
            yield from find_faults(schema.get("items", {}), entry, f"{place}.{index}")
    elif fault := _fault_of_scalar(schema, value):
        yield place, fault, None


def _key_order() -> list[str]:
    """Short names first: what an editor offers first."""
    shortened = set(_SHORT_NAMES.values())
    plain = [name for name in _FIELD_SCHEMAS if name not in shortened]
    return [*_SHORT_NAMES, *plain, *sorted(shortened)]


def _key(name: str, schema: Schema) -> Schema:
    """What stands under a key; without a value it counts as not written."""
    told = {key: schema[key] for key in ("description", "default", "examples") if key in schema}
    return {"title": name.replace("_", " ").capitalize(), "anyOf": [schema, {"type": "null"}]} | told


def _written(key: str) -> Schema:
    """Match a file in which a key, or with a dot one below it, has a value."""
    name, _, inner = key.partition(".")
    value = {"type": "object"} | _written(inner) if inner else {"not": {"type": "null"}}
    return {"required": [name], "properties": {name: value}}


def _faults_of_map(
    schema: Schema, value: dict[str, object], place: str
) -> Iterator[tuple[str, str, str | None]]:
    if len(value) > schema.get("maxProperties", math.inf):
        yield place, f"must have at most {schema['maxProperties']} entries", None
    known, further = schema.get("properties", {}), schema.get("additionalProperties", True)
    names = schema.get("propertyNames")
    for name, entry in value.items():
        inner = f"{place}.{name}" if place else name
        if name in known:
            yield from find_faults(known[name], entry, inner)
        elif further is False:
            import difflib

            close = difflib.get_close_matches(name, sorted(known), n=1)
            better = None if not close else f"{place}.{close[0]}" if place else close[0]
            yield inner, "unknown key", better
        elif names is not None and (fault := _fault_of_scalar(names, name)):
            yield inner, f"the name: {fault}", None
        elif further is not True:
            yield from find_faults(further, entry, inner)


def _fault_of_scalar(schema: Schema, value: Any) -> str | None:
    if isinstance(value, str):
        low, high = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if not low <= len(value) <= high:
            return f"must have {low} to {high} characters"
        pattern = schema.get("pattern", "")
        # To Python a `$` also stands before a last newline.
        if not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
            return schema.get("$comment") or f"must match {pattern}"
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and "minimum" in schema and not schema["minimum"] <= value <= schema["maximum"]:
        return f"must be from {schema['minimum']} to {schema['maximum']}"
    return None


def _is_a(value: object, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "integer":
            return (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, float) and value.is_integer()
            )
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case _:
            return value is None


_KIND_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}


def _say_kinds(kinds: list[str]) -> str:
    hint = ": write it in quotes" if "string" in kinds and len(kinds) > 1 else ""
    return "must be " + " or ".join(_KIND_WORDS[kind] for kind in kinds[:1]) + hint


def _as_list(kinds: str | list[str]) -> list[str]:
    return [kinds] if isinstance(kinds, str) else kinds


if __name__ == "__main__":
    import json

    print(json.dumps(job_file_schema(), indent=2))  # noqa: T201 - what this program is for
