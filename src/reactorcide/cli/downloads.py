"""Writing artifacts into a directory: never outside of it, and never anything but what was asked for.

Every component of a path is opened from the directory before it and never through a link. A file has its
name only once it is whole and has the digest that the coordinator told.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from reactorcide.cli.answers import ArtifactAnswer
from reactorcide.cli.client import pause_seconds
from reactorcide.cli.errors import CommandFailed, CoordinatorUnreachable, StoreUnreachable
from runnerlib.spec.artifacts import check_artifact_path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_TRIES = 5


class ArtifactSource(Protocol):
    """Who gives out artifacts, such as `ApiClient`."""

    def read_artifact(self, job_id: str, path: str, *, start: int = 0) -> Iterator[bytes]:
        """Yield an artifact from the byte ``start`` on."""
        ...


class Download:
    """Fetches artifacts of one job into a directory. A context manager."""

    def __init__(self, client: ArtifactSource, job_id: str, directory: Path) -> None:
        self._client = client
        self._job_id = job_id
        self._directory = directory
        self._root = -1

    def __enter__(self) -> "Download":
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CommandFailed(f"{self._directory}: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def fetch(self, artifact: ArtifactAnswer, advance: Callable[[int], None]) -> None:
        """Download one artifact, going on where a connection broke off.

        Raises:
            CommandFailed: it cannot be written, or is not what its digest says.
        """
        fault = check_artifact_path(artifact.path)
        if fault is not None:
            raise CommandFailed(f"refused to write {artifact.path!r}: {fault}")
        *folders, name = artifact.path.split("/")
        try:
            with ExitStack() as stack:
                folder = self._enter(stack, folders)
                part = f".{secrets.token_hex(8)}.part"
                file = os.open(part, _NEW_FILE, 0o666, dir_fd=folder)
                stack.callback(_remove, part, folder)
                stack.callback(os.close, file)
                if self._receive(artifact, file, advance) != artifact.sha256:
                    raise CommandFailed(f"{artifact.path}: what came does not have the digest it should have")
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise CommandFailed(f"{self._directory / artifact.path}: {error.strerror}") from error

    def _enter(self, stack: ExitStack, folders: list[str]) -> int:
        folder = self._root
        for name in folders:
            with suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=folder)
            folder = os.open(name, _FOLDER, dir_fd=folder)
            stack.callback(os.close, folder)
        return folder

    def _receive(self, artifact: ArtifactAnswer, file: int, advance: Callable[[int], None]) -> str:
        digest, done = hashlib.sha256(), 0
        for tries in range(1, _MAX_TRIES + 1):
            try:
                for piece in self._client.read_artifact(self._job_id, artifact.path, start=done):
                    if done + len(piece) > artifact.size:
                        raise CommandFailed(f"{artifact.path}: more bytes came than it has")
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[os.write(file, rest) :]
                    digest.update(piece)
                    done += len(piece)
                    advance(len(piece))
                break
            except (CoordinatorUnreachable, StoreUnreachable):
                if tries == _MAX_TRIES:
                    raise
                time.sleep(pause_seconds(tries))
        return digest.hexdigest()


def _remove(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
