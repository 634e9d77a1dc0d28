"""Trees that users upload, contents packed behind one another, and how both may be refused.

What a tree is and how a manifest is written is told in `runnerlib.spec.trees`.

A pack is any number of contents: 32 bytes of SHA-256, 8 bytes of length (big-endian), and so many bytes,
again and again. Many small files cost one request by it.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from reactorcide.domain.errors import Conflict, InputFault, InvalidInput
from runnerlib.spec.trees import TreeEntry, TreeRefused, decode_manifest, is_sha256, name_of

MAX_ASKED_BLOBS = 10_000
"""Named in one question for those that are missing."""
MAX_PACK_BYTES = 4 * 1024 * 1024
MAX_PACKED_BLOBS = 1_000
MAX_FETCHED_BLOBS = 1_000
"""Named by a worker in one call."""
_HEAD_BYTES = 40


@dataclass(frozen=True)
class Blob:
    """A content: the SHA-256, in hexadecimal, that it has or is said to have."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Tree:
    """A tree that is whole: everything its manifest names is stored."""

    sha256: str
    entries: int
    size_bytes: int
    last_used_at: datetime


class BlobsMissing(Conflict):
    """A manifest names contents that its user has not uploaded, or that are gone again."""

    def __init__(self, missing: Collection[str]) -> None:
        first = ", ".join(sorted(missing)[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        super().__init__(f"contents that the tree names have not been uploaded: {first}{more}")
        self.missing = frozenset(missing)


def read_tree(sha256: str, manifest: bytes) -> list[TreeEntry]:
    """Return the entries of the tree that is called ``sha256``. Raises InvalidInput."""
    check_digest(sha256)
    if name_of(manifest) != sha256:
        raise InvalidInput([InputFault("", "the manifest that came has another SHA-256 than its address")])
    try:
        return decode_manifest(manifest)
    except TreeRefused as error:
        raise InvalidInput([InputFault(*fault) for fault in error.faults]) from None


def blobs_of(sha256: str, manifest: bytes, entries: Iterable[TreeEntry]) -> dict[str, int]:
    """Return the size by SHA-256 of all that a tree needs, its manifest included.

    Raises:
        InvalidInput: a content has two sizes.
    """
    sizes = {sha256: len(manifest)}
    for number, entry in enumerate(entries):
        if not entry.is_link and sizes.setdefault(entry.content, entry.size_bytes) != entry.size_bytes:
            raise InvalidInput(
                [InputFault(f"/entries/{number}", "another entry gives its content another size")]
            )
    return sizes


def check_digest(sha256: str, pointer: str = "/sha256") -> None:
    """Raise InvalidInput unless this is a SHA-256 in hexadecimal."""
    if not is_sha256(sha256):
        raise InvalidInput([InputFault(pointer, "must be 64 hexadecimal digits in lower case")])


def pack_head(blob: Blob) -> bytes:
    """Return what stands before a content in a pack."""
    return bytes.fromhex(blob.sha256) + blob.size_bytes.to_bytes(8, "big")


def unpack(pack: bytes) -> dict[str, bytes]:
    """Return the contents of a whole pack by their SHA-256, each checked against it.

    Raises:
        InvalidInput: this is no pack, holds too many, or a content has another digest.
    """
    found: dict[str, bytes] = {}
    unpacker = Unpacker()
    for blob, piece in unpacker.feed(pack):
        found[blob.sha256] = found.get(blob.sha256, b"") + piece
        if len(found) > MAX_PACKED_BLOBS:
            raise InvalidInput([InputFault("", f"a pack holds at most {MAX_PACKED_BLOBS} contents")])
    if not unpacker.is_at_end:
        raise InvalidInput([InputFault("", "the pack ends in the middle of a content")])
    for sha256, content in found.items():
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidInput([InputFault("", f"the content that came as {sha256} has another SHA-256")])
    return found


class Unpacker:
    """Takes a pack apart as it comes."""

    def __init__(self) -> None:
        self._head = b""
        self._blob: Blob | None = None
        self._left = 0

    @property
    def is_at_end(self) -> bool:
        """Whether what came so far ends with a content."""
        return self._blob is None and not self._head

    def feed(self, data: bytes) -> Iterator[tuple[Blob, bytes]]:
        """Yield pieces of contents, and to which each belongs; of an empty content one empty piece."""
        rest = memoryview(data)
        while rest or self._blob is not None:
            if self._blob is None:
                wanted = _HEAD_BYTES - len(self._head)
                self._head, rest = self._head + rest[:wanted].tobytes(), rest[wanted:]
                if len(self._head) < _HEAD_BYTES:
                    return
                self._left = int.from_bytes(self._head[32:], "big")
                self._blob, self._head = Blob(self._head[:32].hex(), self._left), b""
            blob, piece, rest = self._blob, rest[: self._left].tobytes(), rest[self._left :]
            self._left -= len(piece)
            if self._left == 0:
                self._blob = None
            elif not piece:
                return
            yield blob, piece
