"""Flags that several commands share, and the types of their values."""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reactorcide.domain.ids import is_id

if TYPE_CHECKING:
    from reactorcide.cli.client import ApiClient
    from reactorcide.cli.job_file import JobBody

_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,7})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s?)?")
_UNIT_SECONDS = (86_400, 3_600, 60, 1)
_MAX_SECRET_BYTES = 256 * 1024


@dataclass(frozen=True)
class ClientOptions:
    """How the person at the keyboard named the coordinator and the token."""

    url: str | None = None
    token_file: Path | None = None

    def connect(self) -> "ApiClient":
        """Return a client of the coordinator that the flags, the environment or a local service name."""
        from reactorcide.cli.client import ApiClient
        from reactorcide.cli.discovery import find_target

        return ApiClient(find_target(os.environ, url=self.url, token_file=self.token_file))


class IdType(click.ParamType[str]):
    """An id: checked here, so that a mistyped one never becomes part of a path."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id in lower case."""
        if not is_id(value.lower()):
            self.fail(f"{value!r} is not an id: ids are UUIDs, in full", param, ctx)
        return value.lower()


class DurationType(click.ParamType[int]):
    """A time span: seconds, or such as `90s`, `10m`, `1h30m`, `2d`."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return whole seconds."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(value.strip())
        if match is None or not any(match.groups()):
            self.fail(f"{value!r} is not a duration such as 90, 90s, 10m, 1h30m or 2d", param, ctx)
        return sum(int(part) * unit for part, unit in zip(match.groups(), _UNIT_SECONDS, strict=True) if part)


ID = IdType()
DURATION = DurationType()
dirty_option = click.option(
    "--dirty", "is_dirty", is_flag=True, help="Send this git working tree, with what is not committed."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs.")


def parse_variables(given: tuple[str, ...], flag: str) -> dict[str, str]:
    """Return the variables of `--env`: `K=V`, or `K`, whose value is in this process's environment."""
    variables = {}
    for text in given:
        name, equals, value = text.partition("=")
        _check_name(name, flag)
        variables[name] = value if equals else _from_environment(name, flag)
    return variables


def parse_secrets(given: tuple[str, ...]) -> dict[str, str]:
    """Return the secrets of `--secret`: `K` from this process's environment, `K=@FILE` from a file.

    A value on the command line is refused: every user of the machine could read it there.
    """
    secrets = {}
    for text in given:
        name, equals, value = text.partition("=")
        _check_name(name, "--secret")
        if not equals:
            secrets[name] = _from_environment(name, "--secret")
        elif value.startswith("@"):
            secrets[name] = _from_file(value[1:])
        else:
            raise click.UsageError(
                f"--secret {name}=… would show the value in the process list: "
                f"export it and write --secret {name}, or write --secret {name}=@FILE"
            )
    return secrets


def parse_labels(given: tuple[str, ...]) -> dict[str, str]:
    """Return the labels of `--label K=V`."""
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.UsageError(f"--label {name}: write --label KEY=VALUE")
    return {name: value for name, _, value in pairs}


def _check_name(name: str, flag: str) -> None:
    from runnerlib.spec.rules import check_env_name

    if fault := check_env_name(name):
        raise click.UsageError(f"{flag} {name}: {fault}")


def _from_environment(name: str, flag: str) -> str:
    if name not in os.environ:
        raise click.UsageError(f"{flag} {name}: there is no such variable in the environment")
    return os.environ[name]


def _from_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
        if len(data) > _MAX_SECRET_BYTES:
            raise click.UsageError(f"--secret: {path} is larger than {_MAX_SECRET_BYTES} bytes")
        # The newline that every editor puts at the end of a file is not part of the secret.
        return data.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise click.UsageError(f"--secret: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--secret: {path} is not UTF-8 text") from error


