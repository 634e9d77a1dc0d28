"""Bringing a commit of a git repository into a directory (S7).

git is called by argument list only, with a made-up environment and settings of ours, as the
repository and the server may be hostile. In order:

1. `GitSource.checked`: the URL and the ref are judged by the rules of `runnerlib.spec.rules`, again;
2. `judge_remote`: the host's addresses are judged, and git is held to them;
3. an empty repository is made, the commit fetched (alone, if the server can), its files judged by
   their list, then checked out without the credential;
4. the commit that lies there is compared with the one that was asked for.
"""

import base64
import errno
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runnerlib.git_address import Remote, judge_remote
from runnerlib.git_process import (
    SAFE_SETTINGS,
    SAFE_VARIABLES,
    GitAnswer,
    as_environment,
    find_git,
    run_git,
)
from runnerlib.git_survey import TreeSurvey
from runnerlib.source_errors import SourceDenied, SourceFailed
from runnerlib.source_limits import SourceLimits
from runnerlib.spec import HostPolicy, JobSource
from runnerlib.spec.rules import check_git_ref, check_git_url, is_commit_sha, split_git_url

_PINNING_VERSION = (2, 37)
_INHERITED = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
_EVIDENCE_CHARACTERS = 300
_SHORT_SHA = re.compile(r"[0-9a-f]{7,63}")

_USERS_FAULTS = (
    (re.compile(r"couldn't find remote ref"), "the repository has no such branch, tag or ref"),
    (
        re.compile(r"returned error: 30\d|unable to update url base from redirection"),
        "the remote redirects to another address, which is not followed",
    ),
    (
        re.compile(
            r"repository '[^']*' not found|returned error: 404|does not appear to be a git repository"
        ),
        "the repository does not exist, or needs a credential",
    ),
    (
        re.compile(
            r"Authentication failed|could not read (?:Username|Password)|returned error: 40[13]"
            r"|Permission denied \(|terminal prompts disabled"
        ),
        "the remote wants a credential, or another one",
    ),
    (
        re.compile(r"fsck error|invalid path|invalid object|hasDotgit"),
        "the repository holds what git does not allow",
    ),
)


@dataclass(frozen=True)
class GitSource:
    """A repository and what to take from it; a ``ref`` of None is the remote's HEAD."""

    url: str
    """Without a credential."""
    ref: str | None
    authorization: str | None
    """Value of the Authorization header, for this host only."""

    @classmethod
    def checked(cls, source: JobSource, policy: HostPolicy) -> "GitSource":
        """Judge the text of a git source. Raises SourceDenied."""
        url = source.url or ""
        fault = check_git_url(url, policy.git_allowed_protocols, policy.git_allowed_hosts)
        if fault:
            raise SourceDenied(f"git_url {fault}")
        fault = check_git_ref(source.ref) if source.ref else None
        if fault:
            raise SourceDenied(f"git_ref {fault}")
        bare, user, password = _without_credential(url)
        authorization = None
        if user is not None:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            authorization = f"Basic {pair}"
        return cls(bare, source.ref or None, authorization)

    @property
    def wanted_sha(self) -> str | None:
        """The commit id that was asked for, None if a name was."""
        return self.ref if self.ref and is_commit_sha(self.ref) else None


def credentials_in(url: str) -> tuple[str, ...]:
    """Return what of ``url`` must not be shown, as written and as meant.

    That is the password or, with none there, the user name: it is then often a token.
    """
    if _without_credential(url)[1] is None:
        return ()
    parts = urlsplit(url)
    secret = parts.password or parts.username or ""
    return tuple(dict.fromkeys((secret, unquote(secret)))) if secret else ()


def _without_credential(url: str) -> tuple[str, str | None, str]:
    """Return the URL without its user, and user and password; the user is None if there is none."""
    protocol, _, _, fault = split_git_url(url)
    parts = urlsplit(url) if not fault and protocol in ("http", "https") else None
    if parts is None or parts.username is None:
        return url, None, ""
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, unquote(parts.username), unquote(parts.password or "")


def check_out(
    source: JobSource, target: Path, policy: HostPolicy, limits: SourceLimits, log: Callable[[str], None]
) -> str:
    """Fetch and check out ``source`` into the empty directory ``target``; return the commit's id.

    What is left in ``target`` is an ordinary repository with a detached HEAD, whose ``origin`` has
    no credential.

    Raises:
        SourceDenied, SourceFailed, SourceStopped; OSError: the disk is full.
    """
    wanted = GitSource.checked(source, policy)
    remote = judge_remote(wanted.url, policy, limits.check_time)
    with tempfile.TemporaryDirectory(prefix="git-home-") as home:
        git = _Git(target, Path(home), remote, limits)
        git.check_version()
        git.make_repository(wanted)
        sha = git.fetch(wanted, log)
        git.survey(sha)
        git.check_out(sha)
    return sha


