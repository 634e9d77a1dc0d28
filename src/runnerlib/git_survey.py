"""What a commit would put on a disk, told from the list of its files before any is written."""

from pathlib import Path

from runnerlib.source_errors import SourceFailed
from runnerlib.source_limits import SourceLimits

_LONGEST_NAME = 255
_LONGEST_PATH = 4095
_SHOWN_BYTES = 60


class TreeSurvey:
    """Judges what `git ls-tree -rtlz` lists for the directory ``target``, however it is cut into pieces."""

    def __init__(self, target: Path, limits: SourceLimits) -> None:
        self._longest_path = _LONGEST_PATH - len(bytes(target.absolute())) - 1
        self._limits = limits
        self._rest = b""
        self._entries = 0
        self._size_bytes = 0

    def take(self, piece: bytes) -> None:
        """Take the next piece of the list.

        Raises:
            SourceFailed: it is more than is allowed, or cannot be written on any host.
        """
        *entries, self._rest = (self._rest + piece).split(b"\0")
        for entry in entries:
            facts, _, name = entry.partition(b"\t")
            mode, _, _, size = facts.split()
            self._size_bytes += self._judge(mode, int(size) if size.isdigit() else 0, name)
        self._entries += len(entries)
        self._limits.check_count(self._size_bytes, self._entries)

    def _judge(self, mode: bytes, size: int, path: bytes) -> int:
        """Return the size of an entry that can be written; folders and submodules have none."""
        if len(path) > self._longest_path:
            raise _refusal(path, f"a path of {len(path)} bytes, longer than any host takes")
        if len(path.rpartition(b"/")[2]) > _LONGEST_NAME:
            raise _refusal(path, f"a name of more than {_LONGEST_NAME} bytes")
        if mode == b"120000" and not 1 <= size <= _LONGEST_PATH:
            raise _refusal(path, f"a link to a path of {size} bytes, which none can be")
        return size


def _refusal(path: bytes, why: str) -> SourceFailed:
    start = path[:_SHOWN_BYTES].decode(errors="replace")
    shown = "".join(c if c.isprintable() else "?" for c in start)
    return SourceFailed(
        f"the repository holds {why}: {shown}{'…' * (len(path) > _SHOWN_BYTES)}", is_users_fault=True
    )