_JOB_OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--name", help="Name of the job; without one, its command."),
    click.option("--description", help="What the job is for."),
    click.option("--git-url", help="Repository to check out."),
    click.option("--git-ref", help="Branch, tag or commit of --git-url; without one, its HEAD."),
    click.option("--source-path", help="Directory on the worker to copy."),
    click.option("--source-type", type=click.Choice(["git", "copy", "none"]), help="Follows from the above."),
    click.option(
        "-e", "--env", multiple=True, metavar="K[=V]", help="Variable; K alone takes yours. Repeatable."
    ),
    click.option(
        "--secret", multiple=True, metavar="K[=@FILE]", help="Secret from your environment or a file."
    ),
    click.option("--env-file", "job_env_file", help="Env file inside the source."),
    click.option("-q", "--queue", "queue_name", help="Queue to submit to."),
    click.option("--timeout", "timeout_seconds", type=DURATION, help="Time it may run, such as 90s or 10m."),
    click.option("--queue-timeout", "queue_timeout_seconds", type=DURATION, help="Time it may wait."),
    click.option("--silence-timeout", "silence_timeout_seconds", type=DURATION, help="Time without output."),
    click.option("--priority", type=int, help="Higher goes first."),
    click.option("--retry-on-lost", type=int, help="More runs if a worker is lost."),
    click.option("--network", type=click.Choice(["default", "none"]), help="Network of the job."),
    click.option("--image", "runner_image", help="Container image, where the executor uses one."),
    click.option("--code-dir", help="Directory of the source, inside /job."),
    click.option("--job-dir", help="Directory the command runs in, inside /job."),
    click.option("--cpu", type=float, help="Limit: cores."),
    click.option("--memory-mb", type=int, help="Limit: memory."),
    click.option("--pids", type=int, help="Limit: processes."),
    click.option("--artifact", "artifacts", multiple=True, metavar="GLOB", help="Files to keep. Repeatable."),
    click.option("--label", "labels", multiple=True, metavar="K=V", help="Label. Repeatable."),
)
_PLAIN_FIELDS = (
    "name",
    "description",
    "git_url",
    "git_ref",
    "source_type",
    "job_env_file",
    "queue_name",
    "timeout_seconds",
    "queue_timeout_seconds",
    "silence_timeout_seconds",
    "priority",
    "retry_on_lost",
    "network",
    "runner_image",
    "code_dir",
    "job_dir",
)


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every field of a job; it gets those that were used as ``body``."""

    @functools.wraps(command)
    def collecting(*args: Any, **given: Any) -> None:
        body: JobBody = {name: value for name in _PLAIN_FIELDS if (value := given.pop(name)) is not None}
        if source_path := given.pop("source_path"):
            body["source_path"] = str(Path(source_path).absolute())
        limits = {
            name: value for name in ("cpu", "memory_mb", "pids") if (value := given.pop(name)) is not None
        }
        collected: dict[str, object] = {
            "job_env_vars": parse_variables(given.pop("env"), "--env"),
            "job_secrets": parse_secrets(given.pop("secret")),
            "labels": parse_labels(given.pop("labels")),
            "resources": limits,
            "artifacts": list(given.pop("artifacts")),
        }
        body |= {name: value for name, value in collected.items() if value}
        command(*args, body=body, **given)

    for option in reversed(_JOB_OPTIONS):
        option(collecting)
    return collecting


@dataclass(frozen=True)
class HereOptions:
    """How a job shall be run on this machine, as the flags say."""

    executor: str | None = None
    unsandboxed: bool = False
    artifacts_to: Path | None = None

    @property
    def given(self) -> list[str]:
        """The flags that were used."""
        flags = (
            (self.executor, "--executor"),
            (self.unsandboxed, "--unsandboxed"),
            (self.artifacts_to, "--artifacts-to"),
        )
        return [flag for value, flag in flags if value]


_HERE_OPTIONS = (
    click.option(
        "--executor", type=click.Choice(["auto", "process", "container"]), help="What runs it here."
    ),
    click.option("--unsandboxed", is_flag=True, help="Run it without a sandbox: it can do all that you can."),
    click.option(
        "--artifacts-to",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory for the artifacts of a job that is run here.",
    ),
)


def here_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of who runs a job on this machine, as ``here``."""

    @functools.wraps(command)
    def collecting(*args: Any, **given: Any) -> None:
        names = ("executor", "unsandboxed", "artifacts_to")
        command(*args, here=HereOptions(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_HERE_OPTIONS):
        option(collecting)
    return collecting
