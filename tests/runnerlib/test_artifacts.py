"""Collecting what a job left: only its own regular files, whole, and nothing through a link (RUN-18)."""

import hashlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, Attempts
from runnerlib import artifacts
from runnerlib.artifacts import CollectionTerms, Globs, collect_artifacts
from runnerlib.spec import HostPolicy, Stop
from runnerlib.spec.artifacts import CollectedArtifact, decode_artifacts

HOST_SECRET = b"of the host"


@dataclass
class Leaving:
    """The folder of a job that has ended, and what collecting it told."""

    home: Path
    lines: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.home / "job" / "artifacts"

    @property
    def spool(self) -> Path:
        return self.home / "spool"

    def collect(
        self,
        *globs: str,
        limit_bytes: int = 1024**3,
        may_move: bool = True,
        owner: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, CollectedArtifact]:
        """Collect, check that what was listed is what is there, and return it by path."""
        terms = CollectionTerms(
            globs or ("**",), limit_bytes, os.geteuid() if owner is None else owner, may_move
        )
        count = collect_artifacts(
            self.home / "job", self.spool, terms, tell=self.lines.append, should_stop=should_stop
        )
        found = listed(self.spool) if count else {}
        assert len(found) == count
        for artifact in found.values():
            kept = self.spool / "artifacts" / str(artifact.number)
            assert stat.S_ISREG(kept.lstat().st_mode)
            assert stat.S_IMODE(kept.lstat().st_mode) == 0o600
            assert kept.lstat().st_nlink == 1
            assert kept.stat().st_size == artifact.size_bytes
            assert hashlib.sha256(kept.read_bytes()).hexdigest() == artifact.sha256
        return found

    def content(self, artifact: CollectedArtifact) -> bytes:
        return (self.spool / "artifacts" / str(artifact.number)).read_bytes()

    def all_kept(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.spool.rglob("*") if path.is_file())


def listed(spool: Path) -> dict[str, CollectedArtifact]:
    return {entry.path: entry for entry in decode_artifacts((spool / "artifacts.json").read_bytes())}


@pytest.fixture
def leaving(tmp_path: Path) -> Leaving:
    made = Leaving(tmp_path)
    made.folder.mkdir(parents=True)
    made.spool.mkdir(mode=0o700)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "secret").write_bytes(HOST_SECRET)
    return made


def _socket(path: Path) -> None:
    # Bound by a short name: the path of a test may be too long for an address.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


HOSTILE = {
    "a link to a host file": (
        lambda at: (at / "x").symlink_to(at.parents[1] / "host/secret"),
        "it is a link",
    ),
    "a link to a host folder": (lambda at: (at / "x").symlink_to(at.parents[1] / "host"), "it is a link"),
    "a link that leads nowhere": (lambda at: (at / "x").symlink_to("nowhere"), "it is a link"),
    "a link to itself": (lambda at: (at / "x").symlink_to("x"), "it is a link"),
    "a link below a folder": (
        lambda at: ((at / "d").mkdir(), (at / "d/x").symlink_to("../../../host/secret")),
        "d/x: it is a link",
    ),
    "a pipe": (lambda at: os.mkfifo(at / "x"), "it is a pipe"),
    "a socket": (lambda at: _socket(at / "x"), "it is a socket"),
    "a name that is not UTF-8": (lambda at: (at / os.fsdecode(b"\xff")).touch(), "not UTF-8"),
    "a name with a newline": (
        lambda at: (at / "a\nreactorcide: b").touch(),
        r"a\nreactorcide: b: its name holds",
    ),
    "a name with an escape": (lambda at: (at / "\x1b]0;x").touch(), r"\x1b]0;x: its name holds"),
    "a name with a backslash": (lambda at: (at / "..\\x").touch(), "backslash"),
    "a path that is too long": (
        lambda at: _deep(at, 5, "d" * 250),
        "its path is longer than 1024 bytes",
    ),
}


def _deep(at: Path, levels: int, name: str) -> None:
    folder = os.open(at, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)


@pytest.mark.parametrize("case", HOSTILE)
def test_run_18_what_is_no_plain_file_is_left_out_and_named(leaving: Leaving, case: str) -> None:
    plant, why = HOSTILE[case]
    plant(leaving.folder)
    (leaving.folder / "good").write_text("good")

    found = leaving.collect()

    assert list(found) == ["good"]
    assert any(why in line for line in leaving.lines), leaving.lines
    assert all(line.isprintable() for line in leaving.lines)
    assert HOST_SECRET not in leaving.all_kept()


