"""B.3, S7, S8: sources from git, against a real server on loopback."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fakes.git_server import GitServer, commit_files, git
from runnerlib.source import (
    PreparedSource,
    SourceDenied,
    SourceFailed,
    SourceStopped,
    prepare_source,
    source_secrets,
)
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


def bring(
    url: str,
    target: Path,
    ref: str | None = None,
    *,
    server: GitServer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    lines: list[str] | None = None,
    run_as: tuple[int, int] | None = None,
    **policy: Any,
) -> PreparedSource:
    if server is not None:
        policy.setdefault("git_allowed_protocols", ("http",))
        policy.setdefault("git_allowed_hosts", (server.address,))
    return prepare_source(
        JobSource(type="git", url=url, ref=ref),
        target,
        HostPolicy(**policy),
        log=(lines if lines is not None else []).append,
        should_stop=should_stop,
        run_as=run_as,
    )


def processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if text.encode() in words:
            found.append(words.decode(errors="replace"))
    return found


def processes_left_with(text: str) -> list[str]:
    """As `processes_with`, when those that were killed have had a moment to be gone."""
    end = time.monotonic() + 5
    while (found := processes_with(text)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Canary:
    """Listens on loopback and counts who comes."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self._socket = socket.create_server(
            ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family
        )
        self.port = self._socket.getsockname()[1]

    def connections(self) -> int:
        self._socket.setblocking(False)
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    listener = Canary()
    yield listener
    listener.close()


# --- what is brought --------------------------------------------------------------------------------


def test_without_a_ref_the_head_of_the_remote_is_brought(server: GitServer, target: Path) -> None:
    prepared = bring(server.url, target, server=server)

    assert prepared.resolved_sha == server.head
    assert (target / "src/main.sh").read_text() == "echo hello\n"


@pytest.mark.parametrize(
    "ref", ["topic/one", "refs/heads/topic/one", "v1.0", "refs/tags/v1.0", "signed", "refs/pull/7/head"]
)
def test_branches_tags_and_full_refs_are_brought(server: GitServer, target: Path, ref: str) -> None:
    git(server.repo, "checkout", "--quiet", "-b", "topic/one")
    sha = commit_files(server.repo, {"topic": "1\n"})
    git(server.repo, "tag", "v1.0")
    git(server.repo, "tag", "-a", "-m", "words", "signed")
    git(server.repo, "update-ref", "refs/pull/7/head", sha)
    git(server.repo, "checkout", "--quiet", "main")

    prepared = bring(server.url, target, ref, server=server)

    assert prepared.resolved_sha == sha
    assert (target / "topic").exists()


@pytest.mark.parametrize("allow_any_sha", [True, False])
def test_an_old_commit_is_brought_by_its_id_whether_the_server_hands_it_out_or_not(
    server: GitServer, target: Path, allow_any_sha: bool
) -> None:
    server.allow_any_sha = allow_any_sha
    commit_files(server.repo, {"later": "2\n"})

    prepared = bring(server.url, target, server.head, server=server)

    assert prepared.resolved_sha == server.head
    assert not (target / "later").exists()


def test_a_commit_no_branch_leads_to_is_the_users_fault(server: GitServer, target: Path) -> None:
    server.allow_any_sha = False
    lost = commit_files(server.repo, {"lost": "x"})
    git(server.repo, "reset", "--quiet", "--hard", server.head)
    lines: list[str] = []

    with pytest.raises(SourceFailed, match=f"no commit {lost}") as failed:
        bring(server.url, target, lost, server=server, lines=lines)

    assert failed.value.is_users_fault
    assert lines == [f"the server does not give out {lost} alone: fetching all branches and tags"]


def test_only_one_commit_is_fetched(server: GitServer, target: Path) -> None:
    commit_files(server.repo, {"later": "2\n"})

    bring(server.url, target, "main", server=server)

    assert git(target, "rev-list", "--count", "HEAD") == "1"


def test_a_job_may_use_the_repository_that_is_left(server: GitServer, target: Path) -> None:
    bring(server.url, target, "main", server=server)

    assert git(target, "status", "--porcelain") == ""
    assert git(target, "log", "--format=%s") == "first"
    assert git(target, "config", "remote.origin.url") == server.url
    assert "worktree" not in (target / ".git/config").read_text()
    assert not list((target / ".git").glob("hooks/*"))


