"""Deleting many objects where a store deletes them one by one."""

from collections.abc import Callable, Iterable

from reactorcide.objects.port import InvalidKey, StoreUnavailable


def delete_each(delete: Callable[[str], None], keys: Iterable[str]) -> None:
    """Call ``delete`` for every key, whatever becomes of the others; then raise the first error, if any.

    Raises:
        InvalidKey, StoreUnavailable.
    """
    first: InvalidKey | StoreUnavailable | None = None
    for key in keys:
        try:
            delete(key)
        except (InvalidKey, StoreUnavailable) as error:
            first = first or error
    if first is not None:
        raise first