class _Git:
    def __init__(self, target: Path, home: Path, remote: Remote, limits: SourceLimits) -> None:
        self._program = find_git()
        self._target = target
        self._remote = remote
        self._limits = limits
        self._environment = _environment(home, remote)

    def check_version(self) -> None:
        """Refuse a git that cannot be held to an address where it has to be: it would ignore being told."""
        words = self._must(self._call("version", is_inside=False), "git does not run").stdout
        found = re.search(r"(\d+)\.(\d+)", words)
        version = (int(found[1]), int(found[2])) if found else (0, 0)
        if self._remote.http_options() and not self._remote.is_listed and version < _PINNING_VERSION:
            raise SourceFailed(
                f"{words.strip()} cannot be held to an address that was checked: install git 2.37 or newer, "
                f"or add {self._remote.host} to the allowed hosts"
            )

    def make_repository(self, source: GitSource) -> None:
        """Make an empty repository that knows ``source`` as its origin."""
        kind = "sha256" if source.wanted_sha and len(source.wanted_sha) == 64 else "sha1"
        # Not told where the work tree is: it would write that place, known to nobody in a sandbox, down.
        init = ("init", "--quiet", "--template=", f"--object-format={kind}", "--initial-branch=main")
        self._must(self._call(*init, is_inside=False), "no repository could be made")
        self._must(self._call("remote", "add", "--", "origin", source.url), "no repository could be made")

    def fetch(self, source: GitSource, log: Callable[[str], None]) -> str:
        """Fetch what is wanted, only that if possible; return the commit's id."""
        answer = self._fetch(source, "--depth=1", "--", "origin", source.ref or "HEAD")
        if answer.exit_code == 0:
            return self._commit_of(source, "FETCH_HEAD^{commit}")
        failure = _failure(answer, source.ref or "HEAD")
        is_final = not isinstance(failure, SourceFailed) or failure.is_users_fault
        if source.wanted_sha is None or is_final or "unable to access" in answer.stderr:
            raise failure
        # Not every server hands out a commit by its id: take all branches and tags and look there.
        log(f"the server does not give out {source.wanted_sha} alone: fetching all branches and tags")
        everything = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        answer = self._fetch(source, "--", "origin", *everything)
        if answer.exit_code != 0:
            raise _failure(answer, source.ref or "HEAD")
        return self._commit_of(source, f"{source.wanted_sha}^{{commit}}")

    def survey(self, sha: str) -> None:
        """Refuse a commit of too many or too large files, or of such that no host can have.

        A checkout holds the whole list of files in memory before it writes the first, and a few
        kilobytes of trees within trees can stand for more of them than any memory holds.
        """
        survey = TreeSurvey(self._target, self._limits)
        answer = self._call("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", sha, take=survey.take)
        if answer.exit_code != 0:
            raise _failure(answer, sha)

    def check_out(self, sha: str) -> None:
        """Write the files of the commit; no credential is near."""
        answer = self._call("checkout", "--quiet", "--detach", "--force", sha, "--")
        if answer.exit_code != 0:
            raise _failure(answer, sha)
        head = self._must(self._call("rev-parse", "--verify", "HEAD"), "the checkout failed").stdout.strip()
        if head != sha:
            raise SourceFailed(f"{head[:64]} was checked out in place of {sha}")

    def _fetch(self, source: GitSource, *arguments: str) -> GitAnswer:
        settings = dict(self._remote.http_options())
        if source.authorization:
            settings[f"http.{source.url}.extraHeader"] = f"Authorization: {source.authorization}"
        return self._call(
            "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", *arguments, settings=settings
        )

    def _commit_of(self, source: GitSource, name: str) -> str:
        answer = self._call("rev-parse", "--verify", "--quiet", "--end-of-options", name)
        sha = answer.stdout.strip()
        if answer.exit_code != 0 or not is_commit_sha(sha):
            raise SourceFailed(f"the repository has no commit {source.ref or 'HEAD'}", is_users_fault=True)
        if source.wanted_sha not in (None, sha):
            raise SourceFailed(f"commit {source.wanted_sha} was asked for, {sha} was given")
        return sha

    def _call(
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        is_inside: bool = True,
        take: Callable[[bytes], None] = lambda _: None,
    ) -> GitAnswer:
        place = (f"--git-dir={self._target / '.git'}", f"--work-tree={self._target}") if is_inside else ()
        return run_git(
            [self._program, *place, *arguments],
            cwd=self._target,
            env=self._environment
            | as_environment({**SAFE_SETTINGS, **self._allowed_protocol(), **(settings or {})}),
            limits=self._limits,
            take=take,
        )

    def _allowed_protocol(self) -> dict[str, str]:
        return {f"protocol.{self._remote.protocol}.allow": "always"}

    def _must(self, answer: GitAnswer, what: str) -> GitAnswer:
        if answer.exit_code != 0:
            raise SourceFailed(f"{what}: {_evidence(answer.stderr)}")
        return answer


def _environment(home: Path, remote: Remote) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if os.environ.get(name)}
    certificates = {
        theirs: inherited[name]
        for theirs, name in (("GIT_SSL_CAINFO", "SSL_CERT_FILE"), ("GIT_SSL_CAPATH", "SSL_CERT_DIR"))
        if name in inherited and theirs not in inherited
    }
    return {
        **inherited,
        **certificates,
        **SAFE_VARIABLES,
        "HOME": str(home),
        "GIT_ALLOW_PROTOCOL": remote.protocol,
        "GIT_SSH_COMMAND": remote.ssh_command(),
    }


def _failure(answer: GitAnswer, wanted: str) -> SourceFailed | OSError:
    # The server's own chatter proves nothing.
    said = "\n".join(line for line in answer.stderr.splitlines() if not line.startswith("remote:"))
    if "No space left on device" in said:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    evidence = _evidence(answer.stderr)
    for pattern, meaning in _USERS_FAULTS:
        if pattern.search(said):
            is_short = _SHORT_SHA.fullmatch(wanted) and not is_commit_sha(wanted)
            hint = " (a commit is named by all digits of its id)" if is_short else ""
            return SourceFailed(f"{meaning}: {wanted}{hint}: {evidence}", is_users_fault=True)
    return SourceFailed(f"git could not bring {wanted}: {evidence}")


def _evidence(text: str) -> str:
    """Return the last words of a message that a stranger may have written, fit to be shown."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = " | ".join(lines[-3:])
    return (
        "".join(c if c.isprintable() else " " for c in words)[-_EVIDENCE_CHARACTERS:] or "git gave no reason"
    )
