"""The ready queue of a process: the rows of jobs, or a Corndogs service that names them."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from reactorcide.config import Settings
from reactorcide.domain.errors import Misconfigured
from reactorcide.observability.metrics import Metrics
from reactorcide.queue.database import DatabaseQueue
from reactorcide.queue.port import ReadyQueue, TicketCounter
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database

if TYPE_CHECKING:
    from reactorcide.queue.corndogs.messages import CorndogsClient

Keeper: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""A loop that every coordinator keeps going."""

log = structlog.get_logger()


@dataclass(frozen=True)
class OpenedQueue:
    """A queue, and what goes with it."""

    queue: ReadyQueue
    check: Callable[[], Awaitable[None]]
    """Raises Misconfigured if what listens there is no such queue; one that is out of reach is awaited."""
    close: Callable[[], Awaitable[None]]
    keepers: tuple[Keeper, ...] = ()
    counter: TicketCounter | None = None


def open_corndogs(settings: Settings) -> "CorndogsClient":
    """Return a client of the service that the settings name; nothing is connected yet.

    Raises:
        Misconfigured: a part of the program is not installed, or a file of certificates is not sound.
    """
    try:
        from reactorcide.queue.corndogs.addresses import open_client
    except ImportError as error:
        raise Misconfigured(
            "CORNDOGS_BASE_URL is set, and a package that it needs is not installed:"
            " pip install 'reactorcide[corndogs]'"
        ) from error
    return open_client(
        settings.corndogs_base_url,
        api_key=settings.corndogs_api_key,
        ca_file=settings.corndogs_ca_file,
        call_timeout=settings.corndogs_call_seconds,
    )


def open_queue(settings: Settings, database: Database, bell: Bell, metrics: Metrics) -> OpenedQueue:
    """Open the queue that the settings name; nothing is connected yet.

    Raises:
        Misconfigured: a part of the program is not installed, or a file of certificates is not sound.
    """
    if not settings.corndogs_base_url:
        return OpenedQueue(DatabaseQueue(database, bell), check=_nothing, close=_nothing)
    from reactorcide.queue.corndogs.errors import QueueUnavailable, WrongService
    from reactorcide.queue.corndogs.ready_queue import CorndogsQueue
    from reactorcide.queue.corndogs.relay import TicketRelay
    from reactorcide.queue.corndogs.upkeep import TicketUpkeep

    client = open_corndogs(settings)
    queue = CorndogsQueue(client, database, bell, watch=metrics)
    relay = TicketRelay(client, queue, database, bell, watch=metrics)
    upkeep = TicketUpkeep(client, queue.clock, database, bell)

    async def check() -> None:
        try:
            await client.ping()
        except WrongService as error:
            raise Misconfigured(f"CORNDOGS_BASE_URL: {error.detail}") from error
        except QueueUnavailable as error:
            log.warning("queue.awaited", detail=error.detail)

    return OpenedQueue(queue, check=check, close=queue.close, keepers=(relay.run, upkeep.run), counter=queue)


async def _nothing() -> None:
    """The rows of jobs need neither."""
