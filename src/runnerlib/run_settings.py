"""Every value of a run on this machine: its flag, its variable, and how its text is read.

`configuration` joins them; commands make their options from the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runnerlib.spec import rules

PREFIX = "REACTORCIDE_"


@dataclass(frozen=True)
class Setting:
    """One value: its flag ``--…``, its variable, and how its text is read (ValueError: refused)."""

    field: str
    flag: str
    meaning: str
    parse: Callable[[str], object]
    is_secret: bool = False
    is_switch: bool = False
    is_repeated: bool = False

    @property
    def variable(self) -> str:
        """The environment variable, such as ``REACTORCIDE_CODE_DIR``."""
        return PREFIX + self.flag.removeprefix("--").replace("-", "_").upper()


def _checked(check: Callable[[str], str | None]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        fault = check(text)
        if fault:
            raise ValueError(fault)
        return text

    return parse


def _number(name: str, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError("must be a whole number" if kind is int else "must be a number") from None
        fault = rules.check_number(name, value)
        if fault:
            raise ValueError(fault)
        return value

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    return _checked(lambda text: None if text in words else f"must be one of {', '.join(words)}")


def _switch(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return Path(text).expanduser().absolute()


def _folder(text: str) -> Path:
    path = _path(text)
    if not path.is_dir():
        raise ValueError(f"there is no directory {path}")
    return path


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _secrets_list(text: str) -> tuple[str, ...]:
    from runnerlib.secret_sources import split_secrets_list

    return split_secrets_list(text)


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("must be a number of seconds") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return value

    return parse


SETTINGS = (
    Setting("job_command", "--job-command", "Shell command to run.", _checked(rules.check_command)),
    Setting("name", "--name", "Name of the job; without one, its command.", _checked(rules.check_name)),
    Setting("code_dir", "--code-dir", "Where the source goes, inside /job.", _checked(rules.check_job_path)),
    Setting(
        "job_dir",
        "--job-dir",
        "Where the command starts, inside /job; else --code-dir.",
        _checked(rules.check_job_path),
    ),
    Setting(
        "runner_image",
        "--runner-image",
        "Container image, where the executor uses one.",
        _checked(rules.check_image),
    ),
    Setting("job_env", "--job-env", "Lines K=V, or the path of a file of them below ./job/.", str),
    Setting("secrets_list", "--secrets-list", "Values to mask, parted by commas.", _secrets_list, True),
    Setting("secrets_file", "--secrets-file", "A private file of secret variables, lines K=V.", _path),
    Setting("git_url", "--git-url", "Repository to check out.", str),
    Setting("git_ref", "--git-ref", "Branch, tag or commit; else HEAD.", _checked(rules.check_git_ref)),
    Setting("source_path", "--source-path", "Directory of this machine to copy.", _folder),
    Setting(
        "allow_host", "--allow-host", "Git host that is not public; repeatable.", _words, False, False, True
    ),
    Setting(
        "allow_protocol",
        "--allow-protocol",
        "Git protocol besides https and ssh; repeatable.",
        _words,
        False,
        False,
        True,
    ),
    Setting("timeout_seconds", "--timeout", "Seconds it may run.", _number("timeout_seconds", int)),
    Setting(
        "silence_timeout_seconds",
        "--silence-timeout",
        "Seconds it may run without output.",
        _number("silence_timeout_seconds", int),
    ),
    Setting("grace_seconds", "--grace", "Seconds between TERM and KILL.", _seconds(0, 600)),
    Setting("executor", "--executor", "What runs it.", _choice("auto", "process", "container")),
    Setting(
        "unsandboxed",
        "--unsandboxed",
        "Run without a sandbox: with all that you may do.",
        _switch,
        False,
        True,
    ),
    Setting("container_engine", "--container-engine", "docker, podman, nerdctl, or a path.", str),
    Setting("container_pull", "--pull", "When an image is pulled.", _choice("missing", "always", "never")),
    Setting("network", "--network", "Network of the job.", _choice("default", "none")),
    Setting("cpu", "--cpus", "Limit: cores.", _number("cpu", float)),
    Setting("memory_mb", "--memory", "Limit: memory in MiB.", _number("memory_mb", int)),
    Setting("pids", "--pids", "Limit: processes.", _number("pids", int)),
    Setting("artifacts", "--artifacts", "Folder of this machine to put artifacts into.", _path),
    Setting("plugin_dir", "--plugin-dir", "Folder of plugins.", _folder),
    Setting("work_dir", "--work-dir", "Where workspaces are made; else in your cache.", _path),
)
