"""The API on real services and a real database, served on loopback, and people who call it."""

import asyncio
import hashlib
import mimetypes
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2

from fixture_types import MakeUser
from reactorcide.api.app import ApiServices, ApiSettings, create_app
from reactorcide.api.server import ApiServer
from reactorcide.domain.accounts import Role, TokenKind
from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.errors import Unavailable
from reactorcide.domain.jobs import AttemptOutcome, LogPiece, StartedAttempt
from reactorcide.domain.reasons import Fault, Reason
from reactorcide.domain.status import JobStatus
from reactorcide.domain.submission import SubmissionPolicy
from reactorcide.domain.workers import Timing, WorkerIdentity
from reactorcide.objects.memory import MemoryObjectStore
from reactorcide.objects.port import ObjectStore, SignsUrls
from reactorcide.observability.metrics import Metrics
from reactorcide.queue.database import DatabaseQueue
from reactorcide.services.accounts import AccountService
from reactorcide.services.artifacts import ArtifactService
from reactorcide.services.attempts import AttemptService
from reactorcide.services.explaining import Explainer
from reactorcide.services.jobs import JobService
from reactorcide.services.log_reading import LogReader
from reactorcide.services.logs import LogService
from reactorcide.services.overview import Overview
from reactorcide.services.retention import Retention, RetentionRules
from reactorcide.services.tally import JobTally
from reactorcide.services.trees import TreeLimits, TreeService
from reactorcide.services.vault import Vault
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

JOB: dict[str, Any] = {"name": "build", "source_type": "none", "job_command": "make"}
SECOND = timedelta(seconds=1)
TIMING = Timing(
    lease=60 * SECOND,
    heartbeat=10 * SECOND,
    start_deadline=30 * SECOND,
    lost_after=300 * SECOND,
    reap_interval=2 * SECOND,
    cancel_grace=10 * SECOND,
)
POLICY = SubmissionPolicy(
    default_queue_name="reactorcide-jobs",
    default_timeout_seconds=3600,
    default_runner_image="example.org/runner:1",
    git_allowed_protocols=("https", "ssh"),
    git_allowed_hosts=(),
    copy_source_roots=("/srv/sources",),
)


def artifact_of(path: str, content: bytes) -> Artifact:
    """Return the artifact that a worker lists for a file."""
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return Artifact(path, len(content), hashlib.sha256(content).hexdigest(), kind)


@dataclass
class Api:
    """A running API, and the services behind it."""

    http: httpx2.AsyncClient
    url: str
    server: ApiServer
    services: ApiServices
    attempts: AttemptService
    log_service: LogService
    tally: JobTally
    database: Database
    make_user: MakeUser

    async def person(self, *roles: Role, kind: TokenKind = TokenKind.USER) -> "Person":
        """Make a user with a token."""
        principal = await self.make_user(*roles, kind=kind)
        # The fixture's token text is the token's id.
        return Person(self, principal.user_id, principal.token_id)

    async def count_jobs(self) -> int:
        async with self.database.transaction() as tx:
            row = await (await tx.execute("SELECT count(*) AS n FROM jobs")).fetchone()
            assert row is not None
            return int(row["n"])

    async def start_next(self, queue: str = "reactorcide-jobs") -> StartedAttempt:
        """Take the next job of a queue as a worker does, and start it."""
        identity = WorkerIdentity(
            name=f"worker-{secrets.token_hex(4)}",
            boot_id=str(uuid.uuid4()),
            queues=(queue,),
            slots=1,
            version="1",
            isolation="test",
        )
        registered = await self.attempts.register(identity, [])
        [claim] = await self.attempts.claim(registered.worker_id, 1, SECOND)
        return await self.attempts.start(claim)

    async def write_log(
        self, started: StartedAttempt, data: bytes, *, offset: int = 0, stream: str = "o"
    ) -> None:
        pieces = [LogPiece(1_700_000_000_000 + offset, stream, len(data))]  # type: ignore[arg-type]
        await self.log_service.append(started.claim, offset, data, pieces)

    async def leave(self, started: StartedAttempt, files: dict[str, bytes]) -> None:
        """Bring the artifacts of an attempt that was finished with so many."""
        for content in files.values():
            await self.services.artifacts.put(
                started.claim, hashlib.sha256(content).hexdigest(), len(content), iter([content])
            )
        listed = [artifact_of(path, content) for path, content in files.items()]
        assert await self.services.artifacts.seal(started.claim, listed) == []

    async def finish(
        self, started: StartedAttempt, log: bytes = b"", *, exit_code: int = 0, artifacts: int = 0
    ) -> None:
        is_good = exit_code == 0
        outcome = AttemptOutcome(
            status=JobStatus.COMPLETED if is_good else JobStatus.FAILED,
            reason=Reason.OK if is_good else Reason.EXIT_NONZERO,
            fault=Fault.NONE if is_good else Fault.USER,
            exit_code=exit_code,
            log_length=len(log),
            log_sha256=hashlib.sha256(log).digest(),
            artifacts=artifacts,
        )
        await self.attempts.finish(started.claim, outcome)


