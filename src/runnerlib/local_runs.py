"""Runs on this machine: the spec that a configuration comes to, its folder, and what is kept of it."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runnerlib.configuration import RunConfig
from runnerlib.removal import remove_tree
from runnerlib.runtime import host_policy
from runnerlib.spec import JobSource, Resources, RunSpec
from runnerlib.spec.artifacts import ARTIFACTS_FILE, ARTIFACTS_FOLDER, decode_artifacts

_LONGEST_NAME = 60
_OURS = re.compile(r"run-[0-9a-f]{16}(\.spool)?\.1")
_YOUNG_SECONDS = 60.0
"""What is younger may be a run that has not taken hold of its folder yet."""


def new_job_id() -> str:
    """Return an id that no other run has."""
    return f"run-{os.urandom(8).hex()}"


def compose_spec(config: RunConfig, job_id: str, spool_dir: Path) -> RunSpec:
    """Return the frozen spec of a configured run; without a command it is one to look at only."""
    command = config.job_command or ""
    first = next((line.strip() for line in command.splitlines() if line.strip()), "job")
    named = dict(config.job_env)
    return RunSpec(
        job_id=job_id,
        job_name=config.name or first[:_LONGEST_NAME],
        attempt=1,
        command=command,
        source=JobSource(
            type=config.source_type,
            url=config.git_url,
            ref=config.git_ref,
            path=None if config.source_path is None else str(config.source_path),
        ),
        code_dir=config.code_dir,
        job_dir=config.job_dir,
        environment={name: value for name, value in named.items() if not config.is_secret(name)},
        secrets={name: value for name, value in named.items() if config.is_secret(name)}
        | dict(config.secrets),
        masked=config.secrets_list,
        env_file=config.env_file,
        image=config.runner_image,
        timeout_seconds=config.timeout_seconds,
        silence_timeout_seconds=config.silence_timeout_seconds,
        network=config.network,
        resources=Resources(cpu=config.cpu, memory_mb=config.memory_mb, pids=config.pids),
        artifacts=config.artifact_globs,
        plugins=config.plugins,
        spool_dir=str(spool_dir),
        workspace_root=str(config.work_dir),
        host=host_policy(config),
    )


def spool_path(work_dir: Path, job_id: str) -> Path:
    """Return where the spool of a run is: named as attempts are, so that clean-up knows it too."""
    return work_dir / f"{job_id}.spool.1"


@contextmanager
def spool_folder(work_dir: Path, job_id: str) -> Iterator[Path]:
    """Make the spool of a run beside its workspace, and remove it afterwards.

    What runs left there that were killed is removed first.

    Raises:
        OSError: it cannot be made.
    """
    work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_dead(work_dir)
    spool = spool_path(work_dir, job_id)
    spool.mkdir(mode=0o700)
    lock = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # While somebody holds it, the run is alive (`workspace.is_in_use`).
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield spool
    finally:
        remove_tree(spool)
        os.close(lock)


def put_artifacts(spool_dir: Path, folder: Path) -> int:
    """Put the artifacts of an ended run into ``folder``; return how many there were.

    What is there already under one of their names is replaced; nothing is written through a link.

    Raises:
        OSError: they cannot be put there.
    """
    listed = spool_dir / ARTIFACTS_FILE
    if not listed.exists():
        return 0
    found = decode_artifacts(listed.read_bytes())
    for artifact in found:
        target = folder.joinpath(*artifact.path.split("/"))
        for parent in reversed(target.relative_to(folder).parents):
            place = folder / parent
            if place.is_symlink() and place != folder:
                place.unlink()
            place.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(spool_dir / ARTIFACTS_FOLDER / str(artifact.number), target, follow_symlinks=False)
    return len(found)


def _remove_dead(work_dir: Path) -> None:
    """Remove what dead runs left; nothing that does not bear the name of one, wherever we were sent."""
    old = time.time() - _YOUNG_SECONDS
    names = set()
    for entry in os.scandir(work_dir):
        with suppress(FileNotFoundError):
            if _OURS.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < old:
                names.add(entry.name)
    if not names:
        return
    from runnerlib.cleanup import clean_up

    # What cannot be removed is none of this run's concern; `runnerlib cleanup` says why.
    with suppress(OSError):
        clean_up(work_dir, frozenset(names), spares_running=True)