@pytest.mark.skipif(not IS_ROOT, reason="only root makes devices and files of others")
def test_run_18_devices_and_files_of_others_are_left_out(leaving: Leaving) -> None:
    (leaving.folder / "own").write_text("own")
    (leaving.folder / "other").write_text("other")
    os.chown(leaving.folder / "other", 12345, 12345)
    expected = ["left out the artifact other: it does not belong to the job"]
    try:
        os.mknod(leaving.folder / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        expected.insert(0, "left out the artifact device: it is a device")
    except PermissionError:
        pass  # the container of the tests may not

    found = leaving.collect()

    assert list(found) == ["own"]
    assert leaving.lines[:-1] == expected


@pytest.mark.parametrize("replaced", ["link", "file", "pipe"])
def test_run_18_a_folder_that_was_replaced_gives_nothing(leaving: Leaving, replaced: str) -> None:
    leaving.folder.rmdir()
    match replaced:
        case "link":
            leaving.folder.symlink_to(leaving.home / "host")
        case "file":
            leaving.folder.write_text("no folder")
        case _:
            os.mkfifo(leaving.folder)

    assert leaving.collect() == {}
    assert len(leaving.lines) == 1
    assert "no artifacts are kept" in leaving.lines[0]


@pytest.mark.parametrize("may_move", [True, False])
def test_run_18_a_folder_swapped_for_a_link_while_it_is_walked_leads_nowhere(
    leaving: Leaving, may_move: bool
) -> None:
    inner, aside = leaving.folder / "m", leaving.home / "aside"
    inner.mkdir()
    (inner / "secret").write_bytes(b"own")
    for number in range(200):
        (leaving.folder / f"a{number}").touch()
    ending = threading.Event()

    def swap() -> None:
        while not ending.is_set():
            inner.rename(aside)
            inner.symlink_to(leaving.home / "host")
            inner.unlink()
            aside.rename(inner)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(30):
            spool = leaving.home / f"spool-{number}"
            spool.mkdir()
            terms = CollectionTerms(("m/**",), 1024, os.geteuid(), may_move)
            collect_artifacts(
                leaving.home / "job", spool, terms, tell=leaving.lines.append, should_stop=lambda: False
            )
            assert HOST_SECRET not in b"".join(p.read_bytes() for p in spool.rglob("*") if p.is_file())
    finally:
        ending.set()
        swapper.join()


@pytest.mark.parametrize("may_move", [True, False])
def test_what_has_another_name_elsewhere_is_copied(leaving: Leaving, may_move: bool) -> None:
    elsewhere = leaving.home / "job" / "elsewhere"
    elsewhere.write_text("before")
    os.link(elsewhere, leaving.folder / "x")

    found = leaving.collect(may_move=may_move)
    elsewhere.write_text("after that")

    assert leaving.content(found["x"]) == b"before"


def test_what_is_still_open_is_copied_unless_nobody_is_left(leaving: Leaving) -> None:
    with (leaving.folder / "x").open("wb") as file:
        file.write(b"before")
        file.flush()
        found = leaving.collect(may_move=False)
        file.seek(0)
        file.write(b"after!")
        file.flush()

    assert leaving.content(found["x"]) == b"before"


def test_a_file_that_grows_is_kept_as_long_as_it_was(
    leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_PIECE_BYTES", 1000)
    (leaving.folder / "x").write_bytes(b"x" * 10_000)
    reads = 0

    def grow() -> bool:
        nonlocal reads
        reads += 1
        with (leaving.folder / "x").open("ab") as file:
            file.write(b"y" * 5_000)
        return reads > 1_000

    found = leaving.collect(may_move=False, should_stop=grow)

    assert 10_000 <= found["x"].size_bytes <= 20_000
    assert reads < 100


def test_moved_files_cost_no_copy_and_lose_their_rights(leaving: Leaving) -> None:
    (leaving.folder / "x").write_text("x")
    (leaving.folder / "x").chmod(0o4777)
    inode = (leaving.folder / "x").stat().st_ino

    found = leaving.collect()

    assert (leaving.spool / "artifacts" / str(found["x"].number)).stat().st_ino == inode
    assert not (leaving.folder / "x").exists()


def test_what_the_job_may_not_read_itself_is_kept_all_the_same(leaving: Leaving) -> None:
    (leaving.folder / "d").mkdir()
    (leaving.folder / "d" / "x").write_text("x")
    (leaving.folder / "d" / "x").chmod(0)
    (leaving.folder / "d").chmod(0)

    assert list(leaving.collect()) == ["d/x"]


def test_over_the_limit_what_fits_is_kept_and_the_rest_named(leaving: Leaving) -> None:
    for name, size in (("a", 60), ("b", 60), ("c", 40)):
        (leaving.folder / name).write_bytes(b"x" * size)
    os.truncate(leaving.folder / "b", 2**40)

    found = leaving.collect(limit_bytes=100)

    assert list(found) == ["a", "c"]
    assert leaving.lines == [
        "left out the artifact b: the artifacts of a job may take 100 bytes, and it has 1099511627776",
        "kept 2 artifacts, 100 bytes",
    ]


def test_no_more_than_ten_thousand_files_are_kept(leaving: Leaving) -> None:
    for number in range(10_001):
        (leaving.folder / f"{number:05}").touch()

    found = leaving.collect()

    assert len(found) == 10_000
    assert "09999" in found
    assert leaving.lines == ["artifacts: only the first 10000 are kept", "kept 10000 artifacts, 0 bytes"]


def test_many_that_are_left_out_do_not_flood_the_log(leaving: Leaving) -> None:
    for number in range(500):
        (leaving.folder / f"{number:03}").symlink_to("x")

    leaving.collect()

    assert len(leaving.lines) == 21
    assert leaving.lines[-1] == "left out 480 more artifacts, not listed"


def test_collecting_stops_when_it_is_told_to(leaving: Leaving) -> None:
    for number in range(10):
        (leaving.folder / str(number)).write_text("x")
    asked: Iterator[bool] = iter([False] * 7 + [True] * 1000)

    found = leaving.collect(should_stop=lambda: next(asked))

    assert 0 < len(found) < 10
    assert leaving.lines[0] == "artifacts: there was no more time to collect the rest"


@pytest.mark.parametrize(
    ("globs", "kept"),
    [
        (["**"], {"a.xml", "d/b.xml", "d/e/c.txt", ".hidden"}),
        (["*"], {"a.xml", "d/b.xml", "d/e/c.txt", ".hidden"}),
        (["*.xml"], {"a.xml"}),
        (["**/*.xml"], {"a.xml", "d/b.xml"}),
        (["d"], {"d/b.xml", "d/e/c.txt"}),
        (["d/"], {"d/b.xml", "d/e/c.txt"}),
        (["d/*.xml", "d/e/*"], {"d/b.xml", "d/e/c.txt"}),
        (["?.xml"], {"a.xml"}),
        (["[!a].xml", "**/[b-c].*"], {"d/b.xml", "d/e/c.txt"}),
        (["**/e/**"], {"d/e/c.txt"}),
        (["A.xml", "d/**/x"], set()),
        ([], set()),
    ],
)
def test_globs_choose_what_is_kept(leaving: Leaving, globs: list[str], kept: set[str]) -> None:
    wanted = Globs(globs)

    found = set()
    for path in ("a.xml", "d/b.xml", "d/e/c.txt", ".hidden"):
        state = wanted.start
        for name in path.split("/"):
            state = wanted.step(state, name)
        if wanted.matches(state):
            found.add(path)

    assert found == kept


def test_a_glob_made_to_be_slow_is_not() -> None:
    wanted = Globs(["**/" * 40 + "*a*a*a*a*a*b"] * 20)

    state = wanted.start
    for _ in range(100):
        state = wanted.step(state, "a" * 50)

    assert not wanted.matches(state)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("exit 3", "failed"),
        ("kill -KILL $$", "failed"),
        ("sleep 60", "timeout"),
    ],
)
def test_however_a_job_ends_its_artifacts_are_kept(attempts: Attempts, command: str, status: str) -> None:
    attempt = attempts.start(
        f'mkdir "$CI_ARTIFACTS_DIR/d"; echo left > "$CI_ARTIFACTS_DIR/d/x.json"; {command}', timeout_seconds=4
    )

    result = attempt.wait()

    assert (result.status, result.artifacts) == (status, 1)
    assert listed(attempt.spool)["d/x.json"].content_type == "application/json"
    assert b"kept 1 artifact, 5 bytes" in attempt.log
    assert not list(attempt.work.iterdir())


