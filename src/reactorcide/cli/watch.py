"""Waiting for what a job does, patiently: a coordinator that restarts is waited for, not complained about."""

import time
from datetime import timedelta

from reactorcide.cli import render
from reactorcide.cli.answers import JobAnswer
from reactorcide.cli.client import MAX_WAIT_SECONDS, ApiClient, pause_seconds
from reactorcide.cli.errors import CommandFailed, CoordinatorUnreachable

PATIENCE = timedelta(minutes=5)
_TELL_AFTER_SECONDS = 2.0
_REFRESH_SECONDS = 10.0


class Patience:
    """How long a coordinator may be out of reach in a row while a job is watched."""

    def __init__(self, limit: timedelta = PATIENCE) -> None:
        self._limit = limit
        self._failures = 0
        self._failing_since: float | None = None
        self._has_told = False

    def regain(self) -> None:
        """The coordinator answered."""
        if self._has_told:
            render.say("the coordinator is back")
        self._failures, self._failing_since, self._has_told = 0, None, False

    def spend(self, error: CoordinatorUnreachable) -> None:
        """Pause before another try, longer each time.

        Raises:
            CoordinatorUnreachable: ``error``, once it has gone on for too long.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        failing_seconds = now - self._failing_since
        if failing_seconds > self._limit.total_seconds():
            raise error
        if failing_seconds > _TELL_AFTER_SECONDS and not self._has_told:
            render.say(f"{error.message}; the job is not affected, trying again")
            self._has_told = True
        self._failures += 1
        time.sleep(pause_seconds(self._failures))


def watch_until_started(client: ApiClient, job: JobAnswer) -> JobAnswer:
    """Return the job once it no longer waits for a worker, telling meanwhile what it waits for."""
    patience, begun, told = Patience(), time.monotonic(), None
    while job.is_ready:
        waited = time.monotonic() - begun
        try:
            wait = _TELL_AFTER_SECONDS if waited < _TELL_AFTER_SECONDS else _REFRESH_SECONDS
            job = client.get_job(job.job_id, known=job, wait=timedelta(seconds=wait))
            patience.regain()
        except CoordinatorUnreachable as error:
            patience.spend(error)
            continue
        # A job that a worker takes at once needs no talk.
        if (
            job.is_ready
            and job.waiting not in (None, told)
            and time.monotonic() - begun > _TELL_AFTER_SECONDS / 2
        ):
            render.say(f"waiting: {job.waiting}")
            told = job.waiting
    return job


def watch_until_ended(client: ApiClient, job_id: str, *, deadline: float | None = None) -> JobAnswer:
    """Return the job once it has ended.

    Args:
        deadline: by `time.monotonic`.

    Raises:
        CommandFailed: the deadline passed first.
    """
    patience = Patience()
    job: JobAnswer | None = None
    while job is None or not job.is_final:
        wait = timedelta(seconds=MAX_WAIT_SECONDS)
        if deadline is not None:
            wait = min(wait, timedelta(seconds=deadline - time.monotonic()))
            if job is not None and wait <= timedelta(0):
                raise CommandFailed(f"job {job.name} ({job_id}) has not ended: it is {job.status}")
        try:
            job = client.get_job(job_id, known=job, wait=wait)
            patience.regain()
        except CoordinatorUnreachable as error:
            patience.spend(error)
    return job
