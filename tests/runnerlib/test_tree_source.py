"""SRC-15: trees that users send, laid out exactly and nothing beside them."""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from attempt_runs import Attempts
from runnerlib.source import PreparedSource, SourceFailed, SourceStopped, prepare_source
from runnerlib.spec import HostPolicy, JobSource
from runnerlib.spec.trees import TreeEntry, encode_manifest, name_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "run.sh": ("755", b"#!/bin/sh\necho ran\n"),
    "data.bin": ("644", bytes(range(256)) * 9000),
    "d/e/empty": ("644", b""),
    "größe €/日本.txt": ("644", "ü\n".encode()),
}
LINKS = {"link": "d/e/empty", "d/up": "../run.sh", "dangling": "nowhere"}


class Shelf:
    """A worker's folder of contents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def put(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        (self.path / name).write_bytes(content)
        return name

    def tree(
        self, files: dict[str, tuple[str, bytes]] = FILES, links: dict[str, str] = LINKS, **changed: Any
    ) -> JobSource:
        entries = [
            TreeEntry(path, mode, len(content), self.put(content))  # type: ignore[arg-type]
            for path, (mode, content) in files.items()
        ]
        entries += [TreeEntry(path, "link", 0, target) for path, target in links.items()]
        return self.source(encode_manifest(entries), **changed)

    def source(self, manifest: bytes, **changed: Any) -> JobSource:
        fields = {"path": str(self.path), "tree": self.put(manifest), "commit": COMMIT} | changed
        return JobSource(type="tree", **fields)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "src"


def lay_out(source: JobSource, target: Path, **policy: Any) -> PreparedSource:
    return prepare_source(source, target, HostPolicy(**policy), log=lambda _: None, should_stop=lambda: False)


def found_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def test_files_modes_and_links_are_as_the_manifest_says_and_nothing_else(shelf: Shelf, target: Path) -> None:
    prepared = lay_out(shelf.tree(), target)

    assert prepared.resolved_sha == COMMIT
    assert found_below(target) == {*FILES, *LINKS, "d", "d/e", "größe €"}
    for path, (mode, content) in FILES.items():
        assert (target / path).read_bytes() == content
        assert f"{(target / path).lstat().st_mode & 0o7777:o}" == mode
    assert {path: str((target / path).readlink()) for path in LINKS} == LINKS


def test_what_is_laid_out_shares_nothing_with_the_workers_copy(shelf: Shelf, target: Path) -> None:
    source = shelf.tree({"a": ("644", b"original"), "b": ("644", b"original")}, {})

    lay_out(source, target)
    with (target / "a").open("r+b") as file:
        file.write(b"CHANGED!")

    assert (target / "b").read_bytes() == b"original"
    assert (shelf.path / hashlib.sha256(b"original").hexdigest()).read_bytes() == b"original"
    assert {path.stat().st_nlink for path in [target / "a", target / "b"]} == {1}


@pytest.mark.parametrize("damaged", [b"origina1", b"original and more", b"orig", None])
def test_a_damaged_or_missing_content_is_the_workers_fault(
    shelf: Shelf, target: Path, damaged: bytes | None
) -> None:
    source = shelf.tree({"a": ("644", b"original")}, {})
    content = shelf.path / hashlib.sha256(b"original").hexdigest()
    if damaged is None:
        content.unlink()
    else:
        content.write_bytes(damaged)

    with pytest.raises(SourceFailed) as raised:
        lay_out(source, target)

    assert not raised.value.is_users_fault


def test_a_content_that_is_a_link_is_not_followed(shelf: Shelf, target: Path, tmp_path: Path) -> None:
    source = shelf.tree({"a": ("644", b"host content")}, {})
    content = shelf.path / hashlib.sha256(b"host content").hexdigest()
    (tmp_path / "secret").write_bytes(b"host content")
    content.unlink()
    content.symlink_to(tmp_path / "secret")

    with pytest.raises(SourceFailed):
        lay_out(source, target)


@pytest.mark.parametrize(
    "entries",
    [
        *([["../a", "644", 0, ""]], [["/a", "644", 0, ""]], [["a/../../b", "644", 0, ""]]),
        *([[".git/hooks/post-checkout", "755", 0, ""]], [["a", "link", 0, "/etc/passwd"]]),
        *([["a", "link", 0, "../.."]], [["a", "link", 0, "d"], ["a/b", "644", 0, ""]]),
    ],
)
def test_a_manifest_that_reaches_out_is_refused_as_a_whole(
    shelf: Shelf, target: Path, entries: list[list[object]]
) -> None:
    empty = shelf.put(b"")
    filled = [[*entry[:3], entry[3] or empty] for entry in entries]
    good = ["zz", "644", 0, empty]
    source = shelf.source(msgspec.json.encode({"format": 1, "entries": [*filled, good]}))

    with pytest.raises(SourceFailed) as raised:
        lay_out(source, target)

    assert raised.value.is_users_fault
    assert found_below(target) == set()
    assert found_below(target.parent) == {"src"}


def test_another_manifest_than_the_named_one_is_refused(shelf: Shelf, target: Path) -> None:
    source = shelf.tree()
    (shelf.path / (source.tree or "")).write_bytes(encode_manifest([]))

    with pytest.raises(SourceFailed, match="damaged"):
        lay_out(source, target)


@pytest.mark.parametrize(
    "changed",
    [{"tree": None}, {"tree": "../" + "a" * 61}, {"path": "/nowhere/at/all"}, {"commit": "$(id)"}],
)
def test_a_source_that_makes_no_sense_is_refused(
    shelf: Shelf, target: Path, changed: dict[str, str | None]
) -> None:
    with pytest.raises(SourceFailed):
        lay_out(shelf.tree(**changed), target)


@pytest.mark.parametrize("policy", [{"source_limit_files": 3}, {"source_limit_bytes": 1000}])
def test_a_tree_past_the_hosts_limits_is_refused_before_anything_is_written(
    shelf: Shelf, target: Path, policy: dict[str, int]
) -> None:
    with pytest.raises(SourceFailed) as raised:
        lay_out(shelf.tree(), target, **policy)

    assert raised.value.is_users_fault
    assert found_below(target) == set()


def test_laying_out_stops_when_told(shelf: Shelf, target: Path) -> None:
    with pytest.raises(SourceStopped):
        prepare_source(shelf.tree(), target, HostPolicy(), log=lambda _: None, should_stop=lambda: True)


def test_every_file_belongs_to_the_jobs_user(shelf: Shelf, target: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")

    prepare_source(
        shelf.tree(),
        target,
        HostPolicy(),
        log=lambda _: None,
        should_stop=lambda: False,
        run_as=(1234, 1234),
    )

    assert {path.lstat().st_uid for path in [target, *target.rglob("*")]} == {1234}


def test_a_job_runs_on_a_tree_and_its_log_says_what_it_is(attempts: Attempts, shelf: Shelf) -> None:
    source = shelf.tree(changes=3)

    done = attempts.run(
        './run.sh; cat link "größe €/日本.txt"; echo x >> d/e/empty; echo "$CI_COMMIT_SHA"', source=source
    )

    assert done.output == f"ran\nü\n{COMMIT}\n"
    patch = name_of((shelf.path / (source.tree or "")).read_bytes())[:12]
    assert f"laying out commit {COMMIT} + 3 changed files (patch {patch})" in done.log.decode()
    assert "checked out" not in done.log.decode()
    assert done.result.resolved_sha == COMMIT


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"changes": 0}, f"laying out commit {COMMIT}\n"),
        ({"changes": 1}, "+ 1 changed file (patch "),
        ({"commit": None, "changes": 4}, "laying out a tree that stands on no commit + 4 changed files"),
    ],
)
def test_the_log_tells_a_tree_without_changes_or_commit_as_such(
    attempts: Attempts, shelf: Shelf, changed: dict[str, Any], said: str
) -> None:
    assert said in attempts.run("true", source=shelf.tree({}, {}, **changed)).log.decode()