def test_a_cancelled_job_keeps_what_it_had_left(attempts: Attempts) -> None:
    attempt = attempts.start('echo left > "$CI_ARTIFACTS_DIR/x"; echo begun; sleep 60')
    attempt.wait_for(b"begun")

    attempt.send(Stop(how="cancel"))

    result = attempt.wait()
    assert (result.status, result.artifacts) == ("cancelled", 1)


@pytest.mark.parametrize("how", ["abandon", "hang up"])
def test_nothing_is_collected_for_nobody(attempts: Attempts, how: str) -> None:
    attempt = attempts.start('echo left > "$CI_ARTIFACTS_DIR/x"; echo begun; sleep 60')
    attempt.wait_for(b"begun")

    if how == "abandon":
        attempt.send(Stop(how="abandon"))
    else:
        attempt.hang_up()

    assert attempt.wait().artifacts == 0


def test_src_08_links_of_a_job_bring_no_host_content_into_its_artifacts(attempts: Attempts) -> None:
    attempt = attempts.start(
        'cd "$CI_ARTIFACTS_DIR"; ln -s /etc/passwd p; ln -s / root; ln -s ../../../../../../etc up;'
        " rmdir ../artifacts 2>/dev/null; mkfifo q; echo own > own; ln own own2"
    )

    result = attempt.wait()

    assert result.artifacts == 2
    assert sorted(listed(attempt.spool)) == ["own", "own2"]
    assert b"root:" not in b"".join(p.read_bytes() for p in (attempt.spool / "artifacts").iterdir())
    for name in (b"p", b"root", b"up"):
        assert b"left out the artifact " + name + b": it is a link" in attempt.log


def test_a_job_without_artifacts_says_nothing_of_them(attempts: Attempts) -> None:
    attempt = attempts.run("true")

    assert attempt.result.artifacts == 0
    assert attempt.log == b""


def test_an_unsandboxed_job_keeps_its_artifacts_as_copies(attempts: Attempts) -> None:
    attempt = attempts.run(
        'echo left > "$CI_ARTIFACTS_DIR/x"', host=HostPolicy(unsandboxed=True, cancel_grace_seconds=1)
    )

    assert list(listed(attempt.spool)) == ["x"]
