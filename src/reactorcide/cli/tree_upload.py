"""Sending a working tree to a coordinator: only what it does not have, small files many at a time.

What breaks off is gone on with by the next try: what has come need not come again. A file that changes
between being read and being sent has the whole tree looked at anew.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reactorcide.cli import render
from reactorcide.cli.answers import TreeLimitsAnswer
from reactorcide.cli.client import ApiClient
from reactorcide.cli.dirty import FileChanged, LocalFile, ReadTree, gather_tree, read_pieces, read_tree
from reactorcide.cli.errors import ApiProblem, CommandFailed
from reactorcide.cli.job_file import JobBody
from reactorcide.domain.trees import MAX_ASKED_BLOBS, Blob, pack_head

_TRIES = 3
_SMALL_BYTES = 512 * 1024
_PACK_BYTES = 2 * 1024 * 1024
"""So small that a slow line brings it before a coordinator loses patience."""
_PACK_BLOBS = 500
_MOST_REMARKS = 10
_SOURCES = ("git_url", "git_ref", "source_path", "source_type")


@dataclass(frozen=True)
class _Pending:
    """A content that is missing, and a file that has it."""

    file: LocalFile
    blob: Blob


def take_working_tree(body: JobBody, folder: Path) -> ReadTree:
    """Make the working tree around ``folder`` the source of a submission, say what it is, and return it.

    Raises:
        CommandFailed: there is none, or the submission names another source.
    """
    if named := [name for name in _SOURCES if body.get(name) not in (None, "none")]:
        raise CommandFailed(f"--dirty sends the working tree, and the job names another source: {named[0]}")
    for tries in range(1, _TRIES + 1):
        try:
            found = gather_tree(folder)
            with _progress(found.size_bytes, "reading") as advance:
                read = read_tree(found, advance)
            break
        except FileChanged:
            if tries == _TRIES:
                raise
    _tell(read)
    body |= {"source_type": "tree", "source_tree": read.name, "source_changes": found.changes}
    if found.commit is not None:
        body["source_commit"] = found.commit
    if found.subdirectory and "job_dir" not in body:
        body["job_dir"] = f"{body.get('code_dir', '/job/src')}/{found.subdirectory}"
    return read


def send_working_tree(client: ApiClient, body: JobBody, folder: Path) -> None:
    """Make the working tree around ``folder`` the source of a submission, and send what is missing of it.

    Raises:
        CommandFailed: as `take_working_tree`, or it is too large.
    """
    for tries in range(1, _TRIES + 1):
        told = dict(body)
        read = take_working_tree(told, folder)
        try:
            send_tree(client, read)
            break
        except FileChanged:
            if tries == _TRIES:
                raise
    body |= told


def send_tree(client: ApiClient, read: ReadTree) -> None:
    """Send what a coordinator has not of a tree, and name the tree to it.

    Raises:
        FileChanged: a file is not any more what was read.
        CommandFailed: the tree is too large.
    """
    if client.has_tree(read.name):
        return
    sent = files = 0
    for tries in range(1, _TRIES + 1):
        missing = _find_missing(client, read)
        with _progress(sum(pending.blob.size_bytes for pending in missing), "sending") as advance:
            _send(client, missing, advance)
        sent += sum(pending.blob.size_bytes for pending in missing)
        files += len(missing)
        try:
            client.put_tree(read.name, read.manifest)
            break
        except ApiProblem as error:
            # What was there a moment ago has been thrown out.
            if error.code != "conflict" or tries == _TRIES:
                raise
    render.say(f"sent {files} of {len(read.tree.files)} files, {render.show_size(sent)}")


def _find_missing(client: ApiClient, read: ReadTree) -> list[_Pending]:
    known = {read.digests[file.path]: file for file in read.tree.files if file.mode != "link"}
    digests, missing = list(known), []
    for start in range(0, max(len(digests), 1), MAX_ASKED_BLOBS):
        told = client.find_missing(digests[start : start + MAX_ASKED_BLOBS])
        _check_sizes(read, told.limits)
        missing += told.missing
    return [_Pending(known[sha256], Blob(sha256, read.sizes[known[sha256].path])) for sha256 in missing]


def _check_sizes(read: ReadTree, limits: TreeLimitsAnswer) -> None:
    hint = "have git ignore what the job does not need"
    largest = max(read.sizes, key=lambda path: read.sizes[path], default="")
    if largest and read.sizes[largest] > limits.tree_bytes:
        size, limit = map(render.show_size, (read.sizes[largest], limits.tree_bytes))
        raise CommandFailed(f"{largest} has {size}; a whole tree may have {limit}", hint)
    if (total := sum(read.sizes.values())) > limits.tree_bytes:
        size, limit = map(render.show_size, (total, limits.tree_bytes))
        raise CommandFailed(
            f"the working tree has {size}, the largest file is {largest}; {limit} may be", hint
        )


def _send(client: ApiClient, missing: Iterable[_Pending], advance: Callable[[int], None]) -> None:
    pack, count = bytearray(), 0
    for pending in missing:
        if pending.blob.size_bytes > _SMALL_BYTES:
            client.put_blob(pending.blob, lambda pending=pending: _stream(pending, advance))  # type: ignore[misc]
            continue
        if pack and (len(pack) + pending.blob.size_bytes > _PACK_BYTES or count == _PACK_BLOBS):
            client.put_blobs(bytes(pack))
            pack, count = bytearray(), 0
        pack += pack_head(pending.blob) + b"".join(_stream(pending, advance))
        count += 1
    if pack:
        client.put_blobs(bytes(pack))


def _stream(pending: _Pending, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a content. Raises FileChanged if it is not the one that was read before."""
    digest, left = hashlib.sha256(), pending.blob.size_bytes
    for piece in read_pieces(pending.file):
        left -= len(piece)
        if left < 0:
            break
        digest.update(piece)
        advance(len(piece))
        yield piece
    if left != 0 or digest.hexdigest() != pending.blob.sha256:
        raise FileChanged(pending.file.path)


def _tell(read: ReadTree) -> None:
    render.say(read.tree.describe(read.name))
    remarks = read.tree.left_out
    for remark in remarks[:_MOST_REMARKS]:
        render.say(f"left out: {remark}")
    if len(remarks) > _MOST_REMARKS:
        render.say(f"left out: {len(remarks) - _MOST_REMARKS} more")


@contextmanager
def _progress(total: int, what: str) -> "Iterator[Callable[[int], None]]":
    """Show how much is done, to a person who watches; yield what is told of more bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True, no_color=not render.wants_colour())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)
