"""A worker whose every word is the test's: the worker protocol, spoken by hand."""

import uuid
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from api.api_people import Api, Person
from reactorcide.domain.accounts import TokenKind

WORKER = "/api/v1/worker"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass
class RemoteWorker:
    """Someone who speaks the worker protocol by hand, and says whatever the test wants."""

    person: Person
    name: str
    boot_id: str
    worker_id: str = ""

    @classmethod
    async def registered(cls, api: Api, name: str) -> "RemoteWorker":
        made = cls(await api.person(kind=TokenKind.WORKER), name, str(uuid.uuid4()))
        answer = await made.register(name)
        assert answer.status_code == 200, answer.text
        made.worker_id = answer.json()["registration"]["worker_id"]
        return made

    async def register(self, name: str, **fields: Any) -> httpx2.Response:
        body = {"protocols": [1, 1], "name": name, "boot_id": self.boot_id, "queues": ["reactorcide-jobs"]}
        turn = (await self.person.post(f"{WORKER}/turn", {})).json().get("turn", 0)
        body |= {"turn": turn, "slots": 2, "version": "1", "isolation": "test", **fields}
        return await self.person.post(f"{WORKER}/register", body)

    async def call(self, what: str, **fields: Any) -> httpx2.Response:
        """Make a call in this worker's own name, unless ``fields`` say otherwise."""
        body = {"worker_id": self.worker_id, "boot_id": self.boot_id, **fields}
        if what == "log":
            return await self.person.call(
                "POST",
                f"{WORKER}/log",
                content=msgspec.msgpack.encode(body),
                headers={"Content-Type": "application/msgpack"},
            )
        return await self.person.post(f"{WORKER}/{what}", body)

    async def take(self) -> dict[str, Any]:
        answer = await self.call("claim", free_slots=1, wait_seconds=5)
        assert answer.status_code == 200, answer.text
        [claim] = answer.json()["claims"]
        return dict(claim)


def acts_on(claim: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every call by which a worker could touch an attempt."""
    outcome = {"status": "completed", "reason": "ok", "fault": "none", "exit_code": 0}
    report = {"draining": False, "has_room": True, "spooled": 0, "spool_bytes": 0}
    return {
        "start": {"claim": claim},
        "heartbeat": {"held": [claim], "report": report},
        "orders": {"wait_seconds": 0},
        "log": {"claim": claim, "offset": 0, "pieces": [[1, "o", 4]], "data": b"evil"},
        "finish": {"claim": claim, "outcome": {**outcome, "log_length": 0, "log_sha256": EMPTY_SHA256}},
        "release": {"claim": claim},
        "deregister": {},
        "claim": {"free_slots": 1, "wait_seconds": 0},
    }
