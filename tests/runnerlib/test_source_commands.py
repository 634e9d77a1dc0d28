"""`checkout`, `copy` and `git`: what people and jobs ask of runnerlib about sources."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attempt_runs import wait_until
from fakes.git_server import GitServer


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "runnerlib.cli", *arguments], capture_output=True, timeout=60, cwd=cwd
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    run_git(path, "init", "-q", "-b", "main")
    for name in ("kept", "changed", "removed"):
        (path / name).write_text("1")
    commit(path, "first")
    return path


def run_git(folder: Path, *arguments: str) -> str:
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        **{
            f"GIT_{role}_{what}": f"{what.lower()}@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=variables, capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode().strip()


def commit(folder: Path, message: str) -> str:
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "-q", "-m", message)
    return run_git(folder, "rev-parse", "HEAD")


def test_files_changed_names_what_differs_from_a_commit(repository: Path) -> None:
    first = run_git(repository, "rev-parse", "HEAD")
    (repository / "changed").write_text("2")
    (repository / "removed").unlink()
    (repository / "süß new\nname").write_text("2")
    commit(repository, "second")

    lines = call("git", "files-changed", "-z", first, cwd=repository)
    spoken = call("git", "files-changed", first, "-C", str(repository))

    assert lines.stdout.split(b"\0") == [b"changed", b"removed", "süß new\nname".encode(), b""]
    assert spoken.stdout.startswith(b"changed\nremoved\n")


def test_files_changed_may_look_from_where_the_branches_parted(repository: Path) -> None:
    run_git(repository, "switch", "-q", "-c", "topic")
    (repository / "mine").write_text("2")
    commit(repository, "mine")
    run_git(repository, "switch", "-q", "main")
    (repository / "theirs").write_text("2")
    commit(repository, "theirs")
    run_git(repository, "switch", "-q", "topic")

    plain = call("git", "files-changed", "main", cwd=repository)
    parted = call("git", "files-changed", "--merge-base", "main", cwd=repository)

    assert plain.stdout == b"mine\ntheirs\n"
    assert parted.stdout == b"mine\n"


@pytest.mark.parametrize("ref", ["HEAD~1", "HEAD^", "main~", "HEAD^1~0"])
def test_files_changed_takes_an_ancestor(repository: Path, ref: str) -> None:
    (repository / "new").touch()
    commit(repository, "second")

    assert call("git", "files-changed", ref, cwd=repository).stdout == b"new\n"


@pytest.mark.parametrize(
    "ref",
    ["--output=/tmp/x", "-R", "a..b", "no-such-branch", "HEAD~99", "~1", "^HEAD", "HEAD^{/x}", "HEAD:x", ""],
)
def test_files_changed_refuses_what_names_no_commit(repository: Path, ref: str) -> None:
    told = call("git", "files-changed", "--", ref, cwd=repository)

    assert told.returncode == 1
    assert told.stderr.startswith(b"runnerlib: ")
    assert told.stdout == b""


def test_info_tells_branch_commit_dirt_and_remotes_without_credentials(repository: Path) -> None:
    head = run_git(repository, "rev-parse", "HEAD")
    run_git(repository, "remote", "add", "origin", "https://someone:swordfish@example.org/x.git")
    (repository / "new").touch()

    found = json.loads(call("git", "info", "--json", cwd=repository).stdout)
    run_git(repository, "switch", "-q", "--detach")
    spoken = call("git", "info", cwd=repository).stdout.decode()

    assert found == {
        "branch": "main",
        "commit": head,
        "is_dirty": True,
        "remotes": {"origin": "https://someone:[REDACTED]@example.org/x.git"},
    }
    assert "branch: detached HEAD" in spoken
    assert "swordfish" not in spoken


def test_info_of_a_repository_without_a_commit(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "-b", "trunk")

    found = json.loads(call("git", "info", "--json", cwd=tmp_path).stdout)

    assert (found["branch"], found["commit"]) == ("trunk", None)


def test_where_there_is_no_repository_git_commands_fail(tmp_path: Path) -> None:
    told = call("git", "info", cwd=tmp_path)

    assert told.returncode == 1
    assert b"not a git repository" in told.stderr


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there only if something of the repository ran."""
    return tmp_path / "ran"


