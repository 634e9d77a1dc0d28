"""Which engine is found, what it is asked of images, and what its silence or refusal becomes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attempt_runs import IS_ROOT, Attempts
from fakes.fake_engine import ABSENT, INFO, SILENT, FakeEngine
from runnerlib.executors.engine import Engine, find_engine
from runnerlib.executors.images import check_reference, digest_of, take_image, without_credentials
from runnerlib.executors.port import ImageUnavailable, Interrupted, SandboxUnavailable
from runnerlib.spec import HostPolicy, Stop

IMAGE = "host/name:1"
DIGEST = f"sha256:{'b' * 64}"
WITHOUT_MOUNTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root's bubblewrap needs what can be taken from it")


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Have programs looked for in these folders, then among those of the system that no engine is in."""
    system = Path(os.fspath(folders[0])).parent / "system"
    system.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", ":".join([*map(str, folders), str(system)]))
    monkeypatch.delenv("CONTAINER_HOST", raising=False)


def test_docker_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("docker", "podman", "nerdctl"):
        FakeEngine(tmp_path / "bin", kind)
    only(monkeypatch, tmp_path / "bin")

    found = find_engine(None)

    assert (found.name, found.path, found.version) == ("docker", str(tmp_path / "bin" / "docker"), "9.9")
    assert (found.enforces_memory, found.enforces_pids, found.enforces_cpu) == (True, True, False)
    assert not found.is_rootless


def test_an_engine_that_does_not_answer_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeEngine(tmp_path / "bin", "docker", info=SILENT)
    FakeEngine(tmp_path / "bin", "nerdctl")
    only(monkeypatch, tmp_path / "bin")

    assert find_engine(None).name == "nerdctl"


@pytest.mark.parametrize("named", ["docker", "{bin}/docker"])
def test_a_named_engine_that_does_not_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    FakeEngine(tmp_path / "bin", "docker", info=SILENT)
    FakeEngine(tmp_path / "bin", "nerdctl")
    only(monkeypatch, tmp_path / "bin")

    with pytest.raises(SandboxUnavailable, match=r"docker .* does not answer: Cannot connect to the daemon"):
        find_engine(named.format(bin=tmp_path / "bin"))


def test_no_engine_at_all_is_said_with_every_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEngine(tmp_path / "bin", "docker", info=SILENT)
    only(monkeypatch, tmp_path / "bin")

    with pytest.raises(SandboxUnavailable, match=r"no container engine can be used: docker .*Cannot connect"):
        find_engine(None)
    with pytest.raises(SandboxUnavailable, match="'podman' is not installed"):
        find_engine("podman")


def test_podman_that_is_called_docker_is_known_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguised = FakeEngine(tmp_path / "bin", "podman").path.rename(tmp_path / "bin" / "docker")
    only(monkeypatch, tmp_path / "bin")

    assert find_engine(str(disguised)).name == "podman"


def test_a_rootless_daemon_is_known_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = INFO.replace("seccomp", "rootless").replace("true", "false")
    FakeEngine(tmp_path / "bin", "docker", info=f"echo '{told}'")
    only(monkeypatch, tmp_path / "bin")

    found = find_engine("docker")

    assert found.is_rootless
    assert not found.enforces_memory


