"""The artifacts of an attempt on their way from runner to worker: the file ``artifacts.json`` of a spool.

The contents lie beside it in the folder ``artifacts``, each under the number that its entry gives. They
belong to the worker there: nothing of the job can reach them any more.
"""

import re

import msgspec

from runnerlib.spec.rules import has_control_characters

ARTIFACTS_FILE = "artifacts.json"
ARTIFACTS_FOLDER = "artifacts"
MAX_ARTIFACTS = 10_000
MAX_PATH_BYTES = 1_024
MAX_COMPONENT_BYTES = 255
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")


class CollectedArtifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One artifact in a spool."""

    path: str
    """Relative to the artifacts folder; good by `check_artifact_path`."""
    size_bytes: int
    sha256: str
    """Hexadecimal."""
    content_type: str
    """Told from the name, never from the content."""
    number: int
    """The name of its file in the folder ``artifacts``."""


def check_artifact_path(path: str) -> str | None:
    """Check the path of an artifact; None if it is good, else what is wrong with it.

    What is good can be kept and unpacked anywhere: components joined by ``/``, none empty, ``.`` or
    ``..``; UTF-8 without backslash and control characters; at most 1,024 bytes, 255 a component.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if not 1 <= len(encoded) <= MAX_PATH_BYTES:
        return f"its path is longer than {MAX_PATH_BYTES} bytes" if encoded else "its path is empty"
    if "\\" in path or has_control_characters(path):
        return "its name holds a backslash or a control character"
    for component in path.split("/"):
        if component in ("", ".", ".."):
            return "its path holds an empty component, '.' or '..'"
        if len(component.encode()) > MAX_COMPONENT_BYTES:
            return f"its name is longer than {MAX_COMPONENT_BYTES} bytes"
    return None


def is_content_type(text: str) -> bool:
    """Tell whether ``text`` is a media type without parameters, in lower case."""
    return _CONTENT_TYPE.fullmatch(text) is not None


def encode_artifacts(artifacts: list[CollectedArtifact]) -> bytes:
    """Return the content of the file."""
    return msgspec.json.encode(artifacts)


def decode_artifacts(data: bytes) -> list[CollectedArtifact]:
    """Read the content of the file. Raises ValueError for anything else."""
    return msgspec.json.decode(data, type=list[CollectedArtifact])