def test_the_tree_belongs_to_who_runs_the_job(server: GitServer, target: Path) -> None:
    owner = (12345, 12346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    outside = target.parent.parent / "outside"
    outside.write_text("host")
    (server.repo / "link").symlink_to(outside)
    commit_files(server.repo, {})

    bring(server.url, target, server=server, run_as=owner)

    found = {(p.lstat().st_uid, p.lstat().st_gid) for p in [target, *target.rglob("*")]}
    assert found == {owner}
    assert outside.stat().st_uid == os.geteuid()


def test_no_source_makes_an_empty_directory(target: Path) -> None:
    prepared = prepare_source(
        JobSource(type="none"), target, HostPolicy(), log=print, should_stop=lambda: False
    )

    assert prepared.resolved_sha is None
    assert list(target.iterdir()) == []


# --- whose fault it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "words"),
    [("nope", "no such branch"), ("0" * 40, "no commit"), ("refs/heads/nope", "no such branch")],
)
def test_a_ref_that_does_not_exist_is_the_users_fault(
    server: GitServer, target: Path, ref: str, words: str
) -> None:
    with pytest.raises(SourceFailed, match=words) as failed:
        bring(server.url, target, ref, server=server)

    assert failed.value.is_users_fault
    assert ref in str(failed.value)


def test_an_abbreviated_commit_id_is_told_to_be_one(server: GitServer, target: Path) -> None:
    with pytest.raises(SourceFailed, match="all digits of its id") as failed:
        bring(server.url, target, server.head[:10], server=server)

    assert failed.value.is_users_fault


def test_a_repository_that_does_not_exist_is_the_users_fault(server: GitServer, target: Path) -> None:
    with pytest.raises(SourceFailed, match="does not exist") as failed:
        bring(server.url + "-not", target, server=server)

    assert failed.value.is_users_fault


def test_an_empty_repository_is_the_users_fault(server: GitServer, target: Path) -> None:
    git(server.folder, "init", "--quiet", "empty")

    with pytest.raises(SourceFailed, match="no such branch") as failed:
        bring(server.url.replace("/repo", "/empty"), target, server=server)

    assert failed.value.is_users_fault


