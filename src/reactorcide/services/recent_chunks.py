"""What this process has just appended to logs, so that who follows them here asks no store for it."""

from collections import OrderedDict

from reactorcide.services.log_chunks import Chunk

_MOST_BYTES = 16 * 1024 * 1024


class RecentChunks:
    """The last chunks of all logs, within a bound. For use from one event loop.

    Whether they count is not known here: an acknowledged length tells, and what lies within that has one
    value, whichever chunk it is taken from.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._size = 0
        self._chunks: OrderedDict[tuple[str, int], OrderedDict[int, tuple[Chunk, bytes]]] = OrderedDict()

    def keep(self, job_id: str, attempt: int, chunk: Chunk, content: bytes) -> None:
        """Remember a chunk, in place of a shorter one that begins where it does."""
        key = (job_id, attempt)
        of_log = self._chunks.setdefault(key, OrderedDict())
        self._chunks.move_to_end(key)
        self._size += len(content) - len(of_log.pop(chunk.start, (chunk, b""))[1])
        of_log[chunk.start] = (chunk, content)
        while self._size > self._most_bytes:
            self._forget_oldest()

    def read(self, job_id: str, attempt: int, position: int, end: int) -> bytes | None:
        """Return bytes from ``position`` on: at least one, to at most ``end``. None: not known here.

        ``end`` is not behind the acknowledged length.
        """
        for chunk, content in reversed(self._chunks.get((job_id, attempt), {}).values()):
            if chunk.start <= position < chunk.end:
                return content[position - chunk.start : min(end, chunk.end) - chunk.start]
        return None

    def _forget_oldest(self) -> None:
        key, of_log = next(iter(self._chunks.items()))
        _, (_, content) = of_log.popitem(last=False)
        self._size -= len(content)
        if not of_log:
            del self._chunks[key]
