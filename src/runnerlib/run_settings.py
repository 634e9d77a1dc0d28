"""Every value of a run on this machine: its flag, its variable, and how its text is read.

`configuration` joins them; commands make their options from the table.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runnerlib.spec import rules

PREFIX = "REACTORCIDE_"
_MIB = {"": 1, "m": 1, "g": 1024, "t": 1024**2}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value: its flag ``--…``, its variable, and how its text is read (ValueError: refused)."""

    field: str
    flag: str
    meaning: str
    parse: Callable[[str], object]
    is_hidden: bool = False
    """Its text may hold secrets, and is in no message."""
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


def _whole(name: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII):
            raise ValueError("must be a whole number")
        return int(_in_range(name, int(text)))

    return parse


def _in_range(name: str, value: float) -> float:
    fault = rules.check_number(name, value)
    if fault:
        raise ValueError(fault)
    return value


def _cores(text: str) -> float:
    return _in_range("cpu", _decimal(text))


def _memory(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})\s*([mgt]?)(?:i?b)?", text.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError("must be a number of MiB, or one with M, G or T behind it")
    return int(_in_range("memory_mb", int(match[1]) * _MIB[match[2]]))


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = _decimal(text)
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return value

    return parse


def _decimal(text: str) -> float:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?", text, re.ASCII):
        raise ValueError("must be a number")
    return float(text)


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
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _folder(text: str) -> Path:
    return existing_folder(_path(text))


def existing_folder(path: Path) -> Path:
    """Return a directory by its real path, as a copy goes through no link. Raises ValueError."""
    if not path.is_dir():
        raise ValueError(f"there is no directory {path}")
    return path.resolve()


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _paths(text: str) -> tuple[str, ...]:
    return tuple(str(_path(word)) for word in _words(text))


def _secrets_list(text: str) -> tuple[str, ...]:
    from runnerlib.secret_sources import split_secrets_list

    return split_secrets_list(text)


SETTINGS = (
    Setting(
        field="job_command",
        flag="--job-command",
        meaning="Shell command to run.",
        parse=_checked(rules.check_command),
        is_hidden=True,
    ),
    Setting(
        field="name",
        flag="--name",
        meaning="Name of the job; without one, the first line of its command.",
        parse=_checked(rules.check_name),
    ),
    Setting(
        field="code_dir",
        flag="--code-dir",
        meaning="Where the source goes, inside /job.",
        parse=_checked(rules.check_job_path),
    ),
    Setting(
        field="job_dir",
        flag="--job-dir",
        meaning="Where the command starts, inside /job; else --code-dir.",
        parse=_checked(rules.check_job_path),
    ),
    Setting(
        field="runner_image",
        flag="--runner-image",
        meaning="Container image, where the executor uses one.",
        parse=_checked(rules.check_image),
    ),
    Setting(
        field="job_env",
        flag="--job-env",
        meaning="Lines K=V, or the path of a file of them below ./job/.",
        parse=str,
        is_hidden=True,
    ),
    Setting(
        field="secrets_list",
        flag="--secrets-list",
        meaning="Values to mask, parted by commas; others see flags, so prefer the variable.",
        parse=_secrets_list,
        is_hidden=True,
    ),
    Setting(
        field="secrets_file",
        flag="--secrets-file",
        meaning="A file of secret variables, lines K=V, that only you can read.",
        parse=_path,
    ),
    Setting(field="git_url", flag="--git-url", meaning="Repository to check out.", parse=str, is_hidden=True),
    Setting(
        field="git_ref",
        flag="--git-ref",
        meaning="Branch, tag or commit; else HEAD.",
        parse=_checked(rules.check_git_ref),
    ),
    Setting(
        field="source_path",
        flag="--source-path",
        meaning="Directory of this machine to copy.",
        parse=_folder,
    ),
    Setting(
        field="allow_host",
        flag="--allow-host",
        meaning="Git host that is not public; repeatable.",
        parse=_words,
        is_repeated=True,
    ),
    Setting(
        field="allow_protocol",
        flag="--allow-protocol",
        meaning="Git protocol besides https and ssh; repeatable.",
        parse=_words,
        is_repeated=True,
    ),
    Setting(
        field="timeout_seconds",
        flag="--timeout",
        meaning="Seconds it may run.",
        parse=_whole("timeout_seconds"),
    ),
    Setting(
        field="silence_timeout_seconds",
        flag="--silence-timeout",
        meaning="Seconds it may run without output.",
        parse=_whole("silence_timeout_seconds"),
    ),
    Setting(
        field="grace_seconds",
        flag="--grace",
        meaning="Seconds between TERM and KILL.",
        parse=_seconds(0, 600),
    ),
    Setting(
        field="executor",
        flag="--executor",
        meaning="What runs it: auto, process (bubblewrap) or container.",
        parse=_choice("auto", "process", "container"),
    ),
    Setting(
        field="unsandboxed",
        flag="--unsandboxed",
        meaning="Run without a sandbox: with all that you may do.",
        parse=_switch,
        is_switch=True,
    ),
    Setting(
        field="read_only_path",
        flag="--read-only-path",
        meaning="Path of this machine that the job may read; repeatable.",
        parse=_paths,
        is_repeated=True,
    ),
    Setting(
        field="container_engine",
        flag="--container-engine",
        meaning="docker, podman, nerdctl, or a path.",
        parse=str,
    ),
    Setting(
        field="container_user",
        flag="--container-user",
        meaning="Who the job is in a container: runner, root or uid[:gid].",
        parse=_checked(
            lambda text: (
                None
                if re.fullmatch(r"runner|root|[0-9]{1,10}(:[0-9]{1,10})?", text, re.ASCII)
                else "must be runner, root or uid[:gid]"
            )
        ),
    ),
    Setting(
        field="container_pull",
        flag="--pull",
        meaning="When an image is pulled: missing, always or never.",
        parse=_choice("missing", "always", "never"),
    ),
    Setting(
        field="network",
        flag="--network",
        meaning="Network of the job: default or none.",
        parse=_choice("default", "none"),
    ),
    Setting(field="cpu", flag="--cpus", meaning="Limit: cores.", parse=_cores),
    Setting(
        field="memory_mb", flag="--memory", meaning="Limit: memory in MiB, or such as 2G.", parse=_memory
    ),
    Setting(field="pids", flag="--pids", meaning="Limit: processes and threads.", parse=_whole("pids")),
    Setting(
        field="artifacts",
        flag="--artifacts",
        meaning="Folder of this machine to put artifacts into.",
        parse=_path,
    ),
    Setting(field="plugin_dir", flag="--plugin-dir", meaning="Folder of plugins.", parse=_folder),
    Setting(
        field="work_dir",
        flag="--work-dir",
        meaning="Where workspaces are made; else in your cache.",
        parse=_path,
    ),
)