def test_a_server_that_is_not_there_is_not_the_users_fault(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(SourceFailed, match="git could not bring HEAD") as failed:
        bring(
            f"http://127.0.0.1:{port}/repo",
            target,
            git_allowed_protocols=("http",),
            git_allowed_hosts=("127.0.0.1",),
        )

    assert not failed.value.is_users_fault


def test_what_a_stranger_answered_is_shown_inert(server: GitServer, target: Path) -> None:
    server.manner = "garbage"

    with pytest.raises(SourceFailed) as failed:
        bring(server.url, target, server=server)

    assert str(failed.value).isprintable()
    assert len(str(failed.value)) < 600


def test_a_host_without_git_says_how_to_get_it(
    server: GitServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(target.parent))

    with pytest.raises(SourceFailed, match="apt-get install git") as failed:
        bring(server.url, target, server=server)

    assert not failed.value.is_users_fault


# --- SRC-01, 02, 03: options and other transports -----------------------------------------------------

HOSTILE_URLS = [
    "ext::sh -c 'touch MARKER'",
    "ext::sh% -c% touch% MARKER",
    "fd::17/foo",
    "file:///etc",
    "file://MARKER/..",
    "/etc",
    "./repo",
    "../repo",
    "repo",
    "git://127.0.0.1/repo",
    "git:repo",
    "ssh://-oProxyCommand=touch%20MARKER/x",
    "ssh://-oProxyCommand=touch${IFS}MARKER/x",
    "-oProxyCommand=touch MARKER:x",
    "ssh://host/-oProxyCommand=touch",
    "user@-oProxyCommand=x:path",
    "--upload-pack=touch MARKER",
    "-u touch",
    "-cprotocol.ext.allow=always",
    "-c core.sshCommand=touch",
    "http://example.org/repo",
    "ftp://example.org/repo",
    "https://example.org/repo\n--upload-pack=touch",
    "https://example.org/\x00repo",
    "",
    "https://",
    "https:///repo",
]


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_src_01_src_02_a_url_that_is_no_plain_remote_is_denied_on_the_worker(
    url: str, target: Path, marker: Path
) -> None:
    with pytest.raises(SourceDenied):
        bring(url.replace("MARKER", str(marker)), target, "main")

    assert not marker.exists()


@pytest.mark.parametrize(
    "ref",
    [
        "--upload-pack=touch MARKER",
        "--upload-pack=touch",
        "--orphan=x",
        "-b",
        "-",
        "+refs/heads/main",
        "main:refs/heads/x",
        "main^{commit}",
        "main~1",
        "a..b",
        "a b",
        "a\nb",
        "@{-1}",
        "refs/heads/*",
        "x.lock",
    ],
)
def test_src_03_a_ref_that_is_no_plain_name_is_denied_on_the_worker(
    server: GitServer, target: Path, marker: Path, ref: str
) -> None:
    with pytest.raises(SourceDenied):
        bring(server.url, target, ref.replace("MARKER", str(marker)), server=server)

    assert server.requests == []
    assert not marker.exists()


# --- SRC-05, 06, 08: hostile repositories ---------------------------------------------------------------


def hostile_settings(marker: Path) -> str:
    return (
        f'[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tfsmonitor = "touch {marker}"\n'
        f'\tsshCommand = "touch {marker}"\n\thooksPath = hooks\n\tpager = "touch {marker}"\n'
        f'[filter "lfs"]\n\tsmudge = "touch {marker}"\n\tclean = "touch {marker}"\n\trequired = true\n'
    )


def test_s7_whatever_came_from_outside_stands_behind_the_options_of_git(
    server: GitServer, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, stand_in = tmp_path / "calls", tmp_path / "bin" / "git"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\nprintf "%s\\0" "$@" >> {calls}\nprintf "\\n" >> {calls}\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")

    bring(server.url, target, "refs/heads/main", server=server)

    told = [line.split("\0") for line in calls.read_text().splitlines()]
    for outside in (server.url, "refs/heads/main"):
        places = [words[: words.index(outside)] for words in told if outside in words]
        assert places
        assert all("--" in before for before in places)


def test_src_05_hooks_and_nested_repositories_are_inert(
    server: GitServer, target: Path, marker: Path
) -> None:
    hook = f"#!/bin/sh\ntouch {marker}\n"
    commit_files(
        server.repo,
        {
            "hooks/post-checkout": hook,
            ".githooks/post-checkout": hook,
            "nested/HEAD": "ref: refs/heads/main\n",
            "nested/config": hostile_settings(marker),
            "nested/hooks/post-checkout": hook,
            "nested/objects/x": "",
            "nested/refs/x": "",
            "HEAD": "ref: refs/heads/main\n",
            "config": hostile_settings(marker),
            "objects/x": "",
            "refs/x": "",
            ".gitattributes": "* filter=lfs diff=lfs\n",
            ".gitconfig": hostile_settings(marker),
            "large.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        },
    )
    git(server.repo, "update-index", "--chmod=+x", "hooks/post-checkout", "nested/hooks/post-checkout")
    commit_files(server.repo, {})

    bring(server.url, target, "main", server=server)

    for arguments in (("status",), ("diff",), ("clean", "-n")):
        git(target, *arguments)
    assert (target / "large.bin").read_text().startswith("version https://git-lfs")
    assert not marker.exists()


def commit_tree(repo: Path, name: str, mode: str = "040000") -> str:
    """Commit a tree with an entry that git would not add."""
    inner = git(repo, "rev-parse", "HEAD^{tree}" if mode == "040000" else "HEAD:README")
    kind = "tree" if mode == "040000" else "blob"
    tree = subprocess.run(
        ["git", "mktree"],
        cwd=repo,
        input=f"{mode} {kind} {inner}\t{name}\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    sha = git(repo, "commit-tree", "-m", "bad", tree)
    git(repo, "update-ref", "refs/heads/bad", sha)
    return sha


@pytest.mark.parametrize(
    "name", [".git", ".GIT", ".Git", ".git ", ".git.", "git~1", ".g\u200cit", "..", ".git::$INDEX_ALLOCATION"]
)
def test_src_05_an_entry_that_looks_like_the_git_directory_is_refused(
    server: GitServer, target: Path, name: str
) -> None:
    commit_tree(server.repo, name)

    with pytest.raises(SourceFailed, match="what git does not allow") as failed:
        bring(server.url, target, "bad", server=server)

    assert failed.value.is_users_fault
    assert {entry.name for entry in target.iterdir()} <= {".git"}


@pytest.mark.parametrize(
    "aim", ["-u./payload", "../../outside", "/etc", "http://127.0.0.1:CANARY/x", "ext::sh -c x"]
)
def test_src_06_submodules_are_not_brought(server: GitServer, target: Path, canary: Canary, aim: str) -> None:
    url = aim.replace("CANARY", str(canary.port))
    commit_files(
        server.repo, {".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = {url}\n\tupdate = !touch y\n'}
    )
    git(server.repo, "update-index", "--add", "--cacheinfo", f"160000,{server.head},x")
    git(server.repo, "commit", "--quiet", "-m", "submodule")

    with suppress(SourceFailed):  # git itself may refuse such a .gitmodules
        bring(server.url, target, "main", server=server)

    assert not (target / "x").exists() or list((target / "x").iterdir()) == []
    assert not (target / "y").exists()
    assert canary.connections() == 0


def test_src_08_tracked_links_are_checked_out_as_links(server: GitServer, target: Path) -> None:
    (server.repo / "host").symlink_to("/etc/passwd")
    (server.repo / "up").symlink_to("../..")
    commit_files(server.repo, {})

    bring(server.url, target, server=server)

    assert stat.S_ISLNK((target / "host").lstat().st_mode)
    assert (target / "host").readlink() == Path("/etc/passwd")
    assert (target / "up").readlink() == Path("../..")


def test_src_08_a_tree_that_writes_through_its_own_link_stays_inside(
    server: GitServer, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (server.repo / "dir").symlink_to(outside)
    commit_files(server.repo, {})
    link = git(server.repo, "rev-parse", "HEAD:dir")
    inner = git(server.repo, "rev-parse", "HEAD:src")
    tree = subprocess.run(
        ["git", "mktree"],
        cwd=server.repo,
        input=f"120000 blob {link}\tdir\n040000 tree {inner}\tdir\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    git(server.repo, "update-ref", "refs/heads/bad", git(server.repo, "commit-tree", "-m", "bad", tree))

    with pytest.raises(SourceFailed):
        bring(server.url, target, "bad", server=server)

    assert list(outside.iterdir()) == []


# --- SRC-09: addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "169.254.169.254",
        "[64:ff9b::7f00:1]",
        "10.0.0.1",
        "192.168.1.1",
        "x.localhost",
    ],
)
@pytest.mark.parametrize("protocol", ["https", "ssh", "http"])
def test_src_09_an_address_that_is_not_public_is_denied_and_not_connected_to(
    host: str, protocol: str, target: Path, canary: Canary
) -> None:
    with pytest.raises(SourceDenied):
        bring(
            f"{protocol}://{host}:{canary.port}/repo", target, git_allowed_protocols=("https", "http", "ssh")
        )

    assert canary.connections() == 0


def answer_with(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Stand in for the name service: every name has these addresses. Returns the names asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:127.0.0.1"]])
@pytest.mark.parametrize("url", ["http://git.example.org:PORT/repo", "ssh://git@git.example.org:PORT/repo"])
def test_src_09_a_name_that_leads_to_an_inner_address_is_denied(
    monkeypatch: pytest.MonkeyPatch, target: Path, canary: Canary, addresses: list[str], url: str
) -> None:
    answer_with(monkeypatch, *addresses)

    with pytest.raises(SourceDenied, match="not public"):
        bring(url.replace("PORT", str(canary.port)), target, git_allowed_protocols=("http", "ssh"))

    assert canary.connections() == 0


def test_src_09_the_connection_goes_to_the_address_that_was_judged(
    monkeypatch: pytest.MonkeyPatch, server: GitServer, target: Path
) -> None:
    asked = answer_with(monkeypatch, "127.0.0.1")

    prepared = bring(
        f"http://git.example.org:{server.port}/repo",
        target,
        git_allowed_protocols=("http",),
        git_allowed_hosts=("git.example.org",),
    )

    assert prepared.resolved_sha == server.head  # git, in its own process, knows no such name
    assert asked == ["git.example.org"]


def test_src_09_a_redirect_is_not_followed(server: GitServer, target: Path, canary: Canary) -> None:
    server.manner = "redirect"
    server.redirect_to = f"http://127.0.0.1:{canary.port}"

    with pytest.raises(SourceFailed, match="redirects to another address") as failed:
        bring(server.url, target, server=server)

    assert failed.value.is_users_fault
    assert canary.connections() == 0


def test_src_09_a_proxy_of_the_worker_is_not_used(
    monkeypatch: pytest.MonkeyPatch, server: GitServer, target: Path, canary: Canary
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")

    bring(server.url, target, server=server)

    assert canary.connections() == 0


def test_a_name_nobody_knows_is_no_denial(target: Path) -> None:
    with pytest.raises(SourceFailed, match="could not be found"):
        bring("https://no-such-host.invalid/repo", target)


# --- SRC-11: credentials ----------------------------------------------------------------------------

PASSWORD = "p4ss%2Fword%40home"  # as written in a URL


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "server", user="bot", password="p4ss/word@home") as running:
        yield running


def test_src_11_a_credential_in_the_url_opens_the_repository_and_stays_out_of_it(
    private_server: GitServer, target: Path
) -> None:
    lines: list[str] = []
    url = private_server.url.replace("http://", f"http://bot:{PASSWORD}@")

    prepared = bring(url, target, server=private_server, lines=lines)

    everything = b"".join(p.read_bytes() for p in target.rglob("*") if p.is_file())
    assert prepared.resolved_sha == private_server.head
    for secret in (b"p4ss", b"Ym90On"):
        assert secret not in everything
        assert secret not in "\n".join(lines).encode()
    assert git(target, "config", "remote.origin.url") == private_server.url
    assert "extraheader" not in (target / ".git/config").read_text().lower()


def test_src_11_a_credential_is_in_no_argument_list(private_server: GitServer, target: Path) -> None:
    private_server.manner = "hang"
    url = private_server.url.replace("http://", f"http://bot:{PASSWORD}@")
    seen: list[str] = []

    def should_stop() -> bool:
        seen.extend(processes_with(f"127.0.0.1:{private_server.port}"))
        return len(private_server.requests) >= 3

    with pytest.raises(SourceStopped):
        bring(url, target, server=private_server, should_stop=should_stop)

    assert seen
    assert not [words for words in seen if "p4ss" in words or "Ym90On" in words]


def test_src_11_a_credential_is_not_in_the_words_of_a_failure(
    private_server: GitServer, target: Path
) -> None:
    url = private_server.url.replace("http://", "http://bot:wr0ng-p4ss@")

    with pytest.raises(SourceFailed, match="wants a credential") as failed:
        bring(url, target, server=private_server)

    assert failed.value.is_users_fault
    assert "wr0ng" not in str(failed.value)


def test_src_11_a_private_repository_without_credential_fails_at_once(
    private_server: GitServer, target: Path
) -> None:
    with pytest.raises(SourceFailed, match="wants a credential") as failed:
        bring(private_server.url, target, server=private_server)

    assert failed.value.is_users_fault


def test_src_11_a_credential_is_sent_to_its_host_only(
    private_server: GitServer, target: Path, tmp_path: Path
) -> None:
    with GitServer(tmp_path / "other") as other:
        private_server.manner = "redirect"
        private_server.redirect_to = f"http://{other.address}"

        with pytest.raises(SourceFailed):
            bring(
                private_server.url.replace("http://", f"http://bot:{PASSWORD}@"),
                target,
                git_allowed_protocols=("http",),
                git_allowed_hosts=("127.0.0.1",),
            )

        assert other.requests == []


def test_what_failed_for_another_reason_is_not_tried_again_with_all_branches(
    private_server: GitServer, target: Path
) -> None:
    lines: list[str] = []

    with pytest.raises(SourceFailed, match="wants a credential"):
        bring(private_server.url, target, private_server.head, server=private_server, lines=lines)

    assert lines == []
    assert len(private_server.requests) == 1


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://bot:p4ss%2Fword@host/x", {"p4ss%2Fword", "p4ss/word"}),
        ("https://ghp_0123456789@host/x", {"ghp_0123456789"}),
        ("https://host/x", set()),
        ("ssh://git@host/x", set()),
        ("git@host:x", set()),
    ],
)
def test_src_11_the_credentials_in_a_url_are_named_for_masking(url: str, secrets: set[str]) -> None:
    assert set(source_secrets(JobSource(type="git", url=url))) == secrets


def test_nothing_of_the_workers_settings_reaches_git(
    monkeypatch: pytest.MonkeyPatch, server: GitServer, target: Path, marker: Path
) -> None:
    home = target.parent.parent / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f"[core]\n\tfsmonitor = touch {marker}\n[user]\n\tname = worker\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_TRACE", str(marker))
    monkeypatch.setenv("GIT_DIR", str(home))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {marker}")

    prepared = bring(server.url, target, server=server)

    assert prepared.resolved_sha == server.head
    assert not marker.exists()


# --- SRC-13, RUN-20: limits -------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["hang", "trickle"])
def test_src_13_a_server_that_hangs_or_trickles_is_left_in_time(
    server: GitServer, target: Path, manner: Any
) -> None:
    server.manner = manner
    began = time.monotonic()

    with pytest.raises(SourceFailed, match="longer than the 1 seconds") as failed:
        bring(server.url, target, server=server, source_timeout_seconds=1.0)

    assert time.monotonic() - began < 4
    assert not failed.value.is_users_fault
    assert processes_left_with(server.address) == []


def test_src_13_a_pack_that_expands_is_stopped_at_the_limit(server: GitServer, target: Path) -> None:
    large = server.repo / "zeros"
    with large.open("wb") as file:
        file.truncate(40 * 1024 * 1024)
    git(server.repo, "add", "zeros")
    git(server.repo, "commit", "--quiet", "-m", "large")
    large.unlink()
    limit = 4 * 1024 * 1024

    with pytest.raises(SourceFailed, match="larger than") as failed:
        bring(server.url, target, server=server, source_limit_bytes=limit)

    assert failed.value.is_users_fault
    assert sum(p.stat().st_blocks * 512 for p in target.rglob("*") if p.is_file()) < 40 * 1024 * 1024
    assert processes_left_with(str(target)) == []


def test_src_13_too_many_files_are_stopped(server: GitServer, target: Path) -> None:
    commit_files(server.repo, {f"many/{number}": str(number) for number in range(300)})

    with pytest.raises(SourceFailed, match="more than the 200 files") as failed:
        bring(server.url, target, server=server, source_limit_files=200)

    assert failed.value.is_users_fault


def test_run_20_git_is_gone_soon_after_the_stop(server: GitServer, target: Path) -> None:
    server.manner = "hang"
    stopped = threading.Event()
    stopped_at: list[float] = []

    def stop_when_it_hangs() -> bool:
        if len(server.requests) >= 3 and not stopped.is_set():
            stopped.set()
            stopped_at.append(time.monotonic())
        return stopped.is_set()

    with pytest.raises(SourceStopped):
        bring(server.url, target, server=server, should_stop=stop_when_it_hangs)

    assert time.monotonic() - stopped_at[0] < 1
    assert processes_left_with(server.address) == []


def test_git_does_not_outlive_a_runner_that_is_killed(server: GitServer, target: Path) -> None:
    server.manner = "hang"
    program = (
        "import sys; from pathlib import Path; from runnerlib.source import prepare_source\n"
        "from runnerlib.spec import HostPolicy, JobSource\n"
        "prepare_source(JobSource(type='git', url=sys.argv[1]), Path(sys.argv[2]),"
        " HostPolicy(git_allowed_protocols=('http',), git_allowed_hosts=('127.0.0.1',)),"
        " log=print, should_stop=lambda: False)"
    )
    runner = subprocess.Popen([sys.executable, "-c", program, server.url, str(target)])
    wait_until(lambda: len(server.requests) >= 3)

    runner.kill()
    runner.wait()

    wait_until(lambda: processes_with(server.address) == [])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_target_that_holds_something_is_left_alone(server: GitServer, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "mine").write_text("x")

    with pytest.raises(SourceFailed, match="not empty"):
        bring(server.url, target, server=server)

    assert (target / "mine").read_text() == "x"


def test_ssh_is_called_with_no_settings_but_ours_and_the_judged_address(
    monkeypatch: pytest.MonkeyPatch, server: GitServer, target: Path, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {record}\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    answer_with(monkeypatch, "127.0.0.1")

    prepared = bring(
        f"ssh://git@git.example.org{server.repo}", target, git_allowed_hosts=("git.example.org",)
    )

    words = record.read_text().splitlines()
    assert prepared.resolved_sha == server.head
    assert words[:2] == ["-F", os.devnull]
    assert {"-oBatchMode=yes", "-oHostName=127.0.0.1", "-oHostKeyAlias=git.example.org"} <= set(words)
    assert "git@git.example.org" in words


@pytest.mark.parametrize("version", ["git version 2.34.1", "git version 1.8"])
def test_s9_a_git_that_cannot_be_held_to_an_address_is_not_used_for_names(
    monkeypatch: pytest.MonkeyPatch, target: Path, tmp_path: Path, version: str
) -> None:
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text(f"#!{shutil.which('sh')}\necho {version}\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    answer_with(monkeypatch, "93.184.216.34")

    with pytest.raises(SourceFailed, match=r"2\.37 or newer"):
        bring("https://git.example.org/repo", target)