class Talk:
    """Takes what is told of a pull."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


def engine_of(fake: FakeEngine) -> Engine:
    return Engine("docker", str(fake.path), "9.9", False, True, True, True)


def take(
    fake: FakeEngine, policy: str = "missing", seconds: float = 20, **asked: object
) -> tuple[object, list[str]]:
    talk = Talk()
    image = take_image(
        engine_of(fake),
        asked.pop("reference", IMAGE),  # type: ignore[arg-type]
        policy=policy,  # type: ignore[arg-type]
        limit_seconds=seconds,
        tell=talk,
        should_stop=asked.pop("should_stop", lambda: False),  # type: ignore[arg-type]
    )
    return image, talk.lines


def test_an_image_that_is_here_is_not_pulled(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path)

    image, told = take(fake)

    assert (image.id, image.digest) == (f"sha256:{'a' * 64}", DIGEST)  # type: ignore[attr-defined]
    assert [line.split()[0] for line in fake.asked()] == ["image"]
    assert told == []


def test_a_missing_image_is_pulled_and_the_log_says_so(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path, look=ABSENT, pull="echo layer 1; touch {folder}/pulled")

    image, told = take(fake)

    assert image.digest == DIGEST  # type: ignore[attr-defined]
    assert told == [f"pulling {IMAGE}", f"pulled {DIGEST}"]
    assert fake.asked()[1] == f"pull {IMAGE}"


def test_always_pulls_although_the_image_is_here(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path)

    take(fake, "always")

    assert [line.split()[0] for line in fake.asked()] == ["pull", "image"]


def test_never_pulls_nothing(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path, look=ABSENT)

    with pytest.raises(ImageUnavailable, match="host/name:1 is not on this host"):
        take(fake, "never")

    assert [line.split()[0] for line in fake.asked()] == ["image"]


def test_a_refused_pull_has_the_registrys_words_without_credentials(tmp_path: Path) -> None:
    words = "Error: https://me:pw@host/v2/: unauthorized; Authorization: Bearer abc.def token=xyz"
    fake = FakeEngine(tmp_path, look=ABSENT, pull=f"echo progress; echo '{words}' >&2; exit 1")

    with pytest.raises(ImageUnavailable) as caught:
        take(fake)

    assert str(caught.value) == (
        "the image host/name:1 cannot be pulled: Error: https://[REDACTED]@host/v2/: unauthorized;"
        " Authorization: Bearer [REDACTED] token=[REDACTED]"
    )


def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    chatter = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo layer $i; echo more $i; sleep 0.2; done"
    fake = FakeEngine(tmp_path, look=ABSENT, pull=f"{chatter}; touch {{folder}}/pulled")

    _, told = take(fake)

    assert 1 <= len(told[1:-1]) <= 3
    assert all(line.startswith(("layer", "more")) for line in told[1:-1])


def test_a_pull_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path, look=ABSENT, pull="echo layer; exec sleep 60")
    begun = time.monotonic()

    with pytest.raises(ImageUnavailable, match=r"longer than 0\.5 seconds"):
        take(fake, seconds=0.5)

    assert time.monotonic() < begun + 5


def test_a_pull_stops_when_the_attempt_has_to(tmp_path: Path) -> None:
    fake = FakeEngine(tmp_path, look=ABSENT, pull="echo layer; exec sleep 60")
    begun = time.monotonic()

    with pytest.raises(Interrupted):
        take(fake, should_stop=lambda: time.monotonic() > begun + 0.3)

    assert time.monotonic() < begun + 5


def test_an_attempt_is_cancelled_during_its_pull(tmp_path: Path, attempts: Attempts) -> None:
    fake = FakeEngine(tmp_path / "bin", look=ABSENT, pull="echo layer; exec sleep 60")
    host = HostPolicy(executor="container", container_engine=str(fake.path), container_user=_ours())
    job = attempts.start("true", host=host, image=IMAGE)
    job.wait_for(b"pulling host/name:1")

    job.send(Stop("cancel"))

    assert job.wait(10).status == "cancelled"


@pytest.mark.parametrize(
    "reference",
    [
        *(None, "", "-v", "--privileged", "a b", "a\nb", "a:b:c/", "/etc/passwd", "../x", "host/$(id)"),
        *(
            "docker-archive:file",
            "dir:5000/x",
            "oci:name",
            "containers-storage:x",
            "https://host/x",
            "x" * 600,
        ),
    ],
)
def test_what_is_no_reference_of_an_image_is_refused(tmp_path: Path, reference: str | None) -> None:
    fake = FakeEngine(tmp_path)

    with pytest.raises(ImageUnavailable):
        take(fake, reference=reference)

    assert fake.asked() == []


@pytest.mark.parametrize(
    "reference",
    ["busybox", "docker:27-dind", "host:5000/team/name:1.2", "a/b", f"host/name@{DIGEST}", f"n:1@{DIGEST}"],
)
def test_references_of_images_are_taken(reference: str) -> None:
    assert check_reference(reference) == reference


def test_the_digest_is_that_of_the_named_repository() -> None:
    one, two = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    known = [f"mirror.example/other@{one}", f"docker.io/library/busybox@{two}"]

    assert digest_of("abc", known, "busybox:1") == two
    assert digest_of("abc", known[:1], "busybox:1") == one
    assert digest_of("abc", [], "busybox") == "sha256:abc"
    assert digest_of("sha256:abc", [], "busybox") == "sha256:abc"


def test_ordinary_words_of_a_registry_stay() -> None:
    words = 'Get "https://host/v2/": dial tcp 127.0.0.1:443: connect: connection refused'

    assert without_credentials(words) == words


@needs_root
def test_auto_takes_a_container_where_bubblewrap_cannot_be_had(tmp_path: Path, attempts: Attempts) -> None:
    """The fake engine cannot run anything: that it was asked to is enough."""
    fake = FakeEngine(tmp_path / "bin")

    done = attempts.run(
        "true",
        image=IMAGE,
        host=HostPolicy(),
        launcher=[*WITHOUT_MOUNTS, "/usr/bin/env", f"PATH={tmp_path}/bin:/usr/bin:/bin"],
    )

    assert any(line.startswith("run ") for line in fake.asked())
    assert done.result.image_digest == DIGEST


@needs_root
def test_auto_says_why_there_is_neither(tmp_path: Path, attempts: Attempts) -> None:
    FakeEngine(tmp_path / "bin", info=SILENT)

    done = attempts.run(
        "true",
        image=IMAGE,
        host=HostPolicy(),
        launcher=[*WITHOUT_MOUNTS, "/usr/bin/env", f"PATH={tmp_path}/bin"],
    )

    assert done.result.reason == "sandbox_unavailable"
    assert "unshare: Operation not permitted; no container engine can be used" in (done.result.message or "")


@needs_root
def test_who_left_the_hosts_mounts_in_vain_comes_back_to_them() -> None:
    code = (
        "import ctypes, os; from runnerlib.executors.choice import _way_back;"
        " from runnerlib.executors.port import SandboxUnavailable\n"
        "before = os.readlink('/proc/self/ns/mnt')\n"
        "try:\n"
        "    with _way_back():\n"
        "        ctypes.CDLL(None).unshare(0x20000)\n"
        "        print(os.readlink('/proc/self/ns/mnt') != before)\n"
        "        raise SandboxUnavailable\n"
        "except SandboxUnavailable:\n"
        "    print(os.readlink('/proc/self/ns/mnt') == before)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)

    assert done.stdout == "True\nTrue\n"


def test_a_bubblewrap_job_loads_nothing_of_containers() -> None:
    code = (
        "import sys, runnerlib.attempt; from runnerlib.executors.choice import choose_executor;"
        " from runnerlib.spec import HostPolicy; runnerlib.attempt._load_what_jobs_need();"
        " choose_executor(HostPolicy(executor='process'), 'lazy.1');"
        " print([name for name in sys.modules if 'container' in name or name.endswith(('engine', 'images'))])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)

    assert done.stdout == "[]\n", done.stderr


def _ours() -> str:
    """Return a user whose files a daemon of root's can share with us."""
    return "runner" if os.geteuid() == 0 else f"{os.getuid()}:{os.getgid()}"
