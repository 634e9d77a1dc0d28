"""B.3: hostile repositories: brought whole and inert, or refused, and nothing escapes.

`test_git_source` has those that have to do with how git is called: options, transports, credentials.
"""

import functools
import hashlib
import os
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fakes.git_server import GitServer, commit_files, git
from runnerlib.source import SourceError, SourceFailed, prepare_source
from runnerlib.spec import HostPolicy, JobSource


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "server") as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "src"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that appears only if something hostile ran."""
    return tmp_path / "marker"


def bring(server: GitServer, target: Path, ref: str | None, **limits: Any) -> str | None:
    policy = HostPolicy(git_allowed_protocols=("http",), git_allowed_hosts=(server.address,), **limits)
    source = JobSource(type="git", url=server.url, ref=ref)
    return prepare_source(source, target, policy, log=lambda _: None, should_stop=lambda: False).resolved_sha


def refusal_of(server: GitServer, target: Path) -> SourceFailed | None:
    """Bring the branch `odd`; None: it was brought."""
    try:
        bring(server, target, "odd")
    except SourceFailed as refused:
        return refused
    return None


def write_object(repo: Path, kind: str, content: bytes) -> str:
    """Put an object into the repository as it is; git's own commands make no bad ones."""
    whole = f"{kind} {len(content)}\0".encode() + content
    name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    path = repo / ".git" / "objects" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(zlib.compress(whole))
    return name


def tree_of(repo: Path, *entries: tuple[str, bytes, str]) -> str:
    """Make a tree of modes, names and ids, in this order."""
    told = [mode.encode() + b" " + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries]
    return write_object(repo, "tree", b"".join(told))


def offer(repo: Path, tree: str) -> str:
    """Commit a tree on the branch `odd`."""
    sha = git(repo, "commit-tree", "-m", "odd", tree)
    git(repo, "update-ref", "refs/heads/odd", sha)
    return sha


def commit_entries(repo: Path, entries: list[tuple[str, bytes]]) -> str:
    """Commit a tree in which a blob has all of these modes and names."""
    blob = git(repo, "rev-parse", "HEAD:README")
    return offer(repo, tree_of(repo, *((mode, name, blob) for mode, name in entries)))


def names_in(folder: Path) -> set[bytes]:
    return {os.fsencode(path.name) for path in folder.iterdir()} - {b".git"}


def test_case_twins_are_two_files(server: GitServer, target: Path) -> None:
    sha = commit_entries(server.repo, [("100644", b"Makefile"), ("100644", b"makefile")])

    assert bring(server, target, "odd") == sha

    assert names_in(target) == {b"Makefile", b"makefile"}


@pytest.mark.parametrize(
    "name",
    [
        b"-rf",
        b"--upload-pack=touch x",
        b"new\nline",
        b"\x1b]0;title\x07",
        b"tab\tand\rreturn",
        b"not \xff utf-8",
        b"$(touch x)",
        b"CON",
        b"a\\b",
        "\u202egnp.sh".encode(),
        b"n" * 255,
    ],
)
def test_an_odd_name_is_brought_as_it_is(server: GitServer, target: Path, name: bytes) -> None:
    sha = commit_entries(server.repo, [("100755", name)])

    assert bring(server, target, "odd") == sha

    assert names_in(target) == {name}


@pytest.mark.parametrize("name", [b"n" * 256, b"", b".", b"..", b".git", b"a/b", b"/etc/passwd", b"../up"])
def test_a_name_that_no_file_can_have_is_refused_and_leaves_nothing(
    server: GitServer, target: Path, name: bytes
) -> None:
    commit_entries(server.repo, [("100644", name)])

    with pytest.raises(SourceFailed) as failed:
        bring(server, target, "odd")

    # Over an empty name the server stumbles first, and what it says of itself proves nothing.
    assert failed.value.is_users_fault == (name != b"")
    assert names_in(target) == set()
    assert names_in(target.parent) == {b"src"}


def test_a_path_of_a_hundred_folders_is_brought(server: GitServer, target: Path) -> None:
    path = "/".join(["deep"] * 100)
    commit_files(server.repo, {f"{path}/file": "at the bottom"})

    bring(server, target, "main")

    assert (target / path / "file").read_text() == "at the bottom"


def test_a_branch_that_looks_like_an_option_is_reached_by_its_full_name_only(
    server: GitServer, target: Path
) -> None:
    sha = git(server.repo, "rev-parse", "HEAD")
    git(server.repo, "update-ref", "refs/heads/-rf", sha)
    git(server.repo, "update-ref", "refs/heads/--exec=touch", sha)

    assert bring(server, target, "refs/heads/-rf") == sha


# --- what git itself reads from a tree -----------------------------------------------------------------