@dataclass
class Person:
    """Someone with a token."""

    api: Api
    user_id: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def call(self, method: str, path: str, **given: Any) -> httpx2.Response:
        headers = {**self.headers, **given.pop("headers", {})}
        return await self.api.http.request(method, path, headers=headers, **given)

    async def get(self, path: str, **given: Any) -> httpx2.Response:
        return await self.call("GET", path, **given)

    async def post(self, path: str, body: Any = None, **given: Any) -> httpx2.Response:
        return await self.call("POST", path, json=body, **given)

    async def post_raw(self, path: str, content: bytes) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        return await self.call("POST", path, content=content, headers=headers)

    async def submit(self, **fields: Any) -> dict[str, Any]:
        answer = await self.post("/api/v1/jobs", JOB | fields)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job


@asynccontextmanager
async def running_api(
    database: Database,
    make_user: MakeUser,
    *,
    head_timeout: timedelta = 15 * SECOND,
    objects: ObjectStore | None = None,
    signer: SignsUrls | None = None,
    **settings: Any,
) -> AsyncIterator[Api]:
    """Serve the API with these settings."""
    bell, objects, metrics = Bell(database), objects or MemoryObjectStore(), Metrics()
    tally = JobTally(database, metrics)
    await bell.start()
    queue = DatabaseQueue(database, bell)
    vault = Vault(b"k" * 32)

    async def probe_database() -> None:
        async with database.transaction() as tx:
            await tx.execute("SELECT 1")

    async def probe_objects() -> None:
        if await asyncio.to_thread(lambda: list(objects.list("probe/"))):
            raise Unavailable("object store")

    attempts = AttemptService(database, queue, bell, vault, TIMING, tally=tally)
    log_service = LogService(database, objects, bell)
    services = ApiServices(
        accounts=AccountService(database),
        jobs=JobService(database, queue, bell, vault, POLICY, tally=tally),
        explainer=Explainer(database, TIMING),
        logs=LogReader(database, objects, bell),
        attempts=attempts,
        log_intake=log_service,
        artifacts=ArtifactService(database, objects, bell, limit_bytes=1024**2, signer=signer),
        trees=TreeService(
            database, objects, limits=TreeLimits(8 * 1024**2, 16 * 1024**2), kept_for=timedelta(days=7)
        ),
        retention=Retention(database, objects, RetentionRules()),
        overview=Overview(database),
        metrics=metrics,
        probes={"database": probe_database, "object_store": probe_objects},
    )
    app = create_app(services, ApiSettings(policy=POLICY, version="0.0.0", **settings))
    server = ApiServer(app, head_timeout=head_timeout, grace=SECOND)
    await server.start()
    async with httpx2.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as http:
        yield Api(
            http=http,
            url=server.url,
            server=server,
            services=services,
            attempts=attempts,
            log_service=log_service,
            tally=tally,
            database=database,
            make_user=make_user,
        )
    await server.stop()
    await bell.stop()


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check the form of an error and return its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["error"] == code
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def pointers(body: dict[str, Any]) -> set[str]:
    """Return where the listed faults are."""
    return {fault["pointer"] for fault in body.get("errors", [])}
