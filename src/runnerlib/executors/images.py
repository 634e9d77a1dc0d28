"""Images: had here before a job runs, pulled if need be, and known by what they are rather than by name."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGKILL
from typing import Literal

import msgspec

from runnerlib.executors.engine import Answer, Engine, call_engine, last_words
from runnerlib.executors.port import ImageUnavailable, Interrupted, SandboxUnavailable
from runnerlib.executors.processes import wait_readable

TELL_SECONDS = 1.0
"""Between two lines on the progress of a pull."""
_LOOK_SECONDS = 0.05
_LONGEST_REFERENCE = 512
_KEPT_BYTES = 8192
_REFERENCE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+(?=/))?(/[A-Za-z0-9][A-Za-z0-9._-]*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_TRANSPORTS = frozenset(
    {
        *("atomic", "containers-storage", "dir", "docker-archive", "docker-daemon"),
        *("oci", "oci-archive", "ostree", "sif", "tarball"),
    }
)
"""What an engine would take for a way to files of the host, and not for a registry."""
_CREDENTIAL = (
    r"(?<=//)[^/@\s]+(?=@)"
    r"|(?i:(?<=bearer )|(?<=basic )|(?<=token=)|(?<=password=)|(?<=signature=))[^\s\"'&,;]+"
)
# podman knows `.Id` only as a word of its own.
_FORMAT = '{"id":"{{.Id}}","digests":{{json .RepoDigests}}}'


@dataclass(frozen=True)
class Image:
    """An image of this host. ``id`` is what the engine runs; ``digest`` is ``sha256:…``."""

    id: str
    digest: str


class _Seen(msgspec.Struct):
    id: str
    digests: list[str] | None = None


def check_reference(reference: str | None) -> str:
    """Return the reference of an image.

    Raises:
        ImageUnavailable: there is none, or it is none that names an image of a registry.
    """
    if not reference:
        raise ImageUnavailable("the job names no image")
    host = reference.partition(":")[0]
    if (
        len(reference) > _LONGEST_REFERENCE
        or not _REFERENCE.fullmatch(reference)
        or (":" in reference and host in _TRANSPORTS)
    ):
        raise ImageUnavailable(f"{reference[:100]!r} is no reference of an image, such as host/name:tag")
    return reference


def take_image(
    engine: Engine,
    reference: str | None,
    *,
    policy: Literal["missing", "always", "never"],
    limit_seconds: float,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Image:
    """Return the image, pulled as the policy says. See `Executor.take_image`."""
    reference = check_reference(reference)
    if policy != "always":
        found = _look(engine, reference)
        if isinstance(found, Image):
            return found
        if policy == "never":
            raise ImageUnavailable(f"the image {reference} is not on this host, where none are pulled")
    _pull(engine, reference, limit_seconds, tell, should_stop)
    pulled = _look(engine, reference)
    if isinstance(pulled, Image):
        tell(f"pulled {pulled.digest}")
        return pulled
    raise ImageUnavailable(
        f"the image {reference} is not there after its pull: {without_credentials(pulled.words)}"
    )


def digest_of(image_id: str, digests: list[str], reference: str) -> str:
    """Return the registry's digest of an image, by preference that of the named repository, else its id."""
    repository = re.sub(r"(@.*|:[^/:@]*)$", "", reference.partition("@")[0])
    ranked = sorted(digests, key=lambda text: not text.partition("@")[0].endswith(repository))
    for text in ranked:
        digest = text.partition("@")[2]
        if re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            return digest
    return image_id if image_id.startswith("sha256:") else f"sha256:{image_id}"


def without_credentials(text: str) -> str:
    """Return words of a registry with what looks like a credential replaced."""
    return re.sub(_CREDENTIAL, "[REDACTED]", text)


def _look(engine: Engine, reference: str) -> Image | Answer:
    answer = call_engine(engine.path, ["image", "inspect", "--format", _FORMAT, reference])
    if answer.code is None:
        raise SandboxUnavailable(f"{engine.name} ({engine.path}): {answer.words}")
    try:
        seen = msgspec.json.decode(answer.output, type=_Seen)
    except msgspec.DecodeError:
        return answer
    return Image(seen.id, digest_of(seen.id, seen.digests or [], reference))


def _pull(
    engine: Engine,
    reference: str,
    limit_seconds: float,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> None:
    tell(f"pulling {reference}")
    try:
        process = subprocess.Popen(
            [engine.path, "pull", reference],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailable(f"{engine.path} cannot be started: {error.strerror or error}") from error
    with process:
        progress = _Progress(tell)
        try:
            is_whole = _follow(process, progress, time.monotonic() + limit_seconds, should_stop)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, SIGKILL)
    said = without_credentials(last_words(_last_line(progress.kept)))
    if not is_whole:
        raise ImageUnavailable(f"the pull of {reference} took longer than {limit_seconds:g} seconds: {said}")
    if process.returncode != 0:
        raise ImageUnavailable(f"the image {reference} cannot be pulled: {said}")


def _follow(
    process: subprocess.Popen[bytes], progress: "_Progress", end: float, should_stop: Callable[[], bool]
) -> bool:
    """Pass on what a pull says until it has ended. False: it did not in time."""
    assert process.stdout is not None  # noqa: S101 - made with a pipe
    output = process.stdout.fileno()
    while True:
        if should_stop():
            raise Interrupted
        if time.monotonic() >= end:
            return False
        if wait_readable([output], _LOOK_SECONDS):
            data = os.read(output, 65536)
            if not data:
                break
            progress.take(data)
    # Its output is closed; what is left is its very end.
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, min(5.0, end - time.monotonic())))
    return process.poll() is not None


class _Progress:
    """Tells of a pull now and then, and keeps the end of what was said."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.kept = b""
        self._tell = tell
        self._unread = b""
        self._told_at = time.monotonic()

    def take(self, data: bytes) -> None:
        """Take in a piece of output."""
        self.kept = (self.kept + data)[-_KEPT_BYTES:]
        *lines, self._unread = re.split(rb"[\r\n]+", (self._unread + data)[-_KEPT_BYTES:])
        now = time.monotonic()
        if any(lines) and now >= self._told_at + TELL_SECONDS:
            self._told_at = now
            self._tell(without_credentials(last_words(_last_line(b"\n".join(lines)))))


def _last_line(said: bytes) -> bytes:
    return next((line for line in reversed(re.split(rb"[\r\n]+", said)) if line.strip()), b"")
