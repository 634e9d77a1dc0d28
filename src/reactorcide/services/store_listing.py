"""Walking through the object store in pieces, and through what is kept of jobs a whole job at a time."""

from collections.abc import Iterator, Sequence
from itertools import islice

from reactorcide.domain.ids import is_id
from reactorcide.objects.port import ObjectInfo, ObjectStore


class Listing:
    """The objects below a prefix, behind a key, in pieces. For one thread at a time."""

    def __init__(self, objects: ObjectStore, prefix: str, after: str) -> None:
        self._objects = objects
        self._prefix = prefix
        self._after = after.encode()
        self._infos: Iterator[ObjectInfo] | None = None

    def take(self, count: int) -> list[ObjectInfo]:
        """Return the next ones; fewer than ``count`` are the last. Raises StoreUnavailable."""
        if self._infos is None:
            self._infos = (i for i in self._objects.list(self._prefix) if i.key.encode() > self._after)
        return list(islice(self._infos, count))


def split_last(infos: list[ObjectInfo], *, is_end: bool) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """Part off the objects of the last job, of which more may come unless it is the end."""
    if is_end or not infos:
        return infos, []
    last = folder_of(infos[-1].key)
    whole = [info for info in infos if folder_of(info.key) != last]
    return whole, infos[len(whole) :]


def folder_of(key: str) -> str:
    """Return the second component of a key: the id of a job, if it is one of ours."""
    return key.split("/", 2)[1] if "/" in key else ""


def last_of_a_job(infos: Sequence[ObjectInfo]) -> ObjectInfo | None:
    """Return the last of the objects whose folder is a job's."""
    return next((info for info in reversed(infos) if is_id(folder_of(info.key))), None)
