"""The working tree as git sees it: which files, how it differs from the commit, and what is refused."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from repositories import MOTLEY, MOTLEY_LINKS, Repository, make_motley, make_repository

from reactorcide.cli import dirty
from reactorcide.cli.dirty import FileChanged, LocalTree, copy_tree_to, gather_tree, read_tree
from reactorcide.cli.errors import CommandFailed
from runnerlib.spec.trees import decode_manifest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: the settings of whoever runs it are not to meddle."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repository")


def paths(tree: LocalTree) -> set[str]:
    return {file.path for file in tree.files}


def test_a_tree_is_what_git_would_keep_with_every_uncommitted_change(tmp_path: Path) -> None:
    made, commit = make_motley(tmp_path / "repository")

    tree = gather_tree(made.path)

    assert {file.path: file.mode for file in tree.files} == {
        **{path: f"{mode:o}" for path, (_, mode) in MOTLEY.items()},
        **dict.fromkeys(MOTLEY_LINKS, "link"),
    }
    assert (tree.commit, tree.changed, tree.added, tree.deleted) == (commit, 3, 4, 2)
    assert tree.left_out == ()


def test_a_copy_has_contents_modes_and_links_and_shares_nothing(tmp_path: Path) -> None:
    made, _ = make_motley(tmp_path / "repository")
    target = tmp_path / "copy"

    copy_tree_to(gather_tree(made.path), target)

    copied = [path for path in target.rglob("*") if path.is_symlink() or path.is_file()]
    assert {str(path.relative_to(target)) for path in copied} == {*MOTLEY, *MOTLEY_LINKS}
    for path, (content, mode) in MOTLEY.items():
        found = (target / path).lstat()
        assert (target / path).read_bytes() == content
        assert (found.st_mode & 0o777, found.st_nlink) == (mode, 1)
    assert {path: str((target / path).readlink()) for path in MOTLEY_LINKS} == MOTLEY_LINKS


def test_the_same_files_give_the_same_name_and_others_another(repository: Repository) -> None:
    repository.write("a", "1")
    repository.commit()
    committed = read_tree(gather_tree(repository.path))
    repository.write("b", "2")
    patched = read_tree(gather_tree(repository.path))
    os.utime(repository.path / "b", (1, 1))
    again = read_tree(gather_tree(repository.path))
    repository.write("b", "2", mode=0o755)
    other_mode = read_tree(gather_tree(repository.path))

    assert patched.name == again.name
    assert len({committed.name, patched.name, other_mode.name}) == 3
    assert [entry.path for entry in decode_manifest(patched.manifest)] == ["a", "b"]


def test_a_tree_is_told_by_commit_and_patch(repository: Repository) -> None:
    unborn = gather_tree(repository.path).describe("f" * 64)
    repository.write("a", "1")
    repository.write("b", "1")
    sha = repository.commit()
    clean = gather_tree(repository.path).describe("f" * 64)
    repository.write("a", "2")
    (repository.path / "b").unlink()

    dirtied = gather_tree(repository.path).describe("0123456789abcdef" * 4)

    assert unborn == "no commit yet, no uncommitted changes"
    assert clean == f"commit {sha[:7]}, no uncommitted changes"
    assert dirtied == f"commit {sha[:7]} + patch 0123456789ab (1 changed, 1 deleted)"


def test_a_repository_without_a_commit_has_new_files_only(repository: Repository) -> None:
    repository.write("a", "1")
    repository.write("b", "1")
    repository.git("add", "a")

    tree = gather_tree(repository.path)

    assert (tree.commit, tree.changed, tree.added, tree.deleted) == (None, 0, 2, 0)


def test_from_a_subdirectory_the_whole_repository_is_gathered(repository: Repository) -> None:
    repository.write("top", "1")
    repository.write("sub dir/in/file", "1")

    tree = gather_tree(repository.path / "sub dir" / "in")

    assert paths(tree) == {"top", "sub dir/in/file"}
    assert tree.subdirectory == "sub dir/in"


def test_a_subdirectory_of_which_nothing_is_sent_is_refused(repository: Repository) -> None:
    repository.write(".gitignore", "build/\n")
    repository.write("build/out", "1")

    with pytest.raises(CommandFailed, match="build holds nothing"):
        gather_tree(repository.path / "build")


@pytest.mark.parametrize("init", [[], ["--bare"]])
def test_outside_of_any_working_tree_is_a_clear_error(tmp_path: Path, init: list[str]) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    if init:
        Repository(folder).git("init", "--quiet", *init)

    with pytest.raises(CommandFailed, match="no working tree of a git repository"):
        gather_tree(folder)


def test_submodules_and_repositories_inside_are_left_out_and_named(
    repository: Repository, tmp_path: Path
) -> None:
    other = make_repository(tmp_path / "other")
    other.write("x", "1")
    other.commit()
    repository.write("a", "1")
    repository.git("submodule", "--quiet", "add", str(other.path), "module")
    repository.commit()
    nested = make_repository(repository.path / "nested")
    nested.write("y", "1")

    tree = gather_tree(repository.path)

    assert paths(tree) == {"a", ".gitmodules"}
    assert tree.changes == 0
    assert tree.left_out == (
        "module is a submodule, whose files are not sent",
        "nested is a repository of its own, whose files are not sent",
    )


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../x", ".git/config"])
def test_links_that_lead_out_of_the_tree_are_left_out_and_named(repository: Repository, target: str) -> None:
    repository.write("a", "1")
    (repository.path / "link").symlink_to(target)

    tree = gather_tree(repository.path)

    assert paths(tree) == {"a"}
    assert tree.left_out[0].startswith("link is a link ")


def test_a_folder_that_became_a_link_hides_what_was_in_it(repository: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("the host's")
    repository.write("folder/file", "1")
    repository.commit()
    (repository.path / "folder" / "file").unlink()
    (repository.path / "folder").rmdir()
    (repository.path / "folder").symlink_to(outside)

    tree = gather_tree(repository.path)

    assert paths(tree) == set()
    assert tree.left_out[0].startswith("folder is a link ")


def test_what_is_neither_file_nor_link_is_left_out(repository: Repository) -> None:
    repository.write("pipe", "1")
    repository.commit()
    (repository.path / "pipe").unlink()
    os.mkfifo(repository.path / "pipe")

    assert gather_tree(repository.path).left_out == ("pipe is neither a file nor a link",)


@pytest.mark.parametrize("name", [b"new\nline", b"not-utf8-\xff"])
def test_a_name_that_cannot_be_sent_is_refused(repository: Repository, name: bytes) -> None:
    (repository.path / os.fsdecode(name)).write_text("1")

    with pytest.raises(CommandFailed, match="cannot be sent: its name"):
        gather_tree(repository.path)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reads = repository.write("a", "0"), []
    real = dirty.read_pieces

    def read_and_disturb(local: dirty.LocalFile) -> Iterator[bytes]:
        yield from real(local)
        reads.append(local.path)
        if len(reads) < 3:
            file.write_text("x" * (len(reads) + 1))

    monkeypatch.setattr(dirty, "read_pieces", read_and_disturb)

    found = read_tree(gather_tree(repository.path))

    assert [entry.size_bytes for entry in decode_manifest(found.manifest)] == [3]
    assert len(reads) == 3


def test_a_file_that_never_rests_is_named(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository.write("a", "0")
    real = dirty.read_pieces

    def read_and_disturb(local: dirty.LocalFile) -> Iterator[bytes]:
        yield from real(local)
        file.write_text(file.read_text() + "x")

    monkeypatch.setattr(dirty, "read_pieces", read_and_disturb)

    with pytest.raises(FileChanged, match="a changes while it is read"):
        read_tree(gather_tree(repository.path))


def test_variables_and_settings_of_git_do_not_lead_elsewhere(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    other = make_repository(tmp_path / "other")
    other.write("other", "1")
    repository.write("a", "1")
    repository.git("config", "core.fsmonitor", f"touch {marker}; false")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.path))

    assert paths(gather_tree(repository.path)) == {"a"}
    assert not marker.exists()


def test_what_ones_own_settings_ignore_is_ignored(repository: Repository, home: Path) -> None:
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "ignore").write_text("*~\n")
    repository.write("a", "1")
    repository.write("a~", "1")

    assert paths(gather_tree(repository.path)) == {"a"}


def test_asking_changes_nothing_in_the_repository(repository: Repository) -> None:
    repository.write("a", "1")
    repository.commit()
    os.utime(repository.path / "a", (1, 1))
    before = (repository.path / ".git" / "index").read_bytes()

    gather_tree(repository.path)

    assert (repository.path / ".git" / "index").read_bytes() == before


def test_a_socket_among_the_files_is_passed_over(tmp_path: Path) -> None:
    # A short path: the kernel takes no long one for a socket.
    repository = make_repository(tmp_path / "r")
    repository.write("a", "1")
    folder = os.open(repository.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/s")
            assert paths(gather_tree(repository.path)) == {"a"}
    finally:
        os.close(folder)