def test_a_repository_cannot_have_us_run_its_programs(repository: Path, marker: Path) -> None:
    for name in ("core.fsmonitor", "core.pager", "diff.external", "core.sshCommand"):
        run_git(repository, "config", name, f"touch {marker}; false")
    run_git(repository, "config", "alias.diff", f"!touch {marker}")
    (repository / "changed").write_text("2")

    call("git", "files-changed", "HEAD", cwd=repository)
    call("git", "info", cwd=repository)

    assert not marker.exists()


def has_filter(folder: Path, marker: Path) -> None:
    """Have all files filtered by a program that leaves a mark, and seem touched."""
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "attributes").write_text("* filter=a.B\n")
    run_git(folder, "config", "filter.a.B.clean", f"touch {marker}; cat")
    run_git(folder, "config", "filter.a.B.process", f"touch {marker}")
    run_git(folder, "config", "filter.a.B.required", "true")
    (folder / "kept").write_text("7")


def test_info_runs_no_filter_of_the_repository(repository: Path, marker: Path) -> None:
    has_filter(repository, marker)

    told = call("git", "info", cwd=repository)

    assert b"dirty:  yes" in told.stdout, told.stderr
    assert not marker.exists()


def test_info_runs_no_filter_of_a_submodule(repository: Path, tmp_path: Path, marker: Path) -> None:
    run_git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repository), "sub")
    commit(repository, "submodule")
    (repository / "sub" / ".git").unlink()
    (repository / ".git" / "modules" / "sub").rename(repository / "sub" / ".git")
    run_git(repository, "config", "--file", "sub/.git/config", "--unset", "core.worktree")
    has_filter(repository / "sub", marker)

    told = call("git", "info", cwd=repository)

    assert b"dirty:  no" in told.stdout, told.stderr
    assert not marker.exists()


def test_info_uses_the_filters_of_the_user(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text('[filter "fold"]\n\tclean = tr 7 1\n')
    monkeypatch.setenv("HOME", str(home))
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "attributes").write_text("* filter=fold\n")
    (repository / "kept").write_text("7")

    assert b"dirty:  no" in call("git", "info", cwd=repository).stdout


@pytest.mark.parametrize(
    ("name", "value", "url"),
    [
        ("protocol.ext.allow", "always", "ext::touch MARKER"),
        ("core.sshCommand", "touch MARKER;", "ssh://localhost/x"),
        ("remote.origin.uploadpack", "touch MARKER;", "/nonexistent"),
    ],
)
def test_what_a_partial_clone_lacks_is_not_fetched_by_its_own_ways(
    repository: Path, marker: Path, name: str, value: str, url: str
) -> None:
    first, tree = (run_git(repository, "rev-parse", word) for word in ("HEAD", "HEAD^{tree}"))
    (repository / "new").touch()
    commit(repository, "second")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    settings = {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": url.replace("MARKER", str(marker)),
        "protocol.allow": "always",
        "protocol.ssh.allow": "always",
        "protocol.file.allow": "always",
        name: value.replace("MARKER", str(marker)),
    }
    for key, told in settings.items():
        run_git(repository, "config", key, told)

    told = call("git", "files-changed", first, cwd=repository)

    assert told.returncode == 1
    assert not marker.exists()