@pytest.mark.parametrize("name", [b".gitattributes", b".gitignore", b".mailmap"])
def test_a_file_of_git_that_is_a_link_is_brought_as_a_link(
    server: GitServer, target: Path, tmp_path: Path, name: bytes
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("* filter=x\n")
    link = write_object(server.repo, "blob", os.fsencode(outside))
    offer(server.repo, tree_of(server.repo, ("120000", name, link)))

    bring(server, target, "odd")

    assert (target / os.fsdecode(name)).readlink() == outside


@pytest.mark.parametrize("name", [b".gitmodules", b".gitmodules ", b".GITMODULES", b"GITMOD~1"])
def test_a_list_of_submodules_that_is_a_link_is_refused(server: GitServer, target: Path, name: bytes) -> None:
    link = write_object(server.repo, "blob", b"/etc/passwd")
    offer(server.repo, tree_of(server.repo, ("120000", name, link)))

    with pytest.raises(SourceFailed, match="what git does not allow") as failed:
        bring(server, target, "odd")

    assert failed.value.is_users_fault


@pytest.mark.parametrize(
    "attributes",
    [
        "filter=evil",
        "filter=lfs diff=lfs merge=lfs -text",
        "working-tree-encoding=UTF-99",
        "working-tree-encoding=UTF-16 text",
        "text eol=crlf ident export-subst",
        "filter",
        "filter=" + "x" * 2000,
    ],
)
def test_attributes_run_nothing(
    server: GitServer, target: Path, marker: Path, attributes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = marker.parent / "home"
    home.mkdir()
    program = f"touch {marker}"
    (home / ".gitconfig").write_text(
        "".join(
            f'[filter "{name}"]\n\tsmudge = {program}\n\tclean = {program}\n\tprocess = {program}\n'
            for name in ("evil", "lfs", "true")
        )
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    written = {
        name: write_object(server.repo, "blob", text.encode())
        for name, text in ((".gitattributes", f"* {attributes}\n"), ("file", "text\n"))
    }
    entries = (("100644", name.encode(), blob) for name, blob in written.items())
    sha = offer(server.repo, tree_of(server.repo, *entries))

    assert bring(server, target, "odd") == sha

    assert b"text" in (target / "file").read_bytes().replace(b"\0", b"")
    assert not marker.exists()


def test_a_pointer_of_git_lfs_stays_one_also_where_git_lfs_is_set_up(
    server: GitServer, target: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = marker.parent / "tools"
    tools.mkdir()
    for name in ("git-lfs", "git-lfs-filter-process"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    commit_files(
        server.repo,
        {
            ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
            ".lfsconfig": f"[lfs]\n\turl = http://{server.address}/lfs\n",
            "large.bin": pointer,
        },
    )

    bring(server, target, "main")

    assert (target / "large.bin").read_text() == pointer
    assert not [path for path in server.requests if "lfs" in path]
    assert not marker.exists()


# --- links, modes, kinds of entries ------------------------------------------------------------------


def test_a_link_and_a_folder_of_nearly_its_name_put_nothing_into_the_git_directory(
    server: GitServer, target: Path, marker: Path
) -> None:
    hook = write_object(server.repo, "blob", f"#!/bin/sh\ntouch {marker}\n".encode())
    link = write_object(server.repo, "blob", b".git/hooks")
    folder = tree_of(server.repo, ("100755", b"post-checkout", hook))
    offer(server.repo, tree_of(server.repo, ("120000", b"A", link), ("40000", b"a", folder)))

    bring(server, target, "odd")

    assert (target / "a" / "post-checkout").exists()
    assert not (target / ".git" / "hooks").exists()
    assert not marker.exists()


@pytest.mark.parametrize("name", [b".GIT", b".git", b".git.", b"GIT~1", ".g\u200cit".encode()])
def test_a_git_directory_deeper_down_is_refused(server: GitServer, target: Path, name: bytes) -> None:
    inner = tree_of(server.repo, ("40000", name, git(server.repo, "rev-parse", "HEAD:src")))
    middle = tree_of(server.repo, ("40000", b"b", inner))
    offer(server.repo, tree_of(server.repo, ("40000", b"a", middle)))

    with pytest.raises(SourceFailed, match="what git does not allow") as failed:
        bring(server, target, "odd")

    assert failed.value.is_users_fault
    assert names_in(target) == set()


@pytest.mark.parametrize("aim", [b"", b"x" * 5000, b"/etc/\0passwd", b"new\nline", b"../../../../etc/shadow"])
def test_a_link_with_an_odd_aim_is_a_link_or_refused(server: GitServer, target: Path, aim: bytes) -> None:
    link = write_object(server.repo, "blob", aim)
    offer(server.repo, tree_of(server.repo, ("120000", b"link", link)))

    refused = refusal_of(server, target)

    if refused is None:
        assert stat.S_ISLNK((target / "link").lstat().st_mode)
    else:
        assert refused.is_users_fault
        assert names_in(target) == set()


@pytest.mark.parametrize("mode", ["104755", "102755", "100777", "100666", "100000"])
def test_a_file_has_no_bits_but_those_that_git_knows(server: GitServer, target: Path, mode: str) -> None:
    commit_entries(server.repo, [(mode, b"file")])

    refused = refusal_of(server, target)

    assert refused is None or refused.is_users_fault
    assert refused is not None or stat.S_IMODE((target / "file").stat().st_mode) & ~0o777 == 0


@pytest.mark.parametrize("mode", ["20000", "60000", "10000", "140000"])
def test_devices_pipes_and_sockets_are_not_made(server: GitServer, target: Path, mode: str) -> None:
    commit_entries(server.repo, [(mode, b"odd")])

    refused = refusal_of(server, target)

    assert refused is None or refused.is_users_fault
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in target.rglob("*")}
    assert kinds <= {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}


@pytest.mark.parametrize("kind", ["blob", "tree"])
def test_a_tag_of_no_commit_is_the_users_fault(server: GitServer, target: Path, kind: str) -> None:
    sha = git(server.repo, "rev-parse", "HEAD:README" if kind == "blob" else "HEAD^{tree}")
    git(server.repo, "tag", "-a", "-m", "words", "odd", sha)

    with pytest.raises(SourceFailed, match="has no commit") as failed:
        bring(server, target, "refs/tags/odd")

    assert failed.value.is_users_fault


def test_a_default_branch_that_looks_like_an_option_is_a_branch(
    server: GitServer, target: Path, marker: Path
) -> None:
    name = f"refs/heads/--upload-pack=touch${{IFS}}{marker}"
    git(server.repo, "update-ref", name, server.head)
    (server.repo / ".git" / "HEAD").write_text(f"ref: {name}\n")

    assert bring(server, target, None) == server.head

    assert not marker.exists()


# --- SRC-13: more than a host can hold -----------------------------------------------------------------


def nest(repo: Path, levels: int, width: int = 1, name: bytes = b"d") -> str:
    """Make trees within trees, each with ``width`` entries that are all the next one."""
    entry = ("100644", git(repo, "rev-parse", "HEAD:README"))
    for _ in range(levels):
        names = [b"%s%03d" % (name, number) for number in range(width)] if width > 1 else [name]
        entry = ("40000", tree_of(repo, *((entry[0], each, entry[1]) for each in names)))
    return entry[1]


def test_src_13_trees_that_stand_for_more_files_than_any_memory_holds_are_refused_at_once(
    server: GitServer, target: Path
) -> None:
    offer(server.repo, nest(server.repo, levels=12, width=10))
    began = time.monotonic()

    with pytest.raises(SourceFailed, match="more than the 5000 files") as failed:
        bring(server, target, "odd", source_limit_files=5000)

    assert failed.value.is_users_fault
    assert time.monotonic() - began < 10
    assert names_in(target) == set()
    assert not (target / ".git" / "index").exists()


def test_src_13_a_commit_that_is_too_large_is_refused_before_a_file_of_it_is_written(
    server: GitServer, target: Path
) -> None:
    commit_files(server.repo, {f"zeros{number}": bytes(1024 * 1024) for number in range(8)})

    with pytest.raises(SourceFailed, match="larger than the 4194304 bytes"):
        bring(server, target, "main", source_limit_bytes=4 * 1024 * 1024)

    assert names_in(target) == set()


def test_src_13_a_submodule_weighs_nothing(server: GitServer, target: Path) -> None:
    offer(server.repo, tree_of(server.repo, ("160000", b"sub", "1" * 40)))

    bring(server, target, "odd", source_limit_files=100)

    assert list((target / "sub").iterdir()) == []


def test_src_13_a_path_that_is_too_long_is_refused_before_a_folder_of_it_is_made(
    server: GitServer, target: Path
) -> None:
    offer(server.repo, nest(server.repo, levels=3000))

    with pytest.raises(SourceFailed, match="longer than any host takes") as failed:
        bring(server, target, "odd")

    assert failed.value.is_users_fault
    assert len(str(failed.value)) < 200
    assert names_in(target) == set()


# --- SRC-09: a server of plain files -------------------------------------------------------------------


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def plain_files(server: GitServer, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A bare repository that is served as files, by an older protocol of git's: its address and folder."""
    folder = tmp_path / "plain"
    git(server.repo, "clone", "--quiet", "--bare", "--no-hardlinks", str(server.repo), str(folder))
    git(folder, "update-server-info")
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{http.server_address[1]}", folder
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize("wants_commit", [True, False])
def test_src_09_a_server_of_files_cannot_send_git_elsewhere(
    server: GitServer, plain_files: tuple[str, Path], target: Path, wants_commit: bool
) -> None:
    address, folder = plain_files
    shutil.rmtree(folder / "objects")
    (folder / "objects" / "info").mkdir(parents=True)
    elsewhere = f"http://{server.address}/repo/.git/objects\n"
    (folder / "objects" / "info" / "http-alternates").write_text(elsewhere)
    (folder / "objects" / "info" / "alternates").write_text(f"{server.repo}/.git/objects\n")
    policy = HostPolicy(git_allowed_protocols=("http",), git_allowed_hosts=(address,))
    source = JobSource(type="git", url=f"http://{address}/plain", ref=server.head if wants_commit else "main")

    with pytest.raises(SourceError):
        prepare_source(source, target, policy, log=lambda _: None, should_stop=lambda: False)

    assert server.requests == []
    assert names_in(target) == set()
