"""Every command, walked: its help, its flags, and the price of the whole."""

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from reactorcide import __version__
from reactorcide.cli import COMMANDS, commands

SERVICE = {"up", "down", "serve", "worker", "migrate", "bootstrap", "doctor"}
"""Commands that answer nothing, or in a form of their own."""
SILENT = {"completion", "delete", "revoke"}


def walk(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from walk(found, (*path, name))


ALL = list(walk(commands))


def reactorcide(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reactorcide", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environ},
        timeout=60,
    )


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "reactorcide" for path, _ in ALL])
def test_every_command_and_flag_explains_itself(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    assert command.get_help(click.Context(command, info_name=" ".join(path)))
    if path and len(path) == 1:
        assert len(COMMANDS[path[0]].summary) < 60


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "reactorcide" for path, _ in ALL])
def test_every_command_that_answers_has_a_form_for_programs(
    path: tuple[str, ...], command: click.Command
) -> None:
    names = {name for parameter in command.params for name in parameter.opts}
    is_exempt = isinstance(command, click.Group) or path[0] in SERVICE or path[-1] in SILENT

    assert is_exempt or "--json" in names


def test_help_of_the_whole_imports_no_command() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from reactorcide.cli import run_command; run_command(['--help']);"
            "print([name for name in ('httpx2', 'rich', 'yaml', 'msgspec', 'psycopg', 'fastapi', 'asyncio')"
            " if name in sys.modules], file=sys.stderr)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == "[]\n"
    assert all(name in done.stdout for name in COMMANDS)


def test_the_version_is_told() -> None:
    assert reactorcide("--version").stdout == f"reactorcide {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion_script(shell: str) -> None:
    done = reactorcide("completion", shell)

    assert done.returncode == 0
    assert "_REACTORCIDE_COMPLETE" in done.stdout


def test_commands_are_completed() -> None:
    done = reactorcide(_REACTORCIDE_COMPLETE="bash_complete", COMP_WORDS="reactorcide wo", COMP_CWORD="1")

    assert done.stdout.split() == ["plain,worker", "plain,workers"]