def test_info_lets_no_setting_of_the_repository_hide_new_files(repository: Path) -> None:
    run_git(repository, "config", "status.showUntrackedFiles", "no")
    (repository / "new").touch()

    assert b"dirty:  yes" in call("git", "info", cwd=repository).stdout


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://bot:sword[fish@example.org/x", "https://[REDACTED]@example.org/x"),
        ("https://swordfish@example.org/x", "https://[REDACTED]@example.org/x"),
        ("https://example.org/x?private_token=swordfish", "https://example.org/x?[REDACTED]"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("git@example.org:x", "git@example.org:x"),
        ("../x", "../x"),
    ],
)
def test_info_shows_of_a_remote_what_is_no_secret(repository: Path, url: str, shown: str) -> None:
    run_git(repository, "config", "remote.up.url", url)
    run_git(repository, "config", "remote.bare.fetch", "+refs/heads/*:refs/remotes/bare/*")

    assert json.loads(call("git", "info", "--json", cwd=repository).stdout)["remotes"] == {"up": shown}


def test_info_shows_what_a_stranger_wrote_inert(repository: Path) -> None:
    run_git(repository, "config", "remote.up.url", "https://example.org/\x1b]0;title\x07")

    assert b"\x1b" not in call("git", "info", cwd=repository).stdout


def test_checkout_brings_a_commit_and_prints_its_id(repository: Path, tmp_path: Path) -> None:
    head = run_git(repository, "rev-parse", "HEAD")

    told = call(
        "checkout", f"file://{repository}", "--allow-protocol", "file", "--code-dir", str(tmp_path / "code")
    )

    assert told.stdout.decode().strip() == head, told.stderr
    assert (tmp_path / "code" / "kept").read_text() == "1"


def test_checkout_refuses_what_a_worker_would_refuse(repository: Path, tmp_path: Path) -> None:
    told = call("checkout", f"file://{repository}", "--code-dir", str(tmp_path / "code"))

    assert told.returncode == 1
    assert b"protocol 'file' is not allowed" in told.stderr


def test_copy_takes_a_directory_and_refuses_one_that_is_full(tmp_path: Path) -> None:
    (tmp_path / "from" / "a").mkdir(parents=True)
    (tmp_path / "from" / "a" / "b").write_text("c")

    first = call("copy", str(tmp_path / "from"), "--code-dir", str(tmp_path / "to"))
    second = call("copy", str(tmp_path / "from"), "--code-dir", str(tmp_path / "to"))

    assert first.returncode == 0, first.stderr
    assert (tmp_path / "to" / "a" / "b").read_text() == "c"
    assert second.returncode == 1
    assert b"is not empty" in second.stderr


def test_sources_go_where_the_variable_says(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REACTORCIDE_CODE_DIR", str(tmp_path / "told"))

    copied = call("copy", str(repository))

    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "told" / "kept").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_checkout_that_fails_leaves_nothing_and_can_be_tried_again(
    repository: Path, tmp_path: Path, is_there: bool
) -> None:
    code = tmp_path / "code"
    if is_there:
        code.mkdir()
    arguments = ("checkout", f"file://{repository}", "--allow-protocol", "file", "--code-dir", str(code))

    failed = call(*arguments, "--ref", "no-such-branch")
    left = list(tmp_path.glob("code/*")), code.exists()
    again = call(*arguments)

    assert failed.returncode == 1
    assert left == ([], is_there)
    assert again.returncode == 0, again.stderr


def test_a_source_that_is_refused_leaves_alone_what_was_there(repository: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "mine").touch()

    told = call("checkout", f"file://{repository}", "--allow-protocol", "file", "--code-dir", str(code))

    assert told.returncode == 1
    assert [path.name for path in code.iterdir()] == ["mine"]


def test_an_interrupted_checkout_leaves_nothing(tmp_path: Path) -> None:
    code = tmp_path / "code"
    with GitServer(tmp_path / "server") as server:
        server.manner = "hang"
        options = ("--allow-host", server.address, "--allow-protocol", "http", "--code-dir", str(code))
        running = subprocess.Popen(
            [sys.executable, "-P", "-m", "runnerlib.cli", "checkout", server.url, *options],
            stderr=subprocess.PIPE,
        )
        wait_until(lambda: len(server.requests) >= 3, 30)

        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)

    assert running.returncode == 130, said
    assert b"Traceback" not in said
    assert not code.exists()
