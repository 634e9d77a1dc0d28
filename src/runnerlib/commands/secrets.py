"""``runnerlib register-secret``: from inside a job, have its log show a secret no more."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence

import click

SOCKET_VARIABLE = "REACTORCIDE_SECRETS_SOCKET"
_PATIENCE_SECONDS = 30.0
_LONGEST_INPUT_BYTES = 512 * 1024
_LONGEST_ANSWER_BYTES = 64 * 1024


class NotRegistered(Exception):
    """The runner could not be reached, or refused; the text has its own words."""


@click.command("register-secret")
@click.argument("names", nargs=-1, metavar="[NAME... | -]")
@click.option("--lines", is_flag=True, help="Each line of standard input is a secret of its own.")
def register_secret(names: tuple[str, ...], *, lines: bool) -> None:
    """Mask the values of environment variables, or standard input, in this job's log.

    A NAME is that of a variable; no name, or -, reads one secret from standard input, whose last line
    break is not part of it. A secret is never an argument, as others can read those. Exit code 1: some
    are not masked; the reason is told.
    """
    from_input = names in ((), ("-",))
    if lines and not from_input:
        raise click.UsageError("--lines goes with standard input, not with names")
    if "-" in names and not from_input:
        raise click.UsageError("give names of variables or -, not both")
    secrets = _read_input(lines=lines) if from_input else values_of(names, os.environ)
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        raise click.ClickException(f"{SOCKET_VARIABLE} is not set: this is not inside a job")
    try:
        count = register(path, secrets)
    except NotRegistered as error:
        raise click.ClickException(str(error)) from None
    if count < len(secrets):
        left_out = len(secrets) - count
        raise click.ClickException(f"{left_out} of {len(secrets)} not masked: blank, or under 6 bytes")


def values_of(names: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the values of variables.

    Raises:
        click.UsageError: one is not set. It is named by its place, as it may be a secret by mistake.
    """
    for place, name in enumerate(names, 1):
        if name not in environment:
            raise click.UsageError(
                f"argument {place} is not the name of a variable that is set;"
                " give a secret itself on standard input"
            )
    return [environment[name] for name in names]


def _read_input(*, lines: bool) -> list[str]:
    data = sys.stdin.buffer.read(_LONGEST_INPUT_BYTES + 1)
    if len(data) > _LONGEST_INPUT_BYTES:
        raise click.ClickException(f"standard input has more than {_LONGEST_INPUT_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise click.ClickException("standard input is not UTF-8") from None
    if lines:
        return [line for line in text.splitlines() if line]
    return [text.removesuffix("\n").removesuffix("\r")]


def register(path: str, secrets: Sequence[str]) -> int:
    """Register secrets at the runner's socket; return how many are masked from now on.

    Raises:
        NotRegistered: none of them is.
    """
    import msgspec

    try:
        body = msgspec.json.encode({"action": "register", "secrets": list(secrets)})
    except ValueError:
        raise NotRegistered("a secret is not UTF-8") from None
    try:
        answer = _exchange(path, len(body).to_bytes(4) + body)
    except OSError as error:
        raise NotRegistered(f"the runner cannot be reached: {error.strerror or error}") from None
    try:
        told = msgspec.json.decode(answer, type=dict[str, str | int])
    except ValueError:
        raise NotRegistered(answer.decode(errors="replace").strip() or "the runner gave no answer") from None
    return int(told["registered"])


def _exchange(path: str, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(path)
        connection.sendall(request)
        with connection.makefile("rb") as answers:
            return answers.readline(_LONGEST_ANSWER_BYTES)
