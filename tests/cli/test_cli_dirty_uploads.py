"""`--dirty`: a working tree goes to the coordinator, only what is new of it, and the job knows what it is."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from cli_shell import Api, Keyboard, Person, keyboard_of, start_job
from repositories import MOTLEY, MOTLEY_LINKS, Repository, make_motley, make_repository

from reactorcide.domain.trees import Unpacker
from runnerlib.spec.trees import TreeEntry, decode_manifest

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repository")


def shell_in(person: Person, folder: Path) -> Keyboard:
    return keyboard_of(person, folder)


async def contents_of(api: Api, person: Person, tree: str) -> dict[str, bytes]:
    """Return the files of a stored tree, as a worker gets them."""
    started = await api.start_next()
    assert started.spec.source_tree == tree

    async def fetch(blobs: list[str]) -> dict[str, bytes]:
        unpacker, found = Unpacker(), dict[str, bytes]()
        for piece in await api.services.trees.fetch(started.claim, blobs):
            for blob, part in unpacker.feed(piece):
                found[blob.sha256] = found.get(blob.sha256, b"") + part
        return found

    entries = decode_manifest((await fetch([tree]))[tree])
    blobs = await fetch(sorted({entry.content for entry in entries if not entry.is_link}))
    return {entry.path: _content(entry, blobs) for entry in entries}


def _content(entry: TreeEntry, blobs: dict[str, bytes]) -> bytes:
    return b"-> " + entry.content.encode() if entry.is_link else blobs[entry.content]


async def test_a_submission_has_exactly_the_working_tree(api: Api, person: Person, tmp_path: Path) -> None:
    made, commit = make_motley(tmp_path / "repository")

    done = await shell_in(person, made.path).type("submit", "--dirty", "-c", "make", "--json")

    job = done.json
    assert (job["source_type"], job["source_commit"], job["source_changes"]) == ("tree", commit, 9)
    patch = job["source_tree"][:12]
    assert f"commit {commit[:7]} + patch {patch} (3 changed, 4 new, 2 deleted)\n" in done.stderr
    assert await contents_of(api, person, job["source_tree"]) == {
        **{path: content for path, (content, _) in MOTLEY.items()},
        **{path: f"-> {target}".encode() for path, target in MOTLEY_LINKS.items()},
    }


async def test_the_second_time_only_what_changed_is_sent(person: Person, repository: Repository) -> None:
    for number in range(1200):
        repository.write(f"d{number % 7}/{number}", f"content {number}")
    repository.write("large", bytes(range(256)) * 4096)
    repository.commit()
    shell = shell_in(person, repository.path)

    first = await shell.type("submit", "--dirty", "-c", "make")
    same = await shell.type("submit", "--dirty", "-c", "make")
    repository.write("d1/1", "changed")
    changed = await shell.type("submit", "--dirty", "-c", "make")

    assert "sent 1201 of 1201 files, 1.1 MB" in first.stderr
    assert "no uncommitted changes" in first.stderr
    assert "sent " not in same.stderr
    assert "sent 1 of 1201 files, 7 B" in changed.stderr
    assert "(1 changed)" in changed.stderr


async def test_from_a_subdirectory_the_job_starts_there(person: Person, repository: Repository) -> None:
    repository.write("top", "1")
    repository.write("sub dir/file", "1")
    shell = shell_in(person, repository.path / "sub dir")

    there = await shell.type("submit", "--dirty", "-c", "make", "--json")
    elsewhere = await shell.type("submit", "--dirty", "--code-dir", "/job/code", "-c", "make", "--json")
    said = await shell.type("submit", "--dirty", "--job-dir", "/job/src", "-c", "make", "--json")

    assert there.json["job_dir"] == "/job/src/sub dir"
    assert elsewhere.json["job_dir"] == "/job/code/sub dir"
    assert said.json["job_dir"] == "/job/src"


async def test_run_follows_a_job_on_the_working_tree(
    api: Api, person: Person, repository: Repository
) -> None:
    repository.write("a", "1")
    process = await shell_in(person, repository.path).start("run", "--dirty", "--json", "--", "cat", "a")
    started = await start_job(api)
    await api.write_log(started, b"1\n")
    await api.finish(started, b"1\n")
    stdout, stderr = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 0
    assert started.spec.source_type == "tree"
    assert b"no commit yet + patch" in stderr
    assert all(line.startswith(b"{") for line in stdout.splitlines()), stdout


@pytest.mark.parametrize(
    "flags",
    [["--git-url", "https://example.org/r"], ["--source-path", "/srv/sources/x"], ["--source-type", "copy"]],
)
async def test_another_source_beside_it_is_refused(
    api: Api, person: Person, repository: Repository, flags: list[str]
) -> None:
    repository.write("a", "1")

    done = await shell_in(person, repository.path).type("submit", "--dirty", *flags, "-c", "make")

    assert done.code == 69
    assert "names another source" in done.stderr
    assert await api.count_jobs() == 0


async def test_outside_of_a_repository_nothing_is_sent(api: Api, person: Person, tmp_path: Path) -> None:
    done = await shell_in(person, tmp_path).type("run", "--dirty", "--", "make")

    assert done.code == 69
    assert "no working tree of a git repository" in done.stderr
    assert await api.count_jobs() == 0


async def test_a_file_past_the_limit_is_named_and_nothing_is_sent(
    api: Api, person: Person, repository: Repository
) -> None:
    repository.write("small", "1")
    repository.write("large.bin", bytes(9 * 1024**2))

    done = await shell_in(person, repository.path).type("submit", "--dirty", "-c", "make")

    assert done.code == 69
    assert "large.bin has 9.4 MB; a whole tree may have 8.4 MB" in done.stderr
    small = hashlib.sha256(b"1").hexdigest()
    assert await api.services.trees.list_missing(person.user_id, [small]) == [small]


async def test_what_is_left_out_is_told(person: Person, repository: Repository) -> None:
    repository.write("a", "1")
    for number in range(12):
        (repository.path / f"link{number}").symlink_to("/etc/passwd")

    done = await shell_in(person, repository.path).type("submit", "--dirty", "-c", "make")

    assert done.code == 0
    assert "left out: link0 is a link that leads out of the tree, or may" in done.stderr
    assert "left out: 2 more" in done.stderr
