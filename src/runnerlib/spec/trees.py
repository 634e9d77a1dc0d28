"""A tree of files, named by what it holds: the manifest, and the rules on what may stand in one.

A manifest is JSON in its one canonical spelling: no blanks, entries sorted by the bytes of their paths.
Its SHA-256 names the tree. An entry is ``[path, "644" | "755", size, sha256]``, or for a symbolic link
``[path, "link", 0, target]``. Directories are those that paths lead through; there are no empty ones.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from runnerlib.spec.rules import has_control_characters

MAX_TREE_ENTRIES = 50_000
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_TREE_PATH_BYTES = 1_024
MAX_NAME_BYTES = 255

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Some file systems pass over these in a name, so that what is left may be the git directory's.
_PASSED_OVER = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
_MOST_FAULTS = 20
_PATCH_CHARACTERS = 12


class TreeEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A file or a symbolic link."""

    path: str
    mode: Literal["644", "755", "link"]
    size_bytes: int
    """0 for a link."""
    content: str
    """The SHA-256 of a file, in hexadecimal; of a link, where it leads."""

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return self.mode == "link"


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    entries: list[TreeEntry]


class TreeRefused(ValueError):
    """A manifest is malformed, or no tree; ``faults`` are pairs of a JSON pointer and what is wrong."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{pointer}: {fault}" if pointer else fault for pointer, fault in faults))
        self.faults = tuple(faults)


def encode_manifest(entries: Iterable[TreeEntry]) -> bytes:
    """Return the manifest of a tree. Its entries are not judged here."""
    ordered = sorted(entries, key=lambda entry: entry.path.encode(errors="surrogateescape"))
    return msgspec.json.encode(_Manifest(1, ordered))


def decode_manifest(data: bytes) -> list[TreeEntry]:
    """Return the entries of a manifest, which are a tree that can be laid out anywhere.

    Raises:
        TreeRefused: with the first faults.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise TreeRefused([("", f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")])
    try:
        entries = msgspec.json.decode(data, type=_Manifest).entries
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TreeRefused([("", f"it is no manifest of a tree: {error}"[:500])]) from None
    if len(entries) > MAX_TREE_ENTRIES:
        raise TreeRefused([("/entries", f"a tree has at most {MAX_TREE_ENTRIES} files")])
    faults = []
    for number, fault in _find_faults(entries):
        faults.append((f"/entries/{number}", fault))
        if len(faults) == _MOST_FAULTS:
            break
    if not faults and encode_manifest(entries) != data:
        faults.append(("", "it is not in the canonical spelling"))
    if faults:
        raise TreeRefused(faults)
    return entries


def name_of(manifest: bytes) -> str:
    """Return the name of the tree that has this manifest: the SHA-256, in hexadecimal."""
    return hashlib.sha256(manifest).hexdigest()


def patch_of(name: str) -> str:
    """Return what the changes are called that make a commit the tree of this name."""
    return name[:_PATCH_CHARACTERS]


def is_sha256(text: str) -> bool:
    """Tell whether ``text`` spells a SHA-256 in lower-case hexadecimal."""
    return _SHA256.fullmatch(text) is not None


def check_tree_path(path: str) -> str | None:
    """Check a path of a tree; None if it is good, else what is wrong with it.

    Good are names joined by ``/``, in UTF-8 without control characters, none of them empty, ``.``,
    ``..`` or what some file system takes for the git directory; at most 1,024 bytes, 255 a name.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if not 1 <= size <= MAX_TREE_PATH_BYTES:
        return f"its path must have 1 to {MAX_TREE_PATH_BYTES} bytes"
    if has_control_characters(path):
        return "its name holds a control character"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return "its path holds an empty name, '.' or '..'"
        if len(name.encode()) > MAX_NAME_BYTES:
            return f"its name is longer than {MAX_NAME_BYTES} bytes"
        if _is_git_directory(name):
            return "its path leads through a git directory"
    return None


def check_link(path: str, target: str) -> str | None:
    """Check where the link at ``path`` leads; None if that is inside the tree, else what is wrong.

    A ``..`` behind a name is refused as well: the name may be a link to a place with fewer directories
    above it.
    """
    try:
        size = len(target.encode())
    except UnicodeEncodeError:
        return "is a link to a name that is not UTF-8"
    if not 1 <= size <= MAX_TREE_PATH_BYTES or has_control_characters(target):
        return f"is a link whose target is not 1 to {MAX_TREE_PATH_BYTES} bytes without control characters"
    names = [name for name in target.split("/") if name not in ("", ".")]
    upwards = next((number for number, name in enumerate(names) if name != ".."), len(names))
    if target.startswith("/") or upwards > path.count("/") or ".." in names[upwards:]:
        return "is a link that leads out of the tree, or may"
    if any(map(_is_git_directory, names)):
        return "is a link into a git directory"
    return None


def _find_faults(entries: list[TreeEntry]) -> Iterator[tuple[int, str]]:
    folders = {
        entry.path[:place]
        for entry in entries
        for place, character in enumerate(entry.path)
        if character == "/"
    }
    known: set[str] = set()
    for number, entry in enumerate(entries):
        if fault := check_tree_path(entry.path):
            yield number, fault
        elif entry.path in known or entry.path in folders:
            yield number, "its path is that of another one, or of a folder"
        elif fault := _check_content(entry):
            yield number, fault
        known.add(entry.path)


def _check_content(entry: TreeEntry) -> str | None:
    if entry.is_link:
        return check_link(entry.path, entry.content) if entry.size_bytes == 0 else "a link has the size 0"
    if not is_sha256(entry.content):
        return "its SHA-256 must be 64 hexadecimal digits in lower case"
    return None if 0 <= entry.size_bytes < 2**62 else "its size is none"


def _is_git_directory(name: str) -> bool:
    # As git itself judges names: NTFS drops what ends a name, and has a short one for each.
    plain = name.translate(_PASSED_OVER).partition(":")[0].rstrip(" .").casefold()
    return plain in (".git", "git~1")
