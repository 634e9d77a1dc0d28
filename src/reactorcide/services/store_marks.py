"""Knowing an object store again: it holds an object with the id that the rows think it has.

Another one's store, or one that is not there when it should be, must not be searched: to our rows everything
in it would be an orphan, and all of theirs lost.
"""

from datetime import timedelta
from functools import partial

import structlog

from reactorcide.objects.port import ObjectExists, ObjectNotFound, ObjectStore
from reactorcide.objects.threads import StoreThreads
from reactorcide.store import searches
from reactorcide.store.database import Database

MARK_KEY = "store-id"
SETTLED_AFTER = timedelta(days=1)
"""So long after a store was marked, whoever uses it too has noticed."""

log = structlog.get_logger()


class StoreMarks:
    """Looks for the mark of the object store."""

    def __init__(self, database: Database, objects: ObjectStore, calls: StoreThreads) -> None:
        self._calls = calls
        self._database = database
        self._objects = objects

    async def check(self) -> searches.StoreMark | None:
        """Return the mark if the store has it; one that was never marked is. None: it is another store.

        Raises:
            Unavailable: the database or the store cannot be reached.
        """
        mark = await self._database.run(partial(searches.read_mark, settled_after=SETTLED_AFTER))
        found = await self._calls.run(self._read_or_make, mark)
        if found != mark.mark_id:
            log.error("orphans.store_not_ours", object_key=MARK_KEY, expected=mark.mark_id, found=found)
            return None
        if not mark.is_made:
            await self._database.run(searches.note_mark)
        return mark

    def _read_or_make(self, mark: searches.StoreMark) -> str | None:
        found = self._read()
        if found is not None or mark.is_made:
            return found
        try:
            self._objects.put(MARK_KEY, mark.mark_id.encode(), create_only=True)
        except ObjectExists:
            return self._read()
        return mark.mark_id

    def _read(self) -> str | None:
        try:
            return self._objects.read(MARK_KEY, length=100).decode("ascii", "replace").strip()
        except ObjectNotFound:
            return None
