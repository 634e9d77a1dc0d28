"""The HTTP client of the commands: typed answers, bounded waits, and retries where they are safe.

A call is tried again when the connection failed or the coordinator said "not now" (503, 429), and only
if doing it twice is doing it once: GET, PUT, DELETE, and a submission, which carries an
`Idempotency-Key`.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

import httpx2

from reactorcide import __version__
from reactorcide.cli import answers, retention_answers
from reactorcide.cli.discovery import Target
from reactorcide.cli.errors import AnswerNotUnderstood, ApiProblem, CoordinatorUnreachable
from reactorcide.cli.stored import RANGE_NOT_SATISFIABLE, StoredFiles
from reactorcide.domain.errors import InputFault
from reactorcide.domain.retry import retry_delay
from reactorcide.domain.trees import Blob

T = TypeVar("T")
Query = Sequence[tuple[str, str]]
MAX_WAIT_SECONDS = 60
_MAX_TRIES = 5
_MAX_PAUSE_SECONDS = 15.0
_ANSWER_SECONDS = 30.0
_STORING_SECONDS = 600.0
"""Behind the last byte a coordinator brings what it got to its disk before it answers."""
_AWAY = (502, 503, 504)
"""By the coordinator itself, or by the proxy before it."""
_NOT_NOW = (429, *_AWAY)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ApiClient:
    """A connection to one coordinator. Close it, or use it as a context manager."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stored = StoredFiles()
        is_local = (urlsplit(target.url).hostname or "") in _LOOPBACK
        headers = {"User-Agent": f"reactorcide/{__version__}", "Accept": "application/json"}
        if target.token is not None:
            headers["Authorization"] = f"Bearer {target.token}"
        self._http = httpx2.Client(
            base_url=target.url,
            headers=headers,
            timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=5.0),
            # A proxy of the environment is not for this machine, and no certificate is read in vain.
            trust_env=not is_local,
            verify=target.url.startswith("https:"),
        )

    def __enter__(self) -> "ApiClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()
        self._stored.close()

    # Jobs

    def submit_job(self, body: Mapping[str, object]) -> answers.JobAnswer:
        """Submit a job, once however often the connection breaks."""
        told = self._call("POST", "/api/v1/jobs", body=body, key=str(uuid.uuid4()))
        return answers.read_answer(answers.JobAnswer, told)

    def get_job(
        self, job_id: str, *, known: answers.JobAnswer | None = None, wait: timedelta | None = None
    ) -> answers.JobAnswer:
        """Return the job; with ``wait``, once it differs from ``known``, at the latest after ``wait``.

        A job whose version is not known, as after its submission, is read at once: what it would be
        waited for may have happened already.
        """
        headers, query, seconds = {}, [], 0
        if wait is not None and known is not None and known.etag is not None:
            seconds = max(1, min(MAX_WAIT_SECONDS, round(wait.total_seconds())))
            query.append(("wait", str(seconds)))
            headers["If-None-Match"] = known.etag
        response = self._send(
            "GET", _job_path(job_id), query=query, headers=headers, answer_seconds=_ANSWER_SECONDS + seconds
        )
        if response.status_code == httpx2.codes.NOT_MODIFIED and known is not None:
            return known
        job = answers.read_answer(answers.JobAnswer, _json(response))
        return replace(job, etag=response.headers.get("ETag"))

    def list_jobs(self, query: Query) -> answers.JobList:
        """Return one page of jobs."""
        return answers.read_answer(answers.JobList, self._call("GET", "/api/v1/jobs", query=query))

    def cancel_job(self, job_id: str, *, force: bool = False) -> answers.JobAnswer:
        """Ask for the end of a job; with ``force``, without grace."""
        query = [("force", "true")] if force else []
        told = self._call("PUT", f"{_job_path(job_id)}/cancel", query=query)
        return answers.read_answer(answers.JobAnswer, told)

    def retry_job(self, job_id: str) -> answers.JobAnswer:
        """Make a new job of an ended one. Sent once only: to say it again would make another."""
        told = self._call("POST", f"{_job_path(job_id)}/retry")
        return answers.read_answer(answers.JobAnswer, told)

    def delete_job(self, job_id: str) -> None:
        """Delete an ended job with its log."""
        self._send("DELETE", _job_path(job_id))

    def list_events(self, job_id: str) -> answers.EventList:
        """Return every transition of a job."""
        return answers.read_events(self._call("GET", f"{_job_path(job_id)}/events"))

    def explain_job(self, job_id: str) -> answers.ExplanationAnswer:
        """Return what a job does, or why it ended."""
        return answers.read_answer(answers.ExplanationAnswer, self._call("GET", f"{_job_path(job_id)}/why"))

    def list_artifacts(self, job_id: str) -> answers.ArtifactList:
        """Return what a job left behind."""
        told = self._call("GET", f"{_job_path(job_id)}/artifacts")
        return answers.read_answer(answers.ArtifactList, told)

    def read_artifact(self, job_id: str, path: str, *, start: int = 0) -> Iterator[bytes]:
        """Yield an artifact from the byte ``start`` on, as it is. One try: the reader knows how far it came.

        Raises:
            CoordinatorUnreachable, StoreUnreachable: the connection failed, now or while it was read.
        """
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        address, elsewhere = f"{_job_path(job_id)}/artifacts/{quote(path)}", None
        try:
            with self._http.stream("GET", address, headers=headers) as response:
                if response.status_code == httpx2.codes.TEMPORARY_REDIRECT:
                    elsewhere = response.headers.get("Location", "")
                elif not start or response.status_code != RANGE_NOT_SATISFIABLE:
                    if response.status_code != (httpx2.codes.PARTIAL_CONTENT if start else httpx2.codes.OK):
                        response.read()
                        self._refuse(response)
                    yield from response.iter_raw()
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if elsewhere is not None:
            yield from self._stored.read(elsewhere, start=start)

    @contextmanager
    def open_log(
        self,
        job_id: str,
        *,
        query: Query = (),
        accept: Literal["text/plain", "text/event-stream", "application/json"] = "text/plain",
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx2.Response]:
        """Open the log of a job as a stream. One try: the reader knows where to go on from.

        Raises:
            CoordinatorUnreachable: the connection failed, now or while it was read.
        """
        sent = {"Accept": accept, **(headers or {})}
        try:
            with self._http.stream(
                "GET", f"{_job_path(job_id)}/logs", params=list(query), headers=sent
            ) as response:
                if not response.is_success:
                    response.read()
                    self._refuse(response)
                yield response
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    # Trees

    def has_tree(self, sha256: str) -> bool:
        """Tell whether there is one's own tree of this name; if so it is kept for a while."""
        try:
            self._send("GET", f"/api/v1/trees/{sha256}")
        except ApiProblem as problem:
            if problem.status != httpx2.codes.NOT_FOUND:
                raise
            return False
        return True

    def find_missing(self, digests: Sequence[str]) -> answers.MissingAnswer:
        """Return which of these contents have to be brought."""
        body = {"blobs": list(digests)}
        response = self._send("POST", "/api/v1/trees/missing", body=body, is_repeatable=True)
        return answers.read_answer(answers.MissingAnswer, _json(response))

    def put_blobs(self, pack: bytes) -> None:
        """Bring small contents, packed."""
        seconds = _STORING_SECONDS
        self._send("POST", "/api/v1/trees/blobs", content=pack, is_repeatable=True, answer_seconds=seconds)

    def put_blob(self, blob: Blob, read: Callable[[], Iterator[bytes]]) -> None:
        """Bring a content of any size; ``read`` is called again for each try."""
        self._send(
            "PUT",
            f"/api/v1/trees/blobs/{blob.sha256}",
            content=read,
            headers={"Content-Length": str(blob.size_bytes)},
            answer_seconds=_STORING_SECONDS,
        )

    def put_tree(self, sha256: str, manifest: bytes) -> None:
        """Name a tree whose contents were brought."""
        headers = {"Content-Type": "application/json"}
        self._send("PUT", f"/api/v1/trees/{sha256}", content=manifest, headers=headers)

    # Accounts

    def create_token(self, body: Mapping[str, object]) -> answers.TokenAnswer:
        """Create a token; the answer alone holds its text."""
        return answers.read_answer(answers.TokenAnswer, self._call("POST", "/api/v1/tokens", body=body))

    def list_tokens(self, user_id: str | None = None) -> answers.TokenList:
        """Return one's own tokens, or a user's."""
        query = [("user_id", user_id)] if user_id else []
        return answers.read_answer(answers.TokenList, self._call("GET", "/api/v1/tokens", query=query))

    def revoke_token(self, token_id: str) -> None:
        """Make a token invalid for good."""
        self._send("DELETE", f"/api/v1/tokens/{quote(token_id, safe='')}")

    def create_user(self, body: Mapping[str, object]) -> answers.UserAnswer:
        """Create a user."""
        return answers.read_answer(answers.UserAnswer, self._call("POST", "/api/v1/users", body=body))

    def list_users(self) -> answers.UserList:
        """Return every user."""
        return answers.read_answer(answers.UserList, self._call("GET", "/api/v1/users"))

    def update_user(self, user_id: str, body: Mapping[str, object]) -> answers.UserAnswer:
        """Change the named fields of a user."""
        told = self._call("PATCH", f"/api/v1/users/{quote(user_id, safe='')}", body=body)
        return answers.read_answer(answers.UserAnswer, told)

    def me(self) -> answers.MeAnswer:
        """Return who the token belongs to."""
        return answers.read_me(self._call("GET", "/api/v1/me"))

    # The whole

    def list_queues(self) -> answers.QueueList:
        """Return every queue."""
        return answers.read_answer(answers.QueueList, self._call("GET", "/api/v1/queues"))

    def list_workers(self) -> answers.WorkerList:
        """Return every worker."""
        return answers.read_answer(answers.WorkerList, self._call("GET", "/api/v1/workers"))

    def read_retention(self) -> retention_answers.RetentionAnswer:
        """Return what is kept how long."""
        return answers.read_answer(retention_answers.RetentionAnswer, self._call("GET", "/api/v1/retention"))

    def preview_retention(self) -> retention_answers.RetentionPreview:
        """Return what would be removed now."""
        told = self._call("GET", "/api/v1/retention/preview")
        return answers.read_answer(retention_answers.RetentionPreview, told)

    def list_removals(self, query: Query) -> retention_answers.RemovalList:
        """Return one page of what was removed."""
        told = self._call("GET", "/api/v1/removals", query=query)
        return answers.read_answer(retention_answers.RemovalList, told)

    # Transport

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> object:
        headers = {} if key is None else {"Idempotency-Key": key}
        return _json(self._send(method, path, query=query, body=body, headers=headers))

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Mapping[str, object] | None = None,
        content: bytes | Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
        answer_seconds: float = _ANSWER_SECONDS,
        is_repeatable: bool = False,
    ) -> httpx2.Response:
        sent = {} if content is None else {"Content-Type": "application/octet-stream"}
        sent |= headers or {}
        is_safe = method in ("GET", "PUT", "DELETE") or "Idempotency-Key" in sent
        tries = _MAX_TRIES if is_safe or is_repeatable else 1
        for attempt in range(1, tries + 1):
            request = self._http.build_request(
                method,
                path,
                params=list(query) or None,
                json=body,
                content=content() if callable(content) else content,
                headers=sent,
                timeout=httpx2.Timeout(answer_seconds, connect=5.0),
            )
            try:
                response = self._http.send(request)
            except httpx2.TransportError as error:
                if attempt == tries:
                    raise self._unreachable(error) from error
                time.sleep(pause_seconds(attempt))
                continue
            if response.status_code not in _NOT_NOW or attempt == tries:
                break
            time.sleep(pause_seconds(attempt, response.headers.get("Retry-After")))
        if response.is_success or response.status_code == httpx2.codes.NOT_MODIFIED:
            return response
        return self._refuse(response)

    def _unreachable(self, error: httpx2.TransportError) -> CoordinatorUnreachable:
        url = self._target.url
        if isinstance(error, httpx2.ConnectError):
            return CoordinatorUnreachable(
                f"no coordinator answers at {url} (from {self._target.url_source})",
                "start one with 'reactorcide up', or name another with --url or REACTORCIDE_API_URL",
            )
        return CoordinatorUnreachable(f"the coordinator at {url} broke off: {type(error).__name__}: {error}")

    def _refuse(self, response: httpx2.Response) -> httpx2.Response:
        """Raise what the answer says; it is a fault."""
        status = response.status_code
        if status in _AWAY:
            raise CoordinatorUnreachable(
                f"the coordinator at {self._target.url} is not available (status {status})"
            )
        told: object
        try:
            told = response.json()
        except ValueError:
            told = None
        if not isinstance(told, dict) or "error" not in told:
            raise AnswerNotUnderstood(
                f"what answers at {self._target.url} with status {status} is not a coordinator"
            )
        code = str(told["error"])
        message = str(told.get("message") or told.get("detail") or told.get("title") or code)
        raise ApiProblem(status, code, message, _faults(told), hint=self._hint(status, told))

    def _hint(self, status: int, told: Mapping[str, object]) -> str | None:
        if status == httpx2.codes.UNAUTHORIZED:
            if self._target.token is None:
                return f"no token was found; looked for in {self._target.token_source}"
            return f"the token came from {self._target.token_source}"
        if status >= httpx2.codes.INTERNAL_SERVER_ERROR and told.get("request_id"):
            return f"the coordinator's log says more under request {told['request_id']}"
        return None


def pause_seconds(attempt: int, retry_after: str | None = None) -> float:
    """Return how long to wait after the ``attempt``-th failure, with jitter, never past 15 seconds."""
    usual = retry_delay(attempt, base=timedelta(milliseconds=100), ceiling=timedelta(seconds=5))
    pause = usual.total_seconds() * random.uniform(0.7, 1.3)
    if retry_after is not None and retry_after.isdecimal():
        pause = max(pause, float(retry_after) * random.uniform(1.0, 1.2))
    return min(pause, _MAX_PAUSE_SECONDS)


def _job_path(job_id: str) -> str:
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def _json(response: httpx2.Response) -> object:
    try:
        told: object = response.json()
    except ValueError as error:
        raise AnswerNotUnderstood("the coordinator's answer is not JSON") from error
    return told


def _faults(told: Mapping[str, object]) -> tuple[InputFault, ...]:
    listed = told.get("errors")
    if not isinstance(listed, list):
        return ()
    return tuple(
        InputFault(str(entry.get("pointer", "")), str(entry.get("detail", "")))
        for entry in listed
        if isinstance(entry, dict)
    )
