"""Git repositories to send the working trees of."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SETTINGS = (
    *("-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"),
    *("-c", "protocol.file.allow=always"),
)


@dataclass(frozen=True)
class Repository:
    """A repository and its working tree."""

    path: Path

    def git(self, *arguments: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", *_SETTINGS, *arguments],
            cwd=self.path,
            env={**kept, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> Path:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        return file

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a commit")
        return self.git("rev-parse", "HEAD")


def make_repository(path: Path) -> Repository:
    """Return a new repository without a commit."""
    path.mkdir(parents=True)
    made = Repository(path)
    made.git("init", "--quiet")
    return made


# What lies in a working tree of every kind, beside what `make_motley` leaves out of it.
MOTLEY = {
    ".gitignore": (b"*.o\nbuild/\n", 0o644),
    "changed.txt": (b"second\n", 0o644),
    "staged.txt": (b"staged and changed again\n", 0o644),
    "same.txt": (b"same\n", 0o644),
    "run.sh": (b"#!/bin/sh\necho ran\n", 0o755),
    "data.bin": (bytes(range(256)) * 40, 0o644),
    "größe €/日本.txt": ("ü\n".encode(), 0o644),
    "sub/deep/new file": (b"", 0o644),
    "kept.o": (b"tracked although ignored", 0o644),
}
MOTLEY_LINKS = {"link": "sub/deep/new file", "sub/up": "../changed.txt", "dangling": "nowhere"}


def make_motley(path: Path) -> tuple[Repository, str]:
    """Return a repository with every kind of change, and its commit.

    Changed are 3 files (one of them by its mode alone), 4 are new, 2 are deleted.
    """
    made = make_repository(path)
    for name in (".gitignore", "same.txt", "data.bin", "kept.o"):
        made.write(name, MOTLEY[name][0])
    for name in ("changed.txt", "staged.txt", "gone.txt", "removed.txt"):
        made.write(name, "first\n")
    made.write("run.sh", MOTLEY["run.sh"][0])
    (made.path / "link").symlink_to(MOTLEY_LINKS["link"])
    made.git("add", "--force", "kept.o")
    commit = made.commit()
    for name in ("changed.txt", "größe €/日本.txt", "sub/deep/new file"):
        made.write(name, MOTLEY[name][0])
    made.write("staged.txt", "staged\n")
    made.git("add", "staged.txt")
    made.write("staged.txt", MOTLEY["staged.txt"][0])
    (made.path / "run.sh").chmod(0o755)
    for name in ("sub/up", "dangling"):
        (made.path / name).symlink_to(MOTLEY_LINKS[name])
    (made.path / "gone.txt").unlink()
    made.git("rm", "--quiet", "removed.txt")
    made.write("ignored.o", "not to be sent")
    made.write("build/out", "not to be sent")
    made.write("new and staged", "x")
    made.git("add", "new and staged")
    (made.path / "new and staged").unlink()
    return made, commit
