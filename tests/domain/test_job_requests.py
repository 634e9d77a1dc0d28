"""From a request to a frozen job."""

from dataclasses import replace

import pytest

from reactorcide.domain.errors import InvalidInput
from reactorcide.domain.jobs import JobResources
from reactorcide.domain.submission import JobRequest, SubmissionPolicy, freeze_request

POLICY = SubmissionPolicy(
    default_queue_name="reactorcide-jobs",
    default_timeout_seconds=3600,
    default_runner_image="example.invalid/runner",
    git_allowed_protocols=("https", "ssh"),
    git_allowed_hosts=(),
    copy_source_roots=("/srv/sources",),
)
PLAIN = JobRequest(name="n", source_type="none", job_command="true")
GIT = JobRequest(name="n", source_type="git", job_command="true", git_url="https://example.com/a/b")


def faults_of(request: JobRequest) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        freeze_request(request, POLICY)
    return {fault.pointer: fault.detail for fault in refused.value.faults}


def test_every_default_is_filled_in() -> None:
    spec = freeze_request(PLAIN, POLICY)

    assert (spec.code_dir, spec.job_dir) == ("/job/src", "/job/src")
    assert (spec.queue_name, spec.timeout_seconds) == ("reactorcide-jobs", 3600)
    assert spec.runner_image == "example.invalid/runner"
    assert spec.queue_timeout_seconds == 86_400


def test_job_dir_falls_back_to_code_dir() -> None:
    assert freeze_request(replace(PLAIN, code_dir="/job/code"), POLICY).job_dir == "/job/code"


@pytest.mark.parametrize(
    "name", ["API_TOKEN", "MY_SECRET_2", "DB_PASSWORD", "db_passwd", "SSH_KEY", "PRIVATE_THING"]
)
def test_a_variable_named_like_a_credential_becomes_a_secret(name: str) -> None:
    spec = freeze_request(replace(PLAIN, job_env_vars={name: "value", "PLAIN": "x"}), POLICY)

    assert spec.job_secrets == {name: "value"}
    assert spec.job_env_vars == {"PLAIN": "x"}


def test_every_fault_is_told_at_once() -> None:
    request = replace(PLAIN, name="", priority=5000, queue_name="UPPER", git_ref="main", labels={"?": "x"})

    assert set(faults_of(request)) == {"/name", "/priority", "/queue_name", "/git_ref", "/labels"}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "x" * 256}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "a\x1bb"}, "/name"),
        ({"name": "   "}, "/name"),
        ({"job_command": "a\0b"}, "/job_command"),
        ({"job_command": "x" * 65_537}, "/job_command"),
        ({"timeout_seconds": 0}, "/timeout_seconds"),
        ({"timeout_seconds": 604_801}, "/timeout_seconds"),
        ({"priority": -1001}, "/priority"),
        ({"retry_on_lost": 11}, "/retry_on_lost"),
        ({"code_dir": "/job/../etc"}, "/code_dir"),
        ({"code_dir": "/jobs/x"}, "/code_dir"),
        ({"job_dir": "relative"}, "/job_dir"),
        ({"job_env_file": "../outside"}, "/job_env_file"),
        ({"job_env_file": "/etc/passwd"}, "/job_env_file"),
        ({"job_env_vars": {"": "x"}}, "/job_env_vars/"),
        ({"job_env_vars": {"A=B": "x"}}, "/job_env_vars/A=B"),
        ({"job_env_vars": {"1A": "x"}}, "/job_env_vars/1A"),
        ({"job_env_vars": {"REACTORCIDE_X": "x"}}, "/job_env_vars/REACTORCIDE_X"),
        ({"job_env_vars": {"A": "x\0"}}, "/job_env_vars/A"),
        ({"job_env_vars": {f"A{n}": "" for n in range(1001)}}, "/job_env_vars"),
        ({"job_env_vars": {"A": "x" * 262_144}}, "/job_env_vars"),
        ({"job_env_vars": {"A_TOKEN": "x"}, "job_secrets": {"A_TOKEN": "y"}}, "/job_secrets/A_TOKEN"),
        ({"resources": JobResources(pids=1)}, "/resources/pids"),
        ({"artifacts": ("../x",)}, "/artifacts/0"),
        ({"artifacts": ("/x",)}, "/artifacts/0"),
        ({"runner_image": "--privileged"}, "/runner_image"),
        ({"source_type": "copy"}, "/source_path"),
        ({"source_type": "copy", "source_path": "/srv/sources2/x"}, "/source_path"),
        ({"source_type": "copy", "source_path": "/srv/sources/../x"}, "/source_path"),
        ({"source_type": "git"}, "/git_url"),
        ({"source_path": "/srv/sources/x"}, "/source_path"),
    ],
)
def test_a_bad_value_is_refused_by_name(change: dict[str, object], pointer: str) -> None:
    assert set(faults_of(replace(PLAIN, **change))) == {pointer}


def test_values_at_their_limits_are_taken() -> None:
    request = replace(
        PLAIN,
        name="x" * 255,
        job_command="x" * 65_536,
        timeout_seconds=604_800,
        priority=-1000,
        labels={"team/app": "x" * 255},
        artifacts=("build/**", "v1..v2.log"),
    )

    assert freeze_request(request, POLICY).name == "x" * 255


def test_src_01_a_git_url_that_is_none_is_refused() -> None:
    for url in (
        "ext::sh -c x",
        "fd::17/foo",
        "file:///etc",
        "/etc",
        "git://example.com/x",
        "ssh://-oProxyCommand=x/y",
        "--upload-pack=x",
        "-c core.x=y",
        "https://example.com",
        "https://example.com/-x",
        "https://exa mple.com/x",
        "HTTP://example.com/x",
    ):
        assert set(faults_of(replace(GIT, git_url=url))) == {"/git_url"}, url


def test_src_09_a_written_address_that_is_not_public_is_refused() -> None:
    for host in (
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "localhost",
        "a.localhost",
    ):
        assert set(faults_of(replace(GIT, git_url=f"https://{host}/a"))) == {"/git_url"}, host


def test_a_listed_host_may_be_private() -> None:
    policy = replace(POLICY, git_allowed_protocols=("http",), git_allowed_hosts=("127.0.0.1:8080",))

    freeze_request(replace(GIT, git_url="http://127.0.0.1:8080/repo.git"), policy)
    with pytest.raises(InvalidInput):
        freeze_request(replace(GIT, git_url="http://127.0.0.1:8081/repo.git"), policy)


@pytest.mark.parametrize(
    "ref",
    ["--upload-pack=x", "-b", "--orphan=x", "a..b", "a b", "a~1", "a^", "x.lock", "a//b", "a:b", "", "a\nb"],
)
def test_src_03_a_ref_that_git_would_read_otherwise_is_refused(ref: str) -> None:
    assert set(faults_of(replace(GIT, git_ref=ref))) == {"/git_ref"}


@pytest.mark.parametrize(
    "ref", ["main", "v1.2.3", "feature/a-b", "refs/pull/1/head", "a" * 40, "dependabot/npm/x@1"]
)
def test_usual_refs_are_taken(ref: str) -> None:
    assert freeze_request(replace(GIT, git_ref=ref), POLICY).git_ref == ref


@pytest.mark.parametrize(
    "url", ["https://github.com/a/b.git", "ssh://git@example.com:2222/a/b", "git@example.com:a/b.git"]
)
def test_usual_urls_are_taken(url: str) -> None:
    assert freeze_request(replace(GIT, git_url=url), POLICY).git_url == url
