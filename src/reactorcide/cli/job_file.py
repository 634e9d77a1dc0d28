"""Job files as submissions: read where the person says, secrets taken from their environment."""

import sys
from collections.abc import Mapping
from pathlib import Path

from reactorcide.cli import render
from reactorcide.cli.errors import CommandFailed
from runnerlib.spec.job_file import MAX_BYTES, JobFault, JobFile, JobFileRefused, parse_job_file

_MERGED = ("job_env_vars", "job_secrets", "labels", "resources")
JobBody = dict[str, object]
"""A submission's body: the API's field names, unset fields left out. `infer_source_type` ends it."""


class JobFileUnusable(CommandFailed):
    """A job file cannot be submitted; names every fault."""

    def __init__(self, path: str, faults: tuple[JobFault, ...]) -> None:
        listed = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"the job file {path} is refused:{listed}")


def read_job_file(path: str) -> JobFile:
    """Return the job in the file at ``path``; `-` is stdin.

    Raises:
        JobFileUnusable: with every fault of the file.
    """
    try:
        return parse_job_file(_read(path))
    except OSError as error:
        raise JobFileUnusable(path, (JobFault("", f"cannot be read: {error.strerror}"),)) from error
    except JobFileRefused as error:
        raise JobFileUnusable(path, error.faults) from error


def compose_submission(job: JobFile, path: str, environ: Mapping[str, str]) -> JobBody:
    """Return the body that submits ``job``; secrets without a value take that of their variable.

    Raises:
        JobFileUnusable: a secret has no value anywhere.
    """
    missing = [name for name in job.missing_secrets() if name not in environ]
    if missing:
        text = "has no value in the file, and there is no such variable in your environment"
        raise JobFileUnusable(path, tuple(JobFault(f"secrets.{name}", text) for name in missing))
    body = job.as_submission()
    if job.job_secrets:
        body["job_secrets"] = {
            name: environ[name] if value is None else value for name, value in job.job_secrets.items()
        }
    if job.plugins:
        render.say("the plugins of the job file are left out: a worker uses its own")
    return body


def infer_source_type(body: JobBody) -> None:
    """Fill in the kind of source from what is said of it."""
    if "source_type" not in body:
        body["source_type"] = "git" if "git_url" in body else "copy" if "source_path" in body else "none"


def merge_bodies(told: JobBody, flags: JobBody) -> JobBody:
    """Return the file's job with the flags over it; maps are joined key by key."""
    merged = told | flags
    for name in _MERGED:
        below, above = told.get(name), flags.get(name)
        if isinstance(below, dict) and isinstance(above, dict):
            merged[name] = below | above
    return merged


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(path).open("rb") as file:
        return file.read(MAX_BYTES + 1)
