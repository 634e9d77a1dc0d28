"""A real container engine for tests, with storage, configuration and image of its own below one folder."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from attempt_runs import Attempt, Attempts
from runnerlib.spec import HostPolicy

IMAGE = "localhost/reactorcide-tests/shell:1"
IMAGE_WITHOUT_SHELL = "localhost/reactorcide-tests/no-shell:1"
IMAGE_PATH = "/bin:/opt/image/bin"
BUSYBOX = "/bin/busybox"


@dataclass(frozen=True)
class ContainerHost:
    """Where podman keeps everything for these tests."""

    folder: Path
    environment: dict[str, str]

    def podman(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["podman", *arguments],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def containers(self) -> list[str]:
        """Return the names of all containers, running or not."""
        return self.podman("ps", "--all", "--format", "{{.Names}}").split()

    def close(self) -> None:
        self.podman("rm", "--force", "--all", "--time=0", check=False)
        # What belongs to other users inside of a user namespace can be removed only in there.
        if os.geteuid() != 0:
            self.podman("unshare", "rm", "-rf", str(self.folder / "graph"), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class ContainerAttempts(Attempts):
    """Attempts in containers of the test image."""

    def __init__(self, folder: Path, host: ContainerHost) -> None:
        super().__init__(folder)
        self.engine = host

    def policy(self, **asked: object) -> HostPolicy:
        usual = {"executor": "container", "container_engine": "podman", "cancel_grace_seconds": 1}
        return HostPolicy(**(usual | {"container_pull": "never"} | asked))  # type: ignore[arg-type]

    def start(self, command: str, **asked: object) -> Attempt:  # type: ignore[override]
        usual = {"image": IMAGE, "network": "none", "host": self.policy()}
        return super().start(command, **(usual | asked))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def container_host() -> Iterator[ContainerHost]:
    """A podman that runs containers, or no test of these."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed: no container is run by these tests")
    if not Path("/usr/bin/busybox").exists() and not Path(BUSYBOX).exists():
        pytest.skip("busybox is not installed: there is nothing to make an image of")
    # A short path: the engine makes Unix sockets below it.
    host = _make_host(Path(tempfile.mkdtemp(prefix="rcc-")))
    try:
        tried = subprocess.run(
            ["podman", "run", "--rm", "--network=none", *_own_limits(), IMAGE, "/bin/true"],
            env=os.environ | host.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if tried.returncode != 0:
            pytest.skip(f"podman cannot run a container here: {tried.stderr.strip()[-500:]}")
        yield host
    finally:
        host.close()


@pytest.fixture
def containers(
    tmp_path: Path, container_host: ContainerHost, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ContainerAttempts]:
    """Starts attempts in containers; what still runs at the end is killed."""
    for name, value in container_host.environment.items():
        monkeypatch.setenv(name, value)
    made = ContainerAttempts(tmp_path, container_host)
    yield made
    made.close()


def _make_host(folder: Path) -> ContainerHost:
    storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
    manager = 'cgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
    (folder / "storage.conf").write_text(storage)
    (folder / "containers.conf").write_text(f"[engine]\n{runtime}{manager}")
    (folder / "session").mkdir(mode=0o700)
    host = ContainerHost(
        folder,
        {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "XDG_RUNTIME_DIR": str(folder / "session"),
        },
    )
    environment = ["--change", f"ENV PATH={IMAGE_PATH}", "--change", "ENV FROM_IMAGE=yes"]
    host.podman("import", *environment, str(_pack(folder, "bin/busybox")), IMAGE, check=False)
    host.podman("import", str(_pack(folder, "busybox")), IMAGE_WITHOUT_SHELL, check=False)
    return host


def _pack(folder: Path, place: str) -> Path:
    """Pack busybox, with its commands beside it where it lies in a ``bin``, as an image's files."""
    program = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path(BUSYBOX)
    packed = folder / f"{place.replace('/', '-')}.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(program, place)
        if place.startswith("bin/"):
            for command in subprocess.check_output([program, "--list"], text=True).split():
                if command != "busybox":
                    link = tarfile.TarInfo(f"bin/{command}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    archive.addfile(link)
        for name, mode in (("tmp", 0o1777), ("etc", 0o755)):
            made = tarfile.TarInfo(name)
            made.type, made.mode = tarfile.DIRTYPE, mode
            archive.addfile(made)
    return packed


def _own_limits() -> list[str]:
    """Return limits that a host without the right to raise them can set."""
    return ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
