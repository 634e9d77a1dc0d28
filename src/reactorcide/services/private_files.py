"""Files that only the owner of this process may read."""

import os
import secrets
from pathlib import Path


def write_private_file(path: Path, text: str) -> None:
    """Put ``text`` into an owner-only file that is there whole or not at all, durably.

    Makes the directory, owner-only too, if absent; replaces what stands at ``path``.

    Raises:
        OSError: it cannot be written; what stood there stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        # Renamed into place, so that a reader never meets half a file.
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
