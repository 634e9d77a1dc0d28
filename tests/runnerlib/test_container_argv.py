"""What an engine is told: pure, for every plan, whatever names are in it."""

import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerlib.executors.container_argv import (
    ATTEMPT_LABEL,
    ContainerPlan,
    JobUser,
    PlanRefused,
    attempt_label,
    choose_user,
    compose_argv,
    container_name,
    parse_user,
)
from runnerlib.executors.container_entry import READY, NameRefused, compose_entry
from runnerlib.executors.port import Limits

LIMITS = Limits(memory_bytes=64 * 1024**2, pids=20, cpu=0.5, open_files=1024, file_bytes=10**9)
PLAN = ContainerPlan(
    engine="docker",
    name="reactorcide-job.1-0a",
    attempt="job.1",
    owner="uid-0.pid-7",
    image_id="sha256:abc",
    user=JobUser((1001, 1001), (1001, 1001)),
    workspace="/work/job.1/job",
    directory="/job/src",
    channel="/work/job.1/channel",
    read_only_paths=("/opt/tools",),
    limits=LIMITS,
    enforces_memory=True,
    enforces_pids=True,
    enforces_cpu=True,
    most_processes=None,
    network="none",
    is_read_only=True,
    temp_bytes=32 * 1024**2,
    relabels=False,
)
SHELLS = [
    argv for argv in (["dash"], ["bash", "--posix"], ["busybox", "sh"], ["/bin/sh"]) if shutil.which(argv[0])
]


