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
    part = _write_part(path, text)
    try:
        # Renamed into place, so that a reader never meets half a file.
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def keep_private_text(path: Path, text: str) -> str:
    """Return what the owner-only file ``path`` holds, after putting ``text`` there if there was none.

    Of processes that race, all return the text of the first. White space around it is dropped.

    Raises:
        OSError: it can be neither read nor written.
    """
    if not path.exists():
        part = _write_part(path, text + "\n")
        try:
            # Linked, not renamed: who comes later takes what the first one put there.
            path.hardlink_to(part)
        except FileExistsError:
            pass
        else:
            _sync_folder(path.parent)
        finally:
            part.unlink()
    return path.read_text().strip()


def _write_part(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _sync_folder(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
