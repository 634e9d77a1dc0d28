"""Artifacts: files that an attempt leaves behind, named by where they lay in its artifacts folder."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from reactorcide.domain.errors import InputFault, InvalidInput
from runnerlib.spec.artifacts import MAX_ARTIFACTS, check_artifact_path, is_content_type

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Artifact:
    """One file. ``sha256`` is hexadecimal; ``path`` is good by `check_artifact_path`."""

    path: str
    size_bytes: int
    sha256: str
    content_type: str


def is_sha256(text: str) -> bool:
    """Tell whether ``text`` spells a SHA-256 in lower-case hexadecimal."""
    return _SHA256.fullmatch(text) is not None


def check_artifacts(artifacts: Collection[Artifact], *, most: int, limit_bytes: int) -> None:
    """Refuse a set of artifacts that no folder could hold, or that is too large.

    Raises:
        InvalidInput: with the first faults.
    """
    faults = []
    if len(artifacts) > min(most, MAX_ARTIFACTS):
        faults.append(InputFault("/artifacts", f"at most {min(most, MAX_ARTIFACTS)} were promised"))
    if sum(artifact.size_bytes for artifact in artifacts) > limit_bytes:
        faults.append(InputFault("/artifacts", f"at most {limit_bytes} bytes in all"))
    for fault in _faults(artifacts):
        faults.append(fault)
        if len(faults) >= _MOST_FAULTS:
            break
    if faults:
        raise InvalidInput(faults)


def _faults(artifacts: Collection[Artifact]) -> Iterator[InputFault]:
    paths: set[str] = set()
    folders = {
        artifact.path[:place]
        for artifact in artifacts
        for place, character in enumerate(artifact.path)
        if character == "/"
    }
    for number, artifact in enumerate(artifacts):
        pointer = f"/artifacts/{number}"
        if fault := check_artifact_path(artifact.path):
            yield InputFault(f"{pointer}/path", fault)
        if artifact.path in paths or artifact.path in folders:
            yield InputFault(f"{pointer}/path", "is the path of another one, or of a folder")
        if artifact.size_bytes < 0:
            yield InputFault(f"{pointer}/size", "must not be negative")
        if not is_sha256(artifact.sha256):
            yield InputFault(f"{pointer}/sha256", "must be 64 hexadecimal digits in lower case")
        if not is_content_type(artifact.content_type):
            yield InputFault(f"{pointer}/content_type", "must be a media type in lower case")
        paths.add(artifact.path)
