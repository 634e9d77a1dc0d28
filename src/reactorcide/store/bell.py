"""The bell: wakes who waits for a change, in this process at once, in others through LISTEN/NOTIFY.

A ring is a hint and carries no news: who is woken looks at the database. A lost ring costs time only,
so every waiter has a bound.
"""

import asyncio
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import psycopg
import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.store.database import Database

CHANNEL = "reactorcide"
_GATHER_SECONDS = 0.01
_MAX_PAYLOAD_BYTES = 7_000
"""PostgreSQL refuses 8,000 and more."""
_RECONNECT_SECONDS = (0.1, 2.0)
_NOTIFY = "SELECT pg_notify(%(channel)s, payload) FROM unnest(%(payloads)s::text[]) AS p (payload)"

log = structlog.get_logger()


class Ear:
    """One waiter's end of the bell. Made by `Bell.listen`."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def wake(self) -> None:
        """End the present or the next wait."""
        self._rung.set()

    async def wait(self, timeout: timedelta) -> bool:
        """Wait for a ring since the last wait, or since listening began. False: ``timeout`` passed first."""
        try:
            async with asyncio.timeout(max(0.0, timeout.total_seconds())):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Bell:
    """One process's bell, for use from its one event loop.

    Topics: ``queue:<name>``, ``job:<job_id>``, ``log:<job_id>``, ``worker:<worker_id>``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._name = uuid.uuid4().hex[:12]
        self._ears: dict[str, set[Ear]] = {}
        self._unsent: set[str] = set()
        self._has_unsent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to exchange rings with other processes; the database need not be up."""
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    async def stop(self) -> None:
        """End the exchange. Rings not yet sent are lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def ring(self, *topics: str) -> None:
        """Wake who listens to any of ``topics``. Call it after the commit that made the change."""
        self._wake(topics)
        if self._tasks:
            self._unsent.update(topics)
            self._has_unsent.set()

    @contextmanager
    def listen(self, *topics: str) -> Iterator[Ear]:
        """Listen to ``topics``. Listen first, then look, then wait: so nothing falls between."""
        ear = Ear()
        for topic in topics:
            self._ears.setdefault(topic, set()).add(ear)
        try:
            yield ear
        finally:
            for topic in topics:
                self._ears[topic].discard(ear)
                if not self._ears[topic]:
                    del self._ears[topic]

    def _wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for ear in self._ears.get(topic, ()):
                ear.wake()

    async def _send(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            topics, self._unsent = self._unsent, set()
            payloads = list(_pack(self._name, topics))
            # Nobody is owed a ring: while the database is away there is nothing to look at either.
            with suppress(Unavailable):
                async with self._database.transaction(urgent=True) as tx:
                    await tx.execute(_NOTIFY, {"channel": CHANNEL, "payloads": payloads})
            await asyncio.sleep(_GATHER_SECONDS)

    async def _receive(self) -> None:
        delay, longest = _RECONNECT_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._database.dsn, autocommit=True, connect_timeout=2
                ) as line:
                    await line.execute(f"LISTEN {CHANNEL}".encode())
                    delay = _RECONNECT_SECONDS[0]
                    # What rang while nobody listened is unknown, so everybody looks once.
                    self._wake(list(self._ears))
                    async for notice in line.notifies():
                        sender, *topics = notice.payload.split(" ")
                        if sender != self._name:
                            self._wake(topics)
            except (psycopg.Error, OSError) as error:
                log.info("bell.disconnected", detail=str(error).strip(), retry_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)


def _pack(sender: str, topics: Iterable[str]) -> Iterator[str]:
    """Yield payloads that together name all ``topics``, each small enough to be sent."""
    payload = sender
    for topic in topics:
        if len(payload) + 1 + len(topic) > _MAX_PAYLOAD_BYTES:
            yield payload
            payload = sender
        payload += f" {topic}"
    yield payload
