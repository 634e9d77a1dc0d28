"""B.3: repositories with odd names in them: brought whole, or refused, and nothing escapes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.git_server import GitServer, commit_files, git
from runnerlib.source import SourceFailed, prepare_source
from runnerlib.spec import HostPolicy, JobSource


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "server") as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "src"


def bring(server: GitServer, target: Path, ref: str) -> str | None:
    policy = HostPolicy(git_allowed_protocols=("http",), git_allowed_hosts=(server.address,))
    source = JobSource(type="git", url=server.url, ref=ref)
    return prepare_source(source, target, policy, log=lambda _: None, should_stop=lambda: False).resolved_sha


def commit_entries(repo: Path, entries: list[tuple[str, bytes]]) -> str:
    """Commit a tree of these blobs, by mode and name, that git itself would not make; on the branch `odd`."""
    blob = git(repo, "rev-parse", "HEAD:README")
    listed = b"".join(f"{mode} blob {blob}\t".encode() + name + b"\0" for mode, name in entries)
    made = subprocess.run(["git", "mktree", "-z"], cwd=repo, input=listed, capture_output=True, check=True)
    sha = git(repo, "commit-tree", "-m", "odd", made.stdout.decode().strip())
    git(repo, "update-ref", "refs/heads/odd", sha)
    return sha


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
    blob = bytes.fromhex(git(server.repo, "rev-parse", "HEAD:README"))
    tree = subprocess.run(
        ["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
        cwd=server.repo,
        input=b"100644 " + name + b"\0" + blob,
        capture_output=True,
        check=True,
    )
    sha = git(server.repo, "commit-tree", "-m", "odd", tree.stdout.decode().strip())
    git(server.repo, "update-ref", "refs/heads/odd", sha)

    with pytest.raises(SourceFailed):
        bring(server, target, "odd")

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
