"""Telling a worker that somebody follows a log, so that it brings it soon."""

import asyncio
import math
from collections import OrderedDict
from functools import partial

from reactorcide.services.log_pace import WATCH_AGAIN, WATCHED_FOR, LogPace
from reactorcide.store import logs
from reactorcide.store.bell import Bell
from reactorcide.store.database import Database
from reactorcide.store.logs import LogRow

_REMEMBERED_LOGS = 1_000


class LogWatch:
    """Tells by the attempt's row, now and again, and by a ring. A ring that is lost costs a heartbeat."""

    def __init__(self, database: Database, bell: Bell, pace: LogPace) -> None:
        self._database = database
        self._bell = bell
        self._pace = pace
        self._said_at: OrderedDict[tuple[str, int], float] = OrderedDict()

    async def say(self, row: LogRow) -> None:
        """Say that somebody follows the log; of all who do so in this process, one tells.

        To be called by each follower, as long as it follows, whenever it looks.

        Raises:
            Unavailable: it could not be said; the next one who looks tells.
        """
        key, now = (row.job_id, row.attempt), asyncio.get_running_loop().time()
        is_said_lately = now - self._said_at.get(key, -math.inf) < WATCH_AGAIN.total_seconds()
        if self._pace.is_even or is_said_lately:
            return
        self._said_at.pop(key, None)
        self._said_at[key] = now
        if len(self._said_at) > _REMEMBERED_LOGS:
            self._said_at.popitem(last=False)
        is_said = False
        try:
            worker_id = await self._database.run(
                partial(logs.watch_log, job_id=row.job_id, attempt=row.attempt, watched_for=WATCHED_FOR)
            )
            is_said = True
        finally:
            if not is_said:
                self._said_at.pop(key, None)
        if worker_id is not None:
            self._bell.ring(f"worker:{worker_id}")
