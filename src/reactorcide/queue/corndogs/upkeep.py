"""Upkeep of the tickets: returns those whose drawer died, and finds out when the queue has lost some.

Done by one coordinator at a time, in rounds.
"""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from functools import partial

import structlog

from reactorcide.domain.errors import Unavailable
from reactorcide.queue.corndogs.errors import UnknownOperation
from reactorcide.queue.corndogs.messages import CorndogsClient
from reactorcide.queue.corndogs.ready_queue import RELAY_TOPIC
from reactorcide.queue.corndogs.service_clock import ServiceClock
from reactorcide.queue.corndogs.terms import LOOK_AFTER
from reactorcide.store import chores, tickets
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

EVERY = timedelta(seconds=5)
_CHORE = "corndogs"
_SETTLED = timedelta(seconds=10)
"""A ticket that was published or looked after since is not doubted: counts are not taken at one moment."""
_BATCH = 1_000
_MAX_QUEUES = 1_000

log = structlog.get_logger()


class TicketUpkeep:
    """Sweeps our queues, compares counts, and adopts jobs of the time when their rows were the queue."""

    def __init__(self, client: CorndogsClient, clock: ServiceClock, database: Database, bell: Bell) -> None:
        self._client = client
        self._clock = clock
        self._database = database
        self._bell = bell
        self._queues: dict[str, None] = {}

    async def run(self) -> None:
        """Do a round whenever it is our turn, until cancelled."""
        while True:
            try:
                if await self._database.run(partial(chores.take_turn, name=_CHORE, every=EVERY)):
                    await self.run_round()
            except Unavailable as error:
                log.info("upkeep.postponed", part=error.part)
            except Exception:
                log.exception("upkeep.crashed")
            await asyncio.sleep(EVERY.total_seconds() / 2)

    async def run_round(self) -> None:
        """Look at every queue that has, or lately had, tickets of ours.

        Raises:
            Unavailable: the database or the queue cannot be reached.
        """
        adopted = await self._database.run(partial(tickets.adopt_jobs, limit=_BATCH))
        if adopted:
            log.info("tickets.adopted", jobs=adopted)
        published = await self._database.run(tickets.count_published)
        self._remember(published)
        doubted = 0
        for name in list(self._queues):
            # Never all queues at once: those of others on the same service are not ours to sweep.
            try:
                doubted += await self._look_at(name, published.get(name, 0))
            except UnknownOperation as error:
                # A very old service: then each ticket is only asked after in its own time.
                log.info("upkeep.not_offered", detail=str(error))
        if adopted or doubted:
            self._bell.ring(RELAY_TOPIC)

    async def _look_at(self, name: str, wanted: int) -> int:
        """Return drawn tickets of a queue; of ``wanted`` ones, return how many may be lost."""
        swept = await self._client.sweep(name, self._clock.now())
        if swept:
            log.info("tickets.returned", queue=name, tickets=swept)
            self._bell.ring(f"queue:{name}")
        if not wanted or (await self._client.count_states(name)).count >= wanted:
            return 0
        return await self._doubt(name)

    async def _doubt(self, queue_name: str) -> int:
        """Let every ticket of a queue be looked after that is not known to lie there."""
        doubted = await self._database.run(
            partial(
                tickets.doubt_queue,
                queue_name=queue_name,
                look_after=LOOK_AFTER,
                settled=_SETTLED,
                limit=_BATCH,
            )
        )
        if doubted:
            log.warning("tickets.missed", queue=queue_name, doubted=doubted)
        return doubted

    def _remember(self, names: Iterable[str]) -> None:
        for name in names:
            self._queues.pop(name, None)
            self._queues[name] = None
        while len(self._queues) > _MAX_QUEUES:
            self._queues.pop(next(iter(self._queues)))