def test_a_container_is_told_all_that_shuts_it_in() -> None:
    assert compose_argv(PLAN) == [
        *("run", "--interactive", "--pull=never", "--name=reactorcide-job.1-0a"),
        *("--label=reactorcide.attempt=job.1", "--label=reactorcide.owner=uid-0.pid-7"),
        *("--log-driver=none", "--hostname=job", "--user=1001:1001"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--stop-timeout=0"),
        *("--ulimit=core=0:0", "--ulimit=nofile=1024:1024", "--ulimit=fsize=1000000000:1000000000"),
        *("--memory=67108864b", "--memory-swap=67108864b", "--cpus=0.5", "--pids-limit=22", "--shm-size=64m"),
        *("--volume=/work/job.1/job:/job", "--volume=/work/job.1/channel:/run/reactorcide"),
        "--volume=/opt/tools:/opt/tools:ro",
        "--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777,size=33554432",
        *("--no-healthcheck", "--network=none", "--read-only", "--workdir=/job/src"),
        *("--entrypoint=/bin/sh", "sha256:abc", "-s"),
    ]


def test_limits_that_an_engine_ignores_are_not_said() -> None:
    plan = replace(PLAN, enforces_memory=False, enforces_pids=False, enforces_cpu=False)
    own_namespace = replace(plan, user=JobUser((1001, 1001), None, "keep-id:uid=1001,gid=1001"))

    assert not [part for part in compose_argv(plan) if part.startswith(("--memory", "--pids", "--cpus"))]
    assert "--ulimit=nproc=22:22" in compose_argv(own_namespace)
    assert "--userns=keep-id:uid=1001,gid=1001" in compose_argv(own_namespace)


def test_podman_adds_nothing_of_its_own() -> None:
    argv = compose_argv(replace(PLAN, engine="podman", most_processes=4096))

    assert {"--http-proxy=false", "--detach-keys=", "--init=false", "--pid=private"} <= set(argv)
    assert "--ulimit=nproc=4096:4096" in argv


def test_nothing_is_said_of_a_network_that_is_the_engines_own() -> None:
    assert not [part for part in compose_argv(replace(PLAN, network=None)) if part.startswith("--network")]


def test_only_what_is_the_jobs_own_is_labelled_anew() -> None:
    argv = compose_argv(replace(PLAN, relabels=True))

    assert "--volume=/work/job.1/job:/job:Z" in argv
    assert "--volume=/opt/tools:/opt/tools:ro" in argv


@pytest.mark.parametrize("path", ["/with:colon", "relative", "-v"])
def test_a_path_that_an_engine_would_misread_is_refused(path: str) -> None:
    with pytest.raises(PlanRefused, match="cannot be mounted"):
        compose_argv(replace(PLAN, workspace=path))


@given(st.text(min_size=1, max_size=200))
def test_no_name_of_an_attempt_becomes_an_option(attempt: str) -> None:
    name = container_name(attempt, "0a")
    argv = compose_argv(replace(PLAN, attempt=attempt, name=name))
    usual = compose_argv(PLAN)

    assert len(argv) == len(usual)
    assert [part.partition("=")[0] for part in argv] == [part.partition("=")[0] for part in usual]
    assert all(letter.isascii() and (letter.isalnum() or letter in "_.-") for letter in name)
    assert f"--label={ATTEMPT_LABEL}={attempt_label(attempt)}" in argv


@given(st.text(max_size=80), st.text(max_size=80))
def test_attempts_do_not_share_a_label(one: str, other: str) -> None:
    assert (attempt_label(one) == attempt_label(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "ids"),
    [("runner", (1001, 1001)), ("5", (5, 5)), ("5:6", (5, 6)), ("root", (0, 0)), ("0:5", (0, 5))],
)
def test_users_are_read(text: str, ids: tuple[int, int]) -> None:
    assert parse_user(text, allows_root=True) == ids


@pytest.mark.parametrize(
    "text", ["root", "0", "0:5", "5:0", "00", "", "me", "-1", "5:", "5:6:7", "9999999999", "٥"]
)
def test_root_and_what_is_no_user_are_refused(text: str) -> None:
    with pytest.raises(PlanRefused):
        parse_user(text, allows_root=False)


ROOT, OURS, USUAL = (0, 0), (1000, 1000), (1001, 1001)


@pytest.mark.parametrize(
    ("engine", "is_rootless", "ours", "wanted", "user"),
    [
        ("docker", False, ROOT, USUAL, JobUser(USUAL, USUAL)),
        ("podman", False, ROOT, ROOT, JobUser(ROOT, ROOT)),
        ("podman", True, OURS, USUAL, JobUser(USUAL, None, "keep-id:uid=1001,gid=1001")),
        ("podman", True, OURS, ROOT, JobUser(ROOT, None)),
        ("docker", True, OURS, ROOT, JobUser(ROOT, None)),
        ("docker", True, OURS, USUAL, None),
        ("docker", True, ROOT, ROOT, None),
        ("podman", True, ROOT, USUAL, None),
        ("docker", False, OURS, OURS, JobUser(OURS, None)),
        ("docker", False, OURS, ROOT, None),
        ("docker", False, OURS, (7, 7), None),
    ],
)
def test_a_jobs_files_are_its_own_inside_and_ours_to_remove_outside(
    engine: str, is_rootless: bool, ours: tuple[int, int], wanted: tuple[int, int], user: JobUser | None
) -> None:
    if user is None:
        with pytest.raises(PlanRefused):
            choose_user(wanted, engine=engine, is_rootless=is_rootless, ours=ours, is_usual=False)
    else:
        found = choose_user(wanted, engine=engine, is_rootless=is_rootless, ours=ours, is_usual=False)
        assert found == user


def test_the_usual_user_gives_way_to_ours_at_an_engine_of_roots() -> None:
    found = choose_user(USUAL, engine="docker", is_rootless=False, ours=OURS, is_usual=True)

    assert found == JobUser(OURS, None)


@pytest.mark.parametrize("name", ["", "a b", "A;id", "1A", "A\n", "é", "A-B", "A=$(id)"])
def test_a_variable_of_no_name_is_refused(name: str) -> None:
    with pytest.raises(NameRefused):
        compose_entry("true", {name: "x"})


@pytest.mark.parametrize("shell", SHELLS, ids=lambda argv: argv[0])
@given(
    values=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6),
    code=st.integers(0, 255),
)
def test_every_shell_hands_on_values_and_command_byte_for_byte(
    shell: list[str], values: list[str], code: int
) -> None:
    variables = {f"V{number}": value for number, value in enumerate(values)}
    text = "".join(values).replace("'", "")
    command = f"printf '%s\\0' '{text}'; env -0; exit {code}"

    done = subprocess.run(
        [*shell, "-s"],
        input=compose_entry(command, variables),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=10,
        start_new_session=True,
    )

    first, *entries = done.stdout.decode().split("\0")
    seen = dict(entry.split("=", 1) for entry in entries if entry)
    assert first == text
    assert {name: seen.get(name) for name in variables} == variables
    assert done.returncode == code
    assert done.stderr == READY


@pytest.mark.parametrize("shell", SHELLS, ids=lambda argv: argv[0])
def test_a_name_that_a_shell_keeps_for_itself_does_not_end_it(shell: list[str]) -> None:
    readonly = ("UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO", "IFS", "PS4", "GROUPS")
    counted = ("RANDOM", "SRANDOM", "SECONDS", "HISTCMD", "LINENO", "EPOCHSECONDS", "BASHPID", "COLUMNS")
    variables = dict.fromkeys([*readonly, *counted], "not a number")
    variables |= {"TMOUT": "1", "LC_ALL": "xx_XX.GB18030", "LAST": "there"}

    done = subprocess.run(
        [*shell, "-s"],
        input=compose_entry('echo "$LAST"', variables),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=10,
        start_new_session=True,
    )

    assert done.stdout == b"there\n"
    assert done.returncode == 0
