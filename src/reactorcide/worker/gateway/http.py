"""The gateway of a worker on another host: the calls of the port over HTTP, with a worker's token.

Nothing is tried again here, for the callers know what a second try is worth. Every call is over within a
bound. Only while a worker registers for the first time is a refusal an operator's to mend; later a token
that is refused is taken for a mistake that will be mended, and running jobs go on.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import httpx2
import msgspec
import structlog

import reactorcide
from reactorcide import protocol
from reactorcide.domain.artifacts import Artifact
from reactorcide.domain.errors import (
    ClaimLost,
    Forbidden,
    InputFault,
    InvalidInput,
    LogMismatch,
    Misconfigured,
    NotFound,
    OffsetGap,
    ReactorcideError,
    Superseded,
    Unavailable,
)
from reactorcide.domain.jobs import (
    AppendedLog,
    AttemptOutcome,
    Claim,
    HeartbeatOrder,
    LogPiece,
    StartedAttempt,
)
from reactorcide.domain.workers import Registration, WorkerIdentity, WorkerReport
from reactorcide.protocol_values import MAX_CLAIMS, MAX_WAIT_SECONDS, ClaimBody, Request
from reactorcide.worker.gateway.downloads import DOWNLOADS_AT_ONCE, Downloads
from reactorcide.worker.gateway.log_parts import split_append
from reactorcide.worker.gateway.trust import explain_distrust, find_trust, is_loopback
from reactorcide.worker.gateway.uploads import UPLOADS_AT_ONCE, Uploads

A = TypeVar("A")

CALL_SECONDS = 15.0
"""A call is given up after this, and a long one so long after it should have come back."""
CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 60.0
"""Less than a coordinator keeps an idle connection, so that it is not used while it is closed."""
_PART = "coordinator"
_NOT_NOW = frozenset({408, 429})
_CONTENT_REFUSED = frozenset({400, 413, 415, 422})

log = structlog.get_logger()


class HttpGateway:
    """Implements `reactorcide.worker.gateway.port.Gateway`. Close it at the end.

    Args:
        url: of the coordinator, with or without a path before `/api`.
        read_token: returns the worker's token as it is now; called again when it is refused.
        slots: as many attempts call at once, beside the worker itself.
        ca_file: certificates to trust instead of the system's.

    Raises:
        Misconfigured: ``ca_file`` cannot be used.
    """

    def __init__(
        self, url: str, read_token: Callable[[], str | None], *, slots: int, ca_file: Path | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._read_token = read_token
        self._token = read_token()
        self._identity: WorkerIdentity | None = None
        self._turn: int | None = None
        self._spoken = protocol.OLDEST
        self._has_registered = False
        self._trouble = ""
        trust = find_trust(ca_file) if url.startswith("https:") else False
        # Apart, so that a heartbeat never waits for a connection behind logs.
        self._own_calls = self._connect(trust, connections=8)
        self._attempts_calls = self._connect(trust, connections=2 * slots + 8)
        self._upload_calls = self._connect(trust, connections=UPLOADS_AT_ONCE)
        self._uploads = Uploads(self._upload_calls)
        self._download_calls = self._connect(trust, connections=DOWNLOADS_AT_ONCE)
        self._downloads = Downloads(self._download_calls)

    async def close(self) -> None:
        """Give the connections back."""
        await self._own_calls.aclose()
        await self._attempts_calls.aclose()
        await self._upload_calls.aclose()
        await self._download_calls.aclose()

    async def register(self, identity: WorkerIdentity, spooled: Sequence[Claim]) -> Registration:
        """As the port says.

        Raises:
            Misconfigured: for the first time and in vain; the text says what to mend.
        """
        self._identity = identity
        try:
            registration = await self._register(identity, spooled)
        except _Refused as error:
            raise self._explain(error) from error
        self._has_registered = True
        return registration

    async def claim(self, worker_id: str, free_slots: int, wait: timedelta) -> list[Claim]:
        seconds = min(wait.total_seconds(), MAX_WAIT_SECONDS)
        call = protocol.ClaimCall(worker_id, self._boot_id, free_slots, seconds)
        answer = await self._call("claim", call, protocol.ClaimAnswer, more_seconds=seconds)
        return [claim.by(worker_id) for claim in answer.claims]

    async def start(self, claim: Claim) -> StartedAttempt:
        return await self._call("start", self._about(claim), StartedAttempt, claim=claim)

    async def heartbeat(
        self, worker_id: str, held: Sequence[Claim], report: WorkerReport
    ) -> list[HeartbeatOrder]:
        call = protocol.HeartbeatCall(
            worker_id,
            self._boot_id,
            [ClaimBody.of(claim) for claim in held],
            protocol.HeldReport.of(report),
        )
        answer = await self._call("heartbeat", call, protocol.HeartbeatAnswer)
        told = {entry.claim: entry for entry in answer.orders}
        orders = []
        for claim in held:
            # Another worker's claim can be answered only as one of this worker; it is not to be held.
            entry = told.get(ClaimBody.of(claim)) if claim.worker_id == worker_id else None
            orders.append(
                HeartbeatOrder(claim, entry.order, entry.is_watched)
                if entry is not None
                else HeartbeatOrder(claim, "abandon")
            )
        return orders

    async def wait_for_orders(self, worker_id: str, timeout: timedelta) -> bool:
        seconds = min(timeout.total_seconds(), MAX_WAIT_SECONDS)
        call = protocol.OrdersCall(worker_id, self._boot_id, seconds)
        answer = await self._call("orders", call, protocol.OrdersAnswer, more_seconds=seconds)
        return answer.is_news

    async def append_log(
        self, claim: Claim, offset: int, data: bytes, pieces: Sequence[LogPiece]
    ) -> AppendedLog:
        appended = AppendedLog(offset)
        for part in split_append(offset, data, pieces):
            call = protocol.LogCall(
                claim.worker_id,
                self._boot_id,
                ClaimBody.of(claim),
                part.offset,
                [protocol.Piece(p.at_milliseconds, p.stream, p.length) for p in part.pieces],
                part.data,
            )
            answer = await self._call("log", call, protocol.LogAnswer, claim=claim)
            appended = AppendedLog(answer.length, answer.pause_seconds)
        return appended

    async def finish(self, claim: Claim, outcome: AttemptOutcome) -> None:
        told = protocol.OutcomeBody.of(outcome, self._spoken)
        call = protocol.FinishCall(claim.worker_id, self._boot_id, ClaimBody.of(claim), told)
        await self._call("finish", call, None, claim=claim)

    async def put_artifact(self, claim: Claim, sha256: str, size_bytes: int, file: Path) -> None:
        call = protocol.ArtifactCall(claim.worker_id, self._boot_id, ClaimBody.of(claim), sha256, size_bytes)
        await self._call("artifact", call, None, claim=claim, file=file)

    async def seal_artifacts(self, claim: Claim, artifacts: Sequence[Artifact]) -> list[str]:
        call = protocol.SealCall(
            claim.worker_id,
            self._boot_id,
            ClaimBody.of(claim),
            [protocol.ArtifactEntry.of(artifact) for artifact in artifacts],
        )
        return (await self._call("artifacts", call, protocol.SealAnswer, claim=claim)).missing

    async def fetch_blobs(self, claim: Claim, blobs: Sequence[str], take: Callable[[bytes], None]) -> None:
        call = protocol.TreeCall(claim.worker_id, self._boot_id, ClaimBody.of(claim), list(blobs))
        await self._call("tree", call, None, claim=claim, take=take)

    async def release(self, claim: Claim) -> None:
        await self._call("release", self._about(claim), None, claim=claim)

    async def deregister(self, worker_id: str) -> None:
        try:
            await self._call("deregister", protocol.WorkerCall(worker_id, self._boot_id), None)
        except (Superseded, NotFound) as error:
            log.info("worker.gone_already", worker_id=worker_id, detail=str(error))

    @property
    def _boot_id(self) -> str:
        return self._identity.boot_id if self._identity is not None else ""

    def _about(self, claim: Claim) -> protocol.AttemptCall:
        return protocol.AttemptCall(claim.worker_id, self._boot_id, ClaimBody.of(claim))

    def _connect(self, trust: ssl.SSLContext | bool, *, connections: int) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self._url + protocol.PATH,
            headers={"User-Agent": f"reactorcide/{reactorcide.__version__}"},
            verify=trust,
            follow_redirects=False,
            # What stands between two machines may be a proxy; to this one there is none.
            trust_env=not is_loopback(self._url),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
        )

    async def _register(self, identity: WorkerIdentity, spooled: Sequence[Claim]) -> Registration:
        try:
            return await self._register_in_turn(identity, spooled)
        except _Refused as error:
            if error.status != 401 or not self._has_new_token():
                raise
            return await self._register_in_turn(identity, spooled)

    async def _register_in_turn(self, identity: WorkerIdentity, spooled: Sequence[Claim]) -> Registration:
        if self._turn is None:
            self._turn = (await self._send("turn", protocol.TurnBody(), protocol.TurnAnswer)).turn
        body = protocol.RegisterBody.of(identity, self._turn, spooled[:MAX_CLAIMS])
        answer = await self._send("register", body, protocol.RegisterAnswer)
        self._spoken = answer.protocol
        return answer.registration

    async def _call(
        self,
        path: str,
        call: Request,
        kind: type[A] | None,
        *,
        claim: Claim | None = None,
        more_seconds: float = 0.0,
        file: Path | None = None,
        take: Callable[[bytes], None] | None = None,
    ) -> A:
        """Make a call of the worker that is registered; a token that was replaced is taken up.

        Raises:
            Unavailable, and what the port says of the call.
        """
        try:
            try:
                answer = await self._send(path, call, kind, more_seconds=more_seconds, file=file, take=take)
            except _Refused as error:
                if error.status != 401 or self._identity is None or not self._has_new_token():
                    raise
                # The same process under its new token: nothing that it holds is lost by that.
                await self._register(self._identity, [])
                answer = await self._send(path, call, kind, more_seconds=more_seconds, file=file, take=take)
        except _Refused as error:
            raise self._translate(error, call, claim) from error
        return answer

    async def _send(
        self,
        path: str,
        body: Request,
        kind: type[A] | None,
        *,
        more_seconds: float = 0.0,
        file: Path | None = None,
        take: Callable[[bytes], None] | None = None,
    ) -> A:
        """Send one request and read its answer.

        Raises:
            Unavailable: there was none in time, or one that says "not now".
            _Refused: any other that is no success.
        """
        is_packed = isinstance(body, protocol.LogCall | protocol.SealCall)
        client = self._attempts_calls if isinstance(body, protocol.AttemptCall) else self._own_calls
        if not self._token and not self._has_new_token():
            raise _Refused(401, "there is no token")
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            if file is not None and isinstance(body, protocol.ArtifactCall):
                response = await self._uploads.send(f"/{path}", body.query, headers, file, body.size)
            else:
                headers["Content-Type"] = protocol.LOG_TYPE if is_packed else "application/json"
                content = msgspec.msgpack.encode(body) if is_packed else msgspec.json.encode(body)
                if take is not None:
                    response = await self._downloads.fetch(f"/{path}", content, headers, take)
                else:
                    async with asyncio.timeout(CALL_SECONDS + more_seconds):
                        response = await client.post(f"/{path}", content=content, headers=headers)
        except TimeoutError as error:
            self._note(f"no answer to {path} in time")
            raise Unavailable(_PART) from error
        except httpx2.RequestError as error:
            if (why := explain_distrust(error)) is not None:
                raise _Refused(0, why) from error
            self._note(str(error) or type(error).__name__)
            raise Unavailable(_PART) from error
        if response.status_code >= 500 or response.status_code in _NOT_NOW:
            self._note(f"HTTP {response.status_code}")
            raise Unavailable(_PART)
        answer = _read(response, kind)
        self._note("")
        return answer

    def _note(self, trouble: str, *, is_error: bool = False) -> None:
        """Log why the coordinator cannot be used, once for as long as that stays so."""
        if trouble and trouble != self._trouble:
            level = log.error if is_error else log.warning
            level("coordinator.unusable", url=self._url, detail=trouble)
        elif self._trouble and not trouble:
            log.info("coordinator.usable", url=self._url)
        self._trouble = trouble

    def _has_new_token(self) -> bool:
        """Read the token again; tell whether it is another one now."""
        before, self._token = self._token, self._read_token() or self._token
        return self._token != before

    def _translate(self, error: "_Refused", call: Request, claim: Claim | None) -> ReactorcideError:
        """Return what a refusal means to the caller."""
        told, worker_id = error.told, getattr(call, "worker_id", "")
        if error.status == 409 and told.cause == protocol.SUPERSEDED:
            return Superseded(worker_id)
        if error.status == 409 and told.cause == protocol.CLAIM_LOST and claim is not None:
            return ClaimLost(claim.job_id, claim.attempt)
        if error.status == 409 and told.cause == protocol.LOG_MISMATCH:
            return LogMismatch(told.message)
        if error.status == 416 and told.cause == protocol.OFFSET_GAP and told.length is not None:
            return OffsetGap(told.length)
        if error.status == 404 and told.cause == protocol.WORKER_UNKNOWN:
            return NotFound("worker", worker_id)
        if error.status in _CONTENT_REFUSED:
            return _input_fault(error)
        self._note(str(error), is_error=True)
        return Unavailable(_PART)

    def _explain(self, error: "_Refused") -> ReactorcideError:
        """Return what it means that the worker was not registered."""
        if error.status == 409 and error.told.cause == protocol.SUPERSEDED:
            return Superseded(self._identity.name if self._identity else "")
        if self._has_registered:
            self._note(str(error), is_error=True)
            return Unavailable(_PART)
        if error.status == 403:
            return Forbidden(str(error))
        if error.status == 401:
            return Misconfigured(
                f"the coordinator at {self._url} refuses the worker token ({error}): make one with"
                " 'reactorcide tokens create NAME --kind worker' and put it into WORKER_TOKEN_FILE"
            )
        if error.status == 0:
            return Misconfigured(f"the coordinator at {self._url} is not trusted: {error}")
        if error.status in _CONTENT_REFUSED and error.told.message:
            return Misconfigured(f"the coordinator at {self._url} does not take this worker: {error}")
        return Misconfigured(f"what answers at {self._url} is no coordinator ({error}): see COORDINATOR_URL")


class _Refused(Exception):
    """The answer to a call, if it is no success. Status 0: the other side is not trusted."""

    def __init__(self, status: int, detail: str, told: protocol.Problem | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.told = told or protocol.Problem()


def _read(response: httpx2.Response, kind: type[A] | None) -> A:
    status = response.status_code
    if response.is_success:
        try:
            return msgspec.json.decode(response.content, type=kind) if kind is not None else None  # type: ignore[return-value]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Refused(status, "its answer is not understood") from None
    if response.is_redirect:
        raise _Refused(status, f"it redirects to {response.headers.get('location', 'nowhere')}")
    try:
        told = msgspec.json.decode(response.content, type=protocol.Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = protocol.Problem()
    raise _Refused(status, told.message or f"HTTP {status} {response.reason_phrase}", told)


def _input_fault(error: _Refused) -> InvalidInput:
    faults = [InputFault(fault.get("pointer", ""), fault.get("detail", "")) for fault in error.told.errors]
    return InvalidInput(faults or [InputFault("", str(error))])
