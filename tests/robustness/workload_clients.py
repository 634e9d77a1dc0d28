"""The clients of the workload: they submit, read and cancel, try again as told, and keep a trace."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count

import httpx2

from robustness.workload import Plan

TRY_SECONDS = 6.0
PAUSES = (0.2, 1.0, 2.0, 3.0)
"""Before the second try, the third, and so on; each try goes to the next coordinator."""


@dataclass(frozen=True)
class Call:
    """One try of one call, by the monotonic clock; ``status`` None: no answer, for the ``error``."""

    operation: str
    key: str
    number: int
    coordinator: int
    began: float
    seconds: float
    status: int | None
    error: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the caller has what it wanted; a conflict is the answer to a late cancel."""
        if self.status is None:
            return False
        return self.status < 300 or (self.operation == "cancel" and self.status in (400, 404, 409))


@dataclass(frozen=True)
class Cancel:
    """A cancel that was acknowledged."""

    key: str
    answered_at: float
    was_running: bool


@dataclass
class Trace:
    """All that clients did and were told."""

    calls: list[Call] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Job ids by key."""
    contradictions: list[str] = field(default_factory=list)
    """Answers that no fault excuses."""
    cancels: list[Cancel] = field(default_factory=list)


class Clients:
    """The clients, each with a connection pool of its own."""

    def __init__(self, urls: list[str], token: str, ledger_port: int) -> None:
        self.trace = Trace()
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {token}"}
        self._ledger_port = ledger_port

    async def run(self, plans: list[Plan]) -> None:
        """Carry out all plans; returns when each job is acknowledged and each cancel answered."""
        began = time.monotonic()
        by_client: dict[int, list[Plan]] = {}
        for plan in plans:
            by_client.setdefault(plan.client, []).append(plan)
        await asyncio.gather(*(self._run_client(number, mine, began) for number, mine in by_client.items()))

    async def _run_client(self, number: int, plans: list[Plan], began: float) -> None:
        limits = httpx2.Limits(max_connections=20)
        timeout = httpx2.Timeout(TRY_SECONDS)
        async with (
            httpx2.AsyncClient(
                headers=self._headers, timeout=timeout, limits=limits, trust_env=False
            ) as http,
            asyncio.TaskGroup() as cancels,
        ):
            for plan in plans:
                await asyncio.sleep(max(0.0, began + plan.submit_at - time.monotonic()))
                job_id = await self._submit(http, plan, number)
                if plan.cancel_after is not None:
                    cancels.create_task(self._cancel(http, plan, job_id, number))
                elif plan.lines % 2:
                    await self._call(http, "read", plan.key, number, "GET", f"/api/v1/jobs/{job_id}")

    async def _submit(self, http: httpx2.AsyncClient, plan: Plan, first: int) -> str:
        answer = await self._call(
            http,
            "submit",
            plan.key,
            first,
            "POST",
            "/api/v1/jobs",
            json=plan.body(self._ledger_port),
            headers={"Idempotency-Key": plan.key},
        )
        job_id = str(answer.json()["job_id"])
        self.trace.acknowledged[plan.key] = job_id
        return job_id

    async def _cancel(self, http: httpx2.AsyncClient, plan: Plan, job_id: str, first: int) -> None:
        await asyncio.sleep(plan.cancel_after or 0)
        force = "?force=true" if plan.is_forced else ""
        answer = await self._call(
            http, "cancel", plan.key, first, "PUT", f"/api/v1/jobs/{job_id}/cancel{force}"
        )
        if answer.status_code == 200:
            was_running = answer.json()["status"] == "running"
            self.trace.cancels.append(Cancel(plan.key, time.monotonic(), was_running))

    async def _call(
        self,
        http: httpx2.AsyncClient,
        operation: str,
        key: str,
        first: int,
        method: str,
        path: str,
        **options: object,
    ) -> httpx2.Response:
        for number in count(1):
            coordinator = (first + number) % len(self._urls)
            began = time.monotonic()
            answer, error = None, ""
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    answer = await http.request(method, self._urls[coordinator] + path, **options)  # type: ignore[arg-type]
            except (httpx2.HTTPError, TimeoutError) as caught:
                error = type(caught).__name__
            status = None if answer is None else answer.status_code
            call = Call(operation, key, number, coordinator, began, time.monotonic() - began, status, error)
            self.trace.calls.append(call)
            if answer is not None and call.is_success:
                return answer
            if answer is not None and status not in (409, 429, 503):
                self.trace.contradictions.append(f"{operation} {key}: {status} {answer.text[:200]}")
            await asyncio.sleep(PAUSES[min(number, len(PAUSES)) - 1])
        raise AssertionError
